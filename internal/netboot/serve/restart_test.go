package serve_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/netboot/serve"
)

// restart stops the server and starts the next one, with its configuration changed.
func (s *site) restart(change func(*serve.Config)) {
	s.t.Helper()
	require.NoError(s.t, s.stop())
	change(&s.config)
	s.run()
}

// TestMachinesOverARestart are those on the page before.
func TestMachinesOverARestart(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "boot-v1")
	s.boots("127.0.0.2")
	require.NoError(t, s.stop())
	require.FileExists(t, filepath.Join(s.state.Path(), "machines.json"))
	s.restart(func(*serve.Config) {})
	page := s.statusPage()
	assert.Contains(t, page, "1 machine seen, 0 booting now.")
	assert.Contains(t, page, `<span class="stage booted">booted</span>`)
	assert.Contains(t, s.metrics(), `netboot_boots_finished_total{architecture="x86_64",release="boot-v1"} 0`, "by this server")

	elsewhere := filepath.Join(t.TempDir(), "table")
	s.restart(func(c *serve.Config) { c.MachinesFile = elsewhere })
	assert.Contains(t, s.statusPage(), "0 machines seen")
	s.boots("127.0.0.2")
	require.NoError(t, s.stop())
	assert.FileExists(t, elsewhere)

	s.restart(func(c *serve.Config) { c.MachinesFile = filepath.Join(t.TempDir(), "absent", "table") })
	s.boots("127.0.0.2")
	require.NoError(t, s.stop())
	assert.Contains(t, s.log.String(), "the table of machines is not kept, and begins empty after a restart")
}

// TestClientsDuringRestarts wait, and none is refused, where another process has the
// socket open meanwhile, as systemd has.
func TestClientsDuringRestarts(t *testing.T) {
	t.Parallel()
	held, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer held.Close()
	// A server closes what it was given.
	handOver := func(c *serve.Config) {
		file, err := held.(*net.TCPListener).File()
		require.NoError(t, err)
		defer file.Close()
		c.Listeners.HTTP, err = net.FileListener(file)
		require.NoError(t, err)
	}
	s := start(t, handOver, "boot-v1")

	var answers atomic.Int64
	clients, ctx := errgroup.WithContext(t.Context())
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	for range 20 {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		clients.Go(func() error {
			for ctx.Err() == nil {
				for _, path := range []string{"/netboot.ipxe?mac=52-54-00-12-34-56", at("boot-v1", "x86_64", "kernel", "52-54-00-12-34-56")} {
					response, err := client.Get("http://" + held.Addr().String() + path)
					if err != nil {
						return err
					}
					_, err = io.Copy(io.Discard, response.Body)
					response.Body.Close()
					if err != nil {
						return err
					}
					assert.Equal(t, http.StatusOK, response.StatusCode)
					answers.Add(1)
				}
			}
			return nil
		})
	}
	more := func() {
		t.Helper()
		before := answers.Load()
		require.Eventually(t, func() bool { return answers.Load() > before+100 || ctx.Err() != nil }, time.Minute, time.Millisecond)
	}
	more()
	for range 5 {
		s.restart(handOver)
		more()
	}
	enough()
	assert.NoError(t, clients.Wait())
}
