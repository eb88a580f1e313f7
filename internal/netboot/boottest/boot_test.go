// Package boottest_test boots machines, with real firmware in QEMU, from a release
// that was built by Nix, packaged and published on a real forge, staged from there
// and served by the program that is shipped.
package boottest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// The releases, and the word that the images of each say on the console.
const (
	oldTag, oldGeneration = "boot-v2026.02", "february"
	newTag, newGeneration = "boot-v2026.03", "march"
)

const chainToken = "a-token-of-the-lab-0123456789abcdef"

// limit is when a machine that has not booted will not do so any more. A boot takes
// 5 to 25 seconds of a processor that is not shared.
const limit = 4 * time.Minute

// A fleet is what all boot servers of these tests have in common.
type fleet struct {
	program    string // runner-images
	gitea      *lab.Gitea
	repository string // owner/name
	token      string // path of the file with the forge's token
	chain      string // path of the file with the chain token
	ipxe       string // the folder of boot programs
	slots      chan struct{}
}

func TestBoot(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	staged := f.stage(t, oldTag, newTag)

	for name, test := range map[string]struct {
		machine lab.Machine
		dhcp    []string // of the DHCP server on the LAN
		serve   []string // more arguments of netboot serve
		says    string   // on the console, before the init does
	}{
		// The DHCP server sends each client one and the same boot file, as those
		// of many gateways do: it is iPXE that has to get out of the loop.
		"BIOS, one boot file, iPXE asks for it again": {
			machine: lab.Machine{Firmware: lab.BIOS},
			dhcp:    []string{"dhcp-boot=undionly.kpxe,," + lab.ServerIP},
			serve:   f.guarded(),
		},
		"UEFI, one boot file, an iPXE that loads autoexec.ipxe": {
			machine: lab.Machine{Firmware: lab.UEFI},
			dhcp:    []string{"dhcp-boot=ipxe.efi,," + lab.ServerIP},
			serve:   f.guarded(),
			says:    "autoexec.ipxe",
		},
		"UEFI, one boot file, an old iPXE asks for it again": {
			machine: lab.Machine{Firmware: lab.UEFI},
			dhcp:    []string{"dhcp-boot=old-ipxe.efi,," + lab.ServerIP},
		},
		// The DHCP server knows nothing of booting.
		"BIOS, ProxyDHCP": {
			machine: lab.Machine{Firmware: lab.BIOS},
			serve:   f.guarded("--proxy-dhcp"),
		},
		"UEFI, ProxyDHCP": {
			machine: lab.Machine{Firmware: lab.UEFI},
			serve:   f.guarded("--proxy-dhcp", "--tftp-boot-filename", "ipxe.efi"),
		},
		"UEFI HTTP Boot": {
			machine: lab.Machine{Firmware: lab.UEFIHTTP},
			dhcp: []string{
				"dhcp-vendorclass=set:http,HTTPClient",
				"dhcp-option-force=tag:http,option:vendor-class,HTTPClient",
				"dhcp-boot=tag:http,http://" + lab.ServerIP + "/" + chainToken + "/ipxe.efi",
			},
			serve: f.guarded(),
		},
		"UEFI HTTP Boot, ProxyDHCP": {
			machine: lab.Machine{Firmware: lab.UEFIHTTP},
			serve:   f.guarded("--proxy-dhcp", "--tftp-boot-filename", "ipxe.efi"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer f.slot()()
			network := lab.NewNetwork(t)
			network.StartDHCP(t, test.dhcp...)
			f.serve(t, network.Host, staged, test.serve...)
			machine := network.StartMachine(t, test.machine)
			requireBoots(t, machine, newGeneration)
			assert.Contains(t, machine.Console(), test.says)
		})
	}

	for name, e := range f.embedded(t) {
		t.Run("UEFI iPXE with "+name, func(t *testing.T) { t.Parallel(); f.testEmbeddedUEFI(t, staged, e) })
		t.Run("BIOS iPXE with "+name, func(t *testing.T) { t.Parallel(); f.testEmbeddedBIOS(t, e) })
	}
	for _, firmware := range []lab.Firmware{lab.BIOS, lab.UEFI} {
		t.Run(string(firmware)+", a script of the site's own", func(t *testing.T) { t.Parallel(); f.testOwnScript(t, staged, firmware) })
	}
	for name, test := range map[string]struct {
		machine  lab.Machine
		bootfile string
		script   string
	}{
		"BIOS, the script of a second request": {lab.Machine{Firmware: lab.BIOS}, "undionly.kpxe", halfWay + "exit 1\n"},
		"UEFI, autoexec.ipxe":                  {lab.Machine{Firmware: lab.UEFI}, "ipxe.efi", halfWay + "exit 1\n"},
	} {
		t.Run(name+", the first try fails", func(t *testing.T) { t.Parallel(); f.testRetry(t, test.machine, test.bootfile, test.script) })
	}
	t.Run("a cache", func(t *testing.T) { t.Parallel(); f.testCache(t, staged) })
	for name, c := range failovers() {
		t.Run("a boot server fails, "+name, func(t *testing.T) { t.Parallel(); f.testPeer(t, c) })
	}
	for _, firmware := range []lab.Firmware{lab.BIOS, lab.UEFI} {
		t.Run("two boot servers with ProxyDHCP, "+string(firmware), func(t *testing.T) { t.Parallel(); f.testTwoProxies(t, firmware) })
	}
	for name, n := range names() {
		t.Run("a name of two boot servers, "+name, func(t *testing.T) { t.Parallel(); f.testName(t, n) })
	}
	t.Run("nothing breaks the loop", func(t *testing.T) { t.Parallel(); f.testLoop(t, staged) })
	t.Run("rollback", func(t *testing.T) { t.Parallel(); f.testRollback(t) })
	t.Run("ring", func(t *testing.T) { t.Parallel(); f.testRing(t) })
	t.Run("a network that may not boot", func(t *testing.T) { t.Parallel(); f.testForbidden(t, staged) })
}

