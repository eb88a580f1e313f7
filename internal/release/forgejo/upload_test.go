package forgejo_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/release"
)

// Files without a byte, and one file under two names, are files like others.
func TestEmptyFiles(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	empty, again := newFile(t, "a.bin", nil), newFile(t, "b.bin", nil)
	again.Path = empty.Path
	unknown := again
	unknown.SHA256 = ""
	for range 2 {
		given := []release.File{empty, unknown}
		_, err := publish(t.Context(), open(t, config), publication{Tag: "boot-v1", Commit: "main", Files: given, Ahead: true})
		require.NoError(t, err)
		requireWhole(t, open(t, config), "boot-v1", empty, again)
	}
}

// What a server does not take of uploads is found out by all that are under way at once.
func TestUploadsAtOnceThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]struct {
		status int
		is     func(*http.Request) bool
	}{
		"only forms": {http.StatusUnsupportedMediaType, func(r *http.Request) bool {
			return !strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data")
		}},
		"no Expect": {http.StatusExpectationFailed, func(r *http.Request) bool { return r.Header.Get("Expect") != "" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := newRepository(t, false)
			gate := newGate(t, config.URL)
			files := []release.File{newFile(t, "a.iso", content(1, 2<<20)), newFile(t, "b.iso", content(2, 2<<20))}
			var seen atomic.Int32
			var both sync.WaitGroup
			both.Add(len(files))
			gate.before = func(_ int, w http.ResponseWriter, r *http.Request) bool {
				if !isFileUpload(r) || !refusal.is(r) {
					return false
				}
				if int(seen.Add(1)) <= len(files) {
					both.Done()
					both.Wait()
				}
				w.WriteHeader(refusal.status)
				return true
			}
			config.URL = gate.URL
			published(t, config, files...)
		})
	}
}
