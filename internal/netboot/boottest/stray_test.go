package boottest_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// An image that is left over when the kernel starts comes to it in front of the
// initrd. The kernel panics ("invalid magic at start of compressed archive"), or, if
// the image has arguments, as the kernel of a failed try, it becomes a file of the
// initrd. The tests of this file boot machines whose iPXE has loaded something before.

// The scripts that version 0.1.0 of the module put into iPXE, for the server at
// lab.ServerIP. Machines that have them need only a new boot server.
const (
	embeddedBy010 = `#!ipxe
echo every.channel: booting from 10.20.30.2
set tries:int32 0
:again
dhcp || goto wait
chain --autofree http://10.20.30.2/netboot.ipxe?mac=${netX/mac:hexhyp}&arch=${buildarch}&platform=${platform} ||
` + restBy010
	embeddedBy010WithToken = `#!ipxe
echo every.channel: booting from 10.20.30.2
set tries:int32 0
:again
dhcp || goto wait
` + restBy010
	restBy010 = `chain --autofree tftp://10.20.30.2/autoexec.ipxe ||
:wait
inc tries
iseq ${tries} 30 && exit 1 ||
echo The boot server at 10.20.30.2 does not answer, trying again in 10 seconds
sleep 10
goto again
`
)

// The embedded scripts, and the boot servers that they are for.
type embedded struct {
	script string
	serve  []string // more arguments of netboot serve
}

func (f *fleet) embedded(t *testing.T) map[string]embedded {
	t.Helper()
	nix := lab.Nix(t)
	return map[string]embedded{
		"the module's script": {lab.EmbeddedScript(t, nix, "{ }"), nil},
		"the module's script for a chain token": {
			lab.EmbeddedScript(t, nix, `{ chainTokenFile = "/var/lib/secrets/chain-token"; }`), f.guarded(),
		},
		"the script of 0.1.0":                   {embeddedBy010, nil},
		"the script of 0.1.0 for a chain token": {embeddedBy010WithToken, f.guarded()},
	}
}

// testEmbeddedUEFI boots machines by iPXE with a script inside, as the iPXE of
// nixpkgs 26.05 runs it: that loads autoexec.ipxe from beside itself, keeps it as
// an image, and then runs its own script.
//
// Replaced is the binary. Debian's iPXE has no script inside, so it comes from
// another TFTP server, where its autoexec.ipxe loads that of the boot server and
// then runs the embedded script.
func (f *fleet) testEmbeddedUEFI(t *testing.T, staged string, e embedded) {
	defer f.slot()()
	folder := t.TempDir()
	require.NoError(t, os.CopyFS(folder, os.DirFS(f.ipxe)))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "embedded.ipxe"), []byte(e.script), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "autoexec.ipxe"), []byte("#!ipxe\ndhcp\n"+
		"imgfetch tftp://"+lab.ServerIP+"/autoexec.ipxe\n"+
		"chain --replace --autofree tftp://"+lab.GatewayIP+"/embedded.ipxe\n"), 0o644))
	network := lab.NewNetwork(t)
	network.StartDHCP(t, "enable-tftp", "tftp-root="+folder, "dhcp-boot=ipxe.efi")
	f.serve(t, network.Host, staged, e.serve...)
	machine := network.StartMachine(t, lab.Machine{Firmware: lab.UEFI})
	requireBoots(t, machine, newGeneration)
	requireInOrder(t, machine.Console(), "tftp://"+lab.ServerIP+"/autoexec.ipxe... ok", "every.channel: booting from", "/initrd...")
}

// testEmbeddedBIOS boots machines by iPXE with a script inside. The initrd is not
// there at first, so that the first tries fail when the kernel is loaded.
//
// Replaced is the binary: QEMU starts Debian's ipxe.lkrn, which runs its initrd as
// it runs an embedded script, in place of undionly.kpxe.
func (f *fleet) testEmbeddedBIOS(t *testing.T, e embedded) {
	defer f.slot()()
	script := filepath.Join(t.TempDir(), "embedded.ipxe")
	require.NoError(t, os.WriteFile(script, []byte(e.script), 0o600))
	staged := f.stage(t, newTag)
	initrd := findFile(t, staged, "initrd")
	require.NoError(t, os.Rename(initrd, initrd+".away"))
	network := lab.NewNetwork(t)
	network.StartDHCP(t)
	f.serve(t, network.Host, staged, e.serve...)
	machine := network.StartMachine(t, lab.Machine{Firmware: lab.BIOS, Script: script})
	ctx, cancel := context.WithTimeoutCause(t.Context(), limit, errors.New("it has not tried again"))
	defer cancel()
	require.NoError(t, machine.Wait(ctx, "The boot server at "+lab.ServerIP+" does not answer, trying again in 10 seconds"))
	require.NoError(t, os.Rename(initrd+".away", initrd))
	requireBoots(t, machine, newGeneration)
	requireInOrder(t, machine.Console(), "every.channel: booting from", "/kernel...", "/initrd... Not found", "trying again in 10 seconds", "/kernel...", "/initrd...")
}

