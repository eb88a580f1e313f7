package serve

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
	"every.channel/runner-images/internal/netboot/tftp"
)

const (
	maxHeaderBytes = 8 << 10
	requestTimeout = 10 * time.Second
	idleTimeout    = time.Minute
)

// Run serves until the context ends, then accepts no more requests, lets transfers
// end within the configured limit, and returns nil. It returns early with an error if
// a part fails.
func (s *Server) Run(ctx context.Context) error {
	files := &tftpFiles{loaders: s.loaders, scripts: s.scripts}
	tftpServer := &tftp.Server{Files: files, Allow: s.networks.allow, Journal: s.journal, MTU: s.mtu()}
	handler := &handler{
		state: s.state, loaders: s.loaders, networks: s.networks, journal: s.journal,
		scripts: s.scripts, peers: s.peers, filesURL: s.config.FilesURL,
		token: func() chainToken { return *s.token.Load() },
		rings: func() state.Rings { return *s.rings.Load() },
		asked: files.requests.forget,
	}
	s.close = append(s.close, handler)
	machines, err := newGuard(s.listeners.HTTP, s.networks, s.journal)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	group, ctx := errgroup.WithContext(ctx)
	boot := s.newHTTP(handler)
	boot.ReadTimeout = requestTimeout // no request has a body
	boot.ConnContext = withGuarded
	page := s.newHTTP(s.onlyByItsNames(s.journal.StatusPage(ctx, s.state, handler.rings, s.config.FilesURL)))
	group.Go(func() error { return serveHTTP(boot, machines) })
	group.Go(func() error { return serveHTTP(page, netutil.LimitListener(s.listeners.Status, maxStatusConnections)) })
	group.Go(func() error { return tftpServer.Serve(s.listeners.TFTP) })
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
		draining.Go(func() error { return machines.drain(limit, boot) })
		draining.Go(func() error { return drain(limit, page) })
		draining.Go(func() error { tftpServer.Shutdown(limit); return nil })
		return draining.Wait()
	})
	if s.proxy != nil {
		s.log.Info("answering PXE clients", "interface", s.config.Interface, "subnet", s.proxy.Subnet, "address", s.proxy.Address)
	}
	s.log.Info("serving", "state", s.config.StateDir, "http", s.HTTPAddr().String(), "tftp", s.TFTPAddr().String(), "status", s.StatusAddr().String())
	s.warnOfReleases()
	s.warnOfLoaders()
	s.sayWhereFilesAre()
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		s.journal.Keep(keeping, ctx.Done(), s.config.MachinesFile)
	}()
	err = group.Wait()
	stop()
	<-kept // with what was sent while the transfers ended
	s.journal.Flush()
	return errors.Join(err, s.Close())
}

// warnOfReleases says if there is nothing to boot, in a folder of another kind perhaps.
func (s *Server) warnOfReleases() {
	if _, err := s.state.Current(); errors.Is(err, state.ErrNotStaged) {
		s.log.Warn("no release is current in the state folder, so machines that are in no ring get nothing to boot: stage one with runner-images netboot stage, or give another --state-dir", "state", s.config.StateDir)
	}
}

// warnOfLoaders says which boot files firmware will ask for in vain.
func (s *Server) warnOfLoaders() {
	if missing := s.missingLoader(); missing != "" {
		s.log.Warn(missing, "ipxe-dir", s.config.IPXEDir)
	}
	if s.config.IPXEDir == "" {
		return
	}
	if names := s.programs(machine.Firmware{BIOS: true, Architecture: machine.X86_64}); !slices.ContainsFunc(names, s.loaders.has) {
		s.log.Warn("--ipxe-dir has no "+names[0]+", the boot file for BIOS: put it there if any machine needs it", "ipxe-dir", s.config.IPXEDir)
	}
}

// missingLoader says that the boot file for UEFI is not there, or nothing.
func (s *Server) missingLoader() string {
	if s.config.IPXEDir == "" {
		return "there is no boot file for firmware: give --ipxe-dir, a folder with iPXE binaries such as " + s.config.TFTPBootFilename + " and undionly.kpxe"
	}
	if name := s.config.TFTPBootFilename; !s.loaders.has(name) {
		return "--ipxe-dir has no " + name + ", the boot file for UEFI: put it there, or name another with --tftp-boot-filename"
	}
	return ""
}

// sayWhereFilesAre says what is not seen because files come from elsewhere.
func (s *Server) sayWhereFilesAre() {
	address := s.config.FilesURL
	if address == "" {
		return
	}
	s.log.Info("machines load kernel and initrd from elsewhere: what is seen here of a boot ends with its script", "files-url", address)
	if strings.HasPrefix(address, "https:") {
		s.log.Warn("--files-url is HTTPS: machines boot only by an iPXE that was built with it and trusts the certificate (https://ipxe.org/crypto)", "files-url", address)
	}
}

func (s *Server) newHTTP(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}

func serveHTTP(server *http.Server, listener net.Listener) error {
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// drain lets a server's transfers end, and aborts them when the limit is reached.
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

// scripts returns the addresses of the first script for a client that reached this
// server at local: by name, if the server has one, by IP address, and those of its peers.
func (s *Server) scripts(local netip.Addr) []string {
	return append(s.addresses(local, state.Script), s.peers()...)
}

// peers returns the addresses of the first script on the other boot servers.
func (s *Server) peers() []string {
	var addresses []string
	for _, peer := range s.config.Peers {
		addresses = append(addresses, "http://"+peer+s.token.Load().path()+state.Script)
	}
	return addresses
}

// addresses returns the addresses of a file on this server.
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
	var addresses []string
	for _, host := range hosts {
		host = net.JoinHostPort(host, s.httpPort)
		addresses = append(addresses, "http://"+strings.TrimSuffix(host, ":80")+s.token.Load().path()+name)
	}
	return addresses
}

// byIP returns the address of a file on the HTTP server that needs no DNS.
func (s *Server) byIP(local netip.Addr, name string) string {
	addresses := s.addresses(local, name)
	return addresses[len(addresses)-1]
}
