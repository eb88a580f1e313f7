// Package debian_test tests the Debian package of the boot server, which scripts/deb
// makes of a command and of scripts/debian.
package debian_test

import (
	"context"
	"errors"
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

const generation = "debian"

// TestDebianPackage packs the command twice, and installs, runs, upgrades and purges
// the package on a machine with Debian 13, from which two other machines boot.
func TestDebianPackage(t *testing.T) {
	t.Parallel()
	program := lab.StaticProgram(t)
	first := pack(t, lab.Root(t), program, "1.0.0")

	t.Run("the same bytes in another folder", func(t *testing.T) {
		t.Parallel()
		checkout := filepath.Join(t.TempDir(), "another folder")
		run(t, lab.Root(t), "sh", "-euc", `umask 077; mkdir "$0"; git ls-files -z | xargs -0 cp --parents -t "$0"`, checkout)
		assert.Equal(t, sum(t, first), sum(t, pack(t, checkout, program, "1.0.0", "TZ=Asia/Tokyo", "LC_ALL=C.UTF-8", "LANGUAGE=ja")))
	})
	t.Run("lintian", func(t *testing.T) {
		t.Parallel()
		output, err := exec.CommandContext(t.Context(), lab.Tool(t, "debian", "lintian"), "--fail-on=error,warning", first).CombinedOutput()
		assert.NoError(t, err, "%s", output)
	})
	t.Run("wrong arguments", func(t *testing.T) {
		t.Parallel()
		for want, arguments := range map[string][]string{
			"usage: ":                              {"1.0.0", "amd64", program},
			"v1 is no version":                     {"v1", "amd64", program, t.TempDir()},
			"is no program of Go":                  {"1.0.0", "amd64", "/bin/sh", t.TempDir()},
			"is not built with GOARCH=arm64":       {"1.0.0", "arm64", program, t.TempDir()},
			"/bin/false does not run here; give a": {"1.0.0", "amd64", program, t.TempDir(), "/bin/false"},
		} {
			output, err := exec.CommandContext(t.Context(), filepath.Join(lab.Root(t), "scripts", "deb"), arguments...).CombinedOutput()
			require.Error(t, err)
			assert.Contains(t, string(output), want)
		}
	})
	t.Run("on a machine", func(t *testing.T) {
		t.Parallel()
		testMachine(t, program, first, pack(t, lab.Root(t), program, "1.0.1-rc1"))
	})
}

// testMachine runs testdata/machine/check.sh on a fresh Debian.
func testMachine(t *testing.T, program, first, second string) {
	files := t.TempDir()
	require.NoError(t, os.Chmod(files, 0o755))
	require.NoError(t, os.CopyFS(files, os.DirFS("testdata/machine")))
	for folder, file := range map[string]string{"1": first, "2": second, "": lab.Tool(t, "boot", "busybox")} {
		require.NoError(t, os.MkdirAll(filepath.Join(files, folder), 0o755))
		run(t, files, "cp", file, "./"+folder)
	}
	publish(t, program, filepath.Join(files, "releases"))

	// A machine is told what to boot by the DHCP server, another one by ProxyDHCP.
	const proxied = "52:54:00:00:00:02"
	network := lab.NewNetwork(t)
	network.StartDHCP(t, "dhcp-mac=set:proxied,"+proxied, "dhcp-boot=tag:!proxied,undionly.kpxe,,"+lab.DebianIP)
	server := network.StartDebian(t, files)
	wait := func(machine *lab.VM, text string) {
		t.Helper()
		// The longest takes a minute of a processor that is not shared.
		ctx, cancel := context.WithTimeoutCause(t.Context(), 12*time.Minute, errors.New("it has not come that far"))
		defer cancel()
		require.NoError(t, machine.Wait(ctx, text))
	}
	wait(server, "report: ready")
	for _, machine := range []lab.Machine{{Firmware: lab.BIOS}, {Firmware: lab.UEFI, MAC: proxied}} {
		vm := network.StartMachine(t, machine)
		wait(vm, lab.InInit(generation))
		vm.Stop()
	}
	wait(server, "report: failed:")

	const inactive = "inactive inactive inactive inactive inactive inactive "
	const active = "active active active active active active "
	const none = "0000000000000000"
	reports := reports(server.Console())
	for name, want := range map[string]string{
		"before":                                 "",
		"installed":                              "1.0.0-1 install ok installed",
		"enabled":                                "disabled",
		"active":                                 inactive,
		"users":                                  "runner-images-netboot runner-images-netboot runner-images-netboot-serve runner-images-netboot",
		"state":                                  "runner-images-netboot runner-images-netboot 750",
		"unconfigured":                           active,
		"unconfigured stage":                     "Nothing is staged: say where the releases are, as STAGE_OPTIONS in /etc/default/runner-images-netboot, and then: systemctl start runner-images-netboot-stage",
		"stopped":                                inactive,
		"configured":                             active,
		"stage":                                  "success",
		"timer":                                  "elapses",
		"current":                                "boot-v1",
		"runs as":                                "runner-images-netboot-serve " + none + " 2",
		"restarted":                              active + "active active",
		"stagings":                               "1",
		"upgraded":                               "1.0.1~rc1-1 " + active + "enabled",
		"upgraded process":                       "another",
		"upgraded options":                       "1",
		"upgraded machines":                      proxied,
		"upgraded script":                        "1",
		"removed":                                inactive + "0",
		"reinstalled":                            active,
		"purged package":                         "",
		"purged disk":                            "",
		"purged":                                 "",
		"purged users":                           "2",
		"failed":                                 "",
		"security runner-images-netboot.service": "0",
		"security runner-images-netboot-stage.service": "0",
	} {
		got, there := reports[name]
		assert.True(t, there, "no report %q", name)
		assert.Equal(t, strings.TrimSpace(want), got, name)
	}
	assert.Contains(t, reports["unconfigured script"], "503")
	assert.NotEqual(t, "0", reports["page"])
	verified := 0
	for name, got := range reports {
		if strings.HasPrefix(name, "verify ") {
			verified++
			assert.Empty(t, got, name)
		}
	}
	assert.Equal(t, len(debianUnits), verified)
	for _, kept := range []string{"/etc/default/runner-images-netboot", "/var/lib/runner-images-netboot", "/etc/systemd/system/multi-user.target.wants/runner-images-netboot.service"} {
		assert.Contains(t, strings.Fields(reports["removed files"]), kept)
	}
}

// publish publishes an image that boots in a folder of releases.
func publish(t *testing.T, program, releases string) {
	t.Helper()
	nix := lab.Nix(t)
	deploy := exec.CommandContext(t.Context(), program, "deploy", "--flake", "path:"+lab.BootFlake(t, generation), "--build-x86-64-iso=false",
		"--output-dir", t.TempDir(), "--release-tag", "boot-v1", "--forge-url", "file://"+releases)
	deploy.Dir = t.TempDir() // not this repository, whose commit it would name
	deploy.Env = nix.Env()
	output, err := deploy.CombinedOutput()
	require.NoError(t, err, "%s", output)
}

// reports returns what a machine wrote on its console as "report: NAME: TEXT".
func reports(console string) map[string]string {
	reports := map[string]string{}
	for line := range strings.Lines(console) {
		if _, report, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "report: "); ok {
			name, text, _ := strings.Cut(report, ":")
			reports[name] = strings.TrimSpace(text)
		}
	}
	return reports
}

// pack packs a command with the files of a checkout and returns the package's path.
func pack(t *testing.T, checkout, program, version string, environment ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), filepath.Join(checkout, "scripts", "deb"), version, "amd64", program, t.TempDir())
	command.Env = append(os.Environ(), append(environment, "SOURCE_DATE_EPOCH=1700000000")...)
	command.Stderr = t.Output()
	path, err := command.Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(path))
}

func sum(t *testing.T, path string) string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "sha256sum", path).Output()
	require.NoError(t, err)
	return strings.Fields(string(output))[0]
}

func run(t *testing.T, folder, program string, arguments ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), program, arguments...)
	command.Dir = folder
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)
}
