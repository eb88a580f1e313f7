package tftp_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pin "github.com/pin/tftp/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/tftp"
)

// A site is a TFTP server with a folder of boot programs.
type site struct {
	t        *testing.T
	folder   string
	server   *tftp.Server
	address  *net.UDPAddr
	journal  *journal.Journal
	registry *prometheus.Registry
	log      *lockedBuffer
	sent     atomic.Int32 // files that clients have
}

// A folder has the files below a root, and one with the address that was asked.
type folder struct {
	root *os.Root
	sent *atomic.Int32
}

func (f folder) Open(name string, _, local netip.Addr) (tftp.File, error) {
	sent := func() { f.sent.Add(1) }
	if name == "local" {
		content := local.String()
		return tftp.File{Content: io.NopCloser(strings.NewReader(content)), Size: int64(len(content)), Label: name, Sent: sent}, nil
	}
	file, err := f.root.Open(name)
	if err != nil {
		return tftp.File{}, err
	}
	info, err := file.Stat()
	return tftp.File{Content: file, Size: info.Size(), Label: name, Sent: sent}, err
}

func (f folder) Label(name string) string { return name }

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func start(t *testing.T, configure func(*tftp.Server)) *site {
	t.Helper()
	return startAt(t, "udp4", "127.0.0.1:0", configure)
}

func startAt(t *testing.T, network, address string, configure func(*tftp.Server)) *site {
	t.Helper()
	s := &site{t: t, folder: t.TempDir(), registry: prometheus.NewRegistry(), log: &lockedBuffer{}}
	root, err := os.OpenRoot(s.folder)
	require.NoError(t, err)
	s.journal = journal.New(slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})), s.registry)
	s.server = &tftp.Server{
		Files:   folder{root, &s.sent},
		Journal: s.journal,
	}
	if configure != nil {
		configure(s.server)
	}
	conn, err := net.ListenPacket(network, address)
	require.NoError(t, err)
	s.address = conn.LocalAddr().(*net.UDPAddr)
	ended := make(chan error, 1)
	go func() { ended <- s.server.Serve(conn) }()
	t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		s.server.Shutdown(now)
		assert.NoError(t, <-ended)
		assert.NoError(t, root.Close())
	})
	return s
}

// put writes a file of random bytes.
func (s *site) put(name string, size int) []byte {
	s.t.Helper()
	content := make([]byte, size)
	_, err := rand.Read(content)
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(filepath.Join(s.folder, name), content, 0o600))
	return content
}

// fetch asks for a file as a usual client does.
func (s *site) fetch(address, name string, blockSize int) ([]byte, error) {
	c, err := pin.NewClient(address)
	require.NoError(s.t, err)
	if blockSize > 0 {
		c.SetBlockSize(blockSize)
	}
	c.SetTimeout(time.Second)
	c.SetBackoff(func(int) time.Duration { return 0 })
	c.SetRetries(20)
	from, err := c.Receive(name, "octet")
	if err != nil {
		return nil, err
	}
	var content bytes.Buffer
	if _, err := from.WriteTo(&content); err != nil {
		return nil, err
	}
	// The server knows of the transfer's end when it has the last acknowledgement.
	require.Eventually(s.t, func() bool { return s.counted("netboot_active_transfers", "tftp") == "0" }, 30*time.Second, time.Millisecond)
	return content.Bytes(), nil
}

func (s *site) counted(metric, labels string) string {
	s.t.Helper()
	families, err := s.registry.Gather()
	require.NoError(s.t, err)
	for _, family := range families {
		if family.GetName() != metric {
			continue
		}
		for _, m := range family.GetMetric() {
			var have []string
			for _, label := range m.GetLabel() {
				have = append(have, label.GetValue())
			}
			if strings.Join(have, " ") == labels {
				return fmt.Sprint(m.GetCounter().GetValue() + m.GetGauge().GetValue())
			}
		}
	}
	return "0"
}

// A client speaks TFTP packet by packet.
type client struct {
	t    *testing.T
	conn net.PacketConn
	to   net.Addr
}

func (s *site) client(local string) *client {
	s.t.Helper()
	conn, err := net.ListenPacket("udp", net.JoinHostPort(local, "0"))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() })
	return &client{s.t, conn, s.address}
}

func (c *client) send(to net.Addr, parts ...string) {
	c.t.Helper()
	_, err := c.conn.WriteTo([]byte(strings.Join(parts, "")), to)
	require.NoError(c.t, err)
}

