package serve

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4/server4"

	"every.channel/runner-images/internal/ipxe"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/proxydhcp"
	"every.channel/runner-images/internal/netboot/state"
)

// listenProxy opens the sockets of ProxyDHCP and determines whose requests it answers.
func (s *Server) listenProxy() error {
	name := s.config.Interface
	if name == "" {
		return &OptionError{"interface", "", "is required with --proxy-dhcp; see the names with: ip -brief link"}
	}
	own, err := interfacePrefix(name)
	if err != nil {
		return err
	}
	address, subnet := own.Addr(), own.Masked()
	if s.config.ListenIP.IsValid() && !s.config.ListenIP.IsUnspecified() {
		address = s.config.ListenIP
	}
	if text := s.config.ProxyDHCPSubnet; text != "" {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return &OptionError{"proxy-dhcp-subnet", text, "is no network; use for example 10.20.30.0/24"}
		}
		subnet = prefix.Masked()
	}
	if len(s.networks) > 0 && !slices.ContainsFunc(s.networks, subnet.Overlaps) {
		return &OptionError{"proxy-dhcp-subnet", subnet.String(), "has no client that an --http-allowed-cidr lets boot"}
	}
	for _, socket := range []struct {
		conn *net.PacketConn
		port int
	}{{&s.listeners.ProxyDHCP, proxydhcp.DHCPPort}, {&s.listeners.PXE, proxydhcp.PXEPort}} {
		if *socket.conn == nil {
			// Broadcasts reach a socket only if it is bound to all addresses.
			*socket.conn, err = server4.NewIPv4UDPConn(name, &net.UDPAddr{Port: socket.port})
			if errors.Is(err, fs.ErrPermission) {
				err = fmt.Errorf("%w; it takes root or the capability CAP_NET_BIND_SERVICE, or sockets that systemd opens: those for proxy-dhcp and pxe (FileDescriptorName= in systemd.socket(5))", err)
			}
			if err != nil {
				return fmt.Errorf("listen for ProxyDHCP on %s: %w", name, err)
			}
		} else if err := bindTo(*socket.conn, name); err != nil {
			return fmt.Errorf("the socket for ProxyDHCP at %s: %w", (*socket.conn).LocalAddr(), err)
		}
		s.close = append(s.close, *socket.conn)
	}
	s.proxy = &proxydhcp.Server{Address: address, Subnet: subnet, Allow: s.networks.allow, Journal: s.journal, Boot: boot{s, address}}
	return nil
}

// boot has the boot files for ProxyDHCP's clients that reach the server at an address.
type boot struct {
	server  *Server
	address netip.Addr
}

// Program returns the iPXE binary for a firmware.
func (b boot) Program(firmware machine.Firmware) (string, error) {
	names := b.server.programs(firmware)
	for _, name := range names {
		if !b.server.loaders.has(name) {
			continue
		}
		if firmware.HTTP {
			return b.server.byIP(b.address, name), nil
		}
		return name, nil
	}
	return "", errors.New("--ipxe-dir has no iPXE for " + firmware.String() + "; it may be one of " + strings.Join(names, ", "))
}

// programs returns the names that the iPXE binary for a firmware may have, the
// first of which is taken.
func (s *Server) programs(firmware machine.Firmware) []string {
	switch {
	case firmware.BIOS:
		return []string{"undionly.kpxe", "ipxe.pxe"}
	case firmware.Architecture == machine.AArch64:
		return []string{"ec-ipxe-arm64.efi", "ipxe-arm64.efi", "snponly-arm64.efi"}
	}
	return []string{s.config.TFTPBootFilename, "ipxe.efi", "snponly.efi"}
}

// Script returns the address of the script by which iPXE describes its machine and tries
// again what fails. It fits into the 127 bytes that a DHCP packet's field for the boot
// file has.
func (b boot) Script(firmware machine.Firmware) string {
	return b.server.byIP(b.address, state.Script) + "?" + ipxe.QueryArchitecture + "=" + string(firmware.Architecture)
}