// testLoop shows that the one boot file is a loop where nothing breaks it, and so
// that something does in the other tests: the boot program comes from another TFTP server.
func (f *fleet) testLoop(t *testing.T, staged string) {
	defer f.slot()()
	network := lab.NewNetwork(t)
	network.StartDHCP(t, "enable-tftp", "tftp-root="+f.ipxe, "dhcp-boot=undionly.kpxe")
	f.serve(t, network.Host, staged)
	machine := network.StartMachine(t, lab.Machine{Firmware: lab.BIOS})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	require.NoError(t, machine.WaitTimes(ctx, "iPXE initialising devices...", 4))
	assert.NotContains(t, machine.Console(), "Linux version")
	assert.NotContains(t, machine.Console(), lab.InInit(newGeneration))
}

func (f *fleet) testRollback(t *testing.T) {
	defer f.slot()()
	staged := f.stage(t, oldTag, newTag)
	network := lab.NewNetwork(t)
	network.StartDHCP(t)
	f.serve(t, network.Host, staged, "--proxy-dhcp")
	requireBoots(t, network.StartMachine(t, lab.Machine{Firmware: lab.BIOS}), newGeneration)
	f.run(t, "netboot", "stage", "--state-dir", staged, "--rollback")
	requireBoots(t, network.StartMachine(t, lab.Machine{Firmware: lab.BIOS}), oldGeneration)
	f.run(t, "netboot", "stage", "--state-dir", staged, "--rollback")
	requireBoots(t, network.StartMachine(t, lab.Machine{Firmware: lab.BIOS}), newGeneration)
}

// testRing boots a machine of a ring beside one of none.
func (f *fleet) testRing(t *testing.T) {
	defer f.slot()()
	const mac = "52:54:00:aa:bb:cc"
	staged := f.stage(t, newTag, oldTag)
	rings := fmt.Sprintf("rings:\n- name: canary\n  release_tag: %s\n  macs: [%s]\n", newTag, strings.ToUpper(mac))
	require.NoError(t, os.WriteFile(filepath.Join(staged, "rings.yaml"), []byte(rings), 0o600))
	network := lab.NewNetwork(t)
	network.StartDHCP(t)
	f.serve(t, network.Host, staged, "--proxy-dhcp")
	requireBoots(t, network.StartMachine(t, lab.Machine{Firmware: lab.BIOS, MAC: mac}), newGeneration)
	requireBoots(t, network.StartMachine(t, lab.Machine{Firmware: lab.BIOS}), oldGeneration)
}

