package boottest_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// testCache boots a machine whose kernel and initrd come through Debian's nginx, with the
// configuration of the documentation.
func (f *fleet) testCache(t *testing.T, staged string) {
	defer f.slot()()
	const cache = "http://" + lab.ServerIP + ":8080"
	network := lab.NewNetwork(t)
	network.StartDHCP(t)
	f.serve(t, network.Host, staged, f.guarded("--files-url", cache, "--proxy-dhcp")...)
	network.Serve(t, lab.NginxReady, lab.Tool(t, "nginx", "nginx"), lab.NginxCache(t)...)
	machine := network.StartMachine(t, lab.Machine{Firmware: lab.BIOS})
	requireBoots(t, machine, newGeneration)
	requireInOrder(t, machine.Console(), "http://"+lab.ServerIP+"/"+chainToken+"/netboot.ipxe",
		cache+"/"+chainToken+"/r/", "/kernel...", cache+"/"+chainToken+"/r/", "/initrd...")

	status := network.Command(t.Context(), lab.Tool(t, "boot", "busybox"), "wget", "-q", "-O", "-", "http://127.0.0.1:8077/")
	page, err := status.CombinedOutput()
	require.NoError(t, err, "%s", page)
	assert.Contains(t, string(page), "1 machine seen, 0 booting now.")
	assert.Contains(t, string(page), "has the script")
}

// secondIP is the address of another boot server than that at lab.ServerIP.
const secondIP = "10.20.30.4"

// testPeer has a boot server fail while a machine loads its initrd from it. The machine
// boots from the other, which has staged the same release.
func (f *fleet) testPeer(t *testing.T, c failover) {
	defer f.slot()()
	const first, second = secondIP, lab.ServerIP
	tarball := f.packageSlowly(t)
	network := lab.NewNetwork(t)
	network.StartDHCP(t, c.dhcp...)
	serve := func(host lab.Host, more ...string) (kill func()) {
		staged := filepath.Join(t.TempDir(), "state")
		f.run(t, "netboot", "stage", "--state-dir", staged, "--tarball", tarball)
		return f.serve(t, host, staged, append(more, "--chain-token-file", f.chain)...)
	}
	failing := network.AddHost(t, first)
	fail := serve(failing, append(c.serve, "--peer", second)...)
	serve(network.Host, "--peer", first)
	if c.silent {
		fail = func() { failing.Disconnect(t) }
	}
	machine := network.StartMachine(t, c.machine)
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, errors.New("it has not begun to load the initrd"))
	defer cancel()
	require.NoError(t, machine.Wait(ctx, "/initrd..."))
	fail()
	requireBoots(t, machine, newGeneration)
	requireInOrder(t, machine.Console(), "http://"+first+"/"+chainToken+"/netboot.ipxe", "/kernel...", "/initrd...", "Could not boot",
		"http://"+second+"/"+chainToken+"/netboot.ipxe", "/kernel...", "/initrd...")
}

// testTwoProxies has two boot servers answer by ProxyDHCP on one network, which know
// nothing of each other. When the one that a machine has booted from is gone, the next
// start finds the other.
func (f *fleet) testTwoProxies(t *testing.T, firmware lab.Firmware) {
	defer f.slot()()
	network := lab.NewNetwork(t)
	network.StartDHCP(t)
	kill := map[string]func(){}
	for address, host := range map[string]lab.Host{lab.ServerIP: network.Host, secondIP: network.AddHost(t, secondIP)} {
		kill[address] = f.serve(t, host, f.stage(t, newTag), "--proxy-dhcp", "--tftp-boot-filename", "ipxe.efi")
	}
	boot := func() (from string) {
		machine := network.StartMachine(t, lab.Machine{Firmware: firmware})
		requireBoots(t, machine, newGeneration)
		for address := range kill {
			if strings.Contains(machine.Console(), "http://"+address+"/netboot.ipxe") {
				from = address
			}
		}
		return from
	}
	first := boot()
	require.Contains(t, kill, first)
	kill[first]()
	assert.NotContains(t, []string{"", first}, boot())
}