// read asks for a file, with options as name and value in turn.
func (c *client) read(name string, options ...string) {
	c.t.Helper()
	c.send(c.to, "\x00\x01", name, "\x00octet\x00", strings.Join(append(options, ""), "\x00"))
}

func (c *client) receive() (string, net.Addr) {
	c.t.Helper()
	buffer := make([]byte, 64<<10)
	require.NoError(c.t, c.conn.SetReadDeadline(time.Now().Add(30*time.Second)))
	n, from, err := c.conn.ReadFrom(buffer)
	require.NoError(c.t, err)
	return string(buffer[:n]), from
}

const (
	data            = "\x00\x03"
	acknowledgement = "\x00\x04"
	failure         = "\x00\x05"
	optionsTaken    = "\x00\x06"
)

func TestFilesOfEverySize(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	for i, size := range []int{0, 1, 511, 512, 513, 1468, 2936, 1_000_000} {
		name := fmt.Sprintf("program%d.efi", i)
		content := s.put(name, size)
		for _, blockSize := range []int{0, 512, 1432, 1468} {
			got, err := s.fetch(s.address.String(), name, blockSize)
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, got), "%d bytes in blocks of %d", size, blockSize)
		}
	}
	assert.Equal(t, "4.023764e+06", s.counted("netboot_sent_bytes_total", "tftp"))
	assert.Equal(t, "0", s.counted("netboot_active_transfers", "tftp"))
}

// TestOptions are those that firmware asks for. The loopback interface takes
// packets of 64 KiB; a block must fit Ethernet all the same.
func TestOptions(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.put("ipxe.efi", 5000)
	small := start(t, func(s *tftp.Server) { s.MTU = 1400 })
	small.put("ipxe.efi", 5000)
	six := startAt(t, "udp6", "[::1]:0", nil)
	six.put("ipxe.efi", 5000)
	for name, test := range map[string]struct {
		site    *site
		options []string
		want    string // the options that the server takes
		first   int    // bytes in the first block
	}{
		"none":         {s, nil, "", 512},
		"iPXE's":       {s, []string{"blksize", "1432", "tsize", "0"}, "blksize\x001432\x00 tsize\x005000\x00", 1432},
		"EDK2's":       {s, []string{"blksize", "1468", "windowsize", "4"}, "blksize\x001468\x00 windowsize\x004\x00", 1468},
		"as many":      {s, []string{"blksize", "65464"}, "blksize\x001468\x00", 1468},
		"small packet": {small, []string{"blksize", "1468"}, "blksize\x001368\x00", 1368},
		"IPv6":         {six, []string{"blksize", "1468"}, "blksize\x001448\x00", 1448},
		"wrong":        {s, []string{"blksize", "7"}, "", 512},
		"U-Boot's":     {s, []string{"timeout", "5"}, "timeout\x005\x00", 512},
		"patient":      {s, []string{"timeout", "255"}, "", 512},
	} {
		t.Run(name, func(t *testing.T) {
			c := test.site.client(test.site.address.IP.String())
			c.t = t
			c.read("ipxe.efi", test.options...)
			packet, from := c.receive()
			if test.want != "" {
				require.True(t, strings.HasPrefix(packet, optionsTaken), "%q", packet)
				assert.Len(t, packet, 2+len(strings.ReplaceAll(test.want, " ", "")))
				for option := range strings.SplitSeq(test.want, " ") {
					assert.Contains(t, packet, option)
				}
				c.send(from, acknowledgement, "\x00\x00")
				packet, from = c.receive()
			}
			require.True(t, strings.HasPrefix(packet, data+"\x00\x01"), "%q", packet)
			assert.Len(t, packet, 4+test.first)
			c.send(from, failure, "\x00\x00enough\x00")
		})
	}
}

// TestAddressOfTheAnswer is about a host with several addresses: the answer comes
// from the one that was asked, and names it.
func TestAddressOfTheAnswer(t *testing.T) {
	t.Parallel()
	for _, any := range []struct{ network, address string }{{"udp4", "0.0.0.0:0"}, {"udp", "[::]:0"}} {
		t.Run(any.network, func(t *testing.T) {
			t.Parallel()
			s := startAt(t, any.network, any.address, nil)
			for _, asked := range []string{"127.0.0.5", "127.0.0.6"} {
				c := s.client("127.0.0.1")
				c.to = &net.UDPAddr{IP: net.ParseIP(asked), Port: s.address.Port}
				c.read("local", "blksize", "1468")
				_, from := c.receive()
				assert.Equal(t, asked, from.(*net.UDPAddr).IP.String())
				c.send(from, acknowledgement, "\x00\x00")
				packet, from := c.receive()
				assert.Equal(t, data+"\x00\x01"+asked, packet)
				c.send(from, acknowledgement, "\x00\x01")
			}
		})
	}
}

