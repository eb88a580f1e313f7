package nix_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/nix"
)

func TestForeign(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	request := b.request(isoX86, "other-machine")
	foreign, err := b.Foreign(t.Context(), request)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{
		"other-machine": "it must be built on pdp11-unix, and this machine is x86_64-linux",
	}, foreign)

	t.Run("a builder that could", func(t *testing.T) {
		machines := filepath.Join(b.folder, "etc", "machines")
		require.NoError(t, os.WriteFile(machines, []byte("# the museum\nssh://museum vax-vms,pdp11-unix /key 1\n"), 0o600))
		defer os.Remove(machines)
		foreign, err := b.Foreign(t.Context(), request)
		require.NoError(t, err)
		assert.Empty(t, foreign)
	})
	t.Run("arguments about machines", func(t *testing.T) {
		asked := request
		asked.Args = []string{"--builders", "ssh://museum pdp11-unix"}
		foreign, err := b.Foreign(t.Context(), asked)
		require.NoError(t, err)
		assert.Empty(t, foreign)
	})
	t.Run("no attribute", func(t *testing.T) {
		_, err := b.Foreign(t.Context(), b.request("absent"))
		evaluation := (*nix.EvaluationError)(nil)
		require.True(t, errors.As(err, &evaluation))
		assert.Equal(t, nix.NoAttribute, evaluation.Problems[0].Kind)
	})
}
