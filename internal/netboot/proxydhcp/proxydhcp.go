// Package proxydhcp sends firmware the name of its boot file, beside a DHCP server that
// leases addresses and does not have it (the ProxyDHCP of the PXE specification 2.1,
// with the options of RFC 4578, and the UEFI specification's HTTP Boot). It leases no
// addresses itself.
package proxydhcp

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/machine"
)

// The UDP ports that PXE clients know.
const (
	DHCPPort   = 67   // where DHCP servers get the client's first request
	PXEPort    = 4011 // where a boot server gets the second one
	clientPort = 68
)

// The classes of clients that boot (option 60). An answer has the same.
const (
	pxeClient  = "PXEClient"
	httpClient = "HTTPClient"
)

// Options that no RFC knows by these names.
const (
	// optionIPXE holds settings of iPXE (https://ipxe.org/howto/dhcpd); only iPXE
	// sends it.
	optionIPXE = dhcpv4.GenericOptionCode(175)

	// pxeDiscoveryControl is in the vendor's option. When its bit 3 is set, the client
	// uses the answer's boot file without asking further.
	pxeDiscoveryControl = 6
	pxeUseBootFile      = 1 << 3
)

// firmware by the client's architecture (option 93): RFC 4578, and IANA's
// registry "Processor Architecture Types". Firmware for x86_64 has been seen to
// call itself 9 as well as 7.
var firmware = map[iana.Arch]machine.Firmware{
	iana.INTEL_X86PC:     {BIOS: true, Architecture: machine.X86_64},
	iana.EFI_X86_64:      {Architecture: machine.X86_64},
	iana.EFI_BC:          {Architecture: machine.X86_64},
	iana.EFI_ARM64:       {Architecture: machine.AArch64},
	iana.EFI_X86_64_HTTP: {HTTP: true, Architecture: machine.X86_64},
	iana.EFI_BC_HTTP:     {HTTP: true, Architecture: machine.X86_64},
	iana.EFI_ARM64_HTTP:  {HTTP: true, Architecture: machine.AArch64},
}

// Boot is where the things to boot are.
type Boot interface {
	// Program returns the name of the iPXE binary for a firmware: for TFTP, or an
	// address for firmware that boots from HTTP. An error means that there is none.
	Program(machine.Firmware) (string, error)

	// Script returns the address of the script for an iPXE that runs on a firmware.
	Script(machine.Firmware) string
}

// A Server answers on one network interface.
type Server struct {
	Address netip.Addr   // this server's on the interface
	Subnet  netip.Prefix // whose clients are answered
	Journal *journal.Journal
	Boot    Boot

	// Allow reports whether a client with an address may boot. Nil: all may.
	Allow func(client netip.Addr) bool
}

// ServeDHCP answers the first request of clients, which reach the DHCP port by
// broadcast, until the connection is closed. The connection must be bound to the
// interface.
func (s *Server) ServeDHCP(conn net.PacketConn) error { return s.serve(conn, s.offer) }

// ServePXE answers the second request of clients, which comes to the PXE port
// from those that have their address, until the connection is closed.
func (s *Server) ServePXE(conn net.PacketConn) error { return s.serve(conn, s.acknowledge) }

type respond func(request *dhcpv4.DHCPv4, from netip.AddrPort) (*dhcpv4.DHCPv4, netip.AddrPort)

func (s *Server) serve(conn net.PacketConn, respond respond) error {
	buffer := make([]byte, 64<<10)
	for {
		n, end, err := conn.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("serve ProxyDHCP on %s: %w", conn.LocalAddr(), err)
		}
		from, ok := end.(*net.UDPAddr)
		request, err := dhcpv4.FromBytes(buffer[:n])
		if err != nil || !ok {
			continue
		}
		answer, to := respond(request, from.AddrPort())
		if answer == nil {
			continue
		}
		if _, err := conn.WriteTo(answer.ToBytes(), net.UDPAddrFromAddrPort(to)); err != nil && !errors.Is(err, net.ErrClosed) {
			s.Journal.Failed(client(request, machine.Firmware{}), fmt.Errorf("answer by ProxyDHCP: %w", err))
		}
	}
}

// offer answers a client that looks for DHCP servers.
func (s *Server) offer(request *dhcpv4.DHCPv4, from netip.AddrPort) (*dhcpv4.DHCPv4, netip.AddrPort) {
	if request.MessageType() != dhcpv4.MessageTypeDiscover || !s.mayAnswer(request, from.Addr()) {
		return nil, netip.AddrPort{}
	}
	answer := s.answer(request, dhcpv4.MessageTypeOffer)
	relay, known := ipv4(request.GatewayIPAddr), ipv4(request.ClientIPAddr)
	switch {
	case !relay.IsUnspecified():
		return answer, netip.AddrPortFrom(relay, DHCPPort)
	case !known.IsUnspecified():
		return answer, netip.AddrPortFrom(known, clientPort)
	}
	// The client has no address yet.
	return answer, netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), clientPort)
}

// acknowledge answers a client that has an address and asks this server.
func (s *Server) acknowledge(request *dhcpv4.DHCPv4, from netip.AddrPort) (*dhcpv4.DHCPv4, netip.AddrPort) {
	kind := request.MessageType()
	if (kind != dhcpv4.MessageTypeRequest && kind != dhcpv4.MessageTypeInform) || !s.mayAnswer(request, from.Addr()) {
		return nil, netip.AddrPort{}
	}
	return s.answer(request, dhcpv4.MessageTypeAck), from
}

