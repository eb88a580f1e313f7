package loaders

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	folder, store := filepath.Join(top, "ipxe"), filepath.Join(top, "store")
	for path, content := range map[string]string{
		"ipxe/ipxe.efi": "iPXE", "ipxe/arm64/ipxe.efi": "iPXE for arm64", "secret": "outside", "store/hash-ipxe/undionly.kpxe": "stored", "ipxe-old/ipxe.efi": "old",
	} {
		path = filepath.Join(top, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	for link, target := range map[string]string{
		"inside":        "arm64/ipxe.efi",
		"outside":       filepath.Join(top, "secret"),
		"above":         "../secret",
		"folder":        "..",
		"old":           "../ipxe-old",
		"undionly.kpxe": filepath.Join(store, "hash-ipxe", "undionly.kpxe"),
		"by-way-of":     "undionly.kpxe",
		"nowhere":       "gone",
	} {
		require.NoError(t, os.Symlink(target, filepath.Join(folder, link)))
	}
	require.NoError(t, syscall.Mkfifo(filepath.Join(folder, "pipe"), 0o600))

	d, err := Open(folder)
	require.NoError(t, err)
	defer d.Close()
	d.store = store + "/"
	for name, want := range map[string]string{
		"ipxe.efi": "iPXE", "arm64/ipxe.efi": "iPXE for arm64", "inside": "iPXE for arm64", "undionly.kpxe": "stored", "by-way-of": "stored",
	} {
		file, size, err := d.Open(name)
		require.NoError(t, err, name)
		content, err := io.ReadAll(file)
		require.NoError(t, err)
		assert.Equal(t, want, string(content))
		assert.Equal(t, int64(len(want)), size)
		assert.NoError(t, file.Close())
		assert.True(t, d.Has(name))
	}
	for _, name := range []string{"absent", "outside", "above", "folder/secret", "old/ipxe.efi", "nowhere", "pipe", "arm64", "ipxe.efi/x", "../secret", "/ipxe.efi", "", "."} {
		_, _, err := d.Open(name)
		assert.ErrorIs(t, err, fs.ErrNotExist, name)
		assert.False(t, d.Has(name))
	}
}

func TestNoFolder(t *testing.T) {
	t.Parallel()
	d, err := Open("")
	require.NoError(t, err)
	_, _, err = d.Open("ipxe.efi")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	assert.NoError(t, d.Close())
	_, err = Open(filepath.Join(t.TempDir(), "absent"))
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

func TestClean(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"ipxe.efi": "ipxe.efi", "/ipxe.efi": "ipxe.efi", `\EFI\BOOT\ipxe.efi`: "EFI/BOOT/ipxe.efi", "//a/./b//c/../d": "a/b/d", "../../secret": "secret", `..\..\secret`: "secret",
	} {
		got, err := Clean(given)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	for _, given := range []string{"", "/", ".", "..", "a\x00b", "a\nb", strings.Repeat("a", 256)} {
		_, err := Clean(given)
		assert.ErrorIs(t, err, fs.ErrNotExist, "%q", given)
	}
}

func TestLabel(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"ipxe.efi": "ipxe.efi", "/ipxe.efi": "ipxe.efi", "secret/ipxe.efi": "…/ipxe.efi", `\secret\ipxe.efi`: "…/ipxe.efi", "": "", "secret/": "…/",
		strings.Repeat("a", 101): strings.Repeat("a", 100) + "…",
	} {
		assert.Equal(t, want, Label(given))
	}
}
