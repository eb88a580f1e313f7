// Package boottftp serves what firmware loads before it knows HTTP: iPXE binaries,
// and the scripts that lead iPXE on to the HTTP server. It only ever reads.
//
// It is TFTP (RFC 1350) with the options of RFC 2348, 2349 and 7440, of its own
// making: EDK2 asks for windows of four blocks, which load iPXE in a quarter of
// the round trips, and no Go library at hand knows them.
package boottftp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"sync"
	"time"

	"github.com/pin/tftp/v3/netascii"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"every.channel/runner-images/internal/netboot/access"
	"every.channel/runner-images/internal/netboot/chain"
	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/loaders"
	"every.channel/runner-images/internal/netboot/state"
)

const (
	// ethernet is the size in bytes of a packet on most networks. The headers of
	// TFTP, UDP and IP take some of them.
	ethernet = 1500
	headers4 = 4 + 8 + 20
	headers6 = 4 + 8 + 40

	// secondWithin is how long after a client has been sent a boot program a
	// second request for it comes from that program itself.
	secondWithin = time.Minute

	readAhead = 16 << 10 // bytes of a file

	maxTransfers          = 1024
	maxTransfersPerClient = 8
)

// Autoexec is the name of the script that iPXE looks for beside itself.
const Autoexec = "autoexec.ipxe"

// A Server serves one UDP port.
type Server struct {
	Loaders  *loaders.Dir
	Networks access.Networks
	Journal  *journal.Journal

	// Scripts returns the addresses of the script that iPXE goes on with, the
	// best first, for a client that reached this server at local.
	Scripts func(local netip.Addr) []string

	// MTU is the size in bytes of the largest packet on the clients' network, if
	// it is less than Ethernet's; zero if it is not known.
	MTU int

	once     sync.Once
	requests requests
	stopped  context.Context // breaks transfers off
	stop     context.CancelFunc

	mu        sync.Mutex
	conn      net.PacketConn // closed by Shutdown
	closing   bool
	transfers sync.WaitGroup
}

func (s *Server) init() {
	s.stopped, s.stop = context.WithCancel(context.Background())
	s.requests = requests{active: map[netip.Addr]int{}, begun: map[string]bool{}, sent: map[request]time.Time{}}
}

// Serve answers requests until Shutdown is called.
func (s *Server) Serve(conn net.PacketConn) error {
	s.once.Do(s.init)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return conn.Close()
	}
	s.conn = conn
	s.mu.Unlock()

	receive := receiver(conn)
	buffer := make([]byte, 64<<10)
	for {
		n, local, from, err := receive(buffer)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve TFTP on %s: %w", conn.LocalAddr(), err)
		}
		s.question(conn, local, from, buffer[:n])
	}
}

// Shutdown takes no more requests, and returns when all transfers have ended.
// When the context is done it breaks off those that go on.
func (s *Server) Shutdown(ctx context.Context) {
	s.once.Do(s.init)
	defer context.AfterFunc(ctx, s.stop)()
	s.mu.Lock()
	s.closing = true
	if s.conn != nil {
		_ = s.conn.Close() // no packet is on its way out of it that could be lost
	}
	s.mu.Unlock()
	s.transfers.Wait()
}

// Began is to be told that a client has asked the HTTP server for its script: its
// next request here is a new boot's.
func (s *Server) Began(client netip.Addr) {
	s.once.Do(s.init)
	s.requests.forget(client)
}

// receiver returns what receives a packet, with the address at which it came in,
// as far as that is known.
func receiver(conn net.PacketConn) func(buffer []byte) (n int, local netip.Addr, from *net.UDPAddr, err error) {
	own := access.Address(conn.LocalAddr())
	address := func(ip net.IP) netip.Addr {
		address, _ := netip.AddrFromSlice(ip)
		return address.Unmap()
	}
	ip4, ip6 := ipv4.NewPacketConn(conn), ipv6.NewPacketConn(conn)
	switch {
	case own.IsUnspecified() && own.Is4() && ip4.SetControlMessage(ipv4.FlagDst, true) == nil:
		return func(buffer []byte) (int, netip.Addr, *net.UDPAddr, error) {
			n, control, from, err := ip4.ReadFrom(buffer)
			if err != nil || control == nil {
				return n, netip.Addr{}, udp(from), err
			}
			return n, address(control.Dst), udp(from), nil
		}
	case own.IsUnspecified() && own.Is6() && ip6.SetControlMessage(ipv6.FlagDst, true) == nil:
		return func(buffer []byte) (int, netip.Addr, *net.UDPAddr, error) {
			n, control, from, err := ip6.ReadFrom(buffer)
			if err != nil || control == nil {
				return n, netip.Addr{}, udp(from), err
			}
			return n, address(control.Dst), udp(from), nil
		}
	}
	return func(buffer []byte) (int, netip.Addr, *net.UDPAddr, error) {
		n, from, err := conn.ReadFrom(buffer)
		return n, own, udp(from), err
	}
}

