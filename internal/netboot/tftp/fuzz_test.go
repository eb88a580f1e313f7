package tftp

import (
	"bytes"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/journal"
)

// secret stands in a file that is outside of the folder that is served.
const secret = "this is outside"

// files are those below a root.
type files struct{ root *os.Root }

func (f files) Open(name string, _, _ netip.Addr) (File, error) {
	file, err := f.root.Open(name)
	if err != nil {
		return File{}, fs.ErrNotExist
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	return File{Content: file, Size: info.Size(), Label: name}, err
}

func (f files) Label(name string) string { return name }

// FuzzDatagram sends a server packets of any content. The seeds are what EDK2 and
// iPXE have sent, and what they would not. The server goes on serving, and never
// sends what is outside of its folder.
func FuzzDatagram(f *testing.F) {
	outside := f.TempDir()
	folder := filepath.Join(outside, "a", "ipxe")
	require.NoError(f, os.MkdirAll(folder, 0o755))
	require.NoError(f, os.WriteFile(filepath.Join(outside, "secret"), []byte(secret), 0o600))
	require.NoError(f, os.Symlink(filepath.Join(outside, "secret"), filepath.Join(folder, "link")))
	for _, name := range []string{"control.ipxe", "ipxe.efi"} {
		require.NoError(f, os.WriteFile(filepath.Join(folder, name), []byte(name), 0o600))
	}
	root, err := os.OpenRoot(folder)
	require.NoError(f, err)
	f.Cleanup(func() { assert.NoError(f, root.Close()) })
	server := &Server{
		Files:   files{root},
		Journal: journal.New(slog.New(slog.NewTextHandler(io.Discard, nil)), prometheus.NewRegistry()),
	}
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(f, err)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(conn) }()
	f.Cleanup(func() {
		server.Shutdown(f.Context())
		assert.NoError(f, <-ended)
	})

	f.Fuzz(func(t *testing.T, datagram []byte) {
		client, err := net.ListenPacket("udp4", "127.0.0.2:0")
		require.NoError(t, err)
		defer client.Close()
		control, err := net.ListenPacket("udp4", "127.0.0.3:0")
		require.NoError(t, err)
		defer control.Close()

		_, err = client.WriteTo(datagram, conn.LocalAddr())
		require.NoError(t, err)
		_, err = control.WriteTo([]byte("\x00\x01control.ipxe\x00octet\x00"), conn.LocalAddr())
		require.NoError(t, err)
		buffer := make([]byte, 64<<10)
		require.NoError(t, control.SetReadDeadline(time.Now().Add(10*time.Second)))
		n, from, err := control.ReadFrom(buffer)
		require.NoError(t, err)
		require.Equal(t, "\x00\x03\x00\x01control.ipxe", string(buffer[:n]))
		_, err = control.WriteTo([]byte("\x00\x04\x00\x01"), from)
		require.NoError(t, err)

		// What the server says to the first packet, if it does, comes within its timeout.
		require.NoError(t, client.SetReadDeadline(time.Now().Add(2*time.Millisecond)))
		for {
			n, from, err := client.ReadFrom(buffer)
			if err != nil {
				return
			}
			require.False(t, bytes.Contains(buffer[:n], []byte(secret)))
			_, err = client.WriteTo([]byte("\x00\x04\x00\x00"), from) // go on after the options
			require.NoError(t, err)
		}
	})
}
