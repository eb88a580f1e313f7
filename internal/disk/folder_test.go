package disk_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/disk"
)

func TestOpenFolder(t *testing.T) {
	top := t.TempDir()
	here := filepath.Join(top, "repository", "images")
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	require.NoError(t, os.MkdirAll(here, 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(here, "real"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(here, "dangling"), 0o755))
	require.NoError(t, os.Mkdir(elsewhere, 0o755))
	for name, target := range map[string]string{
		"out": elsewhere, "up": "../..", "in": "real", "deep": elsewhere, "dangling/x": filepath.Join(elsewhere, "new"),
		"../beside": elsewhere,
	} {
		require.NoError(t, os.Symlink(target, filepath.Join(here, name)))
	}
	t.Chdir(here)
	for path, want := range map[string]string{ // where the file is, or "" where the path is refused
		"dist":                               filepath.Join(here, "dist"),
		"a/b/c":                              filepath.Join(here, "a/b/c"),
		".":                                  here,
		"./a/../dist/":                       filepath.Join(here, "dist"),
		"in":                                 filepath.Join(here, "real"),
		"../dist":                            filepath.Join(top, "repository", "dist"),
		"..":                                 filepath.Join(top, "repository"),
		"../../x/y":                          filepath.Join(top, "x/y"),
		filepath.Join(here, "absolute"):      filepath.Join(here, "absolute"),
		filepath.Join(elsewhere, "new/dist"): filepath.Join(elsewhere, "new/dist"),
		"out":                                "",
		"out/below":                          "",
		"up":                                 "",
		"dangling/x":                         "",
		"../beside":                          "",
		filepath.Join(here, "out"):           "",
	} {
		root, err := disk.OpenFolder(path)
		if want == "" {
			require.ErrorContains(t, err, "and no link may lead out of where it starts, because it may have come with a checkout; give the folder that it leads to by its own path, or remove the link", path)
			assert.NotContains(t, err.Error(), "escapes", path)
			continue
		}
		require.NoError(t, err, path)
		_, err = disk.WriteFileIn(t.Context(), root, "file", []byte(path))
		require.NoError(t, err, path)
		require.NoError(t, root.Close())
		content, err := os.ReadFile(filepath.Join(want, "file"))
		require.NoError(t, err, path)
		assert.Equal(t, path, string(content))
	}
	entries, err := os.ReadDir(elsewhere)
	require.NoError(t, err)
	assert.Len(t, entries, 1, "new, which was named by its own path")

	// Where links lead that others have made on this machine is theirs to say.
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(top, "theirs")))
	root, err := disk.OpenFolder(filepath.Join(top, "theirs"))
	require.NoError(t, err)
	require.NoError(t, root.Close())
}

func TestFolderThatIsNone(t *testing.T) {
	elsewhere := t.TempDir()
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("file", nil, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(elsewhere, "file"), nil, 0o644))
	require.NoError(t, os.Symlink("nowhere", "link"))
	for path, want := range map[string]string{
		"file":                                 "file is no folder; give another one, or move that away",
		"file/below/it":                        "file is no folder; give another one, or move that away",
		"link":                                 "link is a link to nowhere, which is not there; make that folder, or remove the link",
		filepath.Join(elsewhere, "file"):       elsewhere + "/file is no folder; give another one, or move that away",
		filepath.Join(elsewhere, "file/below"): elsewhere + "/file is no folder; give another one, or move that away",
	} {
		want = "the folder " + path + ": " + want
		_, err := disk.OpenFolder(path)
		require.EqualError(t, err, want)
		require.EqualError(t, disk.CheckFolder(path), want)
	}
	for _, path := range []string{".", "..", "/", "new", "new/below", elsewhere} {
		require.NoError(t, disk.CheckFolder(path), path)
	}
}
