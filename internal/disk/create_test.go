package disk_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/disk"
)

const (
	emptySum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	helloSum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
)

func writer(content []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(content))
		return err
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestCreateReplacesAFileWithItsSum(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "image.iso")
	require.NoError(t, os.WriteFile(path, []byte("of an earlier run, and longer"), 0o600))

	sum, size, err := disk.Create(t.Context(), path, writer([]byte("hello")))
	require.NoError(t, err)
	assert.Equal(t, helloSum, sum)
	assert.EqualValues(t, 5, size)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(content))
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o644), info.Mode(), "whatever the umask")
	assert.Equal(t, []string{"image.iso"}, names(t, dir))

	sum, size, err = disk.Create(t.Context(), path, writer(nil))
	require.NoError(t, err)
	assert.Equal(t, emptySum, sum)
	assert.Zero(t, size)
}

func TestCreateHashesWhatItWrites(t *testing.T) {
	t.Parallel()
	content := make([]byte, 40<<20+7) // past two of the points where it begins to write back
	random := rand.NewChaCha8([32]byte{})
	_, err := random.Read(content)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "large")
	sum, size, err := disk.Create(t.Context(), path, writer(content))
	require.NoError(t, err)

	again, sizeAgain, err := checksum.File(t.Context(), path)
	require.NoError(t, err)
	assert.Equal(t, again, sum)
	assert.Equal(t, sizeAgain, size)
	written, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(content, written))
}

func TestCreateLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "image.iso")

	failure := errors.New("the source is gone")
	_, _, err := disk.Create(t.Context(), path, func(w io.Writer) error {
		_, err := w.Write([]byte("half"))
		return errors.Join(err, failure)
	})
	require.ErrorIs(t, err, failure)
	assert.Empty(t, names(t, dir))

	ctx, cancel := context.WithCancel(t.Context())
	_, _, err = disk.Create(ctx, path, func(w io.Writer) error {
		_, err := w.Write([]byte("half"))
		require.NoError(t, err)
		assert.Len(t, names(t, dir), 1, "the hidden file is being written")
		cancel()
		_, err = w.Write([]byte("the other half"))
		return err
	})
	require.ErrorIs(t, err, context.Canceled)
	assert.Empty(t, names(t, dir))

	_, _, err = disk.Create(ctx, path, func(io.Writer) error { return nil })
	require.ErrorIs(t, err, context.Canceled, "cancelled before or after the last write")
	assert.Empty(t, names(t, dir))
}

func TestCreateErrorsNameTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, _, err := disk.Create(t.Context(), filepath.Join(dir, "absent", "image.iso"), writer(nil))
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "write "+filepath.Join(dir, "absent", "image.iso"))

	source := filepath.Join(dir, "source")
	_, _, err = disk.Create(t.Context(), filepath.Join(dir, "image.iso"), func(io.Writer) error {
		_, err := os.Open(source)
		return err
	})
	require.ErrorIs(t, err, syscall.ENOENT)
	assert.EqualError(t, err, "write "+filepath.Join(dir, "image.iso")+": open "+source+": no such file or directory")

	taken := filepath.Join(dir, "folder")
	require.NoError(t, os.Mkdir(taken, 0o755))
	_, _, err = disk.Create(t.Context(), taken, writer(nil))
	require.EqualError(t, err, "write "+taken+": file exists", "without the name of the hidden file")
	assert.Equal(t, []string{"folder"}, names(t, dir))
}
