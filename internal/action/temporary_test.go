package action

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What is built goes where the runner cleans up, else where temporary files go.
func TestLauncherBuildsInATemporaryFolder(t *testing.T) {
	l := newLauncher(t)
	l.install("go", `for out in "$@"; do [ "$before" != -o ] || break; before=$out; done
printf '#!/bin/sh\necho "$0"\n' >"$out" && chmod +x "$out"`)
	chmod, err := exec.LookPath("chmod")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(chmod, filepath.Join(l.path, "chmod")))
	folderOf := func(environment ...string) string {
		t.Helper()
		out, err := l.run(environment...)
		require.NoError(t, err, out)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		built := filepath.Dir(lines[len(lines)-1])
		assert.True(t, strings.HasPrefix(filepath.Base(built), "runner-images."), built)
		t.Cleanup(func() { assert.NoError(t, os.RemoveAll(built)) })
		return filepath.Dir(built)
	}
	runner, user := t.TempDir(), t.TempDir()
	assert.Equal(t, runner, folderOf("RUNNER_TEMP="+runner, "TMPDIR="+user))
	assert.Equal(t, user, folderOf("RUNNER_TEMP=", "TMPDIR="+user))
	assert.Equal(t, "/tmp", folderOf("RUNNER_TEMP=", "TMPDIR="))
}
