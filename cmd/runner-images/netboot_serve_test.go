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
	"golang.org/x/sys/unix"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/netboot/serve"
	"every.channel/runner-images/internal/netboot/state"
)

// TestServeUnderSystemd starts the server as a unit of Type=notify-reload with
// sockets does, reloads it and stops it.
func TestServeUnderSystemd(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	token := filepath.Join(folder, "token")
	require.NoError(t, os.WriteFile(token, []byte("first"), 0o600))

	loaders := filepath.Join(folder, "ipxe")
	require.NoError(t, os.Mkdir(loaders, 0o755))
	for _, name := range []string{"ec-ipxe.efi", "undionly.kpxe"} {
		require.NoError(t, os.WriteFile(filepath.Join(loaders, name), nil, 0o644))
	}

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

	program := thisProgram(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// systemd names the process that the sockets are for; exec keeps its number.
	server := exec.CommandContext(ctx, "sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh",
		program, "netboot", "serve", "--state-dir", stateFolder(t), "--chain-token-file", token, "--ipxe-dir", loaders)
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

	require.True(t, lines.Scan())
	assert.Contains(t, lines.Text(), `level=WARN msg="no release is current in the state folder, so machines that are in no ring get nothing to boot: stage one with runner-images netboot stage, or give another --state-dir" state=`)
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

// A server that is told to stop while it starts has not failed, wherever it is by then,
// and systemd hears of it.
func TestServeStoppedAtItsStart(t *testing.T) {
	folder := t.TempDir()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(folder, "notify"), Net: "unixgram"})
	require.NoError(t, err)
	defer notify.Close()
	t.Setenv("NOTIFY_SOCKET", notify.LocalAddr().String())
	stopped, stop := context.WithCancel(t.Context())
	stop()
	config := serve.Config{StateDir: stateFolder(t), HTTPPort: serve.AnyPort, TFTPPort: serve.AnyPort, StatusAddress: "localhost:0"}
	require.NoError(t, serveNetboot(stopped, config), "while it looks for an address")

	config.StatusAddress = "127.0.0.1:0"
	require.NoError(t, serveNetboot(stopped, config))
	told := func() string {
		buffer := make([]byte, 100)
		require.NoError(t, notify.SetReadDeadline(time.Now().Add(time.Minute)))
		n, err := notify.Read(buffer)
		require.NoError(t, err)
		return string(buffer[:n])
	}
	require.ElementsMatch(t, []string{"READY=1", "STOPPING=1"}, []string{told(), told()})
	socket, err := notify.SyscallConn()
	require.NoError(t, err)
	for range 100 {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- serveNetboot(ctx, config) }()
		require.Equal(t, "READY=1", told())
		stop()
		require.NoError(t, <-ended)
		require.NoError(t, socket.Control(func(descriptor uintptr) {
			_, _, err = unix.Recvfrom(int(descriptor), make([]byte, 100), unix.MSG_DONTWAIT)
		}))
		require.NoError(t, err, "it has ended, and systemd has not heard that it was to")
	}
}

// stateFolder returns a folder for staged releases.
func stateFolder(t *testing.T) string {
	t.Helper()
	dir, err := state.Create(filepath.Join(t.TempDir(), "state"))
	require.NoError(t, err)
	require.NoError(t, dir.Close())
	return dir.Path()
}

// Sockets that systemd hands over as nobody can have meant it.
func TestServeRefusesSockets(t *testing.T) {
	t.Parallel()
	web, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer web.Close()
	datagrams, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer datagrams.Close()
	var files []*os.File
	for _, socket := range []interface{ File() (*os.File, error) }{web.(*net.TCPListener), datagrams.(*net.UDPConn)} {
		file, err := socket.File()
		require.NoError(t, err)
		defer file.Close()
		files = append(files, file)
	}
	for names, want := range map[string]string{
		"http:http":    `there are two sockets "http" from systemd: give one; an address such as [::]:80 takes IPv4 and IPv6`,
		"http:ec-http": `the socket "ec-http" from systemd: name it http, tftp, status, proxy-dhcp or pxe with FileDescriptorName=`,
		"tftp:http":    `the socket "tftp" from systemd: it is no socket for datagrams; give a port as its ListenDatagram= (systemd.socket(5))`,
		"http:status":  `the socket "status" from systemd: it takes no connections; give a port as its ListenStream= (systemd.socket(5))`,
	} {
		server := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh", thisProgram(t), "netboot", "serve", "--state-dir", stateFolder(t))
		server.ExtraFiles = files
		server.Env = append(os.Environ(), "LISTEN_FDS=2", "LISTEN_FDNAMES="+names)
		out, err := server.CombinedOutput()
		assert.Equal(t, exitFailed, server.ProcessState.ExitCode(), "%v", err)
		assert.Equal(t, "error: "+want+"\n", string(out))
	}
}

// A user without rights has a network of its own, where ports below 1024 are as the
// kernel has them.
func TestServeWithoutTheRightToItsPorts(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"--http-port=80":   "listen for HTTP: listen tcp :80: bind: permission denied; ports below 1024 take root or the capability CAP_NET_BIND_SERVICE (in a unit, AmbientCapabilities=); or give another one, for example --http-port 8080",
		"--http-port=8080": "listen for TFTP: listen udp :69: bind: permission denied; ports below 1024 take root or the capability CAP_NET_BIND_SERVICE (in a unit, AmbientCapabilities=); or give another one, for example --tftp-port 6969",
	} {
		// In the new namespace of users nobody is root, so that exec takes all rights.
		server := exec.CommandContext(t.Context(), lab.Tool(t, "boot", "unshare"), "--user", "--net", "--",
			thisProgram(t), "netboot", "serve", "--state-dir", stateFolder(t), name, "--status-address", "127.0.0.1:0")
		out, err := server.CombinedOutput()
		assert.Equal(t, exitFailed, server.ProcessState.ExitCode(), "%v", err)
		assert.Equal(t, "error: "+want+"\n", string(out))
	}
}
