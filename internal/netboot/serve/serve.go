// Package serve is the boot server: it serves the releases in a state folder by
// HTTP, iPXE by TFTP, and, if asked to, the name of the boot file by ProxyDHCP.
package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/proxydhcp"
	"every.channel/runner-images/internal/netboot/state"
	"every.channel/runner-images/internal/redact"
)

// What the zero values of a Config mean.
const (
	DefaultHTTPPort         = 80
	DefaultTFTPPort         = 69
	DefaultTFTPBootFilename = "ec-ipxe.efi"
	DefaultStatusAddress    = "127.0.0.1:8077"
	DefaultDrainLimit       = time.Minute
)

// AnyPort means a free port, where zero means the default one.
const AnyPort = -1

// A Config is what to serve and to whom. Only StateDir is required.
type Config struct {
	StateDir string // a release can be staged in it later

	ListenIP  netip.Addr // zero: the interface's first IPv4 address, or all addresses if there is none
	Interface string     // a network interface's name; ProxyDHCP needs one
	Hostname  string     // in addresses for machines, which fall back to the IP address
	HTTPPort  int
	TFTPPort  int

	// Peers are other boot servers, a host and perhaps a port each, that stage the same
	// releases and have the same chain token: machines go on there when this one fails.
	Peers []string

	// FilesURL is where machines load kernels and initrds from, for example a cache that
	// fetches them from here; empty: from here.
	FilesURL string

	IPXEDir          string // iPXE binaries and scripts; empty: none
	TFTPBootFilename string // the iPXE binary for UEFI on x86_64

	HTTPAllowedCIDRs []string // networks that may boot; none: all may
	ChainTokenFile   string   // reread by Reload; empty: no token
	RingsFile        string   // reread by Reload; empty: rings.yaml in the state folder, which need not be there

	// MachinesFile keeps the table of machines over a restart; empty: machines.json in the
	// state folder. Where it cannot be written the log says so.
	MachinesFile string

	ProxyDHCP       bool
	ProxyDHCPSubnet string // in CIDR notation; empty: the interface's

	StatusAddress   string        // host and port
	StatusHostnames []string      // by which browsers reach the status page, beside Hostname and StatusAddress
	DrainLimit      time.Duration // how long transfers may continue when the server stops

	Version string // of this program, for the metrics; empty: unknown

	Listeners Listeners    // sockets that are open already
	Log       *slog.Logger // nil: slog.Default()
}

// An OptionError is a part of a Config that cannot be used.
type OptionError struct {
	Option string // as on the command line: "state-dir"
	Value  string
	Why    string // what is wrong with it, and what to give instead
}

func (e *OptionError) Error() string {
	return fmt.Sprintf("--%s %q: %s", e.Option, redact.Text(e.Value), e.Why)
}

// Listeners are sockets, made by systemd (socket activation) or a test. For each
// one that is nil the server makes its own.
type Listeners struct {
	HTTP      net.Listener
	Status    net.Listener
	TFTP      net.PacketConn
	ProxyDHCP net.PacketConn // port 67, bound to the interface
	PXE       net.PacketConn // port 4011, likewise
}

// A Server has its sockets open; Run serves them.
type Server struct {
	config    Config
	log       *slog.Logger
	networks  networks
	state     *state.Dir
	loaders   *loaderDir
	registry  *prometheus.Registry
	journal   *journal.Journal
	listeners Listeners
	httpPort  string            // of listeners.HTTP
	proxy     *proxydhcp.Server // nil: disabled
	close     []io.Closer       // in the order of opening
	token     atomic.Pointer[chainToken]
	rings     atomic.Pointer[state.Rings]
}

