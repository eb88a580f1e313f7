package serve

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

func TestLoaders(t *testing.T) {
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

	d, err := openLoaders(folder)
	require.NoError(t, err)
	defer d.Close()
	d.store = store + "/"
	for name, want := range map[string]string{
		"ipxe.efi": "iPXE", "arm64/ipxe.efi": "iPXE for arm64", "inside": "iPXE for arm64", "undionly.kpxe": "stored", "by-way-of": "stored",
	} {
		file, size, err := d.open(name)
		require.NoError(t, err, name)
		content, err := io.ReadAll(file)
		require.NoError(t, err)
		assert.Equal(t, want, string(content))
		assert.Equal(t, int64(len(want)), size)
		assert.NoError(t, file.Close())
		assert.True(t, d.has(name))
	}
	for _, name := range []string{"absent", "outside", "above", "folder/secret", "old/ipxe.efi", "nowhere", "pipe", "arm64", "ipxe.efi/x", "../secret", "/ipxe.efi", "", "."} {
		_, _, err := d.open(name)
		assert.ErrorIs(t, err, fs.ErrNotExist, name)
		assert.False(t, d.has(name))
	}
}

func TestNoLoaders(t *testing.T) {
	t.Parallel()
	d, err := openLoaders("")
	require.NoError(t, err)
	_, _, err = d.open("ipxe.efi")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	assert.NoError(t, d.Close())
	_, err = openLoaders(filepath.Join(t.TempDir(), "absent"))
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

func TestCleanName(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"ipxe.efi": "ipxe.efi", "/ipxe.efi": "ipxe.efi", `\EFI\BOOT\ipxe.efi`: "EFI/BOOT/ipxe.efi", "//a/./b//c/../d": "a/b/d", "../../secret": "secret", `..\..\secret`: "secret",
	} {
		got, err := cleanName(given)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	for _, given := range []string{"", "/", ".", "..", "a\x00b", "a\nb", strings.Repeat("a", 256)} {
		_, err := cleanName(given)
		assert.ErrorIs(t, err, fs.ErrNotExist, "%q", given)
	}
}

func TestLabel(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"ipxe.efi": "ipxe.efi", "/ipxe.efi": "ipxe.efi", "secret/ipxe.efi": "…/ipxe.efi", `\secret\ipxe.efi`: "…/ipxe.efi", "": "", "secret/": "…/",
		strings.Repeat("a", 101): strings.Repeat("a", 100) + "…",
	} {
		assert.Equal(t, want, labelOf(given))
	}
}