// TestBroadcast is about a request that all hosts on a network hear: it gets no answer.
func TestBroadcast(t *testing.T) {
	t.Parallel()
	s := startAt(t, "udp4", "0.0.0.0:0", nil)
	c := s.client("127.0.0.1")
	for _, asked := range []net.IP{net.IPv4(127, 255, 255, 255), net.IPv4(127, 0, 0, 5)} {
		c.to = &net.UDPAddr{IP: asked, Port: s.address.Port}
		c.read("absent")
	}
	packet, from := c.receive()
	assert.Equal(t, "127.0.0.5", from.(*net.UDPAddr).IP.String())
	assert.True(t, strings.HasPrefix(packet, failure), "%q", packet)
	s.server.Shutdown(t.Context()) // all answers have been given
	assert.Equal(t, "1", s.counted("netboot_tftp_errors_total", "not found"))
}

// TestAClientRepeatsItself sooner than the server would send a block again that got
// lost: it gets that block all the same.
func TestAClientRepeatsItself(t *testing.T) {
	t.Parallel()
	for _, options := range [][]string{nil, {"windowsize", "2"}} {
		t.Run(fmt.Sprint(options), func(t *testing.T) {
			t.Parallel()
			s := start(t, nil)
			s.put("ipxe.efi", 100)
			c := s.client("127.0.0.1")
			c.t = t
			c.read("ipxe.efi", append([]string{"blksize", "512"}, options...)...)
			_, from := c.receive()
			ended := make(chan struct{})
			var repeating sync.WaitGroup
			defer repeating.Wait()
			defer close(ended)
			repeating.Go(func() {
				often := time.NewTicker(100 * time.Millisecond)
				defer often.Stop()
				for {
					_, _ = c.conn.WriteTo([]byte(acknowledgement+"\xff\xff"), from)
					select {
					case <-ended:
						return
					case <-often.C:
					}
				}
			})
			for range 4 { // the options, as often as they seem to get lost
				packet, _ := c.receive()
				assert.True(t, strings.HasPrefix(packet, optionsTaken), "%q", packet)
			}
		})
	}
}

// TestWindow is how EDK2 loads iPXE, which acknowledges every fourth block only.
func TestWindow(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	content := string(s.put("ipxe.efi", 5*512+100))
	c := s.client("127.0.0.1")
	c.read("ipxe.efi", "blksize", "512", "windowsize", "4")
	packet, from := c.receive()
	require.Equal(t, optionsTaken+"blksize\x00512\x00windowsize\x004\x00", packet)
	// expect takes blocks from first to last.
	expect := func(first, last int) {
		t.Helper()
		for block := first; block <= last; block++ {
			packet, _ := c.receive()
			require.Equal(t, fmt.Sprintf("%s\x00%c", data, block), packet[:4])
			require.True(t, content[(block-1)*512:min(block*512, len(content))] == packet[4:])
		}
	}
	acknowledge := func(block int) { c.send(from, acknowledgement, "\x00", string(rune(block))) }

	acknowledge(0)
	expect(1, 4)
	acknowledge(2) // the third was lost
	expect(3, 6)
	acknowledge(2) // and again
	expect(3, 6)
	acknowledge(2) // what it says now it has said already
	acknowledge(4)
	expect(5, 6)
	acknowledge(1) // an old one
	acknowledge(6)
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), `msg="sent a file"`) }, 30*time.Second, time.Millisecond)
	assert.Equal(t, fmt.Sprint(len(content)), s.counted("netboot_sent_bytes_total", "tftp"))
}

