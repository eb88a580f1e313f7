package stage_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/stage"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/forgejo"
)

// A line is what is between a boot server and a forge: it breaks off.
type line struct {
	forge *httputil.ReverseProxy

	mutex  sync.Mutex
	cut    int64    // bytes after which a download breaks off; 0 for never
	closed bool     // downloads are refused
	ranges []string // of the bundles' downloads
}

func newLine(t *testing.T, to string) (_ *line, address string) {
	t.Helper()
	target, err := url.Parse(to)
	require.NoError(t, err)
	l := &line{forge: httputil.NewSingleHostReverseProxy(target)}
	l.forge.ErrorLog = log.New(io.Discard, "", 0)
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	return l, server.URL
}

func (l *line) set(cut int64, closed bool) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.cut, l.closed, l.ranges = cut, closed, nil
}

func (l *line) asked() []string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.ranges
}

func (l *line) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, ".tar.gz") {
		l.forge.ServeHTTP(w, r)
		return
	}
	l.mutex.Lock()
	l.ranges = append(l.ranges, r.Header.Get("Range"))
	cut, closed := l.cut, l.closed && len(l.ranges) > 1
	l.mutex.Unlock()
	if closed {
		http.Error(w, "no more", http.StatusForbidden)
		return
	}
	if cut > 0 {
		w = &cutter{w, cut}
	}
	l.forge.ServeHTTP(w, r)
}

type cutter struct {
	http.ResponseWriter
	left int64
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// The whole way from a real forge, over a line that breaks.
func TestFromAForge(t *testing.T) {
	t.Parallel()
	gitea := lab.StartGitea(t)
	config := forgejo.Config{
		Repository: gitea.CreateRepository(t, "images", true), Token: gitea.Token(t, "write:repository"),
		RetryBudget: time.Nanosecond,
	}
	line, address := newLine(t, gitea.URL)
	config.URL = address
	store, err := forgejo.Open(config)
	require.NoError(t, err)
	s := &site{t: t, store: store, dir: newDir(t)}
	partial := func() []string {
		files, err := filepath.Glob(filepath.Join(s.dir.Path(), "downloads", "*.partial"))
		require.NoError(t, err)
		return files
	}

	_, err = s.stager().Release(t.Context(), "")
	require.ErrorIs(t, err, release.ErrNotFound)

	s.publish("boot-v1", machine.X86_64, machine.AArch64)
	gitea.API(t, http.MethodPost, "/repos/"+config.Repository+"/releases", map[string]any{"tag_name": "boot-v9", "draft": true}, nil)
	_, err = s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v1", machine.X86_64, machine.AArch64)
	_, err = s.stager().Release(t.Context(), "boot-v9")
	require.ErrorContains(t, err, "release boot-v9 is a draft")

	// A line that breaks off again and again, but gets on.
	s.publish("boot-v2")
	const cut = 400_000
	line.set(cut, false)
	var reported, total int64
	s.changes = func(stager *stage.Stager) {
		stager.Progress = func(name string, done, all int64) {
			assert.Equal(t, bundleName(machine.X86_64, "boot-v2"), name)
			assert.GreaterOrEqual(t, done, reported)
			reported, total = done, all
		}
	}
	_, err = s.stager().Release(t.Context(), "")
	s.changes = nil
	require.NoError(t, err)
	assert.Equal(t, total, reported)
	assert.Greater(t, total, int64(2*cut))
	requireCurrent(t, s.dir, "boot-v2")
	assert.Equal(t, []string{"", fmt.Sprintf("bytes=%d-", cut), fmt.Sprintf("bytes=%d-", 2*cut)}, line.asked())

	// A line that breaks and stays so: nothing changes, and the next run goes on.
	s.publish("boot-v3")
	line.set(cut, true)
	before := snapshot(t, s.dir)
	_, err = s.stager().Release(t.Context(), "")
	require.ErrorContains(t, err, "download "+bundleName(machine.X86_64, "boot-v3"))
	assert.Equal(t, before, snapshot(t, s.dir))
	require.Len(t, partial(), 1)
	line.set(0, false)
	_, err = s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v3")
	assert.Equal(t, []string{fmt.Sprintf("bytes=%d-", cut)}, line.asked())
	assert.Empty(t, partial())

	// Cancelled in the middle of a download: nothing changes and nothing reads on, and the
	// next run does.
	s.publish("boot-v3.1")
	line.set(0, false)
	cancelled, cancel := context.WithCancel(t.Context())
	var reports atomic.Int64
	s.changes = func(stager *stage.Stager) {
		stager.Progress = func(string, int64, int64) { reports.Add(1); cancel() }
	}
	before = snapshot(t, s.dir)
	_, err = s.stager().Release(cancelled, "")
	s.changes = nil
	require.ErrorIs(t, err, context.Canceled)
	ended := reports.Load()
	assert.Equal(t, before, snapshot(t, s.dir))
	require.Len(t, partial(), 1)
	_, err = s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v3.1")
	assert.Empty(t, partial())
	assert.Equal(t, ended, reports.Load())

	// What was there of it is not what it should be, as after a power failure:
	// all of it is downloaded again, once.
	s.publish("boot-v4")
	line.set(cut, true)
	_, err = s.stager().Release(t.Context(), "")
	require.Error(t, err)
	require.Len(t, partial(), 1)
	require.NoError(t, os.WriteFile(partial()[0], make([]byte, cut/2), 0o600))
	line.set(0, false)
	_, err = s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v4")
	assert.Equal(t, []string{fmt.Sprintf("bytes=%d-", cut/2), ""}, line.asked())

	// Too much is there of it.
	s.publish("boot-v5")
	line.set(cut, true)
	_, err = s.stager().Release(t.Context(), "")
	require.Error(t, err)
	require.NoError(t, os.WriteFile(partial()[0], make([]byte, 2<<20), 0o600))
	line.set(0, false)
	_, err = s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v5")

	// The forge is gone: what is staged needs it not.
	gitea.Stop()
	_, err = s.stager().Release(t.Context(), "")
	require.Error(t, err)
	_, err = s.stager().Release(t.Context(), "boot-v4")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v4")
}
