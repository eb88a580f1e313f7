package forgejo_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/folder"
	"every.channel/runner-images/internal/release/forgejo"
)

// shared is a Gitea for all tests that need nothing particular of it. Each has
// a repository of its own.
var shared = sync.OnceValues(func() (*lab.Gitea, error) {
	sharedStarted.Store(true)
	return lab.RunGitea(testContext, filepath.Join(testFolder, "gitea"))
})

var sharedStarted atomic.Bool

func gitea(t *testing.T) *lab.Gitea {
	t.Helper()
	gitea, err := shared()
	require.NoError(t, err)
	return gitea
}

// newRepository makes a repository named after the test.
func newRepository(t *testing.T, private bool) (config forgejo.Config) {
	t.Helper()
	g := gitea(t)
	return forgejo.Config{
		URL: g.URL, Repository: g.CreateRepository(t, plainName(t), private), Token: g.Token(t, "write:repository"),
		Log: func(message string) { t.Log(message) },
	}
}

// plainName is the test's name as a repository or a tag may have it.
func plainName(t *testing.T) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, t.Name())
}

// open opens the store of a config, which may also have the address of a folder.
func open(t *testing.T, config forgejo.Config) *release.Store {
	t.Helper()
	store, err := openStore(config)
	require.NoError(t, err)
	return store
}

func openStore(config forgejo.Config) (*release.Store, error) {
	if strings.HasPrefix(config.URL, "file:") {
		return folder.Open(config.URL, config.Log)
	}
	return forgejo.Open(config)
}

// A publication is what an update makes of a release, whatever is there.
type publication struct {
	Tag        string
	Commit     string
	Title      string
	Prerelease bool
	KeepOld    bool
	Files      []release.File
	Notes      func(assets []release.File) string
	Check      func(ctx context.Context, there release.Snapshot) error
	Sign       func(sums []byte) (map[string][]byte, error)
	Progress   func(name string, done, total int64)
	Status     func(what string)

	Ahead bool // uploads the files side by side before they are composed
}

func publish(ctx context.Context, store *release.Store, p publication) (release.Published, error) {
	compose := func(ctx context.Context, there release.Snapshot) (release.Content, error) {
		if p.Check != nil {
			if err := p.Check(ctx, there); err != nil {
				return release.Content{}, err
			}
		}
		return release.Content{
			Commit: p.Commit, Title: p.Title, Prerelease: p.Prerelease, KeepOld: p.KeepOld,
			Files: p.Files, Notes: p.Notes, Sign: p.Sign, Progress: p.Progress, Status: p.Status,
		}, nil
	}
	if !p.Ahead {
		return store.Update(ctx, p.Tag, compose)
	}
	known := release.Content{Commit: p.Commit, Title: p.Title, Prerelease: p.Prerelease, Progress: p.Progress, Status: p.Status}
	return store.UpdateAhead(ctx, p.Tag, known, func(ctx context.Context, upload release.UploadAhead) error {
		group, ctx := errgroup.WithContext(ctx)
		for _, file := range p.Files {
			group.Go(func() error {
				_, err := upload(ctx, file)
				return err
			})
		}
		return group.Wait()
	}, compose)
}

// temporaryName is what docs/PUBLISHING.md tells of the name of an upload.
func temporaryName(asset, sha256 string) string {
	return "uploading-" + sha256[:min(16, len(sha256))] + "-" + asset
}

// newFile writes a file of the test's.
func newFile(t *testing.T, name string, content []byte) release.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	sum := sha256.Sum256(content)
	return release.File{Name: name, Path: path, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
}

// content returns size bytes that depend on seed.
func content(seed byte, size int) []byte {
	return bytes.Repeat([]byte{seed, seed ^ 0x55, 'x', '\n'}, size/4+1)[:size]
}

// download returns the content of a release's asset.
func download(t *testing.T, store *release.Store, release release.Release, name string) []byte {
	t.Helper()
	for _, asset := range release.Assets {
		if asset.Name == name {
			reader, err := store.Open(t.Context(), asset, 0)
			require.NoError(t, err)
			defer reader.Close()
			all, err := io.ReadAll(reader)
			require.NoError(t, err)
			require.Len(t, all, int(asset.Size))
			return all
		}
	}
	require.Fail(t, "no asset "+name, "%v", release.Assets)
	return nil
}

// requireWhole checks a published release down to its bytes: SHA256SUMS.txt
// lists these files and no others, and each asset is there once.
func requireWhole(t *testing.T, store *release.Store, tag string, files ...release.File) release.Release {
	t.Helper()
	found, err := store.Release(t.Context(), tag)
	require.NoError(t, err)
	assert.False(t, found.Draft)
	want := checksum.Sums{}
	for _, file := range files {
		want[file.Name] = file.SHA256
		sum := sha256.Sum256(download(t, store, found, file.Name))
		require.Equal(t, file.SHA256, hex.EncodeToString(sum[:]), file.Name)
	}
	assert.Equal(t, string(want.Bytes()), string(download(t, store, found, checksum.FileName)))
	return found
}

