package forgejo_test

import (
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/forgejo"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares an error's text with testdata/errors/NAME.txt.
func golden(t *testing.T, name string, err error, config forgejo.Config) {
	t.Helper()
	require.Error(t, err)
	if config.Token != "" {
		assert.NotContains(t, err.Error(), config.Token)
	}
	text := strings.ReplaceAll(err.Error(), config.URL, "https://forge.example") + "\n"
	text = regexp.MustCompile(`127\.0\.0\.1:\d+`).ReplaceAllString(text, "127.0.0.1:PORT")
	text = regexp.MustCompile(`releases/\d+`).ReplaceAllString(text, "releases/ID")
	text = strings.ReplaceAll(text, config.Repository, "every/channel")
	path := filepath.Join("testdata", "errors", name+".txt")
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "go test ./internal/release/forgejo -update writes it")
	assert.Equal(t, string(want), text)
}

// impatient is a config that waits for nothing.
func impatient(config forgejo.Config) forgejo.Config {
	clock := &fakeClock{time: time.Now()}
	config.Log = nil
	return config.WithClock(clock.now, clock.wait)
}

// What the real server refuses, in its own words.
func TestRefusals(t *testing.T) {
	t.Parallel()
	strict := lab.StartGitea(t, lab.WithFileMaxSize(1), lab.WithAllowedTypes(".gz,.txt"))
	user := func(t *testing.T, name string, scopes ...string) string {
		require.Equal(t, http.StatusCreated, strict.API(t, http.MethodPost, "/admin/users", map[string]any{
			"username": name, "email": name + "@example.org", "password": strict.Password, "must_change_password": false,
		}, nil))
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, strict.URL+"/api/v1/users/"+name+"/tokens",
			strings.NewReader(fmt.Sprintf(`{"name": "t", "scopes": ["%s"]}`, strings.Join(scopes, `","`))))
		require.NoError(t, err)
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(name+":"+strict.Password)))
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		found := regexp.MustCompile(`"sha1":"(\w+)"`).FindSubmatch(body)
		require.NotNil(t, found, "%s", body)
		return string(found[1])
	}
	user(t, "keeper", "read:repository") // of protected tags
	small := newFile(t, "a.tar.gz", content(1, 100))
	p := publication{Tag: "boot-v1", Commit: "main", Files: []release.File{small}}

	for name, test := range map[string]func(t *testing.T, config *forgejo.Config, p *publication){
		"no-token":  func(_ *testing.T, config *forgejo.Config, _ *publication) { config.Token = "" },
		"bad-token": func(_ *testing.T, config *forgejo.Config, _ *publication) { config.Token = "0123456789" },
		"missing-scope": func(t *testing.T, config *forgejo.Config, _ *publication) {
			config.Token = strict.Token(t, "read:repository")
		},
		"other-scope": func(t *testing.T, config *forgejo.Config, _ *publication) {
			config.Token = strict.Token(t, "read:issue")
		},
		"no-permission": func(t *testing.T, config *forgejo.Config, _ *publication) {
			config.Token = user(t, "guest", "write:repository")
		},
		"no-such-repository": func(_ *testing.T, config *forgejo.Config, _ *publication) {
			config.Repository = "adm/nowhere"
		},
		"empty-repository": func(t *testing.T, config *forgejo.Config, _ *publication) {
			config.Repository = "adm/nothing"
			require.Equal(t, http.StatusCreated, strict.API(t, http.MethodPost, "/user/repos", map[string]any{"name": "nothing"}, nil))
		},
		"releases-turned-off": func(t *testing.T, config *forgejo.Config, _ *publication) {
			require.Equal(t, http.StatusOK, strict.API(t, http.MethodPatch, "/repos/"+config.Repository, map[string]any{"has_releases": false}, nil))
		},
		"archived-repository": func(t *testing.T, config *forgejo.Config, _ *publication) {
			require.Equal(t, http.StatusOK, strict.API(t, http.MethodPatch, "/repos/"+config.Repository, map[string]any{"archived": true}, nil))
		},
		"too-large": func(t *testing.T, _ *forgejo.Config, p *publication) {
			p.Files = []release.File{newFile(t, "large.tar.gz", content(1, 30<<20))}
		},
		"type-not-allowed": func(t *testing.T, _ *forgejo.Config, p *publication) {
			p.Files = []release.File{newFile(t, "a.iso", content(1, 3<<20))}
		},
		"no-such-commit": func(_ *testing.T, _ *forgejo.Config, p *publication) {
			p.Commit = "0123456789012345678901234567890123456789"
		},
		"protected-tag": func(t *testing.T, config *forgejo.Config, _ *publication) {
			require.Equal(t, http.StatusCreated, strict.API(t, http.MethodPost, "/repos/"+config.Repository+"/tag_protections",
				map[string]any{"name_pattern": "boot-*", "whitelist_usernames": []string{"keeper"}}, nil))
		},
		"protected-tag-of-a-user": func(t *testing.T, config *forgejo.Config, _ *publication) {
			config.Token = user(t, "helper", "write:repository")
			require.Equal(t, http.StatusNoContent, strict.API(t, http.MethodPut, "/repos/"+config.Repository+"/collaborators/helper",
				map[string]any{"permission": "write"}, nil))
			require.Equal(t, http.StatusCreated, strict.API(t, http.MethodPost, "/repos/"+config.Repository+"/tag_protections",
				map[string]any{"name_pattern": "boot-*", "whitelist_usernames": []string{"keeper"}}, nil))
		},
		"other-spelling": func(t *testing.T, config *forgejo.Config, p *publication) {
			require.Equal(t, http.StatusCreated, strict.API(t, http.MethodPost, "/repos/"+config.Repository+"/releases",
				map[string]any{"tag_name": "Boot-V1", "name": "x"}, nil))
		},
		"foreign-checksums": func(t *testing.T, config *forgejo.Config, p *publication) {
			var found struct{ ID int64 }
			require.Equal(t, http.StatusCreated, strict.API(t, http.MethodPost, "/repos/"+config.Repository+"/releases",
				map[string]any{"tag_name": "boot-v1", "name": "x"}, &found))
			require.Equal(t, http.StatusCreated, strict.API(t, http.MethodPost,
				fmt.Sprintf("/repos/%s/releases/%d/assets?name=SHA256SUMS.txt", config.Repository, found.ID), "no sums", nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := forgejo.Config{URL: strict.URL, Token: strict.Token(t, "write:repository"), Repository: strict.CreateRepository(t, plainName(t), false)}
			p := p
			test(t, &config, &p)
			_, err := publish(t.Context(), open(t, impatient(config)), p)
			golden(t, name, err, config)
		})
	}

	t.Run("reading", func(t *testing.T) {
		t.Parallel()
		config := forgejo.Config{URL: strict.URL, Repository: strict.CreateRepository(t, plainName(t), false)}
		store := open(t, impatient(config))
		_, err := store.Release(t.Context(), "boot-v9")
		require.ErrorIs(t, err, release.ErrNotFound)
		golden(t, "no-such-release", err, config)
		_, err = store.Latest(t.Context(), "boot-v")
		require.ErrorIs(t, err, release.ErrNotFound)
		golden(t, "no-release-yet", err, config)
		_, err = store.Open(t.Context(), release.Asset{Name: "a.iso", URL: config.URL + "/" + config.Repository + "/releases/download/boot-v9/a.iso"}, 0)
		require.ErrorIs(t, err, release.ErrNotFound)
		golden(t, "no-such-asset", err, config)
	})
}