// mayAnswer reports whether a client is on this server's subnet and in the allowed
// networks, as far as it has an address.
func (s *Server) mayAnswer(request *dhcpv4.DHCPv4, from netip.Addr) bool {
	if request.OpCode != dhcpv4.OpcodeBootRequest || len(request.ClientHWAddr) != 6 {
		return false
	}
	for _, address := range []netip.Addr{from.Unmap(), ipv4(request.ClientIPAddr), ipv4(request.GatewayIPAddr)} {
		if address.IsUnspecified() {
			continue
		}
		if !s.Subnet.Contains(address) {
			return false
		}
		if s.Allow != nil && !s.Allow(address) {
			s.Journal.Refused(journal.ProxyDHCP, "network", address)
			return false
		}
	}
	return true
}

func ipv4(ip net.IP) netip.Addr {
	address, ok := netip.AddrFromSlice(ip.To4())
	if !ok {
		return netip.IPv4Unspecified()
	}
	return address
}

func client(request *dhcpv4.DHCPv4, firmware machine.Firmware) journal.Client {
	c := journal.Client{Firmware: firmware}
	c.MAC, _ = machine.MACFrom(request.ClientHWAddr)
	if address := ipv4(request.ClientIPAddr); !address.IsUnspecified() {
		c.Address = address
	}
	return c
}

// answer returns the answer to a client that boots, or nil for any other.
func (s *Server) answer(request *dhcpv4.DHCPv4, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	class, asks, ok := identify(request)
	if !ok {
		s.noteUnknown(request)
		return nil
	}
	client := client(request, asks)
	file, err := s.file(request, asks)
	if err != nil {
		s.Journal.Failed(client, err)
		return nil
	}
	answer, err := dhcpv4.NewReplyFromRequest(request,
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithServerIP(s.Address.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(s.Address.AsSlice())),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class)),
		dhcpv4.WithOption(dhcpv4.OptBootFileName(file)),
		dhcpv4.WithOptionCopied(request, dhcpv4.OptionClientMachineIdentifier),
	)
	if err != nil {
		s.Journal.Failed(client, err)
		return nil
	}
	answer.YourIPAddr = net.IPv4zero
	if len(file) <= maxFileField {
		answer.BootFileName = file
	}
	if class == pxeClient {
		answer.ServerHostName = s.Address.String()
	}
	// UEFI firmware does not agree on this option; all of it asks the PXE port
	// when the option is not there. BIOS needs it, and iPXE does no harm with it.
	if asks.BIOS {
		answer.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{pxeDiscoveryControl, 1, pxeUseBootFile, 255}))
	}
	s.Journal.Answered(client, label(file))
	return answer
}

// maxFileField is how many bytes a boot file's name may have in a packet's fixed
// part, which ends it with a zero (RFC 2131).
const maxFileField = 127

// label is what a log may contain of a file: an address can have the chain token in it.
func label(file string) string {
	if !strings.Contains(file, "://") {
		return file
	}
	file, _, _ = strings.Cut(file, "?")
	return file[strings.LastIndex(file, "/")+1:]
}

func (s *Server) file(request *dhcpv4.DHCPv4, asks machine.Firmware) (string, error) {
	if isIPXE(request) {
		return s.Boot.Script(asks), nil
	}
	return s.Boot.Program(asks)
}

// identify returns the class and the firmware of a client that boots.
func identify(request *dhcpv4.DHCPv4) (class string, asks machine.Firmware, ok bool) {
	for _, class := range []string{pxeClient, httpClient} {
		if !strings.HasPrefix(request.ClassIdentifier(), class) {
			continue
		}
		for _, architecture := range architectures(request) {
			asks, ok := firmware[architecture]
			if ok && asks.HTTP == (class == httpClient) {
				return class, asks, true
			}
		}
	}
	return "", machine.Firmware{}, false
}

// noteUnknown records a client that boots and that there is nothing for.
func (s *Server) noteUnknown(request *dhcpv4.DHCPv4) {
	if class := request.ClassIdentifier(); strings.HasPrefix(class, pxeClient) || strings.HasPrefix(class, httpClient) {
		s.Journal.UnknownArchitecture(client(request, machine.Firmware{}), uint16(architectures(request)[0]))
	}
}

// architectures returns those of option 93. Without it they are what the class says, as
// PXEClient:Arch:00007:UNDI:003016 does (PXE specification 2.1), or else BIOS.
func architectures(request *dhcpv4.DHCPv4) []iana.Arch {
	if said := request.ClientArch(); len(said) > 0 {
		return said
	}
	parts := strings.Split(request.ClassIdentifier(), ":")
	if len(parts) > 2 && parts[1] == "Arch" {
		if number, err := strconv.ParseUint(parts[2], 10, 16); err == nil {
			return []iana.Arch{iana.Arch(number)}
		}
	}
	return []iana.Arch{iana.INTEL_X86PC}
}

// isIPXE reports whether the client is iPXE, by its user class (option 77), whose form
// is not quite that of RFC 3004, or by an option of its own.
func isIPXE(request *dhcpv4.DHCPv4) bool {
	return request.Options.Has(optionIPXE) ||
		bytes.Contains(request.Options.Get(dhcpv4.OptionUserClassInformation), []byte("iPXE"))
}
