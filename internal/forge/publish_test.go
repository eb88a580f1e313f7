package forge_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/forge"
	"every.channel/runner-images/internal/lab"
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
func newRepository(t *testing.T, private bool) (config forge.Config) {
	t.Helper()
	g := gitea(t)
	return forge.Config{
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

func open(t *testing.T, config forge.Config) forge.Store {
	t.Helper()
	store, err := forge.Open(config)
	require.NoError(t, err)
	return store
}

// newFile writes a file of the test's.
func newFile(t *testing.T, name string, content []byte) forge.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	sum := sha256.Sum256(content)
	return forge.File{Name: name, Path: path, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
}

// content returns size bytes that depend on seed.
func content(seed byte, size int) []byte {
	return bytes.Repeat([]byte{seed, seed ^ 0x55, 'x', '\n'}, size/4+1)[:size]
}

// download returns the content of a release's asset.
func download(t *testing.T, store forge.Store, release forge.Release, name string) []byte {
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
func requireWhole(t *testing.T, store forge.Store, tag string, files ...forge.File) forge.Release {
	t.Helper()
	release, err := store.Release(t.Context(), tag)
	require.NoError(t, err)
	assert.False(t, release.Draft)
	want := checksum.Sums{}
	for _, file := range files {
		want[file.Name] = file.SHA256
		sum := sha256.Sum256(download(t, store, release, file.Name))
		require.Equal(t, file.SHA256, hex.EncodeToString(sum[:]), file.Name)
	}
	assert.Equal(t, string(want.Bytes()), string(download(t, store, release, checksum.FileName)))
	return release
}

// rawAssets are the names and ids of all that the server has, also what is
// hidden from readers.
func rawAssets(t *testing.T, config forge.Config, tag string) (names []string, ids map[string]int64) {
	t.Helper()
	var release struct {
		Assets []struct {
			ID   int64
			Name string
		}
	}
	require.Equal(t, http.StatusOK, gitea(t).API(t, http.MethodGet, "/repos/"+config.Repository+"/releases/tags/"+tag, nil, &release))
	ids = map[string]int64{}
	for _, asset := range release.Assets {
		names = append(names, asset.Name)
		ids[asset.Name] = asset.ID
	}
	return names, ids
}

func notes(_ forge.Release, assets []forge.File) string {
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
	_, err := open(t, config).Publish(t.Context(), forge.Publication{
		Tag: "v1", Files: []forge.File{newFile(t, "kernel", content('k', 2<<20))},
	})
	require.NoError(t, err)
	assert.Greater(t, len(g.calls), 10)
	assert.EqualValues(t, 1, g.connections.Load())
}

func TestPublish(t *testing.T) {
	t.Parallel()
	stores := map[string]func(t *testing.T) forge.Config{
		"forge":         func(t *testing.T) forge.Config { return newRepository(t, false) },
		"private forge": func(t *testing.T) forge.Config { return newRepository(t, true) },
		"forgejo":       func(t *testing.T) forge.Config { return asForgejo(t, newRepository(t, false)) },
		"folder":        func(t *testing.T) forge.Config { return forge.Config{URL: "file://" + t.TempDir()} },
	}
	for name, configure := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := configure(t)
			store := open(t, config)
			bundle := newFile(t, "ec-runner-x86_64-netboot-boot-v1.tar.gz", content(1, 3<<20))
			image := newFile(t, "ec-runner-x86_64-iso-boot-v1.iso", content(2, 100))
			p := forge.Publication{Tag: "boot-v1", Commit: "main", Files: []forge.File{bundle, image}, Notes: notes}

			_, err := store.Release(t.Context(), "boot-v1")
			require.ErrorIs(t, err, forge.ErrNotFound)
			_, err = store.Latest(t.Context(), "boot-v")
			require.ErrorIs(t, err, forge.ErrNotFound)

			published, err := store.Publish(t.Context(), p)
			require.NoError(t, err)
			assert.Equal(t, []string{bundle.Name, image.Name}, published.Uploaded)
			assert.Empty(t, published.Replaced)
			assert.Empty(t, published.Unchanged)
			release := requireWhole(t, store, "boot-v1", bundle, image)
			assert.Equal(t, release, published.Release)
			assert.Equal(t, "boot-v1", release.Title)
			assert.Contains(t, release.Notes, image.SHA256)
			assert.NotEmpty(t, release.URL)
			assert.Len(t, release.Assets, 3)
			latest, err := store.Latest(t.Context(), "boot-v")
			require.NoError(t, err)
			assert.Equal(t, release, latest)

			again, err := store.Publish(t.Context(), p)
			require.NoError(t, err)
			assert.Equal(t, []string{bundle.Name, image.Name}, again.Unchanged)
			assert.Empty(t, again.Uploaded)
			assert.Empty(t, again.Replaced)
			assert.Equal(t, published.Release, again.Release)

			unknown := p
			unknown.Files = []forge.File{bundle, image}
			unknown.Files[0].SHA256, unknown.Files[1].SHA256 = "", ""
			again, err = store.Publish(t.Context(), unknown)
			require.NoError(t, err)
			assert.Equal(t, []string{bundle.Name, image.Name}, again.Unchanged)

			other := newFile(t, image.Name, content(3, 100))
			aarch64 := newFile(t, "ec-runner-aarch64-sdimage-boot-v1.img.zst", content(4, 1000))
			unknown.Files = []forge.File{other, aarch64} // of the same size, and new
			unknown.Files[0].SHA256, unknown.Files[1].SHA256 = "", ""
			merged, err := store.Publish(t.Context(), unknown)
			require.NoError(t, err)
			assert.Empty(t, unknown.Files[1].SHA256, "the caller's own")
			assert.Equal(t, []string{aarch64.Name}, merged.Uploaded)
			assert.Equal(t, []string{other.Name}, merged.Replaced)
			assert.Len(t, merged.Files, 3)
			release = requireWhole(t, store, "boot-v1", bundle, other, aarch64)
			assert.Len(t, release.Assets, 4)
			for _, part := range []string{bundle.SHA256, other.SHA256, aarch64.SHA256} {
				assert.Contains(t, release.Notes, part)
			}
			assert.NotContains(t, release.Notes, image.SHA256)

			config.Replace = forge.ReplaceNever
			_, err = open(t, config).Publish(t.Context(), p)
			require.ErrorContains(t, err, image.Name)
			requireWhole(t, store, "boot-v1", bundle, other, aarch64)
		})
	}
}