// What stands before a forge refuses, too.
func TestRefusalsOfOthers(t *testing.T) {
	t.Parallel()
	page := func(status int, text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
	}
	nginx := func(title string) string {
		return "<html>\r\n<head><title>" + title + "</title></head>\r\n<body>\r\n<center><h1>" + title +
			"</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
	}
	api := func(status int, message string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `{"message":%q,"url":"https://forge.example/api/swagger"}`, message)
		}
	}
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request){
		"proxy-limit":   page(http.StatusRequestEntityTooLarge, nginx("413 Request Entity Too Large")),
		"proxy-refuses": page(http.StatusForbidden, nginx("403 Forbidden")),
		"proxy-trouble": page(http.StatusBadGateway, nginx("502 Bad Gateway")),
		"forgejo-quota": api(http.StatusRequestEntityTooLarge, "quota exceeded"),
		"forgejo-type":  api(http.StatusBadRequest, "This file extension or type is not allowed to be uploaded."),
		"forgejo-limit": api(http.StatusRequestEntityTooLarge, ""),
		"login-page":    page(http.StatusOK, "<html><title>Sign in</title></html>"),
		"log-commands": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "stop\n::set-env name=PATH::/tmp\r\n\x1b[31m", http.StatusTeapot)
		},
		"token-repeated": api(http.StatusForbidden, "no such token: 0123456789abcdef"),
		"moved": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "https://new.example/elsewhere?token=secret")
			w.WriteHeader(http.StatusMovedPermanently)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := newRepository(t, false)
			gate := newGate(t, config.URL)
			realToken := config.Token
			gate.before = func(n int, w http.ResponseWriter, r *http.Request) bool {
				if isFileUpload(r) {
					answer(w, r)
					return true
				}
				r.Header.Set("Authorization", "token "+realToken)
				return false
			}
			config.URL, config.Token = gate.URL, "0123456789abcdef"
			_, err := publish(t.Context(), open(t, impatient(config)), publication{
				Tag: "boot-v1", Commit: "main", Files: []release.File{newFile(t, "a.iso", content(1, 2<<20))},
			})
			golden(t, name, err, config)
			names, _ := rawAssets(t, config, "boot-v1")
			assert.Empty(t, names)
		})
	}
}

