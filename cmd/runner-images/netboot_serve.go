package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"every.channel/runner-images/internal/netboot/serve"
)

func newNetbootServe() *cobra.Command {
	var options serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve staged releases to booting machines by HTTP and TFTP",
		Long: `Serve staged releases to booting machines by HTTP and TFTP.

SIGHUP rereads the chain token and the rings. SIGTERM ends the server when the
transfers under way have ended, or after a minute. Under systemd it notifies of
its readiness (Type=notify-reload) and takes sockets named http, tftp, status,
proxy-dhcp and pxe.`,
		Example: `  runner-images netboot serve --state-dir /var/lib/netboot --ipxe-dir /srv/ipxe
  runner-images netboot serve --state-dir state --listen-ip 127.0.0.1 --http-port 0 --tftp-port 0
  runner-images netboot serve --state-dir /var/lib/netboot --interface eth0 \
      --http-allowed-cidr 10.20.30.0/24 --chain-token-file /run/secrets/chain-token --proxy-dhcp`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if options.config.StateDir == "" {
				return &usageError{errNoStateDir, cmd.CommandPath() + " --help"}
			}
			config, err := options.parse()
			if err != nil {
				return err
			}
			return serveNetboot(cmd.Context(), config)
		},
	}
	cmd.Flags().SortFlags = false
	options.addFlags(cmd.Flags())
	return cmd
}

// serveOptions are the flags of netboot serve.
type serveOptions struct {
	config   serve.Config
	listenIP string
}

func (o *serveOptions) addFlags(flags *pflag.FlagSet) {
	config := &o.config
	flags.StringVar(&config.StateDir, "state-dir", "", "the folder with the staged releases (required)")
	flags.StringVar(&o.listenIP, "listen-ip", "", "the address to listen on (default: the interface's, or all)")
	flags.StringVar(&config.Interface, "interface", "", "the network interface to listen on")
	flags.StringVar(&config.Hostname, "hostname", "", "the server's name in the addresses that machines are given, before its IP address")
	flags.IntVar(&config.HTTPPort, "http-port", serve.DefaultHTTPPort, "the HTTP server's port; 0 takes a free one")
	flags.IntVar(&config.TFTPPort, "tftp-port", serve.DefaultTFTPPort, "the TFTP server's port; 0 takes a free one")
	flags.StringVar(&config.IPXEDir, "ipxe-dir", "", "a folder with iPXE binaries, and scripts if you have your own")
	flags.StringVar(&config.TFTPBootFilename, "tftp-boot-filename", serve.DefaultTFTPBootFilename, "the iPXE binary for UEFI on x86_64")
	flags.StringVar(&config.FilesURL, "files-url", "", "where machines load kernels and initrds from, such as a cache that fetches them here (default: from here)")
	flags.StringArrayVar(&config.Peers, "peer", nil, "another boot server, HOST or HOST:PORT, with the same releases and chain token, for machines that fail here; may be repeated")
	flags.StringVar(&config.MachinesFile, "machines-file", "", "a file that keeps the table of machines over a restart (default: machines.json in the state folder)")
	flags.StringArrayVar(&config.HTTPAllowedCIDRs, "http-allowed-cidr", nil, "a network that may boot; may be repeated (default: all)")
	flags.StringVar(&config.ChainTokenFile, "chain-token-file", "", "a file with the first part of the path of all that machines load")
	flags.StringVar(&config.RingsFile, "rings", "", "a file that says which machines boot another release (default: rings.yaml in the state folder, if there)")
	flags.BoolVar(&config.ProxyDHCP, "proxy-dhcp", false, "tell PXE clients what to boot, beside a DHCP server that does not")
	flags.StringVar(&config.ProxyDHCPSubnet, "proxy-dhcp-subnet", "", "the network whose clients ProxyDHCP answers (default: the interface's)")
	flags.StringVar(&config.StatusAddress, "status-address", serve.DefaultStatusAddress, "where the status page and /metrics are")
	flags.StringArrayVar(&config.StatusHostnames, "status-hostname", nil, "a name by which browsers reach the status page, for example through a reverse proxy; may be repeated (default: IP addresses, localhost, --hostname)")
}

