package nix_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// systemd runs a program of the systemd that scripts/tools/stage1 unpacks.
func systemd(t *testing.T, program string, arguments ...string) (string, error) {
	t.Helper()
	tree := toolShare(t, "systemd")
	libraries := filepath.Join(tree, "usr/lib/x86_64-linux-gnu")
	command := exec.Command(filepath.Join(tree, "usr/lib64/ld-linux-x86-64.so.2"),
		append([]string{"--library-path", libraries + ":" + libraries + "/systemd", filepath.Join(tree, "usr/bin", program)}, arguments...)...)
	output, err := command.CombinedOutput()
	return string(output), err
}

// systemd knows every directive of the units and takes its value, and holds the
// services to be well confined.
func TestSystemdUnderstandsUnits(t *testing.T) {
	t.Parallel()
	services, err := filepath.Glob("testdata/units/*.service")
	require.NoError(t, err)
	require.NotEmpty(t, services)
	sockets, err := filepath.Glob("testdata/units/*.socket")
	require.NoError(t, err)
	require.NotEmpty(t, sockets)
	for _, file := range append(services, sockets...) {
		unit := readFile(t, file)
		if !strings.Contains(unit, "ExecStart=") && !strings.Contains(unit, "[Socket]") {
			continue // adds to a unit of systemd's own
		}
		folder := t.TempDir()
		path := filepath.Join(folder, filepath.Base(file))
		require.NoError(t, os.WriteFile(path, []byte(replaceCommands(unit, "/bin/true")), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(folder, "every-channel-netboot.service"), []byte("[Service]\nExecStart=/bin/true\n"), 0o644))
		output, err := systemd(t, "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path)
		assert.NoError(t, err, "%s: %s", file, output)
		assert.Empty(t, output, file)
		if strings.Contains(unit, "ProtectSystem=") {
			exposure := "20" // of 100; 90 and more is "unsafe"
			if strings.HasPrefix(filepath.Base(file), "netboot-") {
				exposure = "12"
			}
			output, err := systemd(t, "systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+exposure, path)
			assert.NoError(t, err, "%s: %s", file, output)
		}
	}
}

// replaceCommands puts another command in the place of all of a unit's.
func replaceCommands(unit, command string) string {
	lines := strings.Split(unit, "\n")
	for index, line := range lines {
		if key, _, ok := strings.Cut(line, "="); ok && strings.HasPrefix(key, "Exec") {
			lines[index] = key + "=" + command
		}
	}
	return strings.Join(lines, "\n")
}

// bootServerUsers are those of the module, and root.
const bootServerUsers = "root:x:0:0::/root:/bin/sh\n" +
	"every-channel-netboot:x:990:990::/:/bin/false\n" +
	"every-channel-netboot-serve:x:991:990::/:/bin/false\n"

// The boot server works within the sandbox of its units, on a machine with a real
// systemd, with the state folder as the one user of version 0.1.0 left it.
func TestBootServerInItsSandbox(t *testing.T) {
	t.Parallel()
	program := lab.StaticProgram(t)

	result, packaged := t.TempDir(), t.TempDir()
	writeTree(t, result, map[string]string{
		"bzImage":      "a kernel",
		"initrd":       "an initrd",
		"netboot.ipxe": "#!ipxe\nkernel bzImage init=/init initrd=initrd\ninitrd initrd\nboot\n",
	})
	run(t, result, program, "package", result, "--name", "ec-runner-x86_64-netboot", "--release-tag", "boot-v1", "--output-dir", packaged)

	root := systemdTree(t)
	unit := func(golden string) string {
		text := readFile(t, filepath.Join("testdata/units", golden))
		for old, replacement := range map[string]string{
			"/nix/store/…-runner-images-/bin/runner-images": "/usr/bin/runner-images",
			"/nix/store/…-ec-ipxe":                          "/srv/ipxe",
			// There is no network but this machine.
			`"enp1s0"`:            `"lo"`,
			"BindToDevice=enp1s0": "BindToDevice=lo",
		} {
			text = strings.ReplaceAll(text, old, replacement)
		}
		require.NotContains(t, text, "=/nix/store/…-runner")
		return text
	}
	writeTree(t, root, map[string]string{
		"etc/passwd":                           bootServerUsers,
		"etc/group":                            "root:x:0:\nevery-channel-netboot:x:990:\n",
		"etc/machine-id":                       "",
		"etc/os-release":                       "ID=test\n",
		"etc/every-channel/netboot-rings.yaml": `{"rings": [{"name": "canary", "release_tag": "boot-v2", "macs": ["00:11:22:33:44:55"]}]}`,
		"srv/ec-runner-x86_64-netboot-boot-v1.tar.gz":                readFile(t, filepath.Join(packaged, "ec-runner-x86_64-netboot-boot-v1.tar.gz")),
		"srv/SHA256SUMS.txt":                                         readFile(t, filepath.Join(packaged, "SHA256SUMS.txt")),
		"srv/ipxe/ec-ipxe.efi":                                       "an iPXE",
		"var/lib/secrets/chain-token":                                "a-secret-word\n",
		"usr/bin/runner-images":                                      readFile(t, program),
		"usr/bin/busybox":                                            readFile(t, lab.Tool(t, "stage1", "busybox")),
		"check.sh":                                                   readFile(t, "testdata/sandbox/check.sh"),
		"etc/systemd/system/default.target":                          "[Unit]\nWants=check.service\n",
		"etc/systemd/system/check.service":                           "[Unit]\nAfter=basic.target\nRequires=basic.target\n[Service]\nType=oneshot\nExecStart=/check.sh\n",
		"etc/systemd/system/every-channel-netboot-stage.service":     unit("netboot-file-stage.service"),
		"etc/systemd/system/every-channel-netboot.service":           unit("netboot-full.service"),
		"etc/systemd/system/every-channel-netboot-http.socket":       unit("netboot-full-http.socket"),
		"etc/systemd/system/every-channel-netboot-tftp.socket":       unit("netboot-full-tftp.socket"),
		"etc/systemd/system/every-channel-netboot-status.socket":     unit("netboot-full-status.socket"),
		"etc/systemd/system/every-channel-netboot-proxy-dhcp.socket": unit("netboot-full-proxy-dhcp.socket"),
		"etc/systemd/system/every-channel-netboot-pxe.socket":        unit("netboot-full-pxe.socket"),
		"etc/systemd/system/rollback.service":                        "[Service]\nType=oneshot\nUser=every-channel-netboot\nExecStart=/usr/bin/runner-images netboot stage --state-dir /var/lib/every-channel-netboot --rollback\n",
		"var/lib/every-channel-netboot/releases/":                    "",
	})
	require.NoError(t, os.Chmod(filepath.Join(root, "var/lib/secrets/chain-token"), 0o400))
	for path, mode := range map[string]os.FileMode{"": 0o750, "/releases": 0o750} {
		require.NoError(t, os.Chmod(filepath.Join(root, "var/lib/every-channel-netboot"+path), mode))
		require.NoError(t, os.Chown(filepath.Join(root, "var/lib/every-channel-netboot"+path), 990, 990))
	}
	reports := startRoot(t, root)
	const none = "0000000000000000"
	for prefix, want := range map[string]string{
		"stage: ":             "0 success",
		"current: ":           "boot-v1",
		"serve: ":             "0 active",
		"user: ":              "991 990",
		"owner: ":             "990 990 750",
		"capabilities: ":      none + " " + none,
		"stopped: ":           "inactive",
		"restarted: ":         "active active",
		"proxy: ":             "8", // at the start and after each restart
		"seccomp: ":           "2",
		"script with token: ": "1",
		"autoexec: ":          "6", // by name, by address, and a peer, each twice
		"ipxe: ":              "an iPXE",
		"reload: ":            "0 same process",
		"staged: ":            "1", // not by each start of the server, which would undo a rollback
		"stop: ":              "success",
		// The table of machines is in a place that the server may write to.
		"machines: ":               "991 990 700 991 990 600",
		"machines after restart: ": "1",
		"machines kept: ":          "1",
	} {
		assert.Equal(t, want, strings.TrimSpace(only(t, reports, prefix)), prefix)
	}
	assert.Contains(t, only(t, reports, "script without token: "), "404")
	assert.Contains(t, only(t, reports, "write: "), "Read-only file system")
	assert.Contains(t, only(t, reports, "rollback: "), "roll back: no previous release", "it may write to the folder, and there is none")
	assert.NotEmpty(t, only(t, reports, "health: "))
	assert.NotEqual(t, "0", only(t, reports, "metrics: "))
}

// startRoot boots a machine from a disk with such a root, and returns what it
// reported.
func startRoot(t *testing.T, root string) []string {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk.img")
	run(t, root, lab.Tool(t, "stage1", "mkfs.ext4"), "-q", "-d", root, disk, "256m")
	initrd := t.TempDir()
	writeTree(t, initrd, map[string]string{"init": readFile(t, "testdata/stage1/plain.sh")})
	return start(t, newInitrd(t, initrd), "", []string{disk})
}

// A runner gets its token and its registration from its units, and its jobs run what
// they build, on a machine with a systemd that mounts the folder of a dynamic user
// noexec. A script takes the place of the runner.
func TestActionsInTheirSandbox(t *testing.T) {
	t.Parallel()
	root := systemdTree(t)
	unit := func(golden string) string {
		text := readFile(t, filepath.Join("testdata/units", golden))
		for old, replacement := range map[string]string{
			"/nix/store/…-bash-/bin/sh":   "/usr/bin/bash",
			"/nix/store/…-token\n":        "/srv/token.sh\n",
			"/nix/store/…-registration\"": "/srv/registration.sh\"",
			"ExecStart=/nix/store/…-forgejo-runner-/bin/act_runner daemon --config /nix/store/…-forgejo-runner\n": "ExecStart=/srv/job.sh %N\n",
		} {
			text = strings.ReplaceAll(text, old, replacement)
		}
		require.NotContains(t, text, "/nix/store")
		return text
	}
	// That systemctl waits, and that the test sees it.
	const dropIn = "[Service]\nType=oneshot\nStandardOutput=journal+console\n"
	own := unit("actions-own.service")
	const exec = "ExecPaths=/var/lib/every-channel-actions\n"
	require.Contains(t, own, exec)
	const units = "etc/systemd/system/"
	writeTree(t, root, map[string]string{
		"etc/passwd":                    "root:x:0:0::/root:/bin/sh\n",
		"etc/group":                     "root:x:0:\n",
		"etc/machine-id":                "",
		"etc/os-release":                "ID=test\n",
		"var/lib/secrets/actions-token": "TOKEN=a1b2c3\n",
		"usr/bin/busybox":               readFile(t, lab.Tool(t, "stage1", "busybox")),
		"srv/token.sh":                  readFile(t, "modules/ec-runner/actions/token.sh"),
		"srv/registration.sh":           readFile(t, "modules/ec-runner/actions/registration.sh"),
		"srv/job.sh":                    readFile(t, "testdata/sandbox/job.sh"),
		"check.sh":                      readFile(t, "testdata/sandbox/actions.sh"),
		units + "default.target":        "[Unit]\nWants=check.service\n",
		units + "check.service":         "[Unit]\nAfter=basic.target\nRequires=basic.target\n[Service]\nType=oneshot\nExecStart=/check.sh\n",
		units + "every-channel-actions-token.service":       unit("actions-token.service"),
		units + "every-channel-actions.service":             own,
		units + "every-channel-actions.service.d/test.conf": dropIn,
		units + "every-channel-actions.service.requires/":   "",
		units + "without-exec-paths.service":                strings.Replace(own, exec, "", 1),
		units + "without-exec-paths.service.d/test.conf":    dropIn,
	})
	require.NoError(t, os.Chmod(filepath.Join(root, "var/lib/secrets/actions-token"), 0o400))
	require.NoError(t, os.Symlink("../every-channel-actions-token.service",
		filepath.Join(root, units, "every-channel-actions.service.requires", "every-channel-actions-token.service")))

	reports := startRoot(t, root)
	assert.Equal(t, "0 success", only(t, reports, "every-channel-actions: "))
	assert.JSONEq(t, `{"address": "https://git.every.channel", "id": 0, "labels": ["nix:host", "x86_64-linux:host"],
		"name": "nuc-1", "uuid": "33834eef-e758-48c4-a676-1745426747aa", "token": "a1b2c3"}`, only(t, reports, "every-channel-actions has "))
	assert.Contains(t, reports, "every-channel-actions ran what it built")
	assert.Contains(t, reports, "without-exec-paths could not run what it built", "or this systemd does not have what the test is about")
	assert.Equal(t, "root 700 root 600", strings.TrimSpace(only(t, reports, "token: ")))
}