func (f *fleet) testForbidden(t *testing.T, staged string) {
	defer f.slot()()
	network := lab.NewNetwork(t)
	network.StartDHCP(t, "dhcp-boot=undionly.kpxe,,"+lab.ServerIP)
	f.serve(t, network.Host, staged, "--http-allowed-cidr", "192.0.2.0/24")
	machine := network.StartMachine(t, lab.Machine{Firmware: lab.BIOS})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	require.NoError(t, machine.Wait(ctx, "No more network devices"))
	assert.NotContains(t, machine.Console(), "Linux version")
}

func requireBoots(t *testing.T, machine *lab.VM, generation string) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, errors.New("it has not booted"))
	defer cancel()
	require.NoError(t, machine.Wait(ctx, lab.InInit(generation)))
	require.NoError(t, machine.Wait(ctx, "generation="+generation))
	require.NoError(t, machine.Wait(ctx, "end of files"))
	require.Contains(t, machine.Console(), lab.InitFiles)
	machine.Stop()
}

// slot waits until a machine may run: two at a time are as fast as one where there
// are two processors.
func (f *fleet) slot() (done func()) {
	f.slots <- struct{}{}
	return func() { <-f.slots }
}

// guarded returns arguments of netboot serve with all that keeps others out.
func (f *fleet) guarded(more ...string) []string {
	return append([]string{"--chain-token-file", f.chain, "--http-allowed-cidr", lab.Subnet}, more...)
}

// serve starts the boot server, and returns when it serves.
func (f *fleet) serve(t *testing.T, host lab.Host, stateDir string, more ...string) (kill func()) {
	t.Helper()
	arguments := append([]string{
		"netboot", "serve", "--state-dir", stateDir, "--ipxe-dir", f.ipxe, "--interface", lab.Bridge,
	}, more...)
	return host.Serve(t, "msg=serving", f.program, arguments...)
}

// run runs runner-images to its end.
func (f *fleet) run(t *testing.T, arguments ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), f.program, arguments...).CombinedOutput()
	require.NoError(t, err, "runner-images %s: %s", strings.Join(arguments, " "), out)
}

// stage stages releases in a new state folder, the last of them to be current.
func (f *fleet) stage(t *testing.T, tags ...string) (stateDir string) {
	t.Helper()
	stateDir = filepath.Join(t.TempDir(), "state")
	for _, tag := range tags {
		f.run(t, "netboot", "stage", "--state-dir", stateDir, "--release-tag", tag,
			"--forge-url", f.gitea.URL, "--repository", f.repository, "--token-file", f.token)
	}
	return stateDir
}

// newFleet builds the program, and the releases with it.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	folder := t.TempDir()
	f := &fleet{
		program: filepath.Join(folder, "runner-images"),
		ipxe:    lab.BootPrograms(t),
		token:   filepath.Join(folder, "token"),
		chain:   filepath.Join(folder, "chain-token"),
		slots:   make(chan struct{}, 2),
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", f.program, "./cmd/runner-images")
	build.Dir = lab.Root(t)
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	f.gitea = lab.StartGitea(t)
	f.repository = f.gitea.CreateRepository(t, "images", true)
	require.NoError(t, os.WriteFile(f.token, []byte(f.gitea.Token(t, "write:repository")+"\n"), 0o600))
	require.NoError(t, os.WriteFile(f.chain, []byte(chainToken+"\n"), 0o600))
	nix := lab.Nix(t)
	f.deploy(t, nix, oldTag, oldGeneration)
	f.deploy(t, nix, newTag, newGeneration)
	return f
}

// deploy builds, packages and publishes the image of a generation.
func (f *fleet) deploy(t *testing.T, nix lab.NixEnv, tag, generation string) {
	t.Helper()
	deploy := exec.CommandContext(t.Context(), f.program, "deploy",
		"--flake", "path:"+lab.BootFlake(t, generation), "--build-x86-64-iso=false", "--output-dir", t.TempDir(),
		"--release-tag", tag, "--forge-url", f.gitea.URL, "--repository", f.repository, "--token-file", f.token)
	deploy.Dir = t.TempDir() // not this repository, whose commit it would name
	deploy.Env = nix.Env()
	out, err := deploy.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
