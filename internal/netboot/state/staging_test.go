package state_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/state"
)

func TestLastStaging(t *testing.T) {
	t.Parallel()
	dir, err := state.Create(filepath.Join(t.TempDir(), "state"))
	require.NoError(t, err)
	defer dir.Close()
	_, err = dir.LastStaging()
	require.ErrorIs(t, err, fs.ErrNotExist)

	require.NoError(t, dir.SetLastStaging(t.Context(), errors.New("no route to the forge")))
	got, err := dir.LastStaging()
	require.NoError(t, err)
	assert.Equal(t, "no route to the forge", got.Error)
	assert.False(t, got.Time.IsZero())
	assert.True(t, got.Succeeded.IsZero())

	require.NoError(t, dir.SetLastStaging(t.Context(), nil))
	succeeded, err := dir.LastStaging()
	require.NoError(t, err)
	assert.Empty(t, succeeded.Error)
	assert.Equal(t, succeeded.Time, succeeded.Succeeded)
	require.NoError(t, dir.SetLastStaging(t.Context(), errors.New("again")))
	got, err = dir.LastStaging()
	require.NoError(t, err)
	assert.Equal(t, succeeded.Succeeded, got.Succeeded)

	require.NoError(t, os.WriteFile(filepath.Join(dir.Path(), "last-staging.json"), []byte("{"), 0o600))
	_, err = dir.LastStaging()
	require.ErrorContains(t, err, "last-staging.json")
	require.NoError(t, dir.SetLastStaging(t.Context(), nil), "a success needs nothing of what was there")
}
