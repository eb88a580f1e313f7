package forgejo_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/forgejo"
)

// What does not know Expect: 100-continue may answer 417 (RFC 9110, section 10.1.1):
// then uploads go without it.
func TestExpectationFailed(t *testing.T) {
	t.Parallel()
	config, gate := throughGate(t, false)
	var refused atomic.Int32
	gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Expect") == "" {
			return false
		}
		refused.Add(1)
		w.WriteHeader(http.StatusExpectationFailed)
		return true
	}
	clock := &fakeClock{time: time.Now()}
	config.Parallel = 1
	published(t, config.WithClock(clock.now, clock.wait), newFile(t, "a.iso", content(1, 3<<20)), newFile(t, "b.iso", content(2, 3<<20)))
	assert.Equal(t, int32(1), refused.Load())
	assert.Empty(t, clock.waits)
}

// A server, or what is before it, may send a whole file in place of a part, another
// part, or refuse to send parts.
func TestDownloadsWithoutRanges(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(g *gate, w http.ResponseWriter, r *http.Request){
		"whole": func(g *gate, w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			g.forward(0, w, r)
		},
		"another part": func(g *gate, w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Range", "bytes=0-9")
			g.forward(0, w, r)
		},
		"refused": func(_ *gate, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotImplemented) },
		"bad":     func(_ *gate, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, gate := throughGate(t, false)
			found := published(t, config, newFile(t, "a.iso", content(1, 1000))).Release
			gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Range") == "" {
					return false
				}
				answer(gate, w, r)
				return true
			}
			i := slices.IndexFunc(found.Assets, func(a release.Asset) bool { return a.Name == "a.iso" })
			body, err := open(t, impatient(config)).Open(t.Context(), found.Assets[i], 400)
			require.NoError(t, err)
			defer body.Close()
			rest, err := io.ReadAll(body)
			require.NoError(t, err)
			assert.Equal(t, content(1, 1000)[400:], rest)
		})
	}
}

// Forgejo stores an upload of which it has received less than 1024 bytes when the
// connection is closed, and answers 201. A gate cuts an upload in that way, and lets
// the answer through or not.
func TestUploadThatIsStoredShort(t *testing.T) {
	t.Parallel()
	shared := newRepository(t, false)
	for name, which := range map[string]func(*http.Request) bool{
		"file":   isFileUpload,
		"ticket": func(r *http.Request) bool { return strings.HasPrefix(r.URL.Query().Get("name"), "publishing-") },
		"checksums": func(r *http.Request) bool {
			return strings.HasPrefix(r.URL.Query().Get("name"), "uploading-") && !isFileUpload(r)
		},
	} {
		for _, answered := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/answered=%v", name, answered), func(t *testing.T) {
				t.Parallel()
				config, gate := shared, newGate(t, shared.URL)
				var happened atomic.Bool
				gate.before = once(func(r *http.Request) bool { return isUpload(r.Method, r.URL.Path) && which(r) }, func(w http.ResponseWriter, r *http.Request) {
					happened.Store(true)
					first, _ := io.ReadAll(io.LimitReader(r.Body, 50))
					short := r.Clone(r.Context())
					short.Body, short.ContentLength = io.NopCloser(bytes.NewReader(first)), int64(len(first))
					short.Header.Del("Expect")
					answer := httptest.NewRecorder()
					gate.forward(0, answer, short)
					assert.Equal(t, http.StatusCreated, answer.Code)
					if !answered {
						panic(http.ErrAbortHandler)
					}
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(answer.Code)
					_, _ = w.Write(answer.Body.Bytes())
				})
				config.URL = gate.URL
				published(t, impatient(config), newFile(t, "a.iso", content(1, 500000)))
				assert.True(t, happened.Load())
			})
		}
	}
}

// A forge that says that it has renamed an asset, and has not, ends the run.
func TestRenameThatIsIgnored(t *testing.T) {
	t.Parallel()
	config, gate := throughGate(t, false)
	gate.before = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/assets/") {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(`{"name":""}`)), 11 // which forges ignore
		}
		return false
	}
	clock := &fakeClock{time: time.Now()}
	file := newFile(t, "a.iso", content(1, 1000))
	_, err := publish(t.Context(), open(t, config.WithClock(clock.now, clock.wait)), publication{Tag: "boot-v1", Commit: "main", Files: []release.File{file}})
	require.ErrorContains(t, err, fmt.Sprintf(`the server keeps another name, "%s" in place of "a.iso"`, temporaryName("a.iso", file.SHA256)))
	assert.Empty(t, clock.waits)
	draft, _ := assetsOf(t, config, "boot-v1")
	assert.True(t, draft)
}

