package nix_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// nixpkgsInStore copies the nixpkgs of NIXPKGS_PATH to a store that is kept between
// runs, since it is some 400 MB. There Nix takes it as an input without copying.
var nixpkgsInStore = sync.OnceValues(func() (string, error) {
	folder, err := filepath.EvalSymlinks(os.Getenv("NIXPKGS_PATH"))
	if err != nil {
		return "", err
	}
	output, err := exec.Command("../scripts/with-nix", "../.cache/nix-flake", "nix", "store", "add-path", "--name", "source", folder).Output()
	return strings.TrimSpace(string(output)), err
})

// flake runs a command of Nix on a flake, with the nixpkgs of NIXPKGS_PATH for its
// input.
func flake(t *testing.T, command []string, reference string) []byte {
	t.Helper()
	nixpkgs(t)
	store, err := nixpkgsInStore()
	require.NoError(t, err)
	arguments := append([]string{"../.cache/nix-flake", "nix"}, command...)
	arguments = append(arguments, reference, "--no-write-lock-file",
		"--override-input", "nixpkgs", "path:"+filepath.Join(lab.Root(t), "nix", "testdata", "nixpkgs"),
		"--override-input", "nixpkgs/whole", "path:"+store)
	run := exec.CommandContext(t.Context(), "../scripts/with-nix", arguments...)
	run.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	run.Stderr = &stderr
	output, err := run.Output()
	require.NoError(t, err, "%s", &stderr)
	return output
}

func TestFlakeCheck(t *testing.T) {
	flake(t, []string{"flake", "check", "--no-build"}, "git+file://"+lab.Root(t))
}

// The flake has every output that the documentation names.
func TestFlakeShow(t *testing.T) {
	var outputs map[string]map[string]any
	require.NoError(t, json.Unmarshal(flake(t, []string{"flake", "show", "--json", "--all-systems"}, "git+file://"+lab.Root(t)), &outputs))
	for kind, names := range map[string]string{
		"nixosConfigurations": `ec-runner-aarch64 ec-runner-x86_64 ec-runner-aarch64-netboot
			ec-runner-x86_64-netboot ec-runner-x86_64-iso ec-runner-aarch64-sdimage`,
		"nixosModules": "ec-runner ec-node ec-netboot ec-installer default",
		"packages":     "x86_64-linux aarch64-linux",
		"apps":         "x86_64-linux aarch64-linux",
		"devShells":    "x86_64-linux aarch64-linux",
		"formatter":    "x86_64-linux aarch64-linux",
		"checks":       "x86_64-linux aarch64-linux",
	} {
		for _, name := range strings.Fields(names) {
			assert.Contains(t, outputs[kind], name, kind)
		}
	}
}

// A runner that builds its own image from the source at /etc/every-channel/flake
// gets the derivation that the image was built as.
func TestRunnerBuildsItself(t *testing.T) {
	const config = "#nixosConfigurations.ec-runner-x86_64-netboot.config."
	eval := []string{"eval", "--raw"}
	root := "git+file://" + lab.Root(t)
	source := flake(t, eval, root+config+"services.every-channel.runner.flakeSource")
	original := flake(t, eval, root+config+"system.build.netboot.drvPath")

	etc := filepath.Join(t.TempDir(), "flake")
	run(t, "/", "cp", "-r", string(source), etc)
	run(t, "/", "chmod", "-R", "u+w", etc)
	again := flake(t, eval, etc+config+"system.build.netboot.drvPath")
	assert.Equal(t, string(original), string(again))
	assert.FileExists(t, filepath.Join(etc, "flake.lock"))
}
