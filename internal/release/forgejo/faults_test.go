package forgejo_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/forgejo"
)

// published publishes a release named after the test through whatever config
// leads to, and checks it at the real server.
func published(t *testing.T, config forgejo.Config, files ...release.File) release.Published {
	t.Helper()
	tag := "boot-" + plainName(t)
	result, err := publish(t.Context(), open(t, config), publication{Tag: tag, Commit: "main", Files: files, Notes: notes})
	require.NoError(t, err)
	config.URL, config.CAFile = gitea(t).URL, ""
	requireWhole(t, open(t, config), tag, files...)
	_, assets := assetsOf(t, config, tag)
	assert.Len(t, assets, len(files)+1, "%v", assets)
	return result
}

// once lets a fault happen at the first call that fits.
func once(fits func(*http.Request) bool, fault func(w http.ResponseWriter, r *http.Request)) func(int, http.ResponseWriter, *http.Request) bool {
	var done atomic.Bool
	return func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if !fits(r) || done.Swap(true) {
			return false
		}
		fault(w, r)
		return true
	}
}

func refuse(status int, header ...string) func(w http.ResponseWriter, r *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		http.Error(w, "try again", status)
	}
}

// Every kind of request meets every kind of trouble once.
func TestTroubleThatPasses(t *testing.T) {
	t.Parallel()
	requests := map[string]func(*http.Request) bool{
		"find release": func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/releases/tags/") },
		"create release": func(r *http.Request) bool {
			return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/releases")
		},
		"ticket": func(r *http.Request) bool { return strings.HasPrefix(r.URL.Query().Get("name"), "publishing-") },
		"upload": isFileUpload,
		"rename": func(r *http.Request) bool {
			return r.Method == http.MethodPatch && strings.Contains(r.URL.Path, "/assets/")
		},
		"delete":    func(r *http.Request) bool { return r.Method == http.MethodDelete },
		"checksums": func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/attachments/") },
		"publish": func(r *http.Request) bool {
			return r.Method == http.MethodPatch && !strings.Contains(r.URL.Path, "/assets/")
		},
	}
	faults := map[string]func(g *gate) func(w http.ResponseWriter, r *http.Request){
		"500": func(*gate) func(http.ResponseWriter, *http.Request) { return refuse(500) },
		"502": func(*gate) func(http.ResponseWriter, *http.Request) { return refuse(502) },
		"503": func(*gate) func(http.ResponseWriter, *http.Request) { return refuse(503, "Retry-After", "7") },
		"429": func(*gate) func(http.ResponseWriter, *http.Request) { return refuse(429) },
		"cut": func(*gate) func(http.ResponseWriter, *http.Request) {
			return func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		},
		"answer lost": func(g *gate) func(http.ResponseWriter, *http.Request) {
			return func(_ http.ResponseWriter, r *http.Request) { g.swallow(r) }
		},
		"half an answer": func(g *gate) func(http.ResponseWriter, *http.Request) {
			return func(w http.ResponseWriter, r *http.Request) {
				answer := httptest.NewRecorder()
				g.forward(0, answer, r)
				w.Header().Set("Content-Length", "100000")
				w.WriteHeader(answer.Code)
				_, _ = w.Write(answer.Body.Bytes()[:answer.Body.Len()/2])
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		},
	}
	shared := newRepository(t, false)
	for request, fits := range requests {
		t.Run(request, func(t *testing.T) {
			t.Parallel()
			for fault, make := range faults {
				t.Run(fault, func(t *testing.T) {
					t.Parallel()
					config := shared
					gate := newGate(t, config.URL)
					var happened atomic.Bool
					gate.before = once(fits, func(w http.ResponseWriter, r *http.Request) {
						happened.Store(true)
						make(gate)(w, r)
					})
					config.URL = gate.URL
					clock := &fakeClock{time: time.Now()}
					file := newFile(t, "a.iso", content(1, 2<<20))
					if request == "checksums" { // only a release that has some is asked for them
						published(t, shared, file)
					}
					published(t, config.WithClock(clock.now, clock.wait), file)
					require.True(t, happened.Load(), "the fault did not happen")
					if fault == "503" {
						require.Equal(t, []time.Duration{7 * time.Second}, clock.waits)
					} else if len(clock.waits) > 0 { // net/http itself repeats a GET whose connection breaks
						require.Len(t, clock.waits, 1)
						assert.GreaterOrEqual(t, clock.waits[0], time.Second/2)
						assert.LessOrEqual(t, clock.waits[0], 3*time.Second/2)
					}
					want := 1
					if request == "checksums" {
						want = 0
					} else if request == "upload" && !strings.Contains(fault, "answer") {
						want = 2
					}
					assert.Len(t, gate.uploads(), want, "after a lost answer, what the server has decides")
				})
			}
		})
	}
}

// Answers that do not end, and those that are small and would take gigabytes of memory,
// are refused, whatever they answer.
func TestAnswersThatAreTooMuch(t *testing.T) {
	t.Parallel()
	megabyte := func(pattern string) []byte { return bytes.Repeat([]byte(pattern), 1<<20/len(pattern)) }
	endless := func(w http.ResponseWriter, begin, pattern string) {
		_, _ = io.WriteString(w, begin)
		for block := megabyte(pattern); ; { // until the client hangs up
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}
	packed := func(begin, pattern string) []byte {
		var answer bytes.Buffer
		compressor := gzip.NewWriter(&answer)
		_, err := io.WriteString(compressor, begin)
		require.NoError(t, err)
		for range 80 {
			_, err = compressor.Write(megabyte(pattern))
			require.NoError(t, err)
		}
		require.NoError(t, compressor.Close())
		return answer.Bytes()
	}
	bomb := packed(`{"body": "`, "x")
	config := newRepository(t, false)
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"text without an end": func(w http.ResponseWriter, _ *http.Request) { endless(w, `{"body": "`, "x") },
		"a million assets":    func(w http.ResponseWriter, _ *http.Request) { endless(w, `{"assets": [{}`, ",{}") },
		"a million releases":  func(w http.ResponseWriter, _ *http.Request) { endless(w, `[{"name": "\"["}`, ",{}") },
		"numbers for assets":  func(w http.ResponseWriter, _ *http.Request) { endless(w, `{"assets": [0`, ",0") },
		"a gzip bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb)
		},
	} {
		for _, operation := range []func(*release.Store) error{
			func(s *release.Store) error { _, err := s.Release(t.Context(), "boot-v1"); return err },
			func(s *release.Store) error { _, err := s.Latest(t.Context(), "boot-"); return err },
		} {
			gate := newGate(t, config.URL)
			gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool { answer(w, r); return true }
			through := config
			through.URL = gate.URL
			err := operation(open(t, through))
			require.ErrorContains(t, err, "the answer is not the API's: it is too long; check the forge's address", name)
			assert.Len(t, gate.calls, 1, name)
		}
	}
}