// TestRequestIsRepeated by a client that has not heard of its transfer in time.
func TestRequestIsRepeated(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.put("ipxe.efi", 100)
	c := s.client("127.0.0.1")
	c.read("ipxe.efi")
	packet, from := c.receive()
	c.read("ipxe.efi")
	other := s.client("127.0.0.1") // whose answer comes when the server has seen the request before
	other.read("absent")
	other.receive()
	c.send(from, acknowledgement, "\x00\x01")
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), `msg="sent a file"`) }, 30*time.Second, time.Millisecond)
	c.read("absent")
	next, _ := c.receive()
	assert.True(t, strings.HasPrefix(packet, data))
	assert.True(t, strings.HasPrefix(next, failure), "the repeated request has begun another transfer")
}

// TestNumbersGoRound loads a file of more blocks than there are numbers.
func TestNumbersGoRound(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	content := s.put("large.efi", 9*70_000)
	c := s.client("127.0.0.1")
	c.read("large.efi", "blksize", "9", "windowsize", "16")
	_, from := c.receive()
	c.send(from, acknowledgement, "\x00\x00")
	var got []byte
	for block := uint16(1); ; block++ {
		packet, _ := c.receive()
		require.Equal(t, string([]byte{0, 3, byte(block >> 8), byte(block)}), packet[:4])
		got = append(got, packet[4:]...)
		last := len(packet) < 4+9
		if block%16 == 0 || last {
			c.send(from, acknowledgement, packet[2:4])
		}
		if last {
			break
		}
	}
	assert.True(t, bytes.Equal(content, got))
}

// TestPacketsGetLost fetches through a network that loses every sixth packet.
func TestPacketsGetLost(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	content := s.put("ipxe.efi", 12_000)
	lossy := newLossy(t, s.address, 6)
	got, err := s.fetch(lossy.String(), "ipxe.efi", 1468)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(content, got))
}

// newLossy passes packets between a client and a server on, but for every nth,
// and returns where the client finds the server. A server answers from a port of
// its own for each transfer, and so does this.
func newLossy(t *testing.T, server *net.UDPAddr, nth int) net.Addr {
	t.Helper()
	listen := func() *net.UDPConn {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	var mu sync.Mutex
	packets := 0
	lost := func() bool {
		mu.Lock()
		defer mu.Unlock()
		packets++
		return packets%nth == 0
	}
	// pass passes on what conn gets, to where next says, by way of another socket.
	pass := func(conn *net.UDPConn, next func(from *net.UDPAddr) (*net.UDPConn, *net.UDPAddr)) {
		buffer := make([]byte, 64<<10)
		for {
			n, from, err := conn.ReadFromUDP(buffer)
			if err != nil {
				return
			}
			if by, to := next(from); !lost() {
				_, _ = by.WriteToUDP(buffer[:n], to)
			}
		}
	}
	front, back := listen(), listen()
	var (
		client    *net.UDPAddr
		transfers = map[string]*net.UDPConn{}
	)
	go pass(front, func(from *net.UDPAddr) (*net.UDPConn, *net.UDPAddr) {
		mu.Lock()
		defer mu.Unlock()
		client = from
		return back, server
	})
	go pass(back, func(from *net.UDPAddr) (*net.UDPConn, *net.UDPAddr) {
		mu.Lock()
		defer mu.Unlock()
		transfer, ok := transfers[from.String()]
		if !ok {
			transfer = listen()
			transfers[from.String()] = transfer
			go pass(transfer, func(*net.UDPAddr) (*net.UDPConn, *net.UDPAddr) { return back, from })
		}
		return transfer, client
	})
	return front.LocalAddr()
}

// TestSizeProbe is how EDK2 asks for a file: once for its size, which it breaks
// off, and then for the file.
func TestSizeProbe(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	content := s.put("ipxe.efi", 3000)
	for range 2 {
		c := s.client("127.0.0.1")
		c.read("ipxe.efi", "tsize", "0", "blksize", "1468", "windowsize", "4")
		packet, from := c.receive()
		require.Contains(t, packet, "tsize\x003000\x00")
		c.send(from, failure, "\x00\x08User aborted the transfer\x00")
	}
	assert.Zero(t, s.sent.Load(), "a size probe sends no file")
	got, err := s.fetch(s.address.String(), "ipxe.efi", 1468)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(content, got))
	assert.Equal(t, int32(1), s.sent.Load())
	assert.NotContains(t, s.log.String(), "WARN")
	assert.Contains(t, s.log.String(), `msg="sent a file" address=127.0.0.1 file.name=ipxe.efi file.bytes=3000`)
	assert.Equal(t, 1, strings.Count(s.log.String(), "\n"), s.log.String())
	assert.Equal(t, 0, testutil.CollectAndCount(s.registry, "netboot_tftp_errors_total"))
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := start(t, func(s *tftp.Server) {
		s.Allow = func(client netip.Addr) bool { return client == netip.MustParseAddr("127.0.0.1") }
	})
	s.put("ipxe.efi", 1000)
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(s.folder), "secret"), []byte("secret"), 0o600))
	ask := func(local, packet string) string {
		t.Helper()
		c := s.client(local)
		c.send(s.address, packet)
		answer, _ := c.receive()
		return answer
	}
	for name, test := range map[string]struct{ local, packet, answer, metric, labels string }{
		"a network that may not": {"127.0.0.2", "\x00\x01ipxe.efi\x00octet\x00", "\x00\x02this network may not boot from here", "netboot_refused_requests_total", "tftp network"},
		"no such file":           {"127.0.0.1", "\x00\x01absent\x00octet\x00", "\x00\x01no such file", "netboot_tftp_errors_total", "not found"},
		"what cannot be read":    {"127.0.0.1", "\x00\x01../secret\x00octet\x00", "\x00\x00the file cannot be read", "netboot_tftp_errors_total", "unreadable"},
		"netascii":               {"127.0.0.1", "\x00\x01ipxe.efi\x00NetASCII\x00", "\x00\x00ask for it in octet mode", "netboot_tftp_errors_total", "refused"},
		"a mode of 1981":         {"127.0.0.1", "\x00\x01ipxe.efi\x00mail\x00", "\x00\x00ask for it in octet mode", "netboot_tftp_errors_total", "refused"},
		"a write request":        {"127.0.0.1", "\x00\x02new\x00octet\x00", "\x00\x02this server is read-only", "netboot_tftp_errors_total", "write request"},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, failure+test.answer+"\x00", ask(test.local, test.packet))
			assert.NotEqual(t, "0", s.counted(test.metric, test.labels))
		})
	}
	c := s.client("127.0.0.1")
	c.send(s.address, "\x00\x09what")
	c.read("absent")
	c.receive()
	assert.Equal(t, "1", s.counted("netboot_tftp_errors_total", "malformed"))
	assert.NoFileExists(t, filepath.Join(s.folder, "new"))
}

