package serve

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// listen opens the sockets that are not open yet.
func (s *Server) listen(ctx context.Context) error {
	address, err := s.listenIP()
	if err != nil {
		return err
	}
	var sockets net.ListenConfig
	given := s.config.Listeners
	s.listeners = given
	if given.HTTP == nil {
		if s.listeners.HTTP, err = sockets.Listen(ctx, "tcp", hostPort(address, s.config.HTTPPort)); err != nil {
			return fmt.Errorf("listen for HTTP: %w", err)
		}
	}
	s.close = append(s.close, s.listeners.HTTP)
	if _, s.httpPort, err = net.SplitHostPort(s.listeners.HTTP.Addr().String()); err != nil {
		return fmt.Errorf("the socket for HTTP at %q is no TCP socket, which machines need: %w", s.listeners.HTTP.Addr(), err)
	}
	if given.Status == nil {
		if s.listeners.Status, err = sockets.Listen(ctx, "tcp", s.config.StatusAddress); err != nil {
			return &OptionError{"status-address", s.config.StatusAddress, err.Error() + "; use for example 127.0.0.1:0, which takes a free port"}
		}
	}
	s.close = append(s.close, s.listeners.Status)
	if given.TFTP == nil {
		network := "udp"
		if !address.IsValid() {
			network = "udp4" // boot programs that know TFTP know IPv4
		}
		if s.listeners.TFTP, err = sockets.ListenPacket(ctx, network, hostPort(address, s.config.TFTPPort)); err != nil {
			return fmt.Errorf("listen for TFTP: %w", err)
		}
	}
	s.close = append(s.close, s.listeners.TFTP)
	return nil
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
