package serve_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/serve"
)

// These tests attack a server as a neighbour could, from many addresses of the loopback
// network, and have a machine boot meanwhile.

// neighbour returns the address of neighbour n.
func neighbour(n int) net.IP {
	return binary.BigEndian.AppendUint32(nil, uint32(127<<24|9<<16|n+1))
}

// boots loads by HTTP what a machine at an address boots.
func (s *site) boots(from string) {
	s.t.Helper()
	for _, file := range [][2]string{
		{"/netboot.ipxe?mac=52-54-00-12-34-56&arch=x86_64&platform=efi", "kernel r/boot-v1/"},
		{at("boot-v1", "x86_64", "kernel", "52-54-00-12-34-56"), "boot-v1 x86_64 kernel"},
		{at("boot-v1", "x86_64", "initrd", "52-54-00-12-34-56"), "boot-v1 x86_64 initrd"},
	} {
		response := s.do(from, "GET", file[0])
		assert.Equal(s.t, http.StatusOK, response.StatusCode, file[0])
		assert.Contains(s.t, body(s.t, response), file[1], file[0])
	}
}

// The requests have long timeouts, and nobody is there to acknowledge anything.
func TestMadeUpTFTPRequests(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *serve.Config) { c.DrainLimit = time.Millisecond }, "boot-v1")
	s.putLoader("ec-ipxe.efi", make([]byte, 100<<10))
	const more = 1100 // than there are transfers
	for n := range more {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: neighbour(n)})
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.WriteTo([]byte("\x00\x01ec-ipxe.efi\x00octet\x00timeout\x0010\x00"), s.server.TFTPAddr())
		require.NoError(t, err)
		if n%50 == 0 || n == more-1 { // the server's socket has room for these
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
			_, _, err = conn.ReadFrom(make([]byte, 1500))
			require.NoError(t, err)
		}
	}
	got, err := s.tftp("ec-ipxe.efi")
	require.NoError(t, err)
	assert.Len(t, got, 100<<10)
	assert.Contains(t, s.metrics(), `netboot_refused_requests_total{protocol="tftp",reason="limit"}`)
}

// Twelve neighbours have all the connections that they may, which are all that there are,
// and send half a request.
func TestSlowConnections(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *serve.Config) { c.DrainLimit = time.Millisecond }, "boot-v1")
	for n := range 12 {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: neighbour(n)}}
		for range 256 {
			conn, err := dialer.DialContext(t.Context(), "tcp", s.server.HTTPAddr().String())
			require.NoError(t, err)
			defer conn.Close()
			_, _ = io.WriteString(conn, "GET /kernel HTTP/1.1\r\nHost: ") // it may be closed by now
		}
	}
	for range 3 {
		s.boots("127.0.0.2")
		assert.Contains(t, s.mustGet("/netboot.ipxe"), "imgfree", "another machine, which has never booted")
	}
}

// The packets are of machines that there are not, and the log stays short and says what
// is not in it. A machine that has booted before is in it.
func TestMadeUpDHCPPackets(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *serve.Config) {
		c.ProxyDHCP, c.Interface = true, "lo"
		var err error
		c.Listeners.ProxyDHCP, err = net.ListenPacket("udp4", "127.0.0.1:0")
		require.NoError(t, err)
		c.Listeners.PXE, err = net.ListenPacket("udp4", "127.0.0.1:0")
		require.NoError(t, err)
	}, "boot-v1")
	s.putLoader("ec-ipxe.efi", []byte("iPXE"))
	s.boots("127.0.0.2")
	pxe, err := net.ListenPacket("udp4", "127.0.0.3:0")
	require.NoError(t, err)
	defer pxe.Close()
	// The PXE port answers to where a packet came from.
	server := s.pxe()
	ask := func(mac net.HardwareAddr) {
		packet, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithHwAddr(mac),
			dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient")), dhcpv4.WithOption(dhcpv4.OptClientArch(iana.EFI_X86_64)))
		require.NoError(t, err)
		_, err = pxe.WriteTo(packet.ToBytes(), server)
		require.NoError(t, err)
		require.NoError(t, pxe.SetReadDeadline(time.Now().Add(time.Minute)))
		_, _, err = pxe.ReadFrom(make([]byte, 1500))
		require.NoError(t, err)
	}
	const packets = 5000 // each of another machine
	for n := range packets {
		ask(net.HardwareAddr{2, 0, 0, 0, byte(n >> 8), byte(n)})
	}
	before := strings.Count(s.log.String(), "\n")
	assert.Less(t, before, packets/4)
	s.boots("127.0.0.2")
	require.Eventually(t, func() bool { return strings.Count(s.log.String(), "msg=booted mac=52:54:00:12:34:56") == 2 }, time.Minute, time.Millisecond)
	require.NoError(t, s.stop())
	assert.Contains(t, s.log.String(), `msg="left lines out of this log" machine="all others" left_out=`)
}

// pxe returns where the server answers PXE clients.
func (s *site) pxe() net.Addr { return s.config.Listeners.PXE.LocalAddr() }

// A page of another site whose name leads here cannot read the status page.
func TestHostOfTheStatusPage(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *serve.Config) {
		c.Hostname = "Boot.lan"
		c.StatusHostnames = []string{"status.every.channel"}
	}, "boot-v1")
	_, port, err := net.SplitHostPort(s.server.StatusAddr().String())
	require.NoError(t, err)
	get := func(host, path string) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.server.StatusAddr().String()+path, nil)
		require.NoError(t, err)
		request.Host = host
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel() // the events have no end
		response, err := http.DefaultClient.Do(request.WithContext(ctx))
		require.NoError(t, err)
		defer response.Body.Close()
		first := make([]byte, 200)
		n, _ := io.ReadFull(response.Body, first[:min(int64(len(first)), max(1, response.ContentLength))])
		return response.StatusCode, string(first[:n])
	}
	for _, path := range []string{"/", "/metrics", "/events", "/healthz", "/style.css"} {
		for _, host := range []string{
			"127.0.0.1:" + port, "10.20.30.2", "[::1]:" + port, "[fe80::1]", "localhost:" + port, "LOCALHOST",
			"boot.lan", "boot.lan.:" + port, "status.every.channel",
		} {
			status, _ := get(host, path)
			assert.Equal(t, http.StatusOK, status, "%s %s", host, path)
		}
		for _, host := range []string{"evil.example", "evil.example:" + port, "127.0.0.1.evil.example", "localhost.evil.example", "boot.lan.evil.example"} {
			status, text := get(host, path)
			assert.Equal(t, http.StatusMisdirectedRequest, status, "%s %s", host, path)
			assert.Contains(t, text, "start it with --status-hostname")
		}
	}
	_, err = serve.New(t.Context(), serve.Config{
		StateDir: s.state.Path(), StatusHostnames: []string{"status.lan:80"},
		ListenIP: netip.MustParseAddr("127.0.0.1"), HTTPPort: serve.AnyPort, TFTPPort: serve.AnyPort, StatusAddress: "127.0.0.1:0",
	})
	assert.EqualError(t, err, fmt.Sprintf("--status-hostname %q: is no name of a host; use for example boot-status.lan, without a port", "status.lan:80"))
}
