package lab

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// SSHKey makes a key without a passphrase with ssh-keygen, by its arguments for the kind
// (none: ed25519), and returns the path of the private half; the public half is beside it.
func SSHKey(t testing.TB, kind ...string) string {
	t.Helper()
	if len(kind) == 0 {
		kind = []string{"-t", "ed25519"}
	}
	path := filepath.Join(t.TempDir(), "key")
	command := exec.CommandContext(t.Context(), "ssh-keygen", append([]string{"-q", "-N", "", "-C", "", "-f", path}, kind...)...)
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("make an SSH key: %v: %s", err, output)
	}
	return path
}
