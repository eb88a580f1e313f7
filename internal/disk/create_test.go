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
	require.EqualError(t, err, "write "+taken+": a folder has that name, and no file takes its place: move it away (file exists)", "without the name of the hidden file")
	assert.Equal(t, []string{"folder"}, names(t, dir))
}

// A copy has the bytes and the checksum of its source, with its blocks where the file
// system can share them (that of the tests cannot, mostly), and without.
func TestCopyIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer root.Close()
	content := bytes.Repeat([]byte("a block\n"), 400_000)
	elsewhere := "/dev/shm" // another file system than that of TMPDIR, mostly
	if _, err := os.Stat(elsewhere); err != nil {
		elsewhere = t.TempDir()
	}
	for _, folder := range []string{t.TempDir(), elsewhere} {
		source, err := os.CreateTemp(folder, "source-")
		require.NoError(t, err)
		t.Cleanup(func() { source.Close(); os.Remove(source.Name()) })
		_, err = source.Write(content)
		require.NoError(t, err)
		_, err = source.Seek(0, io.SeekStart)
		require.NoError(t, err)
		var last int64
		sum, size, err := disk.CopyIn(t.Context(), root, "copy.iso", source, func(done int64) {
			assert.Greater(t, done, last)
			last = done
		})
		require.NoError(t, err)
		again, _, err := checksum.File(t.Context(), filepath.Join(dir, "copy.iso"))
		require.NoError(t, err)
		assert.Equal(t, again, sum)
		assert.EqualValues(t, len(content), size)
		assert.EqualValues(t, len(content), last)
	}

	source, err := os.Open(filepath.Join(dir, "copy.iso"))
	require.NoError(t, err)
	defer source.Close()
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err = disk.CopyIn(ctx, root, "half.iso", source, func(int64) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, []string{"copy.iso"}, names(t, dir))
}

func TestCreateUnsyncedIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer root.Close()
	for range 2 { // the second one replaces the first
		sum, size, err := disk.CreateUnsyncedIn(t.Context(), root, "hello", writer([]byte("hello")))
		require.NoError(t, err)
		assert.Equal(t, helloSum, sum)
		assert.EqualValues(t, 5, size)
	}
	info, err := root.Stat("hello")
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o644), info.Mode())
	_, _, err = disk.CreateUnsyncedIn(t.Context(), root, "half", func(io.Writer) error { return io.ErrUnexpectedEOF })
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "taken"), 0o755))
	_, _, err = disk.CreateUnsyncedIn(t.Context(), root, "taken", writer(nil))
	require.ErrorContains(t, err, "write "+filepath.Join(dir, "taken")+": a folder has that name, and no file takes its place: move it away (")
	assert.Equal(t, []string{"hello", "taken"}, names(t, dir))
}

func TestLinkIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer root.Close()
	target := filepath.Join(t.TempDir(), "image.iso")
	require.NoError(t, os.WriteFile(target, []byte("hello"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x.iso"), []byte("of an earlier run"), 0o600))
	for range 2 {
		require.NoError(t, disk.LinkIn(root, "x.iso", target))
		content, err := os.ReadFile(filepath.Join(dir, "x.iso"))
		require.NoError(t, err)
		assert.Equal(t, "hello", string(content))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "taken"), 0o755))
	require.ErrorContains(t, disk.LinkIn(root, "taken", target), "write "+filepath.Join(dir, "taken")+": a folder has that name, and no file takes its place: move it away (")
	assert.Equal(t, []string{"taken", "x.iso"}, names(t, dir))
}