// Headers without an end are not read to their end either.
func TestHeadersWithoutAnEnd(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				// An answer before its request would be another fault.
				_, err := http.ReadRequest(bufio.NewReader(conn))
				if err == nil {
					_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
				}
				for line := "X: " + strings.Repeat("x", 1<<16) + "\r\n"; err == nil; {
					_, err = io.WriteString(conn, line)
				}
			}()
		}
	}()
	config := newRepository(t, false)
	config.URL = "http://" + listener.Addr().String()
	_, err = open(t, impatient(config)).Release(t.Context(), "boot-v1")
	require.ErrorContains(t, err, "headers exceeded")
}

// Waits double, with jitter, and end when the budget is used up.
func TestRetryBudget(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	gate := newGate(t, config.URL)
	gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if isFileUpload(r) {
			refuse(http.StatusBadGateway)(w, r)
			return true
		}
		return false
	}
	config.URL = gate.URL
	config.RetryBudget = 2 * time.Minute
	var said []string
	config.Log = func(message string) { said = append(said, message) }
	clock := &fakeClock{time: time.Now()}
	store := open(t, config.WithClock(clock.now, clock.wait))
	file := newFile(t, "a.iso", content(1, 100))
	_, err := publish(t.Context(), store, publication{Tag: "boot-v1", Commit: "main", Files: []release.File{file}})
	require.ErrorContains(t, err, "used up their 2m0s")
	var failed *release.Error
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, http.StatusBadGateway, failed.Status)
	var total time.Duration
	for i, wait := range clock.waits {
		assert.GreaterOrEqual(t, wait, min(time.Second<<i, 30*time.Second)/2)
		assert.LessOrEqual(t, wait, min(time.Second<<i, 30*time.Second)*3/2)
		total += wait
	}
	assert.LessOrEqual(t, total, 2*time.Minute)
	assert.Len(t, said, len(clock.waits))
	assert.Contains(t, said[0], "upload a.iso")
	assert.Contains(t, said[0], "502")
	assert.Contains(t, said[0], "next attempt in")

	// What a server asks for counts, and is not waited for in vain.
	gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		refuse(http.StatusTooManyRequests, "Retry-After", "3600")(w, r)
		return true
	}
	calls := len(gate.calls)
	_, err = publish(t.Context(), store, publication{Tag: "boot-v1", Files: []release.File{file}})
	require.ErrorContains(t, err, "429 Too Many Requests")
	require.ErrorContains(t, err, "given up: the server asks to wait for 1h0m0s")
	assert.Len(t, gate.calls, calls+1)
}

