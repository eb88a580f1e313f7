package nix_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// The units that the modules make of their defaults do their work, on a machine with a
// real systemd. The forge is replaced by a folder of releases, and ec-node by a script
// that says how it was started.
func TestUnitsOfTheDefaults(t *testing.T) {
	t.Parallel()
	program := lab.StaticProgram(t)

	root := systemdTree(t)
	result, packaged := t.TempDir(), t.TempDir()
	writeTree(t, result, map[string]string{
		"bzImage":      "a kernel",
		"initrd":       "an initrd",
		"netboot.ipxe": "#!ipxe\nkernel bzImage init=/init initrd=initrd\ninitrd initrd\nboot\n",
	})
	for _, tag := range []string{"boot-v1", "boot-v2"} {
		run(t, packaged, program, "package", result, "--name", "ec-runner-x86_64-netboot", "--release-tag", tag)
		run(t, packaged, program, "publish", "dist/ec-runner-x86_64-netboot-"+tag+".tar.gz", "--release-tag", tag,
			"--forge-url", "file://"+filepath.Join(root, "srv/releases"))
	}
	unit := func(golden string, replacements ...string) string {
		text := strings.NewReplacer(append(replacements,
			"/nix/store/…-runner-images-/bin/runner-images", "/usr/bin/runner-images",
			"/nix/store/…-ec-ipxe", "/srv/ipxe",
			"/nix/store/…-hello-/bin/ec-node", "/usr/bin/ec-node",
			"https://git.every.channel", "file:///srv/releases",
			`"enp1s0"`, `"lo"`, // there is no network but this machine
		)...).Replace(readFile(t, filepath.Join("testdata/units", golden)))
		require.NotContains(t, text, "/nix/store")
		return text
	}
	const units = "etc/systemd/system/"
	writeTree(t, root, map[string]string{
		"etc/passwd":             bootServerUsers,
		"etc/group":              "root:x:0:\nevery-channel-netboot:x:990:\n",
		"etc/machine-id":         "",
		"etc/os-release":         "ID=test\n",
		"srv/ipxe/ec-ipxe.efi":   "an iPXE",
		"usr/bin/runner-images":  readFile(t, program),
		"usr/bin/busybox":        readFile(t, lab.Tool(t, "stage1", "busybox")),
		"usr/bin/ec-node":        "#!/usr/bin/bash\n[[ $UID = 0 ]] || echo \"ec-node of a user of its own: $*\"\nsaid=$(/usr/bin/busybox true 2>&1)\necho \"busybox: $? $said\"\nexit 1\n",
		"check.sh":               readFile(t, "testdata/sandbox/defaults.sh"),
		units + "default.target": "[Unit]\nWants=check.service\n",
		units + "check.service":  "[Unit]\nAfter=basic.target\nRequires=basic.target\n[Service]\nType=oneshot\nExecStart=/check.sh\n",

		// What the module has systemd-tmpfiles do, see TestBootServerFiles.
		"etc/tmpfiles.d/every-channel-netboot.conf": "d /var/lib/every-channel-netboot 0750 every-channel-netboot every-channel-netboot\n",

		units + "every-channel-netboot.service":       unit("netboot-plain.service"),
		units + "every-channel-netboot-http.socket":   unit("netboot-plain-http.socket"),
		units + "every-channel-netboot-tftp.socket":   unit("netboot-plain-tftp.socket"),
		units + "every-channel-netboot-status.socket": unit("netboot-plain-status.socket"),
		units + "every-channel-netboot-stage.service": unit("netboot-plain-stage.service"),
		units + "every-channel-netboot-stage.timer":   unit("netboot-plain-stage.timer"),
		units + "ec-node-kqed.service":                unit("ec-node-kqed-by-host.service"),
	})
	disk := filepath.Join(t.TempDir(), "disk.img")
	run(t, root, lab.Tool(t, "stage1", "mkfs.ext4"), "-q", "-d", root, disk, "256m")
	initrd := t.TempDir()
	writeTree(t, initrd, map[string]string{"init": readFile(t, "testdata/stage1/plain.sh")})
	reports := start(t, newInitrd(t, initrd), "", []string{disk})

	assert.Contains(t, only(t, reports, "script before: "), "503")
	for prefix, want := range map[string]string{
		"serve: ":    "0 active",
		"timer: ":    "0 active elapses",
		"stage: ":    "0 success",
		"script: ":   "1",
		"autoexec: ": "2",
		"ipxe: ":     "an iPXE",
		"busybox: ":  "busybox: 0", // its setuid(2) is refused, and not the end of it
		"node: ":     "ec-node of a user of its own: wt-publish --url https://relay.every.channel/anon --name kqed --input http://10.20.30.9/auto/v9.1",
	} {
		assert.Equal(t, want, only(t, reports, prefix), prefix)
	}
	assert.NotEqual(t, "0", only(t, reports, "page: "))
}