func TestWrongConfigurations(t *testing.T) {
	t.Parallel()
	good := forgejo.Config{URL: "https://forge.example", Repository: "every/channel"}
	for want, change := range map[string]func(*forgejo.Config){
		`forge address "forge.example": use https://HOST, http://HOST or file:///FOLDER`:                   func(c *forgejo.Config) { c.URL = "forge.example" },
		`forge address "file:releases": use https://HOST, http://HOST or file:///FOLDER`:                   func(c *forgejo.Config) { c.URL = "file:releases" },
		`forge address https://forge.example: leave the user and password out; give a token`:               func(c *forgejo.Config) { c.URL = "https://me:secret@forge.example" },
		`forge address: invalid port ":x" after host`:                                                      func(c *forgejo.Config) { c.URL = "https://me:secret@forge.example:x" },
		`repository "channel": use owner/name`:                                                             func(c *forgejo.Config) { c.Repository = "channel" },
		`repository "a/b/c": use owner/name`:                                                               func(c *forgejo.Config) { c.Repository = "a/b/c" },
		`verify_uploads "md5": use size or sha256`:                                                         func(c *forgejo.Config) { c.VerifyUploads = "md5" },
		`token: it has a space, a line break or another character that no token has; give the token alone`: func(c *forgejo.Config) { c.Token = "se\ncret" },
		`parallel uploads, stall timeout and retry budget must not be negative`:                            func(c *forgejo.Config) { c.Parallel = -1 },
	} {
		config := good
		change(&config)
		_, err := forgejo.Open(config)
		assert.EqualError(t, err, want)
	}
}

func TestWrongPublications(t *testing.T) {
	t.Parallel()
	file := newFile(t, "a.iso", nil)
	repository := newRepository(t, false)
	with := func(change func(*release.File)) publication {
		other := file
		change(&other)
		return publication{Tag: "boot-v1", Files: []release.File{other}}
	}
	for want, p := range map[string]publication{
		`release_tag "": git does not allow an empty tag; use for example boot-v2026.02.28`:                                {Files: []release.File{file}},
		`release_tag "a/.b": git does not allow a component with a leading "." in a tag; use for example boot-v2026.02.28`: {Tag: "a/.b", Files: []release.File{file}},
		`publish boot-v1: no files given`:                                                                                       {Tag: "boot-v1"},
		`asset "a.iso": two files have this name`:                                                                               {Tag: "boot-v1", Files: []release.File{file, file}},
		`asset "dir/a.iso": use a plain file name, without a folder`:                                                            with(func(f *release.File) { f.Name = "dir/a.iso" }),
		`asset "SHA256SUMS.txt": this file is made from the others; leave it out`:                                               with(func(f *release.File) { f.Name = "SHA256SUMS.txt" }),
		`asset "a.iso": its SHA-256 "ABC" is not 64 lower-case hexadecimal digits`:                                              with(func(f *release.File) { f.SHA256 = "ABC" }),
		`asset "a\tb.iso": use a name of UTF-8 text without control characters`:                                                 with(func(f *release.File) { f.Name = "a\tb.iso" }),
		`asset "a\xff.iso": use a name of UTF-8 text without control characters`:                                                with(func(f *release.File) { f.Name = "a\xff.iso" }),
		`asset ".release.json": names that begin with a dot are not for readers of a release; rename the file`:                  with(func(f *release.File) { f.Name = ".release.json" }),
		`asset "a.iso": its size -1 is negative`:                                                                                with(func(f *release.File) { f.Size = -1 }),
		`asset "uploading-a.iso": names that begin with uploading- or publishing- belong to uploads under way; rename the file`: with(func(f *release.File) { f.Name = "uploading-a.iso" }),
	} {
		for _, store := range []*release.Store{
			open(t, forgejo.Config{URL: "file://" + t.TempDir()}),
			open(t, repository),
		} {
			_, err := publish(t.Context(), store, p)
			assert.EqualError(t, err, want)
		}
	}
}
