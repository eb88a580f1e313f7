package serve_test

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/serve"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	config := serve.Config{
		StateDir: folder, IPXEDir: folder, ListenIP: netip.MustParseAddr("127.0.0.1"),
		HTTPPort: serve.AnyPort, TFTPPort: serve.AnyPort, StatusAddress: "127.0.0.1:0",
	}
	errors := func() map[string]string {
		needs, err := serve.Check(t.Context(), config)
		require.NoError(t, err)
		found := map[string]string{}
		for _, need := range needs {
			if need.Err != nil {
				found[need.Name] = need.Err.Error()
			}
		}
		require.Len(t, needs, 5)
		return found
	}
	missing := errors()
	assert.Len(t, missing, 1)
	assert.Contains(t, missing["iPXE"], "--ipxe-dir has no ec-ipxe.efi")

	require.NoError(t, os.WriteFile(filepath.Join(folder, "ec-ipxe.efi"), nil, 0o644))
	assert.Empty(t, errors())

	// Everything that is missing comes at once.
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer udp.Close()
	config.StateDir, config.IPXEDir = filepath.Join(folder, "absent"), filepath.Join(folder, "absent")
	config.HTTPPort, config.TFTPPort = tcp.Addr().(*net.TCPAddr).Port, udp.LocalAddr().(*net.UDPAddr).Port
	config.StatusAddress = tcp.Addr().String()
	missing = errors()
	assert.Len(t, missing, 5)
	assert.Contains(t, missing["state folder"], "runner-images netboot stage makes it")
	assert.Contains(t, missing["iPXE"], `--ipxe-dir "`)
	assert.Contains(t, missing["HTTP"], "see which program has it with: ss ")
	assert.Contains(t, missing["TFTP"], "--tftp-port 6969")
	assert.Contains(t, missing["status page"], "--status-address")

	// Nothing stays open: what Check had can be had again.
	require.NoError(t, tcp.Close())
	require.NoError(t, udp.Close())
	config.StateDir, config.IPXEDir, config.StatusAddress = folder, folder, "127.0.0.1:0"
	assert.Empty(t, errors())
	server, err := serve.New(t.Context(), config)
	require.NoError(t, err)
	require.NoError(t, server.Close())

	config.HTTPPort = 99999
	_, err = serve.Check(t.Context(), config)
	var option *serve.OptionError
	require.ErrorAs(t, err, &option)
	assert.Equal(t, "http-port", option.Option)
}