// parse returns the configuration that the flags stand for.
func (o *serveOptions) parse() (serve.Config, error) {
	config := o.config
	if o.listenIP != "" {
		address, err := netip.ParseAddr(o.listenIP)
		if err != nil {
			return config, &serve.OptionError{Option: "listen-ip", Value: o.listenIP, Why: "is no IP address; use for example 10.20.30.2"}
		}
		config.ListenIP = address
	}
	for flag, port := range map[string]*int{"http-port": &config.HTTPPort, "tftp-port": &config.TFTPPort} {
		switch {
		case *port < 0: // one of which means something else there
			return config, &serve.OptionError{Option: flag, Value: fmt.Sprint(*port), Why: "is no port; use one up to 65535, or 0, which takes a free one"}
		case *port == 0:
			*port = serve.AnyPort
		}
	}
	return config, nil
}

func serveNetboot(ctx context.Context, config serve.Config) error {
	config.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime(os.Getenv("JOURNAL_STREAM") != "")}))
	config.Version = version()
	listeners, err := activated()
	if err != nil {
		return err
	}
	config.Listeners = listeners
	server, err := serve.New(ctx, config)
	if err != nil && ctx.Err() != nil {
		return nil // it was told to stop before it served anything
	}
	if err != nil {
		return err
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	defer notifyAtEnd(ctx, config.Log)()
	notify(config.Log, daemon.SdNotifyReady)

	reloading, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for {
			select {
			case <-reloading.Done():
				return
			case <-hangup:
				reload(config.Log, server)
			}
		}
	}()
	err = server.Run(ctx)
	if err != nil && ctx.Err() != nil {
		config.Log.Error("cannot stop in order", "error", err) // of a command that was interrupted no more is said
	}
	return err
}

// notifyAtEnd notifies systemd when the context ends. The function that it returns waits
// until that is done.
func notifyAtEnd(ctx context.Context, log *slog.Logger) (wait func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		notify(log, daemon.SdNotifyStopping)
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

// withoutTime leaves the time to systemd's journal, which has its own.
func withoutTime(journal bool) func([]string, slog.Attr) slog.Attr {
	if !journal {
		return nil
	}
	return func(groups []string, attribute slog.Attr) slog.Attr {
		if len(groups) == 0 && attribute.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return attribute
	}
}

func reload(log *slog.Logger, server *serve.Server) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err == nil { // it never fails on Linux
		notify(log, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
	}
	if err := server.Reload(); err != nil {
		log.Error("cannot reload; what was there before stays", "error", err)
	} else {
		log.Info("reloaded the chain token and the rings")
	}
	notify(log, daemon.SdNotifyReady)
}

// notify notifies systemd, if it is there, of a change of state.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("cannot notify systemd", "error", err)
	}
}

// activated returns the sockets that systemd has opened for this service, by
// their names (FileDescriptorName= in systemd.socket(5)).
func activated() (serve.Listeners, error) {
	var listeners serve.Listeners
	seen := map[string]bool{}
	for _, file := range activation.Files(true) {
		if seen[file.Name()] {
			return listeners, fmt.Errorf("there are two sockets %q from systemd: give one; an address such as [::]:80 takes IPv4 and IPv6", file.Name())
		}
		seen[file.Name()] = true
		if err := take(&listeners, file); err != nil {
			return listeners, fmt.Errorf("the socket %q from systemd: %w", file.Name(), err)
		}
		file.Close()
	}
	return listeners, nil
}

// take makes a socket from systemd the one of its name.
func take(listeners *serve.Listeners, file *os.File) (err error) {
	stream := map[string]*net.Listener{"http": &listeners.HTTP, "status": &listeners.Status}[file.Name()]
	datagram := map[string]*net.PacketConn{"tftp": &listeners.TFTP, "proxy-dhcp": &listeners.ProxyDHCP, "pxe": &listeners.PXE}[file.Name()]
	switch {
	case stream != nil:
		if *stream, err = net.FileListener(file); err != nil {
			return errors.New("it takes no connections; give a port as its ListenStream= (systemd.socket(5))")
		}
	case datagram != nil:
		if *datagram, err = net.FilePacketConn(file); err != nil {
			return errors.New("it is no socket for datagrams; give a port as its ListenDatagram= (systemd.socket(5))")
		}
	default:
		return errors.New("name it http, tftp, status, proxy-dhcp or pxe with FileDescriptorName=")
	}
	return nil
}
