package forgejo_test

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/forgejo"
)

// FuzzAnswer has a server, which stands in for a hostile forge, answer anything. What
// comes of it has names that are safe, or is an error that can be shown.
func FuzzAnswer(f *testing.F) {
	const whole = `{"id":1,"tag_name":"boot-v1","name":"boot-v1","body":"notes","html_url":"http://forge.example/x","draft":false,` +
		`"created_at":"2026-02-28T12:00:00Z","published_at":"2026-02-28T12:00:00Z","assets":[` +
		`{"id":2,"name":"x.iso","size":3,"uuid":"u","browser_download_url":"http://forge.example/x.iso"}]}`
	for _, answer := range []string{
		whole, "[" + whole + "]", "[]", "{}", "null", `{"assets":[null]}`,
		`{"tag_name":"boot-v1","assets":[{"name":"../../etc/passwd"}]}`,
		`[{"tag_name":"boot-../../x","assets":[{"name":"a\u001b[2J"}]}]`,
		`{"message":"The target couldn't be found.\u0007","errors":["\u001b[31m"],"url":"http://x"}`,
		"<html><title>502\x1b[2J</title></html>",
	} {
		for _, status := range []int{200, 403, 404, 422} {
			f.Add(status, "application/json", []byte(answer))
		}
	}
	f.Add(200, "text/html", []byte("<html>"))
	f.Fuzz(func(t *testing.T, status int, contentType string, answer []byte) {
		if status < 200 || status > 599 {
			return
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			if r.URL.Query().Get("page") == "" || r.URL.Query().Get("page") == "1" {
				_, _ = w.Write(answer)
			} else {
				_, _ = w.Write([]byte("[]"))
			}
		}))
		defer server.Close()
		store, err := forgejo.Open(forgejo.Config{URL: server.URL, Repository: "every/channel", RetryBudget: time.Nanosecond})
		require.NoError(t, err)
		one, err := store.Release(t.Context(), "boot-v1")
		checkAnswer(t, one, err)
		newest, err := store.Latest(t.Context(), "boot-")
		checkAnswer(t, newest, err)
	})
}

func checkAnswer(t *testing.T, found release.Release, err error) {
	t.Helper()
	if err != nil {
		for _, c := range err.Error() {
			assert.False(t, unicode.IsControl(c), "%q", err)
		}
		return
	}
	require.NoError(t, release.CheckTag(found.Tag))
	for _, asset := range found.Assets {
		assert.Equal(t, asset.Name, filepath.Base(asset.Name))
		assert.NotContains(t, []string{".", "..", "/", ""}, asset.Name)
		for _, c := range asset.Name {
			assert.False(t, unicode.IsControl(c), "%q", asset.Name)
		}
	}
}
