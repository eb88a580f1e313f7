package serve

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/limit"
)

const (
	maxConnections          = 1024
	maxConnectionsPerClient = 256
	maxUnknownConnections   = 768 // of all clients that are not known
	maxStatusConnections    = 64

	// fairConnections is how many connections a client may have before those that it
	// loads something by are closed for other clients: iPXE has one or two.
	fairConnections = 16

	// maxForbidden is how many connections clients that may not boot have together,
	// for their refusals.
	maxForbidden = 32
)

// A guard limits connections. Beyond the limits those by which nothing is being
// answered are closed for others. Unlike other limiting listeners it leaves the
// connection a TCP one, to which the kernel can send files by itself (sendfile(2)).
type guard struct {
	*net.TCPListener
	networks  networks
	journal   *journal.Journal
	allowed   limit.Table
	forbidden limit.Table
}

func newGuard(listener *net.TCPListener, networks networks, j *journal.Journal) *guard {
	return &guard{
		TCPListener: listener, networks: networks, journal: j,
		allowed: limit.Table{
			Most: maxConnections, MostPerClient: maxConnectionsPerClient, MostUnknown: maxUnknownConnections,
			Fair: fairConnections, Known: j.Known,
		},
		forbidden: limit.Table{Most: maxForbidden, MostPerClient: maxForbidden, MostUnknown: maxForbidden, Fair: 1},
	}
}

// Accept waits for a connection within the limits.
func (g *guard) Accept() (net.Conn, error) {
	for {
		conn, err := g.AcceptTCP()
		if err != nil {
			return nil, err
		}
		if admitted := g.admit(conn); admitted != nil {
			return admitted, nil
		}
		_ = conn.Close() // nothing was sent or received
	}
}

func (g *guard) admit(conn *net.TCPConn) *guarded {
	address := addressOf(conn.RemoteAddr())
	table := &g.allowed
	if !g.networks.allow(address) {
		table = &g.forbidden
	}
	entry := table.Enter(address, func() {
		g.refused(address)
		_ = conn.Close() // its request has not come
	})
	if entry == nil {
		g.refused(address)
		return nil
	}
	return &guarded{TCPConn: conn, entry: entry}
}

func (g *guard) refused(address netip.Addr) { g.journal.Refused(journal.HTTP, "limit", address) }

type guarded struct {
	*net.TCPConn
	entry *limit.Entry
}

// Close closes the connection, and makes room for another one.
func (c *guarded) Close() error {
	c.entry.Leave()
	return c.TCPConn.Close()
}

type guardedKey struct{}

// withGuarded makes a request's connection known to its answer (http.Server.ConnContext).
func withGuarded(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, guardedKey{}, conn)
}

// answering notes that a request is being answered, until the returned function is called.
func answering(ctx context.Context) (done func()) {
	conn, ok := ctx.Value(guardedKey{}).(*guarded)
	if !ok {
		return func() {}
	}
	conn.entry.SetBusy(true)
	return sync.OnceFunc(func() { conn.entry.SetBusy(false) })
}
