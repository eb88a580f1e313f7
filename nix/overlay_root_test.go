package nix_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// These tests run overlay-root.sh in machines of its own, in both kinds of stage 1
// that NixOS has: the scripted one's shell and mount, and a systemd that runs the
// unit of the module.

func TestOverlayRootForgetsWrites(t *testing.T) {
	t.Parallel()
	for name, stage1 := range map[string]string{"scripted": scriptedInitrd(t), "systemd": systemdInitrd(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disks := newDisks(t)
			first := start(t, stage1, "root=fstab", disks)
			second := start(t, stage1, "root=fstab", disks)

			assert.Contains(t, first, "boot 1")
			assert.Contains(t, second, "boot 2", "/nix is a mount of its own and keeps what is written")
			for _, reports := range [][]string{first, second} {
				assert.Contains(t, reports, "root is overlay")
				assert.Contains(t, reports, "wrote /etc/written")
				assert.Contains(t, reports, "wrote /with space/written")
				assert.Contains(t, reports, "removed /etc/to-be-removed")
				assert.Contains(t, reports, "could not write /.overlay-root/lower/etc/written")
				assert.Contains(t, reports, "the upper layer has etc/written")
				assert.Contains(t, reports, "the device of the lower layer is ro")
				assert.NotContains(t, reports, "found /etc/written")
			}
			assert.Contains(t, second, "found /nix/written")
			assert.Equal(t, only(t, first, "lower "), only(t, second, "lower "), "the real root's files")
		})
	}
}

// A root that is mounted read-only in the first place is not written to at all.
func TestOverlayRootLeavesTheDiskAlone(t *testing.T) {
	t.Parallel()
	disks := newDisks(t)
	before := sumFile(t, disks[0])
	reports := start(t, scriptedInitrd(t), "read-only", disks)
	assert.Contains(t, reports, "root is overlay")
	assert.Contains(t, reports, "wrote /etc/written")
	assert.Equal(t, before, sumFile(t, disks[0]))
}

// A program that has a file open for writing keeps the root from being made
// read-only.
func TestOverlayRootKeepsABusyRoot(t *testing.T) {
	t.Parallel()
	disks := newDisks(t)
	first := start(t, scriptedInitrd(t), "busy", disks)
	second := start(t, scriptedInitrd(t), "busy", disks)
	assert.Contains(t, first, "root is ext4")
	assert.Contains(t, first, "failed: cannot make the root read-only")
	assert.Contains(t, second, "found /etc/written")
	assert.Contains(t, second, "found /nix/written")
	assert.Contains(t, second, "wrote /with space/written")
}

func TestOverlayRootFaults(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ initrd, arguments string }{
		"busybox":    {faultsInitrd(t, false), ""},
		"util-linux": {faultsInitrd(t, true), "util-linux shared"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reports := start(t, test.initrd, test.arguments, newDisks(t))
			const (
				ordinary = "exit=1 root=ext4 writable=yes nix=yes space=yes lower=no left=0 reason="
				overlaid = "exit=0 root=overlay writable=yes nix=yes space=yes lower=yes left=0 reason=none"
			)
			faults := []string{
				ordinary + "cannot make the mount of the root private",
				ordinary + "cannot mount a tmpfs of size 16m",
				ordinary + "cannot make the tmpfs private",
				ordinary + "cannot make the root read-only",
				ordinary + "cannot bind the root",
				ordinary + "cannot make the lower layer read-only",
				ordinary + "cannot mount an overlay: is the kernel module there?",
				ordinary + "cannot move the mounts below the root", // the first of them
				ordinary + "cannot move the mounts below the root", // the second
				ordinary + "cannot put the overlay in the root's place",
				// The overlay is there, but the real root is not to be seen.
				"exit=0 root=overlay writable=yes nix=yes space=yes lower=no left=2 reason=none",
				overlaid,
			}
			for index, want := range faults {
				assert.Equal(t, want, only(t, reports, fmt.Sprintf("fault %d: ", index+1)), "fault %d", index+1)
			}
			assert.Equal(t, "exit=0 root=tmpfs writable=yes nix=no space=no lower=no left=0 reason=none", only(t, reports, "tmpfs: "))
			assert.Equal(t, "exit=0 root=overlay writable=yes nix=no space=no lower=no left=0 reason=none", only(t, reports, "overlay: "))
			assert.Contains(t, only(t, reports, "nothing: "), "exit=1")
			assert.Contains(t, only(t, reports, "nothing: "), "reason=nothing is mounted at /root")
			assert.Contains(t, only(t, reports, "bind: "), "exit=0 root=overlay writable=yes")
			assert.Contains(t, reports, "what is bound stays writable")
		})
	}
}

