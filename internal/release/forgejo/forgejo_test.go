package forgejo_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/forgejo"
)

// forgejoWords are what Forgejo says where Gitea says otherwise.
var forgejoWords = strings.NewReplacer(
	"Release is has no Tag", "Release has no Tag",
	"invalid username, password or token", "user does not exist [uid: 0, name: ]",
)

// asForgejo puts a gate before the real server that answers as Forgejo does
// where the two differ: it shows drafts to everybody who asks for their tag,
// gives at most ten releases a page, and has words of its own.
func asForgejo(t *testing.T, config forgejo.Config) forgejo.Config {
	t.Helper()
	gate := newGate(t, config.URL)
	token := config.Token
	gate.before = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/releases/tags/") && r.Header.Get("Authorization") == "" {
			r.Header.Set("Authorization", "token "+token)
		}
		if query := r.URL.Query(); strings.HasSuffix(r.URL.Path, "/releases") && query.Has("limit") {
			query.Set("limit", "10")
			r.URL.RawQuery = query.Encode()
		}
		return false
	}
	gate.after = func(_ int, response *http.Response) error {
		if response.StatusCode < 400 {
			return nil
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		body = []byte(forgejoWords.Replace(string(body)))
		response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		response.Header.Del("Content-Length")
		return nil
	}
	config.URL = gate.URL
	return config
}

// forges are the two columns.
var forges = map[string]func(*testing.T, forgejo.Config) forgejo.Config{
	"gitea":   func(_ *testing.T, config forgejo.Config) forgejo.Config { return config },
	"forgejo": asForgejo,
}

func TestLatest(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	g := gitea(t)
	create := func(tag string, draft, prerelease bool) {
		require.Equal(t, http.StatusCreated, g.API(t, http.MethodPost, "/repos/"+config.Repository+"/releases",
			map[string]any{"tag_name": tag, "name": tag, "draft": draft, "prerelease": prerelease}, nil))
	}
	second := func() { // creation times are in seconds
		next := time.Now().Truncate(time.Second).Add(time.Second)
		time.Sleep(time.Until(next))
	}
	create("boot-v2", false, false)
	second()
	create("boot-v1", false, false) // published after boot-v2: the newest
	second()
	create("boot-v3", true, false)
	create("boot-v4", false, true)
	for i := range 21 {
		create(fmt.Sprintf("app-v%d", i), false, false)
	}
	for name, column := range forges {
		t.Run(name, func(t *testing.T) {
			config := column(t, config)
			config.Token = ""
			store := open(t, config)
			latest, err := store.Latest(t.Context(), "boot-v")
			require.NoError(t, err)
			assert.Equal(t, "boot-v1", latest.Tag)
			_, err = store.Latest(t.Context(), "disk-v")
			require.ErrorIs(t, err, release.ErrNotFound)
		})
	}
}

// Another run makes the release between this one's look and its own attempt.
func TestReleaseMadeMeanwhile(t *testing.T) {
	t.Parallel()
	for name, column := range forges {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := newRepository(t, false)
			gate := newGate(t, config.URL)
			gate.after = func(_ int, response *http.Response) error {
				r := response.Request
				if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/releases") && response.StatusCode == http.StatusConflict {
					t.Log("met the conflict")
				}
				return nil
			}
			repository := config.Repository
			gate.before = once(func(r *http.Request) bool { return r.Method == http.MethodPost }, func(w http.ResponseWriter, r *http.Request) {
				assert.Equal(t, http.StatusCreated, gitea(t).API(t, http.MethodPost, "/repos/"+repository+"/releases",
					map[string]any{"tag_name": "boot-" + plainName(t), "name": "other", "draft": true}, nil))
				gate.forward(0, w, r)
			})
			config.URL = gate.URL
			result := published(t, column(t, config), newFile(t, "a.iso", content(1, 10)))
			assert.Equal(t, "other", result.Release.Title)
		})
	}
}

// Whoever sees a draft sees that it is one, and it has no SHA256SUMS.txt before
// it is complete.
func TestDraftThatReadersSee(t *testing.T) {
	t.Parallel()
	for name, column := range forges {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := newRepository(t, false)
			anonymous := column(t, config)
			anonymous.Token = ""
			readers := open(t, anonymous)
			gate := newGate(t, config.URL)
			drafts := 0
			gate.after = func(int, *http.Response) error {
				found, err := readers.Release(t.Context(), "boot-v1")
				if err != nil {
					assert.ErrorIs(t, err, release.ErrNotFound)
					return nil
				}
				names := map[string]bool{}
				for _, asset := range found.Assets {
					names[asset.Name] = true
				}
				if found.Draft {
					drafts++
				}
				if !found.Draft || names[checksum.FileName] {
					assert.Equal(t, map[string]bool{"a.tar.gz": true, "b.iso": true, checksum.FileName: true}, names)
				}
				return nil
			}
			config.URL = gate.URL
			config.Parallel = 1
			_, err := publish(t.Context(), open(t, config), publication{
				Tag: "boot-v1", Commit: "main", Files: []release.File{newFile(t, "a.tar.gz", content(1, 10)), newFile(t, "b.iso", content(2, 10))},
			})
			require.NoError(t, err)
			if name == "forgejo" {
				assert.Positive(t, drafts)
			} else {
				assert.Zero(t, drafts)
			}
		})
	}
}

func TestWordsOfForgejo(t *testing.T) {
	t.Parallel()
	config := newRepository(t, true)
	config.Token = strings.Repeat("0", 40)
	config = asForgejo(t, config)
	_, err := open(t, config).Release(t.Context(), "boot-v1")
	golden(t, "forgejo-bad-token", err, config)
}