// rawAssets are the names and ids of all that the server has, also what is
// hidden from readers.
func rawAssets(t *testing.T, config forgejo.Config, tag string) (names []string, ids map[string]int64) {
	t.Helper()
	var found struct {
		Assets []struct {
			ID   int64
			Name string
		}
	}
	require.Equal(t, http.StatusOK, gitea(t).API(t, http.MethodGet, "/repos/"+config.Repository+"/releases/tags/"+tag, nil, &found))
	ids = map[string]int64{}
	for _, asset := range found.Assets {
		names = append(names, asset.Name)
		ids[asset.Name] = asset.ID
	}
	return names, ids
}

func notes(assets []release.File) string {
	var b strings.Builder
	for _, asset := range assets {
		fmt.Fprintf(&b, "| %s | %d | %s |\n", asset.Name, asset.Size, asset.SHA256)
	}
	return b.String()
}

// A connection costs more than most requests do, over TLS above all.
func TestRequestsShareAConnection(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	g := newGate(t, config.URL)
	config.URL = g.URL
	_, err := publish(t.Context(), open(t, config), publication{
		Tag: "v1", Files: []release.File{newFile(t, "kernel", content('k', 2<<20))},
	})
	require.NoError(t, err)
	assert.Greater(t, len(g.calls), 10)
	assert.EqualValues(t, 1, g.connections.Load())
}

func TestPublish(t *testing.T) {
	t.Parallel()
	stores := map[string]func(t *testing.T) forgejo.Config{
		"forge":         func(t *testing.T) forgejo.Config { return newRepository(t, false) },
		"private forge": func(t *testing.T) forgejo.Config { return newRepository(t, true) },
		"forgejo 12":    func(t *testing.T) forgejo.Config { return as(lab.Forgejo12)(t, newRepository(t, false)) },
		"forgejo 15":    func(t *testing.T) forgejo.Config { return as(lab.Forgejo15)(t, newRepository(t, false)) },
		"folder":        func(t *testing.T) forgejo.Config { return forgejo.Config{URL: "file://" + t.TempDir()} },
	}
	for i := range 2 * len(stores) {
		name, ahead := slices.Sorted(maps.Keys(stores))[i/2], i%2 == 1
		t.Run(fmt.Sprintf("%s/ahead=%v", name, ahead), func(t *testing.T) {
			t.Parallel()
			config := stores[name](t)
			store := open(t, config)
			bundle := newFile(t, "ec-runner-x86_64-netboot-boot-v1.tar.gz", content(1, 3<<20))
			image := newFile(t, "ec-runner-x86_64-iso-boot-v1.iso", content(2, 100))
			p := publication{Tag: "boot-v1", Commit: "main", Files: []release.File{bundle, image}, Notes: notes, Ahead: ahead}

			_, err := store.Release(t.Context(), "boot-v1")
			require.ErrorIs(t, err, release.ErrNotFound)
			_, err = store.Latest(t.Context(), "boot-v")
			require.ErrorIs(t, err, release.ErrNotFound)

			published, err := publish(t.Context(), store, p)
			require.NoError(t, err)
			assert.Equal(t, []string{bundle.Name, image.Name}, published.Uploaded)
			assert.Empty(t, published.Replaced)
			assert.Empty(t, published.Unchanged)
			found := requireWhole(t, store, "boot-v1", bundle, image)
			assert.Equal(t, found, published.Release)
			assert.Equal(t, "boot-v1", found.Title)
			assert.Contains(t, found.Notes, image.SHA256)
			assert.NotEmpty(t, found.URL)
			assert.Len(t, found.Assets, 3)
			latest, err := store.Latest(t.Context(), "boot-v")
			require.NoError(t, err)
			assert.Equal(t, found, latest)

			again, err := publish(t.Context(), store, p)
			require.NoError(t, err)
			assert.Equal(t, []string{bundle.Name, image.Name}, again.Unchanged)
			assert.Empty(t, again.Uploaded)
			assert.Empty(t, again.Replaced)
			assert.Equal(t, published.Release, again.Release)

			unknown := p
			unknown.Files = []release.File{bundle, image}
			unknown.Files[0].SHA256, unknown.Files[1].SHA256 = "", ""
			again, err = publish(t.Context(), store, unknown)
			require.NoError(t, err)
			assert.Equal(t, []string{bundle.Name, image.Name}, again.Unchanged)

			other := newFile(t, image.Name, content(3, 100))
			aarch64 := newFile(t, "ec-runner-aarch64-sdimage-boot-v1.img.zst", content(4, 1000))
			unknown.Files = []release.File{other, aarch64} // of the same size, and new
			unknown.Files[0].SHA256, unknown.Files[1].SHA256 = "", ""
			merged, err := publish(t.Context(), store, unknown)
			require.NoError(t, err)
			assert.Empty(t, unknown.Files[1].SHA256, "the caller's own")
			assert.Equal(t, []string{aarch64.Name}, merged.Uploaded)
			assert.Equal(t, []string{other.Name}, merged.Replaced)
			assert.Len(t, merged.Files, 3)
			found = requireWhole(t, store, "boot-v1", bundle, other, aarch64)
			assert.Len(t, found.Assets, 4)
			for _, part := range []string{bundle.SHA256, other.SHA256, aarch64.SHA256} {
				assert.Contains(t, found.Notes, part)
			}
			assert.NotContains(t, found.Notes, image.SHA256)

			p.KeepOld = true
			_, err = publish(t.Context(), store, p)
			require.ErrorContains(t, err, image.Name)
			requireWhole(t, store, "boot-v1", bundle, other, aarch64)
		})
	}
}
