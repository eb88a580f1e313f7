package serve

import (
	"net"
	"net/netip"
	"sync"

	"every.channel/runner-images/internal/netboot/journal"
)

const (
	maxConnections          = 1024 // more wait
	maxConnectionsPerClient = 256  // more are closed
	maxStatusConnections    = 64
)

// A guard limits connections: beyond maxConnections clients wait, and beyond the
// limit of one client its further ones are closed, so that no single client can
// take all. Clients that may not boot share one limit for their refusals. Unlike other
// limiting listeners it leaves the connection a TCP one, to which the kernel can send
// files by itself (sendfile(2)).
type guard struct {
	*net.TCPListener
	networks networks
	journal  *journal.Journal
	slots    chan struct{}
	closed   chan struct{}
	close    func()

	mu   sync.Mutex
	open map[netip.Addr]int
}

// forbiddenClients stands for all clients that may not boot.
var forbiddenClients = netip.Addr{}

const maxForbidden = 32

func newGuard(listener *net.TCPListener, networks networks, j *journal.Journal) *guard {
	g := &guard{
		TCPListener: listener, networks: networks, journal: j,
		slots: make(chan struct{}, maxConnections), closed: make(chan struct{}), open: map[netip.Addr]int{},
	}
	g.close = sync.OnceFunc(func() { close(g.closed) })
	return g
}

// Accept waits for a connection within the limits.
func (g *guard) Accept() (net.Conn, error) {
	select {
	case g.slots <- struct{}{}:
	case <-g.closed:
		return nil, net.ErrClosed
	}
	for {
		conn, err := g.AcceptTCP()
		if err != nil {
			<-g.slots
			return nil, err
		}
		address := addressOf(conn.RemoteAddr())
		client, limit := address, maxConnectionsPerClient
		if !g.networks.allow(address) {
			client, limit = forbiddenClients, maxForbidden
		}
		if g.enter(client, limit) {
			return &guarded{TCPConn: conn, leave: sync.OnceFunc(func() { g.leave(client) })}, nil
		}
		g.journal.Refused(journal.HTTP, "limit", address)
		_ = conn.Close() // nothing was sent or received
	}
}

// Close closes the listener; connections stay.
func (g *guard) Close() error {
	g.close()
	return g.TCPListener.Close()
}

func (g *guard) enter(client netip.Addr, limit int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[client] >= limit {
		return false
	}
	g.open[client]++
	return true
}

func (g *guard) leave(client netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[client]--; g.open[client] == 0 {
		delete(g.open, client)
	}
	<-g.slots
}

type guarded struct {
	*net.TCPConn
	leave func()
}

// Close closes the connection, so that another one is accepted.
func (c *guarded) Close() error {
	c.leave()
	return c.TCPConn.Close()
}