// Forgejo takes the token of a run away when somebody cancels it. A run in the
// middle of a long upload notices that when it renews its lease. It cannot take its
// ticket away: the next run asks the forge whether it has ended. A gate answers that
// as both forges do.
func TestTokenThatIsTakenAway(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		run   int64
		tasks string // what the forge says of the runs
		waits float64
	}{
		"cancelled":            {17, `{"id": 7, "run_number": 18, "status": "running"}, {"id": 6, "run_number": 17, "status": "cancelled"}`, 12},
		"another job of it":    {17, `{"id": 7, "run_number": 17, "status": "running"}, {"id": 6, "run_number": 17, "status": "cancelled"}`, 30},
		"not among the newest": {17, `{"id": 7, "run_number": 18, "status": "running"}`, 30},
		"no run of Actions":    {0, `{"id": 7, "run_number": 18, "status": "running"}`, 30},
		"runs are not shown":   {17, ``, 30},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config, gate := throughGate(t, false)
			var cancelled, interrupted atomic.Bool
			gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
				switch {
				case strings.HasSuffix(r.URL.Path, "/actions/tasks") && test.tasks == "":
					w.WriteHeader(http.StatusNotFound)
				case strings.HasSuffix(r.URL.Path, "/actions/tasks"):
					_, _ = fmt.Fprintf(w, `{"workflow_runs": [%s], "total_count": 2}`, test.tasks)
				case isFileUpload(r) && !interrupted.Load():
					cancelled.Store(true)
					hangUp(r)
				case cancelled.Load():
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(http.StatusUnauthorized)
					_, _ = fmt.Fprintf(w, `{"message":"access token does not exist [sha: %s]"}`, config.Token)
				default:
					return false
				}
				return true
			}
			p := publication{Tag: "boot-v1", Commit: "main", Files: []release.File{newFile(t, "a.iso", content(1, 2<<20))}}
			var said []string
			first := config.WithRenewal(20 * time.Millisecond)
			first.Run, first.Log = test.run, func(message string) { said = append(said, message) }
			_, err := publish(t.Context(), open(t, first), p)
			require.ErrorContains(t, err, "401 Unauthorized")
			require.ErrorContains(t, err, "this token was good earlier in this run: the run was cancelled or has ended")
			assert.NotContains(t, err.Error(), config.Token)
			require.NotEmpty(t, said)
			assert.Contains(t, said[len(said)-1], "the next run will wait for", "its ticket stays")
			names, _ := rawAssets(t, config, "boot-v1")
			require.Len(t, names, 1)

			cancelled.Store(false) // the next run has a token of its own
			interrupted.Store(true)
			clock := &fakeClock{time: time.Now()}
			start := clock.time
			config.Run = 18
			published, err := publish(t.Context(), open(t, config.WithClock(clock.now, clock.wait)), p)
			require.NoError(t, err)
			assert.Equal(t, []string{"a.iso"}, published.Uploaded)
			assert.InDelta(t, test.waits, clock.now().Sub(start).Seconds(), 5, "as docs/PUBLISHING.md says")
			names, _ = rawAssets(t, config, "boot-v1")
			assert.Len(t, names, 2)
		})
	}
}

// An address at which nobody ever answers is wrong: that is said after seconds.
// Where somebody has answered, the waits are those of a server in trouble.
func TestAddressesThatNeverAnswer(t *testing.T) {
	t.Parallel()
	waited := func(clock *fakeClock) (sum time.Duration) {
		for _, wait := range clock.waits {
			sum += wait
		}
		return sum
	}
	for address, want := range map[string]string{
		"http://forge.invalid":      "forge.invalid",
		"http://forge.invalid:3000": "forge.invalid",
		"https://127.0.0.1:1":       "connection refused",
	} {
		clock := &fakeClock{time: time.Now()}
		config := forgejo.Config{URL: address, Repository: "every/channel", Token: "secret"}.WithClock(clock.now, clock.wait)
		_, err := publish(t.Context(), open(t, config), publication{Tag: "boot-v1", Files: []release.File{newFile(t, "a.iso", nil)}})
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, "check the forge's address and the network (given up: nothing has ever answered there)")
		assert.LessOrEqual(t, waited(clock), 10*time.Second)
	}

	config, gate := throughGate(t, false)
	clock := &fakeClock{time: time.Now()}
	config.RetryBudget = time.Minute
	store := open(t, config.WithClock(clock.now, clock.wait))
	_, err := store.Release(t.Context(), "boot-v1")
	require.ErrorIs(t, err, release.ErrNotFound)
	gate.Close()
	_, err = store.Release(t.Context(), "boot-v1")
	require.ErrorContains(t, err, "given up: the waits between attempts have used up their 1m0s")
	assert.Greater(t, waited(clock), 20*time.Second)
}

// A proxy of the environment that cannot reach the forge, or wants a password, is
// named as what it is.
func TestProxiesThatRefuse(t *testing.T) {
	t.Parallel()
	for status, want := range map[int][]string{
		http.StatusBadGateway: {
			"the proxy of the environment cannot connect: it answers 502 Bad Gateway",
			"check the forge's address, and https_proxy and no_proxy in the environment (given up: nothing has ever answered there)",
		},
		http.StatusProxyAuthRequired: {
			"the proxy of the environment wants a user and a password",
			"give them in the proxy's address",
		},
	} {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			assert.Equal(t, http.MethodConnect, r.Method)
			w.WriteHeader(status)
		}))
		t.Cleanup(proxy.Close)
		run := childRun{
			URL: "https://forge.example", Repository: "every/channel", Token: "secret", Tag: "boot-v1", FakeClock: true,
			Files: []release.File{newFile(t, "a.iso", nil)},
		}
		output, err := child(t, run, "HTTPS_PROXY="+proxy.URL, "https_proxy="+proxy.URL, "NO_PROXY=", "no_proxy=").CombinedOutput()
		require.Error(t, err)
		for _, text := range want {
			assert.Contains(t, string(output), text)
		}
	}
}
