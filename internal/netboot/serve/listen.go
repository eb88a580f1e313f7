package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
)

// listen opens the sockets that are not open yet.
func (s *Server) listen(ctx context.Context) error {
	address, err := s.listenIP()
	if err != nil {
		return err
	}
	given := s.config.Listeners
	if err := given.check(); err != nil {
		return errors.Join(err, given.close())
	}
	s.listeners = given
	if given.HTTP == nil {
		if s.listeners.HTTP, err = s.listenHTTP(ctx, address); err != nil {
			return err
		}
	}
	s.close = append(s.close, s.listeners.HTTP)
	if _, s.httpPort, err = net.SplitHostPort(s.listeners.HTTP.Addr().String()); err != nil {
		return fmt.Errorf("listen for HTTP: %w", err)
	}
	if given.Status == nil {
		if s.listeners.Status, err = s.listenStatus(ctx); err != nil {
			return err
		}
	}
	s.close = append(s.close, s.listeners.Status)
	if given.TFTP == nil {
		if s.listeners.TFTP, err = s.listenTFTP(ctx, address); err != nil {
			return err
		}
	}
	s.close = append(s.close, s.listeners.TFTP)
	return nil
}

func (s *Server) listenHTTP(ctx context.Context, address netip.Addr) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", hostPort(address, s.config.HTTPPort))
	if err != nil {
		return nil, listenError("http", err, s.config.HTTPPort, 8080)
	}
	return listener, nil
}

func (s *Server) listenTFTP(ctx context.Context, address netip.Addr) (net.PacketConn, error) {
	socket, err := new(net.ListenConfig).ListenPacket(ctx, "udp", hostPort(address, s.config.TFTPPort))
	if err != nil {
		return nil, listenError("tftp", err, s.config.TFTPPort, 6969)
	}
	return socket, nil
}

func (s *Server) listenStatus(ctx context.Context) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.config.StatusAddress)
	if err != nil {
		return nil, &OptionError{"status-address", s.config.StatusAddress, err.Error() + "; use for example 127.0.0.1:0, which takes a free port"}
	}
	return listener, nil
}

// check refuses sockets of another kind than machines need.
func (l Listeners) check() error {
	if l.HTTP != nil {
		if _, ok := l.HTTP.(*net.TCPListener); !ok {
			return wrongKind("HTTP", l.HTTP.Addr(), "TCP", "ListenStream")
		}
	}
	for name, socket := range map[string]net.PacketConn{"TFTP": l.TFTP, "ProxyDHCP": l.ProxyDHCP, "PXE": l.PXE} {
		if socket == nil {
			continue
		}
		if _, ok := socket.LocalAddr().(*net.UDPAddr); !ok {
			return wrongKind(name, socket.LocalAddr(), "UDP", "ListenDatagram")
		}
	}
	return nil
}

// close closes the sockets.
func (l Listeners) close() error {
	var errs []error
	if l.HTTP != nil {
		errs = append(errs, l.HTTP.Close())
	}
	if l.Status != nil {
		errs = append(errs, l.Status.Close())
	}
	for _, socket := range []net.PacketConn{l.TFTP, l.ProxyDHCP, l.PXE} {
		if socket != nil {
			errs = append(errs, socket.Close())
		}
	}
	return errors.Join(errs...)
}

func wrongKind(name string, address net.Addr, want, setting string) error {
	return fmt.Errorf("the socket for %s at %q is no %s socket, which machines need; give a port as its %s= (systemd.socket(5))", name, address, want, setting)
}

// listenError says what to do about a port that cannot be listened on.
func listenError(protocol string, err error, port, free int) error {
	name := strings.ToUpper(protocol)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("listen for %s: %w; ports below 1024 take root or the capability CAP_NET_BIND_SERVICE (in a unit, AmbientCapabilities=); or give another one, for example --%s-port %d", name, err, protocol, free)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen for %s: %w; see which program has it with: ss -lntup | grep :%d; end that, or give another one, for example --%s-port %d", name, err, port, protocol, free)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen for %s: %w; no network interface here has --listen-ip; see the addresses with: ip -brief address", name, err)
	}
	return fmt.Errorf("listen for %s: %w", name, err)
}

func hostPort(address netip.Addr, port int) string {
	host := ""
	if address.IsValid() {
		host = address.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// listenIP returns the address to listen on, or the zero address for all.
func (s *Server) listenIP() (netip.Addr, error) {
	if s.config.ListenIP.IsValid() || s.config.Interface == "" {
		return s.config.ListenIP, nil
	}
	prefix, err := interfacePrefix(s.config.Interface)
	return prefix.Addr(), err
}

func findInterface(name string) (*net.Interface, error) {
	found, err := net.InterfaceByName(name)
	if err != nil {
		return nil, &OptionError{"interface", name, err.Error() + "; see the names with: ip -brief link"}
	}
	return found, nil
}

// interfacePrefix returns the first IPv4 address of a network interface, with its
// subnet.
func interfacePrefix(name string) (netip.Prefix, error) {
	found, err := findInterface(name)
	if err != nil {
		return netip.Prefix{}, err
	}
	addresses, err := found.Addrs()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("--interface %q: %w", name, err)
	}
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil && prefix.Addr().Is4() {
			return prefix, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("--interface %q has no IPv4 address yet", name)
}

// mtu returns the smallest MTU in bytes of the networks that machines are on, or zero
// if it is not known: the configured interface's, or that of all but the loopback.
func (s *Server) mtu() int {
	interfaces, err := net.Interfaces()
	if err != nil {
		return 0
	}
	least := 0
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 || (s.config.Interface != "" && i.Name != s.config.Interface) {
			continue
		}
		if least == 0 || i.MTU < least {
			least = i.MTU
		}
	}
	return least
}
