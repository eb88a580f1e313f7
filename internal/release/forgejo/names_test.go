package forgejo_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/forgejo"
)

// throughGate returns a config that reaches the repository by an address that the
// server does not know of. Without the token, which goes to no other address, a
// private repository has nothing to download.
func throughGate(t *testing.T, private bool) (forgejo.Config, *gate) {
	t.Helper()
	config := newRepository(t, private)
	gate := newGate(t, config.URL)
	config.URL = gate.URL
	return config, gate
}

// A repository is known to the forge in any case, and the addresses that it gives
// have the one that it was made with.
func TestRepositoryInAnotherCase(t *testing.T) {
	t.Parallel()
	config, gate := throughGate(t, true)
	canonical := config.Repository
	config.Repository, config.URL = strings.ToUpper(config.Repository), strings.ToUpper(config.URL)
	file := newFile(t, "a.iso", content(1, 1000))
	p := publication{Tag: "boot-v1", Commit: "main", Files: []release.File{file}, Notes: notes}
	_, err := publish(t.Context(), open(t, config), p)
	require.NoError(t, err)

	found := requireWhole(t, open(t, config), "boot-v1", file)
	assert.Contains(t, found.URL, "/"+canonical+"/", "people are told the forge's spelling")
	assert.Contains(t, paths(gate), "/"+canonical+"/releases/download/boot-v1/a.iso")
	published, err := publish(t.Context(), open(t, config), p)
	require.NoError(t, err)
	assert.Equal(t, []string{"a.iso"}, published.Unchanged)
}

func paths(g *gate) (paths []string) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	for _, call := range g.calls {
		paths = append(paths, call.path)
	}
	return paths
}

// The forge leads from a name that a repository had to the one that it has, but
// only readers: this follows it, and says the new name.
func TestRepositoryThatWasRenamed(t *testing.T) {
	t.Parallel()
	for name, earlier := range map[string]bool{"with the release": true, "without a release": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, gate := throughGate(t, true)
			old := config.Repository
			first, second := newFile(t, "a.iso", content(1, 1000)), newFile(t, "b.iso", content(2, 1000))
			whole := []release.File{second}
			p := publication{Tag: "boot-v1", Commit: "main", Files: []release.File{first}}
			if earlier {
				_, err := publish(t.Context(), open(t, config), p)
				require.NoError(t, err)
				whole = append(whole, first)
			}
			renamed := plainName(t) + "-new"
			require.Equal(t, http.StatusOK, gitea(t).API(t, http.MethodPatch, "/repos/"+old, map[string]any{"name": renamed}, nil))

			var said []string
			config.Log = func(message string) { said = append(said, message) }
			p.Files = []release.File{second}
			store := open(t, config)
			_, err := publish(t.Context(), store, p)
			require.NoError(t, err)
			assert.Equal(t, []string{fmt.Sprintf("the repository %s is now adm/%s; use this name", old, renamed)}, said)
			requireWhole(t, store, "boot-v1", whole...)
			readers := open(t, config)
			latest, err := readers.Latest(t.Context(), "boot-")
			require.NoError(t, err)
			assert.Equal(t, content(2, 1000), download(t, readers, latest, "b.iso"))
			assert.Contains(t, paths(gate), "/adm/"+renamed+"/releases/download/boot-v1/b.iso")
		})
	}
}

// A write that a redirect meets is not repeated elsewhere: the error says what the
// redirect means.
func TestRedirectsOfWrites(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		to     func(repository string, r *http.Request) string
		advice string
	}{
		"renamed": {
			func(repository string, r *http.Request) string {
				return strings.Replace(r.URL.Path, "/"+repository+"/", "/every/renamed/", 1)
			},
			"the repository %s is now every/renamed: use this name",
		},
		"moved": {
			func(_ string, r *http.Request) string {
				return "https://new.example/git" + r.URL.Path + "?token=secret"
			},
			"use https://new.example/git as the forge's address",
		},
	} {
		for _, status := range []int{http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
			t.Run(fmt.Sprint(name, status), func(t *testing.T) {
				t.Parallel()
				config, gate := throughGate(t, false)
				gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
					if !isFileUpload(r) {
						return false
					}
					w.Header().Set("Location", test.to(config.Repository, r))
					w.WriteHeader(status)
					return true
				}
				_, err := publish(t.Context(), open(t, config), publication{
					Tag: "boot-v1", Commit: "main", Files: []release.File{newFile(t, "a.iso", content(1, 2<<20))},
				})
				var failed *release.Error
				require.ErrorAs(t, err, &failed)
				assert.Equal(t, status, failed.Status)
				assert.Equal(t, strings.Replace(test.advice, "%s", config.Repository, 1), failed.Advice)
				assert.NotContains(t, err.Error(), "secret")
			})
		}
	}
}