func TestCancelledWhileWaiting(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	gate := newGate(t, config.URL)
	ctx, cancel := context.WithCancel(t.Context())
	gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		refuse(http.StatusServiceUnavailable, "Retry-After", "60")(w, r)
		cancel()
		return true
	}
	config.URL = gate.URL
	_, err := publish(ctx, open(t, config), publication{Tag: "boot-v1", Files: []release.File{newFile(t, "a.iso", nil)}})
	require.ErrorIs(t, err, context.Canceled)
}

// wire puts a TCP proxy before the real server, of which faults are set with
// toxics, see https://github.com/Shopify/toxiproxy#toxics.
func wire(t *testing.T, target string) (*toxiproxy.Proxy, string) {
	t.Helper()
	address, err := url.Parse(target)
	require.NoError(t, err)
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", address.Host)
	require.NoError(t, proxy.Start())
	t.Cleanup(proxy.Stop)
	return proxy, "http://" + proxy.Listen
}

func addToxic(t *testing.T, proxy *toxiproxy.Proxy, kind, stream string, attributes string) {
	t.Helper()
	_, err := proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
		`{"name": "fault", "type": %q, "stream": %q, "attributes": %s}`, kind, stream, attributes)))
	require.NoError(t, err)
}

// The line is bad at first, and good after the first wait.
func TestBadLine(t *testing.T) {
	t.Parallel()
	shared := newRepository(t, false)
	for name, toxic := range map[string][3]string{
		"cut after a megabyte":           {"limit_data", "upstream", `{"bytes": 1000000}`},
		"cut at once":                    {"limit_data", "upstream", `{"bytes": 0}`},
		"answers cut":                    {"limit_data", "downstream", `{"bytes": 100}`},
		"stands still, answers":          {"timeout", "downstream", `{"timeout": 0}`},
		"stands still, uploads":          {"timeout", "upstream", `{"timeout": 0}`},
		"reset":                          {"reset_peer", "upstream", `{"timeout": 0}`},
		"reset while an answer is under": {"reset_peer", "downstream", `{"timeout": 0}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := shared
			proxy, address := wire(t, config.URL)
			config.URL = address
			config.StallTimeout = 8 * time.Second
			clock := &fakeClock{time: time.Now()}
			var cured sync.Once
			clock.onWait = func() {
				cured.Do(func() { assert.NoError(t, proxy.Toxics.RemoveToxic(context.Background(), "fault")) })
			}
			addToxic(t, proxy, toxic[0], toxic[1], toxic[2])
			published(t, config.WithClock(clock.now, clock.wait), newFile(t, "a.iso", content(1, 5<<20)))
			assert.NotEmpty(t, clock.waits, "the fault did not happen")
		})
	}
}

// A slow line is not a stall: the whole upload takes several stall timeouts.
func TestSlowLine(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	gate := newGate(t, config.URL)
	proxy, address := wire(t, gate.URL)
	config.URL = address
	config.StallTimeout = 2 * time.Second
	addToxic(t, proxy, "bandwidth", "upstream", `{"rate": 1000}`) // KB/s
	start := time.Now()
	published(t, config, newFile(t, "a.iso", content(1, 8<<20)))
	require.Greater(t, time.Since(start), 2*config.StallTimeout, "the line was not slow")
	assert.Len(t, gate.uploads(), 1)
}

// A server with SQLite, as the real one here, takes one upload after the other.
// The ones that it keeps waiting are no failures.
func TestServerThatTakesOneUploadAtATime(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	proxy, address := wire(t, config.URL)
	config.URL = address
	config.StallTimeout = 2 * time.Second
	addToxic(t, proxy, "bandwidth", "upstream", `{"rate": 10000}`) // KB/s of each connection
	clock := &fakeClock{time: time.Now()}
	const size = 48 << 20 // more than the buffers on the way take
	files := []release.File{newFile(t, "a.iso", content(1, size)), newFile(t, "b.iso", content(2, size))}
	published(t, config.WithClock(clock.now, clock.wait), files...)
	assert.NotEmpty(t, clock.waits, "the uploads were taken at once")
}

// A server that takes nothing more is given up after the stall timeout, in the
// middle of an upload.
func TestStalledUpload(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	gate := newGate(t, config.URL)
	hold := make(chan struct{})
	gate.before = once(isFileUpload, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
		<-hold // reads no further
	})
	t.Cleanup(func() { close(hold) })
	config.URL = gate.URL
	config.StallTimeout = 8 * time.Second
	var said []string
	config.Log = func(message string) { said = append(said, message) }
	clock := &fakeClock{time: time.Now()}
	published(t, config.WithClock(clock.now, clock.wait), newFile(t, "a.iso", content(1, 64<<20)))
	assert.True(t, slices.ContainsFunc(said, func(message string) bool {
		return strings.HasPrefix(message, "upload a.iso ") && strings.Contains(message, "no byte has moved for 8s")
	}), "%q", said)
	assert.Len(t, gate.uploads(), 2)
}

// A download that stands still or breaks ends with an error, and goes on from
// where the caller says.
func TestDownloadGoesOn(t *testing.T) {
	t.Parallel()
	for name, toxic := range map[string][3]string{
		"stands still": {"limit_data", "downstream", `{"bytes": 1000000}`},
		"slow":         {"bandwidth", "downstream", `{"rate": 2000}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := newRepository(t, true)
			file := newFile(t, "a.iso", content(1, 5<<20))
			found := published(t, config, file).Release
			proxy, address := wire(t, config.URL)
			config.URL = address
			config.StallTimeout = 8 * time.Second
			store := open(t, config)
			addToxic(t, proxy, toxic[0], toxic[1], toxic[2])
			asset := found.Assets[slices.IndexFunc(found.Assets, func(a release.Asset) bool { return a.Name == "a.iso" })]
			var got []byte
			for tries := 0; ; tries++ {
				require.Less(t, tries, 10)
				reader, err := store.Open(t.Context(), asset, int64(len(got)))
				require.NoError(t, err)
				part, err := io.ReadAll(reader)
				require.NoError(t, reader.Close())
				got = append(got, part...)
				if err == nil {
					break
				}
				var failed *release.Error
				require.ErrorAs(t, err, &failed)
				assert.Equal(t, "a.iso", failed.Asset)
			}
			assert.Equal(t, content(1, 5<<20), got)
			reader, err := store.Open(t.Context(), asset, asset.Size)
			require.NoError(t, err)
			rest, err := io.ReadAll(reader)
			require.NoError(t, err)
			assert.Empty(t, rest)
		})
	}
}

