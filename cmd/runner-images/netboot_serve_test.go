package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/state"
)

// TestServeUnderSystemd starts the server as a unit of Type=notify-reload with
// sockets does, reloads it and stops it.
func TestServeUnderSystemd(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	dir, err := state.Create(filepath.Join(folder, "state"))
	require.NoError(t, err)
	require.NoError(t, dir.Close())
	token := filepath.Join(folder, "token")
	require.NoError(t, os.WriteFile(token, []byte("first"), 0o600))

	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(folder, "notify"), Net: "unixgram"})
	require.NoError(t, err)
	defer notify.Close()
	// told returns what systemd is told next.
	told := func() string {
		t.Helper()
		buffer := make([]byte, 1000)
		require.NoError(t, notify.SetReadDeadline(time.Now().Add(time.Minute)))
		n, err := notify.Read(buffer)
		require.NoError(t, err)
		return string(buffer[:n])
	}

	web, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer web.Close()
	page, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer page.Close()
	tftp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer tftp.Close()
	var files []*os.File
	for _, socket := range []interface{ File() (*os.File, error) }{web.(*net.TCPListener), tftp.(*net.UDPConn), page.(*net.TCPListener)} {
		file, err := socket.File()
		require.NoError(t, err)
		defer file.Close()
		files = append(files, file)
	}

	program := filepath.Join(folder, "runner-images")
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, program))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// systemd names the process that the sockets are for; exec keeps its number.
	server := exec.CommandContext(ctx, "sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh",
		program, "netboot", "serve", "--state-dir", filepath.Join(folder, "state"), "--chain-token-file", token)
	server.ExtraFiles = files
	server.Env = append(os.Environ(), "LISTEN_FDS=3", "LISTEN_FDNAMES=http:tftp:status", "NOTIFY_SOCKET="+notify.LocalAddr().String(), "JOURNAL_STREAM=1:2")
	log, err := server.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	lines := bufio.NewScanner(log)

	assert.Equal(t, "READY=1", told())
	require.True(t, lines.Scan())
	assert.True(t, strings.HasPrefix(lines.Text(), "level=INFO msg=serving "), "the journal has its own time: %s", lines.Text())
	for _, url := range []string{"http://" + web.Addr().String() + "/healthz", "http://" + page.Addr().String() + "/metrics"} {
		response, err := http.Get(url)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		response.Body.Close()
	}

	require.NoError(t, server.Process.Signal(syscall.SIGHUP))
	reloading := told()
	assert.Regexp(t, `^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*$`, reloading)
	assert.Equal(t, "READY=1", told())
	require.True(t, lines.Scan())
	assert.Equal(t, `level=INFO msg="reloaded the chain token and the rings"`, lines.Text())

	require.NoError(t, os.WriteFile(token, nil, 0o600))
	require.NoError(t, server.Process.Signal(syscall.SIGHUP))
	told()
	assert.Equal(t, "READY=1", told(), "it goes on with what it had")
	require.True(t, lines.Scan())
	assert.Contains(t, lines.Text(), `level=ERROR msg="cannot reload; what was there before stays"`)

	require.NoError(t, server.Process.Signal(syscall.SIGTERM))
	assert.Equal(t, "STOPPING=1", told())
	for lines.Scan() {
		t.Errorf("it says more: %s", lines.Text())
	}
	require.NoError(t, server.Wait(), "a server that was told to stop has done its work")
}