// newDisks makes the disks of a machine: its root, /nix, and one for a mount point
// with a space in its name.
func newDisks(t *testing.T) []string {
	t.Helper()
	root := map[string]string{
		"sbin/init":         readFile(t, "testdata/stage1/root.sh"),
		"bin/busybox":       readFile(t, lab.Tool(t, "stage1", "busybox")),
		"etc/os-release":    "ID=test\n",
		"etc/hostname":      "test\n",
		"etc/to-be-removed": "in every boot\n",
		"busy":              "",
	}
	for _, folder := range []string{"proc", "sys", "dev", "run", "nix", "with space"} {
		root[folder+"/"] = ""
	}
	return []string{
		newDisk(t, root),
		newDisk(t, map[string]string{"marker": "nix\n"}),
		newDisk(t, map[string]string{"marker": "space\n"}),
	}
}

func newDisk(t *testing.T, tree map[string]string) string {
	t.Helper()
	folder := t.TempDir()
	writeTree(t, folder, tree)
	disk := filepath.Join(t.TempDir(), "disk.img")
	run(t, folder, lab.Tool(t, "stage1", "mkfs.ext4"), "-q", "-d", folder, disk, "16m")
	return disk
}

// scriptedInitrd makes an initrd with a shell script for a stage 1.
func scriptedInitrd(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	writeTree(t, folder, map[string]string{"init": readFile(t, "testdata/stage1/scripted.sh")})
	return newInitrd(t, folder)
}

// systemdInitrd makes an initrd with systemd, the units that NixOS has in its own,
// and the module's.
func systemdInitrd(t *testing.T) string {
	t.Helper()
	folder := systemdTree(t)
	units := "etc/systemd/system/"
	writeTree(t, folder, map[string]string{
		"init":               readFile(t, "testdata/stage1/systemd.sh"),
		"etc/initrd-release": "ID=test\n",
		"etc/machine-id":     "",
		"sysroot/":           "",
		"etc/fstab": `/dev/vda /sysroot ext4 x-initrd.mount,noatime 0 0
/dev/vdb /sysroot/nix ext4 x-initrd.mount 0 0
/dev/vdc /sysroot/with\040space ext4 x-initrd.mount 0 0
`,
		units + "sysroot-run.mount": `[Unit]
DefaultDependencies=no
Before=initrd-fs.target
[Mount]
Where=/sysroot/run
What=/run
Options=bind
`,
		units + "initrd-switch-root.service.d/init.conf": `[Service]
ExecStart=
ExecStart=systemctl --no-block switch-root /sysroot /sbin/init
`,
		units + "overlay-root.service": overlayRootUnit(t),
	})
	for _, link := range [][2]string{
		{"initrd-fs.target.requires", "sysroot-run.mount"},
		{"initrd-root-fs.target.wants", "overlay-root.service"},
	} {
		require.NoError(t, os.Mkdir(filepath.Join(folder, units, link[0]), 0o755))
		require.NoError(t, os.Symlink("../"+link[1], filepath.Join(folder, units, link[0], link[1])))
	}
	return newInitrd(t, folder)
}

// overlayRootUnit writes the module's unit as NixOS does.
func overlayRootUnit(t *testing.T) string {
	t.Helper()
	var unit struct {
		Description                                  string
		WantedBy, Requires, After, Before, Conflicts []string
		UnitConfig                                   struct{ DefaultDependencies bool }
		ServiceConfig                                struct {
			Type, StandardOutput, StandardError string
			RemainAfterExit                     bool
		}
	}
	require.NoError(t, json.Unmarshal(evaluate(t,
		`import ./modules/ec-runner/overlay-root-unit.nix { mountsBelow = [ "sysroot-nix.mount" "sysroot-with\\x20space.mount" ]; }`,
	), &unit))
	require.Equal(t, []string{"initrd-root-fs.target"}, unit.WantedBy, "which systemdInitrd links to it")
	return fmt.Sprintf(`[Unit]
Description=%s
DefaultDependencies=%t
Requires=%s
After=%s
Before=%s
Conflicts=%s
[Service]
Type=%s
RemainAfterExit=%t
StandardOutput=%s
StandardError=%s
Environment=PATH=/usr/bin
ExecStart=/usr/bin/bash /test/overlay-root.sh /sysroot 50%%%%
`, unit.Description, unit.UnitConfig.DefaultDependencies, strings.Join(unit.Requires, " "), strings.Join(unit.After, " "),
		strings.Join(unit.Before, " "), strings.Join(unit.Conflicts, " "), unit.ServiceConfig.Type, unit.ServiceConfig.RemainAfterExit,
		unit.ServiceConfig.StandardOutput, unit.ServiceConfig.StandardError)
}

