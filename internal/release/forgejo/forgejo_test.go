package forgejo_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/forgejo"
)

// as puts a proxy before the real server that answers as this Forgejo does.
func as(forge lab.Forgejo) func(*testing.T, forgejo.Config) forgejo.Config {
	return func(t *testing.T, config forgejo.Config) forgejo.Config {
		t.Helper()
		gitea, err := url.Parse(config.URL)
		require.NoError(t, err)
		proxy := httptest.NewServer(forge.Before(gitea, config.Token))
		t.Cleanup(proxy.Close)
		config.URL = proxy.URL
		return config
	}
}

// forges are the columns of what forges answer.
var forges = map[string]func(*testing.T, forgejo.Config) forgejo.Config{
	"gitea":      func(_ *testing.T, config forgejo.Config) forgejo.Config { return config },
	"forgejo 12": as(lab.Forgejo12),
	"forgejo 15": as(lab.Forgejo15),
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

// Newer forges tell of a release the date of its commit as created_at, and order
// the list by what they like; older ones do not tell when it was published. The
// newest is the one published last: here boot-v1, of an older commit.
func TestLatestByPublication(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	for _, tag := range []string{"boot-v2", "boot-v1"} {
		require.Equal(t, http.StatusCreated, gitea(t).API(t, http.MethodPost, "/repos/"+config.Repository+"/releases",
			map[string]any{"tag_name": tag, "name": tag}, nil))
	}
	commits := map[string]string{"boot-v1": "2026-01-01T00:00:00Z", "boot-v2": "2026-02-01T00:00:00Z"}
	published := map[string]string{"boot-v1": "2026-03-02T00:00:00Z", "boot-v2": "2026-03-01T00:00:00Z"}
	for name, change := range map[string]func(tag string, one map[string]any){
		"commit's date": func(tag string, one map[string]any) {
			one["created_at"], one["published_at"] = commits[tag], published[tag]
		},
		"commit's date, numbered otherwise": func(tag string, one map[string]any) {
			one["created_at"], one["published_at"] = commits[tag], published[tag]
			one["id"] = map[string]int{"boot-v1": 1, "boot-v2": 2}[tag]
		},
		"no date of publication": func(tag string, one map[string]any) {
			one["created_at"] = commits[tag]
			delete(one, "published_at")
		},
		"published in the same second": func(tag string, one map[string]any) {
			one["created_at"], one["published_at"] = commits[tag], published["boot-v1"]
		},
	} {
		for _, size := range []int{50, 1} {
			t.Run(fmt.Sprintf("%s, %d a page", name, size), func(t *testing.T) {
				t.Parallel()
				config, gate := config, newGate(t, config.URL)
				gate.before = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
					query := r.URL.Query()
					query.Set("limit", fmt.Sprint(size))
					r.URL.RawQuery = query.Encode()
					r.Header.Del("Accept-Encoding")
					return false
				}
				gate.after = func(_ int, response *http.Response) error {
					var releases []map[string]any
					if err := json.NewDecoder(response.Body).Decode(&releases); err != nil {
						return err
					}
					for _, one := range releases {
						change(one["tag_name"].(string), one)
					}
					slices.SortFunc(releases, func(a, b map[string]any) int { // as such a forge might
						return -strings.Compare(fmt.Sprint(a["created_at"]), fmt.Sprint(b["created_at"]))
					})
					body, err := json.Marshal(releases)
					response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
					response.Header.Del("Content-Length")
					return err
				}
				config.URL = gate.URL
				latest, err := open(t, config).Latest(t.Context(), "boot-")
				require.NoError(t, err)
				assert.Equal(t, "boot-v1", latest.Tag)
			})
		}
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
			if name == "forgejo 12" {
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
	for name, forge := range map[string]lab.Forgejo{"forgejo-bad-token": lab.Forgejo12, "forgejo-15-bad-token": lab.Forgejo15} {
		config := as(forge)(t, config)
		_, err := open(t, config).Release(t.Context(), "boot-v1")
		golden(t, name, err, config)
	}
	readOnly := as(lab.Forgejo15)(t, config)
	readOnly.Token = gitea(t).Token(t, "read:repository")
	_, err := publish(t.Context(), open(t, readOnly), publication{Tag: "boot-v1", Commit: "main", Files: []release.File{newFile(t, "a.iso", content(1, 10))}})
	golden(t, "forgejo-15-missing-scope", err, readOnly)
}

// What Forgejo 15.0.3 refuses, in its own words, to the letter: a gate answers in
// place of the real server. TOKEN stands for the token, which Forgejo repeats.
func TestWordsOfForgejo15(t *testing.T) {
	t.Parallel()
	finds := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/releases/tags/") }
	creates := func(r *http.Request) bool {
		return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/releases")
	}
	publishes := func(r *http.Request) bool {
		return r.Method == http.MethodPatch && !strings.Contains(r.URL.Path, "/assets/")
	}
	looks := func(r *http.Request) bool { return r.Method == http.MethodGet && strings.Count(r.URL.Path, "/") == 5 }
	lists := func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/releases")
	}
	downloads := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/releases/download/") }
	const notFound = `{"message":"The target couldn't be found.","url":"https://forge.example/api/swagger","errors":[]}`
	for name, refusal := range map[string]struct {
		of     func(*http.Request) bool
		status int
		body   string
		reads  bool
	}{
		"bad-token":          {finds, 401, `{"message":"access token does not exist [sha: TOKEN]","url":"https://forge.example/api/swagger"}`, false},
		"bad-token-reading":  {finds, 401, `{"message":"access token does not exist [sha: TOKEN]","url":"https://forge.example/api/swagger"}`, true},
		"run-cancelled":      {isFileUpload, 401, `{"message":"access token does not exist [sha: TOKEN]","url":"https://forge.example/api/swagger"}`, false},
		"missing-scope":      {creates, 403, `{"message":"token does not have at least one of required scope(s): [write:repository]","url":"https://forge.example/api/swagger"}`, false},
		"no-permission":      {creates, 403, `{"message":"user should have a permission to write to a repo","url":"https://forge.example/api/swagger"}`, false},
		"no-such-release":    {finds, 404, notFound, true},
		"no-such-repository": {looks, 404, notFound, false},
		"no-releases":        {lists, 404, notFound, true},
		"no-such-asset":      {downloads, 404, notFound, true},
		"upload-not-found":   {isFileUpload, 404, notFound, false},
		"no-such-commit": {
			publishes, 404,
			`{"message":"target \"0123456\" not found: object does not exist [id: 0123456, rel_path: ]","url":"https://forge.example/api/swagger"}`, false,
		},
		"quota-create":     {creates, 413, `{"message":"quota exceeded","user_id":1,"username":"adm"}`, false},
		"quota-upload":     {isFileUpload, 413, `{"message":"quota exceeded","user_id":1,"username":"adm"}`, false},
		"type":             {isFileUpload, 400, `{"message":"This file extension or type is not allowed to be uploaded.","url":"https://forge.example/api/swagger"}`, false},
		"protected":        {creates, 422, `{"message":"release tag name is protected [tag_name: boot-v1]","url":"https://forge.example/api/swagger"}`, false},
		"protected-draft":  {publishes, 500, `{"message":"release tag name is protected [tag_name: boot-v1]","url":"https://forge.example/api/swagger"}`, false},
		"protected-silent": {publishes, 500, `{"message":"","url":"https://forge.example/api/swagger"}`, false},
		"archived":         {creates, 500, `{"message":"\u003cRepository 6:adm/images\u003e is archived","url":"https://forge.example/api/swagger"}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := newRepository(t, false)
			file := newFile(t, "a.iso", content(1, 2<<20))
			p := publication{Tag: "boot-v1", Commit: "main", Files: []release.File{file}}
			if refusal.reads {
				_, err := publish(t.Context(), open(t, config), p)
				require.NoError(t, err)
			}
			gate := newGate(t, config.URL)
			token := config.Token
			gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
				if !refusal.of(r) {
					return false
				}
				w.Header().Set("Content-Type", "application/json;charset=utf-8")
				w.WriteHeader(refusal.status)
				_, _ = io.WriteString(w, strings.ReplaceAll(refusal.body, "TOKEN", token))
				return true
			}
			config.URL = gate.URL
			store := open(t, impatient(config))
			var err error
			if refusal.reads {
				err = readAll(t, store)
			} else {
				_, err = publish(t.Context(), store, p)
			}
			golden(t, "forgejo-15-"+name, err, config)
		})
	}
}

// Forgejo does not let the token of a run of Actions download from a private
// repository, so that a second run cannot read what the first one has published.
func TestPrivateRepositoryAndTheTokenOfARun(t *testing.T) {
	t.Parallel()
	config := newRepository(t, true)
	p := publication{Tag: "boot-v1", Commit: "main", Files: []release.File{newFile(t, "a.iso", content(1, 1000))}}
	_, err := publish(t.Context(), open(t, config), p)
	require.NoError(t, err)
	gate := newGate(t, config.URL)
	gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/attachments/") {
			return false
		}
		http.Error(w, "Not found.", http.StatusNotFound)
		return true
	}
	config.URL = gate.URL
	_, err = publish(t.Context(), open(t, impatient(config)), p)
	require.ErrorContains(t, err, "on Forgejo, give a user's token with the scope write:repository")
	names, _ := rawAssets(t, config, "boot-v1")
	assert.Len(t, names, 2, "nothing has changed, and no ticket stays")
}

// readAll reads what a reader does, up to the first error.
func readAll(t *testing.T, store *release.Store) error {
	t.Helper()
	latest, err := store.Latest(t.Context(), "boot-")
	if err != nil {
		return err
	}
	found, err := store.Release(t.Context(), latest.Tag)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(found.Assets, func(a release.Asset) bool { return a.Name == "a.iso" })
	content, err := store.Open(t.Context(), found.Assets[i], 0)
	if err != nil {
		return err
	}
	return content.Close()
}
