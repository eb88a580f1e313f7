package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRootDoesNotStageForOthers(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	if os.Geteuid() == 0 { // else the folder is another user's than root's already
		require.NoError(t, refuseRoot(folder, 0))
		require.NoError(t, os.Chown(folder, 65533, 65533))
	}
	err := refuseRoot(folder, 0)
	require.ErrorContains(t, err, `--state-dir "`+folder+`" belongs to `)
	require.ErrorContains(t, err, "run this as its owner: sudo -u ")
	assert.NoError(t, refuseRoot(folder, 65533))
	assert.NoError(t, refuseRoot(folder+"/absent", 0))
}
