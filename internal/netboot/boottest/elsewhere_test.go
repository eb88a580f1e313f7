package boottest_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
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
	f.serve(t, network, staged, f.guarded("--files-url", cache, "--proxy-dhcp")...)
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

// testPeer has a boot server fail while a machine loads its initrd from it. The machine
// boots from the other, which has staged the same release.
func (f *fleet) testPeer(t *testing.T, c failover) {
	defer f.slot()()
	const first, second = "10.20.30.4", lab.ServerIP
	tarball := f.packageSlowly(t)
	network := lab.NewNetwork(t)
	silence := network.AddServerIP(t, first)
	network.StartDHCP(t, c.dhcp...)
	serve := func(address string, more ...string) (kill func()) {
		staged := filepath.Join(t.TempDir(), "state")
		f.run(t, "netboot", "stage", "--state-dir", staged, "--tarball", tarball)
		return network.Serve(t, "msg=serving", f.program, append([]string{
			"netboot", "serve", "--state-dir", staged, "--ipxe-dir", f.ipxe, "--interface", lab.Bridge,
			"--listen-ip", address, "--status-address", "127.0.0.1:0", "--chain-token-file", f.chain,
		}, more...)...)
	}
	fail := serve(first, append(c.serve, "--peer", second)...)
	serve(second, "--peer", first)
	if c.silent {
		fail = silence
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
		"UEFI, autoexec.ipxe":                {machine: lab.Machine{Firmware: lab.UEFI}, dhcp: []string{"dhcp-boot=ipxe.efi,,10.20.30.4"}},
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