func udp(address net.Addr) *net.UDPAddr {
	end, _ := address.(*net.UDPAddr)
	return end
}

// question answers a packet, in the background if it is a request for a file.
func (s *Server) question(conn net.PacketConn, local netip.Addr, from *net.UDPAddr, packet []byte) {
	client := journal.Client{Address: access.Address(from)}
	refuse := func(p *problem) { _, _ = conn.WriteTo(p.packet(), from) } // who does not hear it asks again
	if !s.Networks.Allow(client.Address) {
		s.Journal.Refused(journal.TFTP, "network", client.Address)
		refuse(errRefused)
		return
	}
	q, err := parseQuestion(packet)
	if err != nil {
		s.Journal.TFTPFailed("malformed", client.Address, err)
		return
	}
	if q.opcode == writeRequest {
		s.Journal.TFTPFailed("write request", client.Address, errReadOnly)
		refuse(errReadOnly)
		return
	}
	if isBroadcast(local) { // RFC 1123, section 4.2.3.5
		return
	}
	asked := from.String() + " " + q.name
	switch s.requests.enter(client.Address, asked) {
	case tooMany:
		s.Journal.Refused(journal.TFTP, "limit", client.Address)
		refuse(errBusy)
		return
	case repeated: // the transfer's first packet was lost, and will be sent again
		return
	}
	s.begin(func() {
		defer s.requests.leave(client.Address, asked)
		s.answer(client, local, from, q)
	})
}

// isBroadcast tells whether what came in at an address may have gone to more hosts
// than this one.
func isBroadcast(local netip.Addr) bool {
	if local.IsMulticast() || local == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	addresses, _ := net.InterfaceAddrs() // who cannot tell answers
	for _, own := range addresses {
		network, ok := own.(*net.IPNet)
		if !ok || !local.Is4() || !network.Contains(local.AsSlice()) {
			continue
		}
		ones, bits := network.Mask.Size()
		host := binary.BigEndian.Uint32(local.AsSlice()) | ^uint32(0)<<(bits-ones)
		if bits-ones > 1 && host == ^uint32(0) {
			return true
		}
	}
	return false
}

// begin begins a transfer, unless none should begin any more.
func (s *Server) begin(transfer func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.transfers.Go(transfer)
	}
}

// answer sends a client the file that it asks for, from a port of its own.
func (s *Server) answer(client journal.Client, local netip.Addr, from *net.UDPAddr, q question) {
	conn, err := dial(local, from)
	if err != nil {
		s.Journal.TFTPFailed("unreachable", client.Address, err)
		return
	}
	defer conn.Close()
	file, err := s.open(q.name, client.Address, access.Address(conn.LocalAddr()))
	if err == nil {
		defer file.content.Close()
		err = s.send(conn, client, q, file)
	}
	var told *problem
	switch {
	case err == nil:
		return
	case errors.Is(err, fs.ErrNotExist):
		told = errNotFound
		s.Journal.TFTPFailed("not found", client.Address, fmt.Errorf("%q: %w", loaders.Label(q.name), errNotFound))
	case errors.Is(err, errMode), errors.Is(err, errStopping):
		errors.As(err, &told)
		s.Journal.TFTPFailed("refused", client.Address, err)
	case errors.As(err, &told): // by the client, which needs no answer
		s.Journal.TFTPFailed("broken off by the client", client.Address, err)
		return
	case errors.Is(err, os.ErrDeadlineExceeded):
		told = &problem{0, "the answer took too long"}
		s.Journal.TFTPFailed("timeout", client.Address, err)
	case errors.Is(err, errUnreadable):
		told = errBroken
		s.Journal.TFTPFailed("unreadable", client.Address, err)
	default:
		told = errBroken
		s.Journal.TFTPFailed("unreachable", client.Address, err)
	}
	_, _ = conn.Write(told.packet()) // the client may have gone
}

