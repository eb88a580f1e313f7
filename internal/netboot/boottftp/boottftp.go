// Package boottftp serves what firmware loads before it knows HTTP (RFC 1350,
// with the blksize and tsize options of RFC 2348 and 2349): iPXE binaries, and
// the scripts that lead iPXE on to the HTTP server. It only ever reads.
package boottftp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/pin/tftp/v3"

	"every.channel/runner-images/internal/netboot/access"
	"every.channel/runner-images/internal/netboot/chain"
	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/loaders"
	"every.channel/runner-images/internal/netboot/state"
)

const (
	// ethernet is the size in bytes of a packet on most networks. The headers of
	// TFTP, UDP and IP take headers of them.
	ethernet = 1500
	headers  = 4 + 8 + 20

	// A lost packet is sent again after resendAfter, this many times.
	resendAfter = time.Second
	resends     = 8

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
	server   *tftp.Server
	stopped  context.Context
	stop     context.CancelFunc
	requests requests
}

// Serve answers requests until Shutdown is called. The connection must be a
// *net.UDPConn for packets to be as large as the network takes.
func (s *Server) Serve(conn net.PacketConn) error {
	s.once.Do(s.init)
	if err := s.server.Serve(conn); err != nil {
		return fmt.Errorf("serve TFTP on %s: %w", conn.LocalAddr(), err)
	}
	return nil
}

// Shutdown takes no more requests, and returns when all transfers have ended, or
// when the context is done: then those that go on are broken off.
func (s *Server) Shutdown(ctx context.Context) {
	s.once.Do(s.init)
	ended := make(chan struct{})
	go func() {
		s.server.Shutdown()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
	s.stop()
}

func (s *Server) init() {
	s.stopped, s.stop = context.WithCancel(context.Background())
	s.server = tftp.NewServer(s.read, s.write)
	packet := ethernet
	if s.MTU > 0 {
		packet = min(packet, s.MTU)
	}
	s.server.SetBlockSize(packet - headers)
	s.server.SetTimeout(resendAfter)
	s.server.SetRetries(resends)
	s.server.SetBackoff(func(int) time.Duration { return 0 })
	s.server.SetHook(malformed{s.Journal})
	s.requests = requests{active: map[netip.Addr]int{}, sent: map[request]time.Time{}}
}

// Began is to be told that a client has asked the HTTP server for its script: its
// next request here is a new boot's.
func (s *Server) Began(client netip.Addr) {
	s.once.Do(s.init)
	s.requests.forget(client)
}

// These errors are sent to clients, which show them.
var (
	errRefused  = errors.New("this network may not boot from here")
	errBusy     = errors.New("too many transfers")
	errReadOnly = errors.New("this server is read-only")
	errNotFound = errors.New("no such file")
	errBroken   = errors.New("the file cannot be read")
	errStopping = errors.New("the server stops")
)

// write refuses a write request.
func (s *Server) write(string, io.WriterTo) error {
	s.Journal.TFTPFailed("write request", netip.Addr{}, errReadOnly)
	return errReadOnly
}

// read answers a read request. An error that it returns is sent to the client
// if the transfer has not begun.
func (s *Server) read(name string, to io.ReaderFrom) error {
	transfer := to.(tftp.OutgoingTransfer)
	remote := transfer.RemoteAddr()
	client := journal.Client{Address: access.Address(&remote)}
	if !s.Networks.Allow(client.Address) {
		s.Journal.Refused(journal.TFTP, "network", client.Address)
		return errRefused
	}
	if !s.requests.enter(client.Address) {
		s.Journal.Refused(journal.TFTP, "limit", client.Address)
		return errBusy
	}
	defer s.requests.leave(client.Address)

	file, err := s.open(name, request{client.Address, name}, local(to))
	if err != nil {
		return s.failed(client, err)
	}
	defer file.content.Close()
	return s.send(client, file, to)
}

func (s *Server) failed(client journal.Client, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		s.Journal.TFTPFailed("not found", client.Address, errNotFound)
		return errNotFound
	}
	s.Journal.TFTPFailed("unreadable", client.Address, err)
	return errBroken
}

