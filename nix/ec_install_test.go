package nix_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ec-install runs in a machine of its own, on real disks, with Debian's sfdisk, mkfs,
// mount and ssh-keygen. A script takes the place of nixos-install, which needs a
// built NixOS; and an empty folder that of UEFI.
func TestInstallWithAReplacedNixosInstall(t *testing.T) {
	t.Parallel()
	reports := runInstaller(t)
	assert.Contains(t, reports, "end")

	for name, want := range map[string]string{
		"help":      "0   --flake FLAKE#NAME          another configuration than that of this image",
		"bios":      "1 ec-install: this machine was started by its BIOS",
		"nothing":   "1 ec-install: give the disk to install on",
		"missing":   "1 ec-install: /dev/sdz: there is no such device",
		"file":      "1 ec-install: /test/keys: this is no disk",
		"character": "1 ec-install: /dev/zero: this is no disk",
		"small":     "1 ec-install: /dev/vdb: this disk has 1 GiB, and a runner needs 40 GiB",
		"readonly":  "1 ec-install: /dev/vda: this disk cannot be written to",
		"mounted":   "1 ec-install: /dev/vdc: this disk is in use at /media; give another one, or: umount /media",
		"swap":      "1 ec-install: /dev/vdc: this disk is in use for swap; give another one, or: swapoff /dev/vdc",
		"option":    "1 ec-install: there is no option --yes",
		"two":       "1 ec-install: /dev/nvme0n1 and /dev/vda: give one disk",
		"value":     "1 ec-install: --authorized-keys needs a value",
		"flake":     "1 ec-install: --flake /etc/flake: give FLAKE#NAME",

		"keys-empty":  "1 ec-install: --authorized-keys /test/empty: nothing has been changed",
		"keys-broken": "1 ec-install: --authorized-keys /test/broken: nothing has been changed",
		"keys-one":    "1 ec-install: --authorized-keys /test/one: nothing has been changed",
		"keys-absent": "1 ec-install: --authorized-keys /test/absent: nothing has been changed",
		"keys-scheme": "1 ec-install: --authorized-keys ftp://boot/keys: nothing has been changed",

		"silent":   "1 ec-install: the answer was not yes; nothing has been changed",
		"refusing": "1 ",
		"unsure":   "1 ",
		"nvme0n1":  "untouched",
		"vda":      "untouched",

		"installed": "0 Its state is on the file system ec-var",
		"partition": "1 ec-install: /dev/nvme0n1p2: this is a partition; give the whole disk, /dev/nvme0n1",
		"used":      "1 ec-install: /dev/nvme0n1: this disk is in use at /media",
		"system":    "0 ",
		"other":     "0 ",
		"failing":   "3 there is no such flake",
		"again":     "0 ",
	} {
		assert.True(t, strings.HasPrefix(only(t, reports, name+": "), want), "%s: %s", name, only(t, reports, name+": "))
	}
}