func faultsInitrd(t *testing.T, systemd bool) string {
	t.Helper()
	folder := t.TempDir()
	if systemd {
		folder = systemdTree(t)
	}
	writeTree(t, folder, map[string]string{"init": readFile(t, "testdata/stage1/faults.sh")})
	return newInitrd(t, folder)
}

// systemdTree copies what scripts/tools/stage1 made for an initrd with systemd.
func systemdTree(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	run(t, folder, "cp", "-a", toolShare(t, "systemd")+"/.", folder)
	return folder
}

// newInitrd adds what the tests' scripts need to a folder and archives it.
func newInitrd(t *testing.T, folder string) string {
	t.Helper()
	writeTree(t, folder, map[string]string{
		"test/busybox":         readFile(t, lab.Tool(t, "stage1", "busybox")),
		"test/lib.sh":          readFile(t, "testdata/stage1/lib.sh"),
		"test/overlay-root.sh": readFile(t, "modules/ec-runner/overlay-root.sh"),
	})
	run(t, folder, "cp", "-r", toolShare(t, "modules"), "test/modules")
	initrd := filepath.Join(t.TempDir(), "initrd")
	run(t, folder, "sh", "-ec", `find . | "$0" cpio -o -H newc 2>"$1.log" >"$1" || { cat "$1.log"; exit 1; }`,
		lab.Tool(t, "stage1", "busybox"), initrd)
	return initrd
}

// start boots a machine with disks, waits until it has switched itself off, and
// returns what it reported.
func start(t *testing.T, initrd, arguments string, disks []string) []string {
	t.Helper()
	var devices []string
	for _, disk := range disks {
		devices = append(devices, "-drive", "if=virtio,format=raw,file="+disk)
	}
	return boot(t, initrd, arguments, "512", devices...)
}

// boot is start with so many MiB of memory and any devices of QEMU's.
func boot(t *testing.T, initrd, arguments, memory string, devices ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // for a busy computer
	defer cancel()
	command := exec.CommandContext(ctx, lab.Tool(t, "boot", "qemu-system-x86_64"),
		"-accel", "tcg", "-M", "pc,graphics=off", "-m", memory, "-nodefaults", "-display", "none", "-no-reboot",
		"-serial", "stdio", "-kernel", filepath.Join(toolShare(t, "vmlinuz")), "-initrd", initrd,
		"-append", "console=ttyS0 quiet panic=-1 no_timer_check rd.systemd.show_status=no "+arguments)
	command.Args = append(command.Args, devices...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := command.CombinedOutput()
	console := string(output)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the machine's console:\n%s", console)
		}
	})
	require.NoError(t, err, "the machine did not switch itself off")

	var reports []string
	for line := range strings.Lines(console) {
		if _, report, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "report: "); ok {
			reports = append(reports, report)
		}
	}
	return reports
}

// only returns what follows prefix in the one report that begins with it.
func only(t *testing.T, reports []string, prefix string) string {
	t.Helper()
	matching := slices.DeleteFunc(slices.Clone(reports), func(report string) bool { return !strings.HasPrefix(report, prefix) })
	require.Len(t, matching, 1, "reports that begin with %q", prefix)
	return strings.TrimPrefix(matching[0], prefix)
}

func toolShare(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(filepath.Dir(lab.Tool(t, "stage1", "busybox")), "..", "share", name)
}

// writeTree writes executable files, and folders for names that end with a slash.
func writeTree(t *testing.T, folder string, tree map[string]string) {
	t.Helper()
	for name, content := range tree {
		path := filepath.Join(folder, name)
		if strings.HasSuffix(name, "/") {
			require.NoError(t, os.MkdirAll(path, 0o755))
			continue
		}
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o755))
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

func run(t *testing.T, folder, program string, arguments ...string) {
	t.Helper()
	command := exec.Command(program, arguments...)
	command.Dir = folder
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)
}

func sumFile(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, file)
	require.NoError(t, err)
	return fmt.Sprintf("%x", sum.Sum(nil))
}
