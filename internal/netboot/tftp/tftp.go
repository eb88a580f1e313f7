// Package tftp is a read-only TFTP server for boot programs and scripts. Which file
// a request is answered with is decided elsewhere: see Files.
//
// It implements TFTP (RFC 1350) with the options of RFC 2348, 2349 and 7440. EDK2
// asks for windows of four blocks, which load iPXE in a quarter of the round trips;
// the Go libraries for TFTP have no windows.
package tftp

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/limit"
)

const (
	// ethernetMTU is the size in bytes of a packet on most networks. The headers of
	// TFTP, UDP and IP take some of them.
	ethernetMTU = 1500
	headersIPv4 = 4 + 8 + 20
	headersIPv6 = 4 + 8 + 40

	readAhead = 16 << 10 // bytes of a file

	maxTransfers          = 1024
	maxTransfersPerClient = 8
	maxUnknownTransfers   = 768 // of all clients that are not known
)

// Files are what a server has for its clients.
type Files interface {
	// Open returns the answer to a client's request for a file. local is the address
	// at which the client reached this server, as far as it is known. An error that
	// wraps fs.ErrNotExist means that there is no such file.
	Open(name string, client, local netip.Addr) (File, error)

	// Label returns what a log may contain of a name that was asked for.
	Label(name string) string
}

// A File is the answer to a request.
type File struct {
	Content io.ReadCloser // its Close is called when the transfer has ended
	Size    int64         // bytes
	Label   string        // for people
	Sent    func()        // is called when the client has all of it
}

// A Server serves one UDP port.
type Server struct {
	Files   Files
	Journal *journal.Journal

	// Allow reports whether a client may ask for files. Nil: all may.
	Allow func(client netip.Addr) bool

	// MTU is the size in bytes of the largest packet on the clients' network, if
	// it is less than Ethernet's; zero if it is not known.
	MTU int

	once    sync.Once
	limits  limits
	stopped context.Context // ends the transfers
	stop    context.CancelFunc

	mu        sync.Mutex
	conn      net.PacketConn // closed by Shutdown
	closing   bool
	transfers sync.WaitGroup
}

func (s *Server) init() {
	s.stopped, s.stop = context.WithCancel(context.Background())
	s.limits = limits{active: map[string]bool{}, table: limit.Table{
		Most: maxTransfers, MostPerClient: maxTransfersPerClient, MostUnknown: maxUnknownTransfers,
		Fair: maxTransfersPerClient, Known: s.Journal.Known,
	}}
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
		s.handle(conn, local, from, buffer[:n])
	}
}

// Shutdown accepts no more requests, and returns when all transfers have ended.
// When the context ends it aborts those that go on.
func (s *Server) Shutdown(ctx context.Context) {
	s.once.Do(s.init)
	defer context.AfterFunc(ctx, s.stop)()
	s.mu.Lock()
	s.closing = true
	if s.conn != nil {
		_ = s.conn.Close() // nothing is lost: transfers have their own sockets
	}
	s.mu.Unlock()
	s.transfers.Wait()
}

// receiver returns a function that receives a packet, with the address at which it
// came in, as far as that is known.
func receiver(conn net.PacketConn) func(buffer []byte) (n int, local netip.Addr, from *net.UDPAddr, err error) {
	own := address(conn.LocalAddr())
	ofPacket := func(ip net.IP) netip.Addr {
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
			return n, ofPacket(control.Dst), udp(from), nil
		}
	case own.IsUnspecified() && own.Is6() && ip6.SetControlMessage(ipv6.FlagDst, true) == nil:
		return func(buffer []byte) (int, netip.Addr, *net.UDPAddr, error) {
			n, control, from, err := ip6.ReadFrom(buffer)
			if err != nil || control == nil {
				return n, netip.Addr{}, udp(from), err
			}
			return n, ofPacket(control.Dst), udp(from), nil
		}
	}
	return func(buffer []byte) (int, netip.Addr, *net.UDPAddr, error) {
		n, from, err := conn.ReadFrom(buffer)
		return n, own, udp(from), err
	}
}

func udp(end net.Addr) *net.UDPAddr {
	address, _ := end.(*net.UDPAddr)
	return address
}

// address returns the IP address of a UDP end, or the zero address if it has none.
func address(end net.Addr) netip.Addr {
	return udp(end).AddrPort().Addr().Unmap()
}

// handle answers a packet, in the background if it is a request for a file.
func (s *Server) handle(conn net.PacketConn, local netip.Addr, from *net.UDPAddr, packet []byte) {
	client := journal.Client{Address: address(from)}
	refuse := func(reply *protocolError) { _, _ = conn.WriteTo(reply.packet(), from) } // a client that does not get it asks again
	if s.Allow != nil && !s.Allow(client.Address) {
		s.Journal.Refused(journal.TFTP, "network", client.Address)
		refuse(errRefused)
		return
	}
	r, err := parseRequest(packet)
	if err != nil {
		s.Journal.TFTPFailed("malformed", client.Address, err)
		return
	}
	if r.opcode == writeRequest {
		s.Journal.TFTPFailed("write request", client.Address, errReadOnly)
		refuse(errReadOnly)
		return
	}
	if isBroadcast(local) { // RFC 1123, section 4.2.3.5
		return
	}
	transfer := from.String() + " " + r.name
	ctx, cancel := context.WithCancelCause(s.stopped)
	admission, entry := s.limits.enter(client.Address, transfer, func() { cancel(errBusy) })
	switch admission {
	case tooMany:
		cancel(errBusy)
		s.Journal.Refused(journal.TFTP, "limit", client.Address)
		refuse(errBusy)
		return
	case repeated: // the transfer's first packet was lost, and will be sent again
		cancel(nil)
		return
	}
	s.start(func() {
		defer cancel(nil)
		defer s.limits.leave(entry, transfer)
		s.answer(ctx, client, local, from, r, func() { entry.SetBusy(true) })
	})
}

