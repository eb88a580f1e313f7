package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/limit"
)

const (
	maxConnections          = 3072 // fewer than the unit's TasksMax: each may wait for the disk
	maxConnectionsPerClient = 256
	maxUnknownConnections   = 2304 // of all clients that are not known
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

	ended   chan struct{}  // closed when there are no more connections to accept
	waiting sync.WaitGroup // connections whose first request is not being answered yet
}

func newGuard(listener net.Listener, networks networks, j *journal.Journal) (*guard, error) {
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("the socket for HTTP is a %T and no TCP one", listener) // Listeners.check has refused it
	}
	return &guard{
		TCPListener: tcp, networks: networks, journal: j,
		allowed: limit.Table{
			Most: maxConnections, MostPerClient: maxConnectionsPerClient, MostUnknown: maxUnknownConnections,
			Fair: fairConnections, Known: j.Known,
		},
		forbidden: limit.Table{Most: maxForbidden, MostPerClient: maxForbidden, MostUnknown: maxForbidden, Fair: 1},
		ended:     make(chan struct{}),
	}, nil
}

// Accept waits for a connection within the limits.
func (g *guard) Accept() (net.Conn, error) {
	for {
		conn, err := g.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			close(g.ended) // the HTTP server does not ask again
		}
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
	g.waiting.Add(1)
	return &guarded{TCPConn: conn, entry: entry, asked: sync.OnceFunc(g.waiting.Done)}
}

// Close ends Accept. A second time, as by a server that has not yet noticed the first, it
// does nothing.
func (g *guard) Close() error {
	if err := g.TCPListener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// drain takes no more connections and has the requests answered of those that there are,
// until the limit. Shutdown alone would drop those that it has just read. Whoever connects
// later waits for the next server where systemd has the socket open.
func (g *guard) drain(limit context.Context, server *http.Server) error {
	server.SetKeepAlivesEnabled(false)
	err := g.Close()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		<-g.ended
		g.waiting.Wait()
	}()
	select {
	case <-answered:
	case <-time.After(firstRequestLimit):
	case <-limit.Done():
	}
	return errors.Join(err, drain(limit, server))
}

// firstRequestLimit is how long a server that stops waits for the request of a client that
// has connected.
const firstRequestLimit = 5 * time.Second

func (g *guard) refused(address netip.Addr) { g.journal.Refused(journal.HTTP, "limit", address) }

type guarded struct {
	*net.TCPConn
	entry *limit.Entry
	asked func() // notes that a request has come, or will not
}

// Close closes the connection, and makes room for another one.
func (c *guarded) Close() error {
	c.entry.Leave()
	c.asked()
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
	conn.asked()
	conn.entry.SetBusy(true)
	return sync.OnceFunc(func() { conn.entry.SetBusy(false) })
}