// TestLimitPerClient has a client begin transfers that it does not go on with.
func TestLimitPerClient(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.put("ipxe.efi", 1000)
	const limit = 8
	begun := map[*client]net.Addr{}
	for range limit {
		c := s.client("127.0.0.2")
		c.read("ipxe.efi", "tsize", "0")
		packet, from := c.receive()
		require.True(t, strings.HasPrefix(packet, optionsTaken))
		c.send(from, acknowledgement, "\x00\x00") // or it would give way
		packet, _ = c.receive()
		require.True(t, strings.HasPrefix(packet, data))
		begun[c] = from
	}
	further := s.client("127.0.0.2")
	further.read("ipxe.efi")
	packet, _ := further.receive()
	assert.Equal(t, failure+"\x00\x00too many transfers\x00", packet)
	assert.Equal(t, "1", s.counted("netboot_refused_requests_total", "tftp limit"))

	_, err := s.fetch(s.address.String(), "ipxe.efi", 0)
	require.NoError(t, err, "another client is not concerned")

	for c, server := range begun {
		c.send(server, failure, "\x00\x00enough\x00")
		break
	}
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		further.read("ipxe.efi")
		packet, _ := further.receive()
		assert.True(t, strings.HasPrefix(packet, data), "%q", packet)
	}, 30*time.Second, time.Millisecond)
}

// TestShutdown lets a transfer go on until the limit is over.
func TestShutdown(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	content := s.put("ipxe.efi", 1024)
	finishing, stuck := s.client("127.0.0.2"), s.client("127.0.0.3")
	finishing.read("ipxe.efi")
	first, from := finishing.receive()
	stuck.read("ipxe.efi")
	_, stuckAt := stuck.receive()

	limit, over := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { s.server.Shutdown(limit); close(ended) }()
	finishing.send(from, acknowledgement, "\x00\x01")
	second, from := finishing.receive()
	finishing.send(from, acknowledgement, "\x00\x02")
	last, from := finishing.receive()
	finishing.send(from, acknowledgement, "\x00\x03")
	assert.True(t, string(content) == first[4:]+second[4:]+last[4:])

	over()
	stuck.send(stuckAt, acknowledgement, "\x00\x01")
	<-ended
}