// isBroadcast reports whether what came in at an address may have gone to more
// hosts than this one.
func isBroadcast(local netip.Addr) bool {
	if local.IsMulticast() || local == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	addresses, _ := net.InterfaceAddrs() // without them the request is answered
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

// start starts a transfer in the background, unless the server is shutting down.
func (s *Server) start(transfer func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.transfers.Go(transfer)
	}
}

// answer sends a client the file that it asks for, from a port of its own. It calls
// answered when the client has acknowledged something: its address is not made up.
func (s *Server) answer(ctx context.Context, client journal.Client, local netip.Addr, from *net.UDPAddr, r request, answered func()) {
	conn, err := dial(local, from)
	if err != nil {
		s.Journal.TFTPFailed("unreachable", client.Address, err)
		return
	}
	defer func() { _ = conn.Close() }()
	file, err := s.open(r, client.Address, address(conn.LocalAddr()))
	if err == nil {
		defer file.Content.Close()
		err = s.send(ctx, conn, client, r, file, answered)
	}
	if err == nil {
		return
	}
	if errors.Is(err, errBusy) {
		s.Journal.Refused(journal.TFTP, "limit", client.Address)
		_, _ = conn.Write(errBusy.packet()) // there may be no such client
		return
	}
	reason, reply := explain(err)
	s.Journal.TFTPFailed(reason, client.Address, err)
	if reply != nil {
		_, _ = conn.Write(reply.packet()) // the client may have gone
	}
}

// open opens the file that is the answer to a request.
func (s *Server) open(r request, client, local netip.Addr) (File, error) {
	file, err := s.Files.Open(r.name, client, local)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return File{}, fmt.Errorf("%q: %w", s.Files.Label(r.name), errNotFound)
	case err != nil:
		return File{}, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return file, nil
}

// explain returns the reason why a transfer failed, for the metrics, and the reply
// that the client gets, if it gets one.
func explain(err error) (reason string, reply *protocolError) {
	switch {
	case errors.Is(err, errNotFound):
		return "not found", errNotFound
	case errors.Is(err, errMode):
		return "refused", errMode
	case errors.Is(err, errStopping):
		return "refused", errStopping
	case errors.As(err, &reply): // sent by the client, which needs no answer
		return "broken off by the client", nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout", &protocolError{0, "the answer took too long"}
	case errors.Is(err, errUnreadable):
		return "unreadable", errBroken
	}
	return "unreachable", errBroken
}

// dial returns a connection to a client from the address that it asked, or from
// the one that the system chooses if that is not known.
func dial(local netip.Addr, client *net.UDPAddr) (*net.UDPConn, error) {
	if local.IsValid() {
		conn, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0)), client)
		if err == nil {
			return conn, nil
		}
	}
	return net.DialUDP("udp", nil, client)
}

// send sends a file. A client that only wants to know its size aborts before the
// first block: that is neither a failure nor a transfer.
func (s *Server) send(ctx context.Context, conn *net.UDPConn, client journal.Client, r request, file File, answered func()) error {
	if r.mode != "octet" {
		return errMode
	}
	var noted *journal.Transfer
	pending := int64(0) // bytes that the journal does not know of yet
	t := &transfer{terms: agree(r, file.Size, s.maxBlock(client.Address)), conn: conn, from: bufio.NewReaderSize(file.Content, readAhead)}
	t.answered = answered
	t.started = func() { noted = s.Journal.SendLoader(client, journal.TFTP, file.Label, file.Size) }
	t.acknowledged = func(bytes int) {
		if pending += int64(bytes); pending >= readAhead {
			noted.Sent(pending)
			pending = 0
		}
	}
	err := t.run(ctx)
	if noted == nil {
		var aborted *protocolError
		if errors.As(err, &aborted) && !errors.Is(err, errStopping) && !errors.Is(err, errBusy) {
			return nil
		}
		return err
	}
	if err == nil && file.Sent != nil {
		file.Sent()
	}
	noted.Sent(pending)
	noted.End(err == nil, err)
	return err
}

// maxBlock returns how many bytes a block may have for a client.
func (s *Server) maxBlock(client netip.Addr) int {
	packet := ethernetMTU
	if s.MTU > 0 {
		packet = min(packet, s.MTU)
	}
	if client.Is6() {
		return packet - headersIPv6
	}
	return packet - headersIPv4
}

// limits limit the transfers.
type limits struct {
	table limit.Table

	mu     sync.Mutex
	active map[string]bool // by the client's address and port and the file's name
}

// An admission is what limits decide about a request.
type admission int

const (
	admitted admission = iota
	tooMany
	repeated // the same transfer is active
)

// enter decides about one more transfer. If it is admitted, the caller must call
// leave when it has ended; oust is called when it has to give way to another one.
func (l *limits) enter(client netip.Addr, transfer string, oust func()) (admission, *limit.Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.active[transfer] {
		return repeated, nil
	}
	entry := l.table.Enter(client, oust)
	if entry == nil {
		return tooMany, nil
	}
	l.active[transfer] = true
	return admitted, entry
}

func (l *limits) leave(entry *limit.Entry, transfer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.active, transfer)
	entry.Leave()
}