// testName has one name lead to two boot servers, of which the one at secondIP is dead. iPXE
// takes the first address of an answer, and no other when that fails.
func (f *fleet) testName(t *testing.T, n name) {
	defer f.slot()()
	network := lab.NewNetwork(t)
	network.StartDHCP(t, append(n.dns, "dhcp-boot=http://boot.lan/netboot.ipxe")...)
	network.AddHost(t, secondIP)
	f.serve(t, network.Host, f.stage(t, newTag))
	machine := lab.Machine{Firmware: lab.BIOS}
	if n.again {
		machine.Script = filepath.Join(t.TempDir(), "again.ipxe")
		require.NoError(t, os.WriteFile(machine.Script, []byte("#!ipxe\ndhcp\n:again\nchain --autofree http://boot.lan/netboot.ipxe || goto again\n"), 0o600))
	}
	vm := network.StartMachine(t, machine)
	if n.boots {
		requireBoots(t, vm, newGeneration)
	} else {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		require.NoError(t, vm.Wait(ctx, "No more network devices"))
		assert.NotContains(t, vm.Console(), "Linux version")
	}
	assert.Equal(t, n.fails, strings.Contains(vm.Console(), "boot.lan/netboot.ipxe... Connection reset"), "the first try")
}

type name struct {
	dns          []string // of the DNS server on the LAN
	again        bool     // iPXE has a script that tries again
	fails, boots bool     // its first try; in the end
}

func names() map[string]name {
	const living, dead = "host-record=boot.lan," + lab.ServerIP, "host-record=boot.lan," + secondIP
	return map[string]name{
		"the first one lives":                           {dns: []string{"no-round-robin", living, dead}, boots: true},
		"the first one is dead":                         {dns: []string{"no-round-robin", dead, living}, fails: true},
		"the first one is dead, and another first then": {dns: []string{dead, living}, again: true, fails: true, boots: true},
	}
}

type failover struct {
	machine lab.Machine
	dhcp    []string // of the DHCP server on the LAN
	serve   []string // more arguments of the server that fails
	silent  bool     // its address is gone, else its process: then its host refuses
}

func failovers() map[string]failover {
	bios := lab.Machine{Firmware: lab.BIOS}
	return map[string]failover{
		"BIOS, ProxyDHCP":                    {machine: bios, serve: []string{"--proxy-dhcp"}},
		"UEFI, autoexec.ipxe":                {machine: lab.Machine{Firmware: lab.UEFI}, dhcp: []string{"dhcp-boot=ipxe.efi,," + secondIP}},
		"BIOS, ProxyDHCP, without an answer": {machine: bios, serve: []string{"--proxy-dhcp"}, silent: true},
	}
}

// packageSlowly packages the new release with an initrd that takes some seconds to load:
// zeros after its end, which the kernel passes over.
func (f *fleet) packageSlowly(t *testing.T) (tarball string) {
	t.Helper()
	const more = 128 << 20
	folder, staged := t.TempDir(), f.stage(t, newTag)
	for _, name := range []string{"kernel", "initrd", "netboot.ipxe"} {
		from, err := os.Open(findFile(t, staged, name))
		require.NoError(t, err)
		defer from.Close()
		to, err := os.Create(filepath.Join(folder, name))
		require.NoError(t, err)
		size, err := io.Copy(to, from)
		require.NoError(t, err)
		if name == "initrd" {
			require.NoError(t, to.Truncate(size+more))
		}
		require.NoError(t, to.Close())
	}
	const tag = "boot-v2026.05"
	out := t.TempDir()
	f.run(t, "package", folder, "--name", "ec-runner-x86_64-netboot", "--release-tag", tag, "--output-dir", out)
	return filepath.Join(out, "ec-runner-x86_64-netboot-"+tag+".tar.gz")
}
