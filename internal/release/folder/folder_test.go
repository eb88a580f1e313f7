package folder_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/folder"
)

// What a folder promises as a server does is tested in package forgejo.

func open(t *testing.T) (*release.Store, string) {
	t.Helper()
	root := t.TempDir()
	store, err := folder.Open("file://"+root, nil)
	require.NoError(t, err)
	return store, root
}

func update(t *testing.T, store *release.Store, files ...release.File) (release.Published, error) {
	t.Helper()
	return store.Update(t.Context(), "boot-v1", func(context.Context, release.Snapshot) (release.Content, error) {
		return release.Content{Files: files}, nil
	})
}

func TestWrongAddresses(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "file:releases", "file://host/releases", "https://forge.example", "file://%zz"} {
		_, err := folder.Open(address, nil)
		require.ErrorContains(t, err, "use https://HOST, http://HOST or file:///FOLDER", address)
	}
}

// What a dead run was writing goes, also if nothing else is to be done.
func TestHalfWrittenFilesGo(t *testing.T) {
	t.Parallel()
	store, root := open(t)
	a := release.File{Name: "a.iso", Content: []byte("a")}
	_, err := update(t, store, a)
	require.NoError(t, err)
	for _, name := range []string{"..uploading-0123456789abcdef-b.iso123", "..release.json123", ".uploading-0123456789abcdef-b.iso", ".uploading-c.iso"} {
		require.NoError(t, os.WriteFile(filepath.Join(root, "boot-v1", name), []byte("half"), 0o600))
	}
	found, err := store.Release(t.Context(), "boot-v1")
	require.NoError(t, err)
	assert.Len(t, found.Assets, 2, "readers see none of them")
	published, err := update(t, store, a)
	require.NoError(t, err)
	assert.Equal(t, []string{"a.iso"}, published.Unchanged)
	entries, err := os.ReadDir(filepath.Join(root, "boot-v1"))
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	assert.Equal(t, []string{".release.json", "SHA256SUMS.txt", "a.iso"}, names)
}

// Other bytes than those that were packaged are not published, and leave nothing.
func TestFileThatHasOtherBytes(t *testing.T) {
	t.Parallel()
	store, root := open(t)
	path := filepath.Join(t.TempDir(), "a.iso")
	require.NoError(t, os.WriteFile(path, []byte("other"), 0o600))
	_, err := update(t, store, release.File{Name: "a.iso", Path: path, Size: 5, SHA256: strings.Repeat("0", 64)})
	require.ErrorContains(t, err, "publish a.iso: it has the SHA-256 d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa now and had 0000")
	_, err = store.Release(t.Context(), "boot-v1")
	require.ErrorIs(t, err, release.ErrNotFound)
	left, err := filepath.Glob(filepath.Join(root, ".boot-v1.draft", ".*uploading*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

// Runs that make a release at once make one, and no draft stays.
func TestRunsThatMakeOneRelease(t *testing.T) {
	t.Parallel()
	store, root := open(t)
	var runs errgroup.Group
	for _, name := range []string{"a.iso", "b.iso", "c.iso", "d.iso"} {
		runs.Go(func() error {
			_, err := update(t, store, release.File{Name: name, Content: []byte(name)})
			return err
		})
	}
	require.NoError(t, runs.Wait())
	found, err := store.Release(t.Context(), "boot-v1")
	require.NoError(t, err)
	assert.Len(t, found.Assets, 5)
	assert.NoDirExists(t, filepath.Join(root, ".boot-v1.draft"))
}

// A folder that a web server shows may have a page and other folders in it.
func TestLatestBesideWhatIsNoRelease(t *testing.T) {
	t.Parallel()
	store, root := open(t)
	_, err := update(t, store, release.File{Name: "a.iso", Content: []byte("a")})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(root, "index.html"), nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(root, "logs"), 0o750))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(root, "link")))
	latest, err := store.Latest(t.Context(), "boot-")
	require.NoError(t, err)
	assert.Equal(t, "boot-v1", latest.Tag)
}

// A release whose description is damaged keeps no other from being found, and what is
// said to do about it helps.
func TestDamagedDescription(t *testing.T) {
	t.Parallel()
	_, root := open(t)
	var said []string
	store, err := folder.Open("file://"+root, func(message string) { said = append(said, message) })
	require.NoError(t, err)
	publish := func(tag string) error {
		_, err := store.Update(t.Context(), tag, func(context.Context, release.Snapshot) (release.Content, error) {
			return release.Content{Files: []release.File{{Name: "a.iso", Content: []byte("a")}}}, nil
		})
		return err
	}
	damaged := filepath.Join(root, "boot-v2")
	for _, content := range []string{"", "{", "null", "{}", "[]", "\x00\x00"} {
		require.NoError(t, publish("boot-v1"))
		require.NoError(t, publish("boot-v2"))
		require.NoError(t, os.WriteFile(filepath.Join(damaged, ".release.json"), []byte(content), 0o600))
		said = nil
		latest, err := store.Latest(t.Context(), "boot-")
		require.NoError(t, err, content)
		assert.Equal(t, "boot-v1", latest.Tag, content)
		advice := "remove the folder " + damaged + " and publish this release again"
		require.Len(t, said, 1, content)
		assert.Contains(t, said[0], "passed over a release: "+filepath.Join(damaged, ".release.json")+" cannot be read: ")
		assert.Contains(t, said[0], advice)
		_, err = store.Release(t.Context(), "boot-v2")
		require.ErrorContains(t, err, advice, content)
		require.ErrorContains(t, publish("boot-v2"), advice, content)
		require.NoError(t, os.RemoveAll(damaged))
	}
	require.NoError(t, publish("boot-v2"))
	require.NoError(t, os.Remove(filepath.Join(damaged, ".release.json")))
	require.ErrorContains(t, publish("boot-v2"), damaged+" is no release, because it has no .release.json; remove it, and publish again: ")
	require.NoError(t, os.RemoveAll(damaged))
	require.NoError(t, publish("boot-v2"))
	latest, err := store.Latest(t.Context(), "boot-")
	require.NoError(t, err)
	assert.Equal(t, "boot-v2", latest.Tag)
}

// A copy of another release is not taken for the tag's, and stays as it is.
func TestCopyOfAnotherRelease(t *testing.T) {
	t.Parallel()
	store, root := open(t)
	a := release.File{Name: "a.iso", Content: []byte("a")}
	_, err := update(t, store, a)
	require.NoError(t, err)
	copied := filepath.Join(root, "boot-v2")
	require.NoError(t, os.CopyFS(copied, os.DirFS(filepath.Join(root, "boot-v1"))))
	_, err = store.Release(t.Context(), "boot-v2")
	require.ErrorIs(t, err, release.ErrNotFound)
	_, err = store.Update(t.Context(), "boot-v2", func(context.Context, release.Snapshot) (release.Content, error) {
		return release.Content{Files: []release.File{a}}, nil
	})
	require.ErrorContains(t, err, "boot-v2 is a copy of another release; remove it")
	description, err := os.ReadFile(filepath.Join(copied, ".release.json"))
	require.NoError(t, err)
	assert.Contains(t, string(description), `"tag": "boot-v1"`)
}

func TestRefusedWithoutATrace(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "releases")
	store, err := folder.Open("file://"+root, nil)
	require.NoError(t, err)
	_, err = store.Update(t.Context(), "boot-v1", func(context.Context, release.Snapshot) (release.Content, error) {
		return release.Content{}, assert.AnError
	})
	require.ErrorIs(t, err, assert.AnError)
	assert.NoDirExists(t, root)
}
