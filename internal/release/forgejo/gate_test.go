package forgejo_test

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A gate stands before the real server, counts what passes and lets a test
// meddle with it. It answers at an address that the server does not know of,
// as the inner side of a proxy does.
type gate struct {
	*httptest.Server
	target *url.URL

	connections atomic.Int32 // that clients have made

	mutex sync.Mutex
	calls []call

	// before, if set, may answer a call in place of the server. n counts calls
	// from 1 on.
	before func(n int, w http.ResponseWriter, r *http.Request) (answered bool)

	// after, if set, is called when the server has done what a call asks for,
	// before its answer is passed on.
	after func(n int, r *http.Response) error
}

type call struct{ method, path, name string }

// newGate returns a gate to the server at target. Set its functions before use.
func newGate(t *testing.T, target string) *gate {
	t.Helper()
	g := &gate{}
	var err error
	g.target, err = url.Parse(target)
	require.NoError(t, err)
	g.Server = httptest.NewUnstartedServer(g)
	g.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			g.connections.Add(1)
		}
	}
	g.Start()
	t.Cleanup(g.Close)
	return g
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mutex.Lock()
	g.calls = append(g.calls, call{r.Method, r.URL.Path, r.URL.Query().Get("name")})
	n, before := len(g.calls), g.before
	g.mutex.Unlock()
	if before != nil && before(n, w, r) {
		return
	}
	g.forward(n, w, r)
}

func (g *gate) forward(n int, w http.ResponseWriter, r *http.Request) {
	g.mutex.Lock()
	after := g.after
	g.mutex.Unlock()
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(g.target)
			p.Out.Host = p.In.Host
		},
		ErrorLog: log.New(io.Discard, "", 0), // a cut connection is what tests are about
		ModifyResponse: func(response *http.Response) error {
			if after == nil {
				return nil
			}
			return after(n, response)
		},
	}
	// A server goes on with what it has wholly received, and Close waits for its
	// end, also when the client is gone.
	ctx, end := context.WithCancel(context.WithoutCancel(r.Context()))
	defer end()
	proxy.ServeHTTP(w, r.WithContext(ctx))
}

// set is for functions that requests of another process will call.
func (g *gate) set(after func(n int, r *http.Response) error) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.after = after
}

// swallow lets the server do what a call asks for, and cuts the connection in
// place of passing on the answer.
func (g *gate) swallow(r *http.Request) {
	g.forward(0, httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// uploads returns the names of the uploads that have come through, without
// tickets and lists of checksums.
func (g *gate) uploads() (names []string) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	for _, c := range g.calls {
		if isUpload(c.method, c.path) && !strings.Contains(c.name, "SHA256SUMS.txt") {
			names = append(names, c.name)
		}
	}
	return names
}

// writes returns the calls that change something.
func (g *gate) writes() (calls []call) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	for _, c := range g.calls {
		if c.method != http.MethodGet {
			calls = append(calls, c)
		}
	}
	return calls
}

func isUpload(method, path string) bool {
	return method == http.MethodPost && strings.HasSuffix(path, "/assets")
}

// isFileUpload tells whether a request uploads a file of a publication.
func isFileUpload(r *http.Request) bool {
	return isUpload(r.Method, r.URL.Path) && !strings.Contains(r.URL.Query().Get("name"), "SHA256SUMS.txt")
}

// hangUp waits until the client has hung up. A server notices that only when it
// has read the whole request.
func hangUp(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// A fakeClock goes on only by waiting.
type fakeClock struct {
	mutex  sync.Mutex
	time   time.Time
	waits  []time.Duration
	onWait func()
}

func (c *fakeClock) now() time.Time {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.time
}

func (c *fakeClock) wait(ctx context.Context, d time.Duration) error {
	c.mutex.Lock()
	c.time = c.time.Add(d)
	c.waits = append(c.waits, d)
	c.mutex.Unlock()
	if c.onWait != nil {
		c.onWait()
	}
	return ctx.Err()
}
