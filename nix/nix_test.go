package nix_test

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// evaluate returns the value of a Nix expression as JSON. Paths in it are relative
// to this folder.
func evaluate(t *testing.T, expression string) string {
	t.Helper()
	nix := lab.Nix(t)
	command := exec.Command(nix.Program, "eval", "--json", "--impure", "--expr", expression)
	command.Env = nix.Env()
	output, err := command.Output()
	require.NoError(t, err)
	return string(output)
}