// What refuses after a redirect is named, and not the forge for it.
func TestErrorsAreAboutWhereARequestEnded(t *testing.T) {
	t.Parallel()
	config, gate := throughGate(t, false)
	result := published(t, config, newFile(t, "a.iso", content(1, 1000)))
	storage := newGate(t, config.URL)
	storage.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "<html><title>Access denied</title></html>", http.StatusForbidden)
		return true
	}
	gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/releases/download/") {
			return false
		}
		http.Redirect(w, r, storage.URL+"/bucket/1?signature=secret", http.StatusFound)
		return true
	}
	store := open(t, impatient(config))
	_, err := store.Open(t.Context(), result.Release.Assets[0], 0)
	assert.EqualError(t, err, fmt.Sprintf(`download %s (%s/bucket/1): the server answers 403 Forbidden, "Access denied"; `+
		"the forge redirects to this address, which refuses: ask the forge's administrator about its storage", result.Release.Assets[0].Name, storage.URL))

	storage.Close()
	_, err = open(t, impatient(config)).Open(t.Context(), result.Release.Assets[0], 0)
	require.ErrorContains(t, err, "("+storage.URL+"/bucket/1): dial tcp")
	require.ErrorContains(t, err, "the forge redirects to this address: check the forge's address and the network (given up: nothing has ever answered there)")
}

// An asset that is a link to another site is downloaded there, without the token,
// also where that site has a repository of this name.
func TestLinksToOtherSites(t *testing.T) {
	t.Parallel()
	config, _ := throughGate(t, false)
	file := newFile(t, "a.iso", content(1, 1000))
	published(t, config, file)
	other := newGate(t, config.URL)
	other.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		assert.Empty(t, r.Header.Get("Authorization"))
		_, _ = w.Write([]byte("another site's"))
		return true
	}
	store := open(t, config)
	_, err := store.Release(t.Context(), "boot-"+plainName(t))
	require.NoError(t, err)
	link := release.Asset{Name: "a.iso", Size: 14, URL: other.URL + "/" + config.Repository + "/releases/download/boot-v1/a.iso"}
	assert.Equal(t, "another site's", string(download(t, store, release.Release{Assets: []release.Asset{link}}, "a.iso")))
}

// A proxy that refuses %2F, as Apache does by default, hides a tag with a slash: it
// is found in the list, and its files by their numbers.
func TestProxyThatRefusesSlashes(t *testing.T) {
	t.Parallel()
	for name, status := range map[string]int{"not found": http.StatusNotFound, "bad request": http.StatusBadRequest} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, gate := throughGate(t, false)
			gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(strings.ToUpper(r.URL.EscapedPath()), "%2F") {
					return false
				}
				w.Header().Set("Content-Type", "text/html")
				http.Error(w, "<html><title>404 Not Found</title></html>", status)
				return true
			}
			var said []string
			config.Log = func(message string) { said = append(said, message) }
			file := newFile(t, "a.iso", content(1, 1000))
			p := publication{Tag: "images/1", Commit: "main", Files: []release.File{file}, Notes: notes}
			result, err := publish(t.Context(), open(t, config), p)
			require.NoError(t, err)
			require.Len(t, said, 1)
			assert.Contains(t, said[0], "something before the forge does not pass on addresses with %2F, as images/1 has: allow them there")
			assert.Equal(t, content(1, 1000), download(t, open(t, config), result.Release, "a.iso"))

			requireWhole(t, open(t, config), "images/1", file)
			again, err := publish(t.Context(), open(t, config), p)
			require.NoError(t, err)
			assert.Equal(t, []string{"a.iso"}, again.Unchanged)
			p.Files = []release.File{newFile(t, "a.iso", content(2, 1000))}
			_, err = publish(t.Context(), open(t, config), p)
			require.NoError(t, err)
			requireWhole(t, open(t, config), "images/1", p.Files...)

			config.Token = "" // as anybody reads it
			_, err = open(t, config).Release(t.Context(), "images/2")
			require.Error(t, err)
			requireWhole(t, open(t, config), "images/1", p.Files...)
		})
	}
}