// An old server takes forms only.
func TestServerThatWantsForms(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	gate := newGate(t, config.URL)
	gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if !isUpload(r.Method, r.URL.Path) || strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
			return false
		}
		assert.Positive(t, r.ContentLength)
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte(`{"message": "request Content-Type isn't multipart/form-data"}`))
		return true
	}
	config.URL = gate.URL
	published(t, config, newFile(t, "a b+ü.iso", content(1, 3<<20)), newFile(t, "empty.img.zst", nil))
	assert.Len(t, slices.DeleteFunc(gate.writes(), func(c call) bool { return !isUpload(c.method, c.path) }), 5, "only the first upload is tried as it is")
}

// What a server has stored wrong is noticed by its size, or by reading it back.
func TestVerifyUploads(t *testing.T) {
	t.Parallel()
	spoil := func(change func([]byte) []byte) func(*gate) {
		return func(g *gate) {
			var done atomic.Bool
			g.before = func(n int, w http.ResponseWriter, r *http.Request) bool {
				if !isFileUpload(r) || done.Swap(true) {
					return false
				}
				body, err := io.ReadAll(r.Body)
				assert.NoError(t, err)
				body = change(body)
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(string(body))), int64(len(body))
				g.forward(n, w, r)
				return true
			}
		}
	}
	for name, test := range map[string]struct {
		verify release.VerifyUploads
		spoil  func(*gate)
	}{
		"size":   {release.VerifySize, spoil(func(b []byte) []byte { return b[1:] })},
		"sha256": {release.VerifySHA256, spoil(func(b []byte) []byte { b[len(b)/2] ^= 1; return b })},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := newRepository(t, true)
			gate := newGate(t, config.URL)
			test.spoil(gate)
			config.URL, config.VerifyUploads = gate.URL, test.verify
			clock := &fakeClock{time: time.Now()}
			published(t, config.WithClock(clock.now, clock.wait), newFile(t, "a.iso", content(1, 1<<20)))
			assert.Len(t, gate.uploads(), 2)
		})
	}
}