// testOwnScript boots machines by a script of the site's own, in the folder of iPXE
// binaries, that loads something before it goes on to the release.
func (f *fleet) testOwnScript(t *testing.T, staged string, firmware lab.Firmware) {
	defer f.slot()()
	own := map[lab.Firmware]struct{ name, bootfile string }{
		lab.UEFI: {"autoexec.ipxe", "ipxe.efi"}, // which loads autoexec.ipxe
		lab.BIOS: {"own.ipxe", "own.ipxe"},
	}[firmware]
	g := *f
	g.ipxe = t.TempDir()
	require.NoError(t, os.CopyFS(g.ipxe, os.DirFS(f.ipxe)))
	require.NoError(t, os.WriteFile(filepath.Join(g.ipxe, own.name), []byte("#!ipxe\ndhcp\n"+
		"imgfetch http://"+lab.ServerIP+"/"+own.name+"\n"+
		"chain http://"+lab.ServerIP+"/netboot.ipxe\n"), 0o600))
	network := lab.NewNetwork(t)
	network.StartDHCP(t, "dhcp-boot="+own.bootfile+",,"+lab.ServerIP)
	g.serve(t, network.Host, staged)
	machine := network.StartMachine(t, lab.Machine{Firmware: firmware})
	requireBoots(t, machine, newGeneration)
	requireInOrder(t, machine.Console(), "http://"+lab.ServerIP+"/"+own.name+"... ok", "/netboot.ipxe... ok", "/initrd...")
}

// halfWay is a release's script that gives up once, when all is loaded, so that the
// machine comes to it again.
const halfWay = `#!ipxe
kernel kernel init=/init initrd=initrd console=ttyS0 panic=1 no_timer_check generation=march
initrd initrd
isset ${tried} || goto failed
boot
:failed
set tried yes
echo This try has failed
`

// testRetry boots a machine whose first try fails when kernel and initrd are loaded.
func (f *fleet) testRetry(t *testing.T, machine lab.Machine, bootfile, script string) {
	defer f.slot()()
	staged := f.stageScript(t, script)
	network := lab.NewNetwork(t)
	network.StartDHCP(t, "dhcp-boot="+bootfile+",,"+lab.ServerIP)
	f.serve(t, network.Host, staged)
	vm := network.StartMachine(t, machine)
	requireBoots(t, vm, newGeneration)
	requireInOrder(t, vm.Console(), "/kernel...", "/initrd...", "This try has failed", "/kernel...", "/initrd...")
}

// stageScript stages the new release's kernel and initrd with another script.
func (f *fleet) stageScript(t *testing.T, script string) (stateDir string) {
	t.Helper()
	folder, staged := t.TempDir(), f.stage(t, newTag)
	for _, name := range []string{"kernel", "initrd"} {
		require.NoError(t, os.Link(findFile(t, staged, name), filepath.Join(folder, name)))
	}
	require.NoError(t, os.WriteFile(filepath.Join(folder, "netboot.ipxe"), []byte(script), 0o644))
	const tag = "boot-v2026.04"
	out := t.TempDir()
	f.run(t, "package", folder, "--name", "ec-runner-x86_64-netboot", "--release-tag", tag, "--output-dir", out)
	f.run(t, "netboot", "stage", "--state-dir", staged, "--tarball", filepath.Join(out, "ec-runner-x86_64-netboot-"+tag+".tar.gz"))
	return staged
}

// findFile returns the path of the only file of this name below a folder.
func findFile(t *testing.T, folder, name string) string {
	t.Helper()
	var found []string
	require.NoError(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Name() == name && entry.Type().IsRegular() {
			found = append(found, path)
		}
		return err
	}))
	require.Len(t, found, 1)
	return found[0]
}

// requireInOrder requires that a text has these parts one after another.
func requireInOrder(t *testing.T, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, part := range parts {
		_, after, found := strings.Cut(rest, part)
		require.True(t, found, "%q is not there, or not after what should be before it:\n%s", part, text)
		rest = after
	}
}