func TestInstalledDiskIsAsDocumented(t *testing.T) {
	t.Parallel()
	reports := runInstaller(t)
	assert.Equal(t, "2", only(t, reports, "fingerprints shown: "))
	assert.Equal(t, "two", only(t, reports, "keys on the disk: "))

	called := withPrefix(reports, "called ")
	assert.Contains(t, called, "arguments: --root /mnt --no-root-passwd --no-channel-copy --flake /etc/every-channel/flake#ec-runner-x86_64")
	assert.Regexp(t, `^[0-9a-f]{12}4[0-9a-f]{19}$`, only(t, called, "machine-id: "))
	assert.Contains(t, only(t, called, "mounted: /mnt/boot "), "vfat")
	assert.Contains(t, only(t, called, "mounted: /mnt/boot "), "fmask=0077")
	for _, point := range []string{"/mnt", "/mnt/nix", "/mnt/var"} {
		assert.Contains(t, only(t, called, "mounted: "+point+" "), "ext4", point)
	}
	assert.Contains(t, withPrefix(reports, "with system: "),
		"arguments: --root /mnt --no-root-passwd --no-channel-copy --system /nix/store/00000000000000000000000000000000-system")
	assert.Contains(t, withPrefix(reports, "with flake: "), "arguments: --root /mnt --no-root-passwd --no-channel-copy --flake /etc/site#runner")
	assert.Equal(t, "ec-root", only(t, reports, "vda2: "), "a disk whose name ends with a letter")

	// The table of the documentation: label, file system, size in GiB, mount.
	rows := regexp.MustCompile("(?m)^\\| `(EC-BOOT|ec-root|ec-var|ec-nix)` \\| (\\S+) \\| (\\S+)").FindAllStringSubmatch(readFile(t, "../docs/RUNNER_IMAGES.md"), -1)
	require.Len(t, rows, 4)
	sizes := map[string]string{"1": "1073741824", "8": "8589934592", "16": "17179869184"}
	for index, row := range rows {
		fields := strings.Fields(only(t, reports, "partition "+string(rune('1'+index))+": "))
		assert.Equal(t, []string{row[2], row[1]}, fields[1:])
		if size, ok := sizes[row[3]]; ok {
			assert.Equal(t, size, fields[0], row[1])
		} else {
			assert.Equal(t, "the", row[3], "the rest")
		}
	}
	table := strings.Join(withPrefix(reports, "table "), "\n")
	assert.Contains(t, table, "label: gpt")
	assert.Contains(t, table, "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "a system partition of UEFI's")
}

func TestInstallLeavesNothingMounted(t *testing.T) {
	t.Parallel()
	reports := runInstaller(t)
	for _, when := range []string{"", " after a failure", " after INT", " after TERM", " after KILL"} {
		assert.Empty(t, only(t, reports, "left mounted"+when+": "), when)
	}
	for _, signal := range []string{"INT", "TERM", "KILL"} {
		assert.Empty(t, only(t, reports, "seen from outside during "+signal+": "))
	}
}

func withPrefix(reports []string, prefix string) []string {
	var rest []string
	for _, report := range reports {
		if after, ok := strings.CutPrefix(report, prefix); ok {
			rest = append(rest, after)
		}
	}
	return rest
}

var (
	installer        sync.Once
	installerReports []string
)

// runInstaller boots the machine that all these tests look at, once.
func runInstaller(t *testing.T) []string {
	t.Helper()
	installer.Do(func() { installerReports = bootInstaller(t) })
	require.NotEmpty(t, installerReports)
	return installerReports
}

func bootInstaller(t *testing.T) []string {
	folder := t.TempDir()
	run(t, folder, "cp", "-a", toolShare(t, "installer")+"/.", folder)
	writeTree(t, folder, map[string]string{
		"init":                   readFile(t, "testdata/installer/init.sh"),
		"test/cases.sh":          readFile(t, "testdata/installer/cases.sh"),
		"test/bin/nixos-install": readFile(t, "testdata/installer/nixos-install.sh"),
		"test/ec-install.sh":     readFile(t, "modules/ec-installer/ec-install.sh"),
		"test/read-keys.sh":      readFile(t, "modules/ec-runner/keys/read-keys.sh"),
		"etc/passwd":             "root:x:0:0::/root:/bin/bash\n",
		"root/":                  "",
	})
	disks := t.TempDir()
	image := func(name, size string) string {
		path := filepath.Join(disks, name)
		run(t, disks, "truncate", "-s", size, path)
		return path
	}
	used := newDisk(t, map[string]string{"marker": "\n"})
	require.NoError(t, os.Truncate(used, 41<<30))
	return boot(t, newInitrd(t, folder), "", "1024",
		"-drive", "if=none,id=nvme,format=raw,discard=unmap,detect-zeroes=unmap,file="+image("nvme", "60G"),
		"-device", "nvme,drive=nvme,serial=1",
		"-drive", "if=virtio,format=raw,discard=unmap,detect-zeroes=unmap,file="+image("vda", "41G"),
		"-drive", "if=virtio,format=raw,file="+image("vdb", "1G"),
		"-drive", "if=virtio,format=raw,file="+used)
}