// dial returns a connection to a client from the address that it asked, or from
// what the system takes for one if that is not known.
func dial(local netip.Addr, client *net.UDPAddr) (*net.UDPConn, error) {
	if local.IsValid() {
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0)), client)
		if err == nil {
			return conn, nil
		}
	}
	return net.DialUDP("udp", nil, client)
}

// A file is what a request is answered with.
type file struct {
	request request
	label   string // for people
	content io.ReadCloser
	size    int64
	program bool // an iPXE binary
}

// open finds the answer to a client's request for name.
func (s *Server) open(name string, client, local netip.Addr) (file, error) {
	clean, err := loaders.Clean(name)
	if err != nil {
		return file{}, err
	}
	r := request{client, clean}
	stored, size, err := s.Loaders.Open(clean)
	if errors.Is(err, fs.ErrNotExist) && (clean == Autoexec || clean == state.Script) {
		return generated(r, clean, chain.Autoexec(s.Scripts(local)...)), nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return file{}, err
	}
	if err != nil {
		return file{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	program := path.Ext(clean) != path.Ext(Autoexec)
	if program && s.requests.second(r) {
		return generated(r, clean+" (script)", chain.Second(s.Scripts(local)...)), stored.Close()
	}
	return file{r, clean, stored, size, program}, nil
}

func generated(r request, label string, script []byte) file {
	return file{r, label, io.NopCloser(bytes.NewReader(script)), int64(len(script)), false}
}

// send sends a file. A client that wants to know no more than its size breaks off
// before the first block: that is no failure, and no transfer.
func (s *Server) send(conn *net.UDPConn, client journal.Client, q question, file file) error {
	content, size := io.Reader(file.content), file.size
	switch q.mode {
	case "octet":
	case "netascii": // its size is known when all of it is rewritten
		content, size = netascii.ToReader(content), -1
	default:
		return errMode
	}
	packet := ethernet
	if s.MTU > 0 {
		packet = min(packet, s.MTU)
	}
	headers := headers4
	if client.Address.Is6() {
		headers = headers6
	}
	var begun *journal.Transfer
	waiting := int64(0) // bytes that the journal has not been told of
	t := &transfer{terms: agree(q, size, packet-headers), conn: conn, from: bufio.NewReaderSize(content, readAhead)}
	t.begin = func() { begun = s.Journal.SendLoader(client, journal.TFTP, file.label, file.size) }
	t.sent = func(bytes int) {
		if waiting += int64(bytes); waiting >= readAhead {
			begun.Sent(waiting)
			waiting = 0
		}
	}
	err := t.run(s.stopped)
	if begun == nil {
		var broken *problem
		if errors.As(err, &broken) && err != error(errStopping) {
			return nil
		}
		return err
	}
	switch {
	case err != nil:
	case file.program:
		s.requests.completed(file.request)
	default:
		s.requests.forget(client.Address)
	}
	begun.Sent(waiting)
	begun.End(err == nil, err)
	return err
}

// A request is a client's for a file.
type request struct {
	client netip.Addr
	name   string
}

// requests keep the limits, and know which request is a second one.
type requests struct {
	mu     sync.Mutex
	active map[netip.Addr]int
	begun  map[string]bool       // transfers, by the client's address and port and the file's name
	sent   map[request]time.Time // when a boot program was sent
}

// What may become of a request.
type verdict int

const (
	within verdict = iota
	tooMany
	repeated
)

// enter tells whether one more transfer is within the limits; then leave ends it.
func (r *requests) enter(client netip.Addr, asked string) verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.begun[asked]:
		return repeated
	case len(r.begun) >= maxTransfers, r.active[client] >= maxTransfersPerClient:
		return tooMany
	}
	r.begun[asked] = true
	r.active[client]++
	return within
}

func (r *requests) leave(client netip.Addr, asked string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.begun, asked)
	if r.active[client]--; r.active[client] == 0 {
		delete(r.active, client)
	}
}

func (r *requests) completed(request request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for old, at := range r.sent {
		if time.Since(at) > secondWithin {
			delete(r.sent, old)
		}
	}
	r.sent[request] = time.Now()
}

// second tells whether the client was sent this file to its end a short while ago.
func (r *requests) second(request request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.sent[request]
	return ok && time.Since(at) <= secondWithin
}

// forget makes the client's next request a first one.
func (r *requests) forget(client netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for request := range r.sent {
		if request.client == client {
			delete(r.sent, request)
		}
	}
}