// New checks the configuration, opens the state folder and all sockets. Clients
// that come between New and Run wait.
func New(ctx context.Context, config Config) (_ *Server, err error) {
	s := &Server{config: config.withDefaults(), log: config.Log}
	if s.log == nil {
		s.log = slog.Default()
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if config.FilesURL != "" {
		if s.config.FilesURL, err = parseFilesURL(config.FilesURL); err != nil {
			return nil, err
		}
	}
	if s.networks, err = parseNetworks(config.HTTPAllowedCIDRs); err != nil {
		return nil, &OptionError{"http-allowed-cidr", strings.Join(config.HTTPAllowedCIDRs, ", "), err.Error()}
	}
	if err := s.config.check(); err != nil {
		return nil, err
	}
	if err := s.openState(); err != nil {
		return nil, err
	}
	s.close = append(s.close, s.state)
	if err := s.openLoaders(); err != nil {
		return nil, err
	}
	s.close = append(s.close, s.loaders)
	if err := s.Reload(); err != nil {
		return nil, err
	}
	s.registry = prometheus.NewRegistry()
	if config.Version != "" {
		s.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "netboot", Name: "build_info", Help: "Is 1, with the version of the boot server.",
			ConstLabels: prometheus.Labels{"version": config.Version},
		}, func() float64 { return 1 }))
	}
	s.journal = journal.New(s.log, s.registry)
	if err := s.journal.Restore(s.config.MachinesFile); err != nil {
		s.log.Warn("cannot read the table of machines; it begins empty", "error", err)
	}
	if err := s.listen(ctx); err != nil {
		return nil, err
	}
	if config.ProxyDHCP {
		if err := s.listenProxy(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Server) openState() (err error) {
	if s.config.StateDir == "" {
		return &OptionError{"state-dir", "", "is required; use for example /var/lib/netboot"}
	}
	if s.state, err = state.Open(s.config.StateDir); err != nil {
		return &OptionError{"state-dir", s.config.StateDir, err.Error() + "; runner-images netboot stage makes it"}
	}
	return nil
}

func (s *Server) openLoaders() (err error) {
	if s.loaders, err = openLoaders(s.config.IPXEDir); err != nil {
		return &OptionError{"ipxe-dir", s.config.IPXEDir, err.Error()}
	}
	return nil
}

func (c Config) withDefaults() Config {
	port := func(port *int, usual int) {
		switch *port {
		case 0:
			*port = usual
		case AnyPort:
			*port = 0
		}
	}
	port(&c.HTTPPort, DefaultHTTPPort)
	port(&c.TFTPPort, DefaultTFTPPort)
	if c.TFTPBootFilename == "" {
		c.TFTPBootFilename = DefaultTFTPBootFilename
	}
	if c.StatusAddress == "" {
		c.StatusAddress = DefaultStatusAddress
	}
	if c.MachinesFile == "" {
		c.MachinesFile = filepath.Join(c.StateDir, "machines.json")
	}
	if c.DrainLimit == 0 {
		c.DrainLimit = DefaultDrainLimit
	}
	return c
}

// hostname matches names of hosts (RFC 1123, section 2.1), with the underscores that some
// networks have in them.
var hostname = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?$`)

// check finds mistakes that would otherwise show only when a machine does not boot.
func (c Config) check() error {
	for option, port := range map[string]int{"http-port": c.HTTPPort, "tftp-port": c.TFTPPort} {
		if port < 0 || port > 65535 {
			return &OptionError{option, strconv.Itoa(port), "is no port; use one up to 65535, or 0, which takes a free one"}
		}
	}
	if !filepath.IsLocal(c.TFTPBootFilename) {
		return &OptionError{"tftp-boot-filename", c.TFTPBootFilename, "is no name of a file in --ipxe-dir; use for example " + DefaultTFTPBootFilename}
	}
	if c.ProxyDHCPSubnet != "" && !c.ProxyDHCP {
		return &OptionError{"proxy-dhcp-subnet", c.ProxyDHCPSubnet, "is for --proxy-dhcp; give both or neither"}
	}
	for _, name := range c.StatusHostnames {
		if !hostname.MatchString(name) {
			return &OptionError{"status-hostname", name, "is no name of a host; use for example boot-status.lan, without a port"}
		}
	}
	for _, peer := range c.Peers {
		if !isHostPort(peer) {
			return &OptionError{"peer", peer, "is no host; use for example 10.20.30.3 or boot2.lan:8080, without http://"}
		}
	}
	if _, err := netip.ParseAddr(c.Hostname); err != nil && c.Hostname != "" && !hostname.MatchString(c.Hostname) {
		return &OptionError{"hostname", c.Hostname, "is no name of a host; use for example boot.every.channel, and --http-port for the port"}
	}
	if c.Interface != "" {
		if _, err := findInterface(c.Interface); err != nil {
			return err
		}
	}
	return nil
}

// Close closes all that New opened. It is for a server that is not run: Run closes
// them when it returns.
func (s *Server) Close() error {
	var errs []error
	for _, open := range slices.Backward(s.close) {
		if err := open.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	s.close = nil
	return errors.Join(errs...)
}

// Reload reads the chain token and the rings again. If one cannot be read, both stay
// as they were.
func (s *Server) Reload() error {
	token := chainToken{}
	if file := s.config.ChainTokenFile; file != "" {
		read, err := readToken(file)
		if err != nil {
			return &OptionError{"chain-token-file", file, err.Error()}
		}
		token = read
	}
	rings, err := s.state.Rings(s.config.RingsFile)
	if err != nil {
		return &OptionError{"rings", s.config.RingsFile, err.Error()}
	}
	s.token.Store(&token)
	s.rings.Store(&rings)
	return nil
}
