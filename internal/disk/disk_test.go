package disk_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/disk"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { file.Close() })
	return file
}

func TestLocks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // a folder can be locked as a file can
	require.NoError(t, disk.Lock(t.Context(), open(t, dir), func() { t.Error("there is nothing to wait for") }))

	locked, err := disk.TryLock(open(t, dir))
	require.NoError(t, err)
	assert.False(t, locked)

	ctx, cancel := context.WithCancelCause(t.Context())
	tired := errors.New("tired of waiting")
	waits := 0
	err = disk.Lock(ctx, open(t, dir), func() { waits++; cancel(tired) })
	require.ErrorIs(t, err, tired)
	assert.ErrorContains(t, err, dir)
	assert.Equal(t, 1, waits)
}

func TestLockWaitsForTheEndOfAnother(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := open(t, dir)
	require.NoError(t, disk.Lock(t.Context(), first, nil))
	require.NoError(t, disk.Lock(t.Context(), open(t, dir), func() { require.NoError(t, first.Close()) }))
}

func TestSharedLocks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	readers := []*os.File{open(t, dir), open(t, dir)}
	for _, reader := range readers {
		require.NoError(t, disk.LockShared(reader))
	}
	writer := open(t, dir)
	for _, reader := range readers {
		locked, err := disk.TryLock(writer)
		require.NoError(t, err)
		assert.False(t, locked, "%d readers are left", len(readers))
		require.NoError(t, reader.Close())
	}
	locked, err := disk.TryLock(writer)
	require.NoError(t, err)
	assert.True(t, locked)
}

func TestLockOfAClosedFile(t *testing.T) {
	t.Parallel()
	file := open(t, t.TempDir())
	require.NoError(t, file.Close())
	require.EqualError(t, disk.Lock(t.Context(), file, nil), "lock "+file.Name()+": use of closed file")
	require.EqualError(t, disk.LockShared(file), "lock "+file.Name()+": use of closed file")
}

func TestSyncFolder(t *testing.T) {
	t.Parallel()
	require.NoError(t, disk.SyncFolder(t.TempDir()))
	require.NoError(t, disk.SyncFolder("/proc/self/fd"), "which cannot be brought to a disk (EINVAL)")
	require.ErrorIs(t, disk.SyncFolder(filepath.Join(t.TempDir(), "absent")), os.ErrNotExist)
}

func TestExchange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	require.NoError(t, os.Mkdir(a, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(a, "of-a"), nil, 0o600))
	require.ErrorIs(t, disk.Exchange(a, b), os.ErrNotExist)
	require.NoError(t, os.Mkdir(b, 0o755))
	require.NoError(t, disk.Exchange(a, b))
	assert.Empty(t, names(t, a))
	assert.Equal(t, []string{"of-a"}, names(t, b))
}

func TestCreateIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer root.Close()
	sum, size, err := disk.CreateIn(t.Context(), root, "hello", writer([]byte("hello")))
	require.NoError(t, err)
	assert.Equal(t, helloSum, sum)
	assert.EqualValues(t, 5, size)
	info, err := os.Stat(filepath.Join(dir, "hello"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o644), info.Mode())

	outside := t.TempDir()
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "out")))
	_, _, err = disk.CreateIn(t.Context(), root, "out/hello", writer([]byte("hello")))
	require.ErrorContains(t, err, "write "+filepath.Join(dir, "out/hello"))
	assert.Empty(t, names(t, outside))

	_, _, err = disk.CreateIn(t.Context(), root, "half", func(io.Writer) error { return io.ErrUnexpectedEOF })
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.Equal(t, []string{"hello", "out"}, names(t, dir))
}