// Downloads follow a redirect to an object storage, with the range and without
// the token; uploads are not sent anywhere else.
func TestRedirectsDoNotCarryTheToken(t *testing.T) {
	t.Parallel()
	config := newRepository(t, true)
	file := newFile(t, "a.iso", content(1, 1000))
	found := published(t, config, file).Release

	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Empty(t, r.Header.Get("Authorization"))
		assert.Equal(t, "secret", r.URL.Query().Get("signature"))
		if r.URL.Path == "/refuses" {
			http.Error(w, "expired", http.StatusForbidden)
			return
		}
		http.ServeFile(w, r, file.Path)
	}))
	t.Cleanup(storage.Close)
	// The same machine by another name, as a sub-domain would be.
	path := "/bucket"
	gate := newGate(t, config.URL)
	gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/releases/download/") || isUpload(r.Method, r.URL.Path) {
			assert.Equal(t, "token "+config.Token, r.Header.Get("Authorization"))
			http.Redirect(w, r, storage.URL+path+"?signature=secret", http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	config.URL = gate.URL
	store := open(t, config)
	asset := found.Assets[slices.IndexFunc(found.Assets, func(a release.Asset) bool { return a.Name == "a.iso" })]
	reader, err := store.Open(t.Context(), asset, 990)
	require.NoError(t, err)
	tail, err := io.ReadAll(reader)
	require.NoError(t, err)
	assert.Equal(t, content(1, 1000)[990:], tail)

	path = "/refuses"
	_, err = store.Open(t.Context(), asset, 0)
	require.ErrorContains(t, err, "403")
	assert.NotContains(t, err.Error(), "secret")

	_, err = publish(t.Context(), store, publication{Tag: "boot-v2", Commit: "main", Files: []release.File{file}})
	require.ErrorContains(t, err, "redirects to "+storage.URL)
	assert.NotContains(t, err.Error(), "secret")
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	config := newRepository(t, true)
	gate := newGate(t, config.URL)
	front := httptest.NewUnstartedServer(gate)
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.StartTLS()
	t.Cleanup(front.Close)
	config.URL = front.URL
	clock := &fakeClock{time: time.Now()}
	config = config.WithClock(clock.now, clock.wait)
	file := newFile(t, "a.iso", content(1, 1000))

	_, err := publish(t.Context(), open(t, config), publication{Tag: "boot-v1", Files: []release.File{file}})
	require.ErrorContains(t, err, "ca_file")
	var unknown *tls.CertificateVerificationError
	require.ErrorAs(t, err, &unknown)
	assert.Empty(t, clock.waits, "a certificate does not get better by waiting")

	config.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	_, err = forgejo.Open(config)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(config.CAFile, []byte("none"), 0o600))
	_, err = forgejo.Open(config)
	require.ErrorContains(t, err, "no certificate in PEM form")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	require.NoError(t, os.WriteFile(config.CAFile, certificate, 0o600))
	published(t, config, file)

	config.URL = strings.Replace(gate.URL, "http:", "https:", 1)
	_, err = open(t, config).Release(t.Context(), "boot-v1")
	require.ErrorContains(t, err, "use http://")
	assert.Empty(t, clock.waits)
}

