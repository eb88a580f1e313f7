package forgejo

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A file arrives whole, and its progress is told, over a connection that has the kernel
// send it and over TLS, which has not. One that has become shorter is an error.
func TestFileBody(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("a block\n"), 400_000)
	path := filepath.Join(t.TempDir(), "image.iso")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	received := make(chan []byte, 1)
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		received <- body
	})
	for name, start := range map[string]func(http.Handler) *httptest.Server{"plain": httptest.NewServer, "tls": httptest.NewTLSServer} {
		server := start(handler)
		t.Cleanup(server.Close)
		transport, ok := server.Client().Transport.(*http.Transport)
		require.True(t, ok)
		transport.DialContext = dialSender(&net.Dialer{})
		for _, missing := range []int64{0, 1} {
			file, err := os.Open(path)
			require.NoError(t, err)
			var steps []int64
			body := &fileBody{file: file, progress: func(sent int64) { steps = append(steps, sent) }}
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, body)
			require.NoError(t, err)
			request.ContentLength = int64(len(content)) + missing
			request.Header.Set("Expect", "100-continue")
			response, err := server.Client().Do(request)
			if missing > 0 {
				require.Error(t, err, name)
				<-received
				require.NoError(t, file.Close())
				continue
			}
			require.NoError(t, err, name)
			require.NoError(t, response.Body.Close())
			assert.True(t, bytes.Equal(content, <-received), name)
			require.NotEmpty(t, steps)
			assert.EqualValues(t, len(content), steps[len(steps)-1])
			if name == "plain" {
				assert.Len(t, steps, len(content)/sendSize+1, "the kernel sends it a piece at a time")
			}
			require.NoError(t, file.Close())
		}
	}
}
