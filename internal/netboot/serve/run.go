package serve

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/netboot/access"
	"every.channel/runner-images/internal/netboot/boothttp"
	"every.channel/runner-images/internal/netboot/boottftp"
	"every.channel/runner-images/internal/netboot/state"
)

const (
	maxHeaderBytes = 8 << 10
	requestWithin  = 10 * time.Second
	idleWithin     = time.Minute
)

// Run serves until the context is done, then takes no more requests, lets
// transfers come to their end within the configured limit, and returns nil. It
// returns early with an error if a part cannot go on.
func (s *Server) Run(ctx context.Context) error {
	tftp := &boottftp.Server{Loaders: s.loaders, Networks: s.networks, Journal: s.journal, Scripts: s.scripts, MTU: s.mtu()}
	handler := &boothttp.Handler{
		State: s.state, Loaders: s.loaders, Networks: s.networks, Journal: s.journal, Scripts: s.scripts,
		Token: func() access.Token { return *s.token.Load() },
		Rings: func() state.Rings { return *s.rings.Load() },
		Began: tftp.Began,
	}
	s.close = append(s.close, handler)
	group, ctx := errgroup.WithContext(ctx)
	boot := s.newHTTP(handler)
	boot.ReadTimeout = requestWithin // no request has a body
	page := s.newHTTP(s.journal.StatusPage(ctx, s.state, handler.Rings))
	group.Go(func() error { return serveHTTP(boot, s.guarded()) })
	group.Go(func() error { return serveHTTP(page, netutil.LimitListener(s.listeners.Status, maxStatusConnections)) })
	group.Go(func() error { return tftp.Serve(s.listeners.TFTP) })
	if s.proxy != nil {
		group.Go(func() error { return s.proxy.ServeDHCP(s.listeners.ProxyDHCP) })
		group.Go(func() error { return s.proxy.ServePXE(s.listeners.PXE) })
	}
	group.Go(func() error {
		<-ctx.Done()
		if s.proxy != nil {
			s.listeners.ProxyDHCP.Close()
			s.listeners.PXE.Close()
		}
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.DrainLimit)
		defer cancel()
		var draining errgroup.Group
		draining.Go(func() error { return drain(limit, boot) })
		draining.Go(func() error { return drain(limit, page) })
		draining.Go(func() error { tftp.Shutdown(limit); return nil })
		return draining.Wait()
	})
	if s.proxy != nil {
		s.log.Info("answering PXE clients", "interface", s.config.Interface, "subnet", s.proxy.Subnet, "address", s.proxy.Address)
	}
	s.log.Info("serving", "state", s.config.StateDir, "http", s.HTTPAddr().String(), "tftp", s.TFTPAddr().String(), "status", s.StatusAddr().String())
	return errors.Join(group.Wait(), s.Close())
}

func (s *Server) newHTTP(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: requestWithin,
		IdleTimeout:       idleWithin,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}

// guarded returns the HTTP listener with its limits.
func (s *Server) guarded() net.Listener {
	listener, ok := s.listeners.HTTP.(*net.TCPListener)
	if !ok {
		return netutil.LimitListener(s.listeners.HTTP, maxConnections)
	}
	return newGuard(listener, s.networks, s.journal)
}

func serveHTTP(server *http.Server, listener net.Listener) error {
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// drain lets a server's transfers end, and breaks them off when the limit is over.
func drain(limit context.Context, server *http.Server) error {
	err := server.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	return err
}

// HTTPAddr returns where the HTTP server listens.
func (s *Server) HTTPAddr() net.Addr { return s.listeners.HTTP.Addr() }

// StatusAddr returns where the status page is.
func (s *Server) StatusAddr() net.Addr { return s.listeners.Status.Addr() }

// TFTPAddr returns where the TFTP server listens.
func (s *Server) TFTPAddr() net.Addr { return s.listeners.TFTP.LocalAddr() }

// scripts returns the addresses of the first script for a client that reached
// this server at local: by name, if the server has one, and by IP address.
func (s *Server) scripts(local netip.Addr) []string { return s.addresses(local, state.Script) }

// addresses returns the addresses of a file on the HTTP server.
func (s *Server) addresses(local netip.Addr, name string) []string {
	var hosts []string
	if s.config.Hostname != "" {
		hosts = append(hosts, s.config.Hostname)
	}
	if !local.IsValid() || local.IsUnspecified() {
		local = s.config.ListenIP
	}
	if local.IsValid() {
		hosts = append(hosts, local.String())
	}
	port := s.listeners.HTTP.Addr().(*net.TCPAddr).Port
	var addresses []string
	for _, host := range hosts {
		host = net.JoinHostPort(host, strconv.Itoa(port))
		addresses = append(addresses, "http://"+strings.TrimSuffix(host, ":80")+s.token.Load().Path()+name)
	}
	return addresses
}

// byIP returns the address of a file on the HTTP server that needs no DNS.
func (s *Server) byIP(local netip.Addr, name string) string {
	addresses := s.addresses(local, name)
	return addresses[len(addresses)-1]
}