// The proxy of the environment leads to a forge that only it can reach. (For
// addresses of this machine none is used, so the forge has another name here.)
func TestProxyOfTheEnvironment(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	gate := newGate(t, config.URL)
	var seen atomic.Int32
	gate.before = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
		if r.Host == "forge.example" {
			seen.Add(1)
		}
		return false
	}
	run := childRun{
		URL: "http://forge.example", Repository: config.Repository, Token: config.Token, Tag: "boot-v1",
		Files: []release.File{newFile(t, "a.iso", content(1, 2<<20))},
	}
	output, err := child(t, run, "HTTP_PROXY="+gate.URL, "http_proxy="+gate.URL, "NO_PROXY=", "no_proxy=").CombinedOutput()
	require.NoError(t, err, "%s", output)
	store := open(t, config)
	requireWhole(t, store, "boot-v1", run.Files...)
	requireSigned(t, store)
	assert.Positive(t, seen.Load())
}

// A file that has changed since it was packaged is not published.
func TestFileThatChanged(t *testing.T) {
	t.Parallel()
	for _, config := range []forgejo.Config{newRepository(t, false), {URL: "file://" + t.TempDir()}} {
		file := newFile(t, "a.iso", content(1, 1000))
		require.NoError(t, os.WriteFile(file.Path, content(1, 999), 0o600))
		_, err := publish(t.Context(), open(t, config), publication{Tag: "boot-v1", Commit: "main", Files: []release.File{file}})
		require.ErrorContains(t, err, "has 999 bytes now and had 1000")
		require.NoError(t, os.Remove(file.Path))
		_, err = publish(t.Context(), open(t, config), publication{Tag: "boot-v1", Commit: "main", Files: []release.File{file}})
		require.ErrorIs(t, err, os.ErrNotExist)
	}
}