// local returns the address at which the client reached this server.
func local(to io.ReaderFrom) netip.Addr {
	info, ok := to.(tftp.RequestPacketInfo)
	if !ok {
		return netip.Addr{}
	}
	address, _ := netip.AddrFromSlice(info.LocalIP())
	return address.Unmap()
}

// A file is what a request is answered with.
type file struct {
	request request
	label   string // for people
	content io.ReadCloser
	size    int64
	program bool // an iPXE binary
}

// open finds the answer to a request for name.
func (s *Server) open(name string, r request, local netip.Addr) (file, error) {
	clean, err := loaders.Clean(name)
	if err != nil {
		return file{}, err
	}
	r.name = clean
	stored, size, err := s.Loaders.Open(clean)
	if err != nil && errors.Is(err, fs.ErrNotExist) && (clean == Autoexec || clean == state.Script) {
		return generated(r, clean, chain.Autoexec(s.Scripts(local)...)), nil
	}
	if err != nil {
		return file{}, err
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

// send sends a file. A client that wants to know no more than its size asks for
// the tsize option and breaks off before the first block.
func (s *Server) send(client journal.Client, file file, to io.ReaderFrom) error {
	to.(tftp.OutgoingTransfer).SetSize(file.size)
	content := &counted{ctx: s.stopped, from: file.content}
	content.first = func() *journal.Transfer {
		return s.Journal.SendLoader(client, journal.TFTP, file.label, file.size)
	}
	_, err := to.ReadFrom(bufio.NewReaderSize(content, readAhead))
	var timeout net.Error
	switch {
	case content.transfer == nil && err != nil && !errors.As(err, &timeout):
		return nil
	case content.transfer == nil && err != nil:
		s.Journal.TFTPFailed(reason(err), client.Address, err)
		return nil
	case content.transfer == nil:
		content.transfer = content.first() // an empty file
	}
	switch {
	case err != nil:
		s.Journal.TFTPFailed(reason(err), client.Address, err)
	case file.program:
		s.requests.completed(file.request)
	default:
		s.requests.forget(client.Address)
	}
	content.transfer.End(err == nil, err)
	return nil
}

func reason(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, errStopping):
		return "stopped"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "aborted by the client"
}

// counted reads a file, and tells the journal of the transfer when its first
// bytes are read.
type counted struct {
	ctx      context.Context
	from     io.Reader
	first    func() *journal.Transfer
	transfer *journal.Transfer
}

func (c *counted) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, errStopping
	}
	if c.transfer == nil {
		c.transfer = c.first()
	}
	n, err := c.from.Read(p)
	if n > 0 {
		c.transfer.Sent(int64(n))
	}
	return n, err
}

// malformed notes packets that are no requests; all else the server notes itself.
type malformed struct{ journal *journal.Journal }

func (malformed) OnSuccess(tftp.TransferStats) {}

func (m malformed) OnFailure(stats tftp.TransferStats, err error) {
	if stats.RemoteAddr == nil && !strings.HasPrefix(err.Error(), "reading UDP") {
		m.journal.TFTPFailed("malformed", netip.Addr{}, err)
	}
}

// A request is a client's for a file.
type request struct {
	client netip.Addr
	name   string
}

// requests keep the limits, and know which request is a second one.
type requests struct {
	mu     sync.Mutex
	total  int
	active map[netip.Addr]int
	sent   map[request]time.Time // when a boot program was sent
}

// enter tells whether one more transfer is within the limits; then leave ends it.
func (r *requests) enter(client netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.total >= maxTransfers || r.active[client] >= maxTransfersPerClient {
		return false
	}
	r.total++
	r.active[client]++
	return true
}

func (r *requests) leave(client netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total--
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
