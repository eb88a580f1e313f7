package lab_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

const greeting = `{ outputs = _: { greeting = derivation {
  name = "greeting"; system = "x86_64-linux"; builder = "/bin/sh";
  PATH = "/bin:/usr/bin:/run/current-system/sw/bin";
  args = [ "-ec" "mkdir $out; echo hello > $out/text" ];
}; }; }`

func TestNixBuildsInAStoreOfItsOwn(t *testing.T) {
	t.Parallel()
	nix := lab.Nix(t)
	flake := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(flake, "flake.nix"), []byte(greeting), 0o600))

	build := exec.Command(nix.Program, "build", "--out-link", filepath.Join(flake, "result"), "path:"+flake+"#greeting")
	build.Env = nix.Env()
	output, err := build.CombinedOutput()
	require.NoError(t, err, string(output))

	text, err := os.ReadFile(filepath.Join(flake, "result", "text"))
	require.NoError(t, err)
	assert.Equal(t, "hello\n", string(text))
	target, err := os.Readlink(filepath.Join(flake, "result"))
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(nix.Folder, "store"), filepath.Dir(target))
}