// Redirects to what is no address of the web do not either. The server is a fake: the
// real one redirects to itself.
func TestRedirectsToNowhere(t *testing.T) {
	t.Parallel()
	for location, want := range map[string]string{
		"file:///etc/passwd":  "the server answers 301 Moved Permanently: it redirects to file:///etc/passwd",
		"ftp://forge.example": "the server answers 301 Moved Permanently: it redirects to ftp://forge.example",
		"http://[::1":         "the server answers 301 Moved Permanently",
		"https:///x":          "the server answers 301 Moved Permanently: it redirects to https:///x",
		"":                    "the server answers 301 Moved Permanently",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if location != "" {
				w.Header().Set("Location", location)
			}
			w.WriteHeader(http.StatusMovedPermanently)
		}))
		defer server.Close()
		clock := &fakeClock{time: time.Now()}
		config := forgejo.Config{URL: server.URL, Repository: "every/channel"}
		_, err := open(t, config.WithClock(clock.now, clock.wait)).Latest(t.Context(), "boot-")
		require.ErrorContains(t, err, want, location)
		assert.Empty(t, clock.waits, location)
	}
}

// Redirects in a circle do not end by waiting.
func TestRedirectsInACircle(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	gate := newGate(t, config.URL)
	gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
		return true
	}
	config.URL = gate.URL
	clock := &fakeClock{time: time.Now()}
	_, err := open(t, config.WithClock(clock.now, clock.wait)).Release(t.Context(), "boot-v1")
	require.ErrorContains(t, err, "it redirects again and again; check the forge's address")
	assert.Empty(t, clock.waits)
}

// A file of the same size that takes a file's place before or during its upload
// is not published under the other one's checksum, and what has been uploaded
// does not pass for that file in the next run.
func TestFileThatIsReplacedMeanwhile(t *testing.T) {
	t.Parallel()
	shared := newRepository(t, false)
	isTicket := func(r *http.Request) bool { return strings.HasPrefix(r.URL.Query().Get("name"), "publishing-") }
	for name, moment := range map[string]func(*http.Request) bool{"before": isTicket, "during": isFileUpload} {
		for _, known := range []bool{true, false} {
			if name == "before" && !known {
				continue // its checksum is made later
			}
			t.Run(fmt.Sprintf("%s/known=%v", name, known), func(t *testing.T) {
				t.Parallel()
				config := shared
				gate := newGate(t, config.URL)
				old, other := newFile(t, "a.iso", content(1, 5000)), newFile(t, "a.iso", content(2, 5000))
				gate.before = once(moment, func(w http.ResponseWriter, r *http.Request) {
					assert.NoError(t, os.Rename(other.Path, old.Path))
					gate.forward(0, w, r)
				})
				config.URL = gate.URL
				given := old
				if !known {
					given.SHA256 = ""
				}
				p := publication{Tag: "boot-" + plainName(t), Commit: "main", Files: []release.File{given}}
				_, err := publish(t.Context(), open(t, config), p)
				require.ErrorContains(t, err, "has been written to while it was being published")
				draft, _ := assetsOf(t, config, p.Tag)
				assert.True(t, draft)

				old.Path = newFile(t, "a.iso", content(1, 5000)).Path
				p.Files = []release.File{old}
				_, err = publish(t.Context(), open(t, config), p)
				require.NoError(t, err)
				requireWhole(t, open(t, config), p.Tag, old)
			})
		}
	}
}

// Nobody is there.
func TestNoServer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	clock := &fakeClock{time: time.Now()}
	store := open(t, forgejo.Config{URL: "http://" + listener.Addr().String(), Repository: "adm/images", RetryBudget: time.Minute}.WithClock(clock.now, clock.wait))
	_, err = store.Release(t.Context(), "boot-v1")
	var network *net.OpError
	require.ErrorAs(t, err, &network)
	assert.ErrorContains(t, err, "check the forge's address and the network")
	assert.NotErrorIs(t, err, release.ErrNotFound)
	assert.False(t, errors.Is(err, context.Canceled))
	assert.ErrorContains(t, err, "given up: nothing has ever answered there")
	var waited time.Duration
	for _, wait := range clock.waits {
		waited += wait
	}
	assert.Positive(t, waited)
	assert.LessOrEqual(t, waited, 10*time.Second)
}
