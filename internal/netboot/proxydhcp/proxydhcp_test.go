package proxydhcp_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/proxydhcp"
)

var mac = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}

// boot is a site with iPXE for BIOS and for UEFI on x86_64.
type boot struct{}

func (boot) Program(firmware machine.Firmware) (string, error) {
	switch firmware.String() {
	case "BIOS":
		return "undionly.kpxe", nil
	case "UEFI x86_64":
		return "ec-ipxe.efi", nil
	case "UEFI HTTP x86_64":
		return "http://10.77.0.1/T/ec-ipxe.efi", nil
	}
	return "", errors.New("no iPXE for " + firmware.String())
}

func (boot) Script(firmware machine.Firmware) string {
	return "http://10.77.0.1/T/netboot.ipxe?for=" + strings.ReplaceAll(firmware.String(), " ", "-")
}

func newServer(t *testing.T, log *bytes.Buffer) *proxydhcp.Server {
	t.Helper()
	return &proxydhcp.Server{
		Address: netip.MustParseAddr("10.77.0.1"),
		Subnet:  netip.MustParsePrefix("10.77.0.0/24"),
		Allow:   netip.MustParsePrefix("10.77.0.0/25").Contains,
		Journal: journal.New(slog.New(slog.NewTextHandler(log, nil)), prometheus.NewRegistry()),
		Boot:    boot{},
	}
}

func discover(t testing.TB, class string, architecture iana.Arch, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	packet, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr(mac),
		dhcpv4.WithBroadcast(true),
		dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class)),
		dhcpv4.WithOption(dhcpv4.OptClientArch(architecture)),
		dhcpv4.WithGeneric(dhcpv4.OptionClientMachineIdentifier, []byte("\x000123456789abcdef")),
	}, more...)...)
	require.NoError(t, err)
	return packet
}

const (
	bios = "PXEClient:Arch:00000:UNDI:002001"
	uefi = "PXEClient:Arch:00007:UNDI:003000"
	http = "HTTPClient:Arch:00016:UNDI:003001"
)

var (
	ipxeClass  = dhcpv4.WithOption(dhcpv4.OptUserClass("iPXE"))
	ipxeOption = dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(175), []byte{0x13, 1, 1})
)

// TestOnTheWire runs itself again in a network namespace, where a pair of network
// cards connects the server with its clients.
func TestOnTheWire(t *testing.T) {
	t.Parallel()
	const inside = "NETBOOT_TEST_NAMESPACE"
	if os.Getenv(inside) == "" {
		arguments := []string{"--net"}
		if os.Geteuid() != 0 {
			arguments = append(arguments, "--user", "--map-root-user")
		}
		arguments = append(arguments, os.Args[0], "-test.run=^TestOnTheWire$", "-test.v")
		command := exec.CommandContext(t.Context(), lab.Tool(t, "boot", "unshare"), arguments...)
		command.Env = append(os.Environ(), inside+"=1")
		out, err := command.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS: TestOnTheWire/wrong_interface", "%s", out)
		return
	}
	for _, line := range []string{
		"link set lo up",
		"link add server type veth peer name client",
		"link add other type veth peer name otherclient",
		"address add 10.77.0.1/24 dev server",
		"link set server up", "link set client up", "link set other up", "link set otherclient up",
	} {
		out, err := exec.CommandContext(t.Context(), lab.Tool(t, "boot", "ip"), strings.Fields(line)...).CombinedOutput()
		require.NoError(t, err, "ip %s: %s", line, out)
	}
	// What is sent before the kernel has seen the other end is lost.
	for _, name := range []string{"server", "client", "other", "otherclient"} {
		require.Eventually(t, func() bool {
			out, err := exec.CommandContext(t.Context(), lab.Tool(t, "boot", "ip"), "-oneline", "link", "show", "dev", name).CombinedOutput()
			require.NoError(t, err, "%s", out)
			return strings.Contains(string(out), "state UP")
		}, time.Minute, 10*time.Millisecond)
	}
	// Both ends are on this one host, and packets come from an address of its own.
	for _, name := range []string{"server", "client", "other", "otherclient"} {
		require.NoError(t, os.WriteFile(filepath.Join("/proc/sys/net/ipv4/conf", name, "accept_local"), []byte("1"), 0o600))
	}
	listen := func(name string, port int) *net.UDPConn {
		conn, err := server4.NewIPv4UDPConn(name, &net.UDPAddr{Port: port})
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	var log bytes.Buffer
	server := newServer(t, &log)
	conn := listen("server", proxydhcp.DHCPPort)
	ended := make(chan error, 1)
	go func() { ended <- server.ServeDHCP(conn) }()

	client := listen("client", 68)
	send := func(from *net.UDPConn, packet *dhcpv4.DHCPv4) {
		_, err := from.WriteTo(packet.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: proxydhcp.DHCPPort})
		require.NoError(t, err)
	}
	// receive returns the next answer that a client gets.
	receive := func() *dhcpv4.DHCPv4 {
		t.Helper()
		buffer := make([]byte, 1500)
		require.NoError(t, client.SetReadDeadline(time.Now().Add(30*time.Second)))
		n, err := client.Read(buffer)
		require.NoError(t, err)
		answer, err := dhcpv4.FromBytes(buffer[:n])
		require.NoError(t, err)
		return answer
	}

	for name, test := range map[string]struct {
		packet *dhcpv4.DHCPv4
		file   string
	}{
		"BIOS":                             {discover(t, bios, iana.INTEL_X86PC), "undionly.kpxe"},
		"BIOS iPXE by class":               {discover(t, bios, iana.INTEL_X86PC, ipxeClass), "http://10.77.0.1/T/netboot.ipxe?for=BIOS"},
		"UEFI":                             {discover(t, uefi, iana.EFI_X86_64), "ec-ipxe.efi"},
		"UEFI that says 9":                 {discover(t, uefi, iana.EFI_BC), "ec-ipxe.efi"},
		"UEFI iPXE by option":              {discover(t, uefi, iana.EFI_X86_64, ipxeOption), "http://10.77.0.1/T/netboot.ipxe?for=UEFI-x86_64"},
		"arm64 iPXE by option":             {discover(t, "PXEClient:Arch:00011", iana.EFI_ARM64, ipxeOption), "http://10.77.0.1/T/netboot.ipxe?for=UEFI-aarch64"},
		"UEFI HTTP":                        {discover(t, http, iana.EFI_X86_64_HTTP), "http://10.77.0.1/T/ec-ipxe.efi"},
		"no architecture is BIOS":          {without93(discover(t, "PXEClient", 0)), "undionly.kpxe"},
		"no architecture but in the class": {without93(discover(t, uefi, 0)), "ec-ipxe.efi"},
		"the first of two known":           {discover(t, uefi, iana.EFI_X86_64, dhcpv4.WithOption(dhcpv4.OptClientArch(iana.EFI_IA32, iana.EFI_X86_64))), "ec-ipxe.efi"},
	} {
		t.Run(name, func(t *testing.T) {
			send(client, test.packet)
			answer := receive()
			assert.Equal(t, dhcpv4.MessageTypeOffer, answer.MessageType())
			assert.Equal(t, test.packet.TransactionID, answer.TransactionID)
			assert.Equal(t, mac, answer.ClientHWAddr)
			assert.Equal(t, test.file, answer.BootFileNameOption())
			assert.Equal(t, test.file, answer.BootFileName)
			assert.True(t, answer.YourIPAddr.IsUnspecified(), "it leases no address, but got %s", answer.YourIPAddr)
			assert.Zero(t, answer.IPAddressLeaseTime(0))
			assert.Equal(t, "10.77.0.1", answer.ServerIPAddr.String())
			assert.Equal(t, "10.77.0.1", answer.ServerIdentifier().String())
			class, _, _ := strings.Cut(test.packet.ClassIdentifier(), ":")
			assert.Equal(t, class, answer.ClassIdentifier())
			assert.Equal(t, test.packet.Options.Get(dhcpv4.OptionClientMachineIdentifier), answer.Options.Get(dhcpv4.OptionClientMachineIdentifier))
			assert.Equal(t, strings.Contains(name, "BIOS"), answer.Options.Has(dhcpv4.OptionVendorSpecificInformation))
		})
	}

	// What is not answered is followed by what is: the only answer is to that.
	for name, packet := range map[string]*dhcpv4.DHCPv4{
		"no network boot":        discover(t, "MSFT 5.0", iana.INTEL_X86PC),
		"no iPXE for it":         discover(t, "PXEClient:Arch:00011", iana.EFI_ARM64),
		"unknown architecture":   discover(t, "PXEClient:Arch:00006", iana.EFI_IA32),
		"class and architecture": discover(t, http, iana.EFI_X86_64),
		"a request for a lease":  discover(t, uefi, iana.EFI_X86_64, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest)),
		"another's answer":       discover(t, uefi, iana.EFI_X86_64, func(d *dhcpv4.DHCPv4) { d.OpCode = dhcpv4.OpcodeBootReply }),
		"a relay elsewhere":      discover(t, uefi, iana.EFI_X86_64, dhcpv4.WithRelay(net.IPv4(10, 78, 0, 1))),
		"an address elsewhere":   discover(t, uefi, iana.EFI_X86_64, dhcpv4.WithClientIP(net.IPv4(10, 78, 0, 5))),
		"a network not allowed":  discover(t, uefi, iana.EFI_X86_64, dhcpv4.WithClientIP(net.IPv4(10, 77, 0, 200))),
	} {
		t.Run(name, func(t *testing.T) {
			send(client, packet)
			control := discover(t, bios, iana.INTEL_X86PC)
			send(client, control)
			assert.Equal(t, control.TransactionID, receive().TransactionID)
		})
	}
	t.Run("wrong interface", func(t *testing.T) {
		send(listen("otherclient", 68), discover(t, uefi, iana.EFI_X86_64))
		control := discover(t, bios, iana.INTEL_X86PC)
		send(client, control)
		assert.Equal(t, control.TransactionID, receive().TransactionID)
	})
	t.Run("garbage", func(t *testing.T) {
		_, err := client.WriteTo([]byte("\x01\x01\x06\x00garbage"), &net.UDPAddr{IP: net.IPv4bcast, Port: proxydhcp.DHCPPort})
		require.NoError(t, err)
		control := discover(t, bios, iana.INTEL_X86PC)
		send(client, control)
		assert.Equal(t, control.TransactionID, receive().TransactionID)
	})
	require.NoError(t, conn.Close())
	require.NoError(t, <-ended)
	assert.Contains(t, log.String(), `msg="sent the boot file's name by DHCP" mac=52:54:00:12:34:56 firmware="UEFI HTTP x86_64" file=ec-ipxe.efi`)
	assert.NotContains(t, log.String(), "/T/", "an address has the chain token in it")
}

// servePXE has a server answer at its PXE port, on loopback, until stop is called. It
// returns a client's connection to it.
func servePXE(t *testing.T, server *proxydhcp.Server) (client net.Conn, stop func()) {
	t.Helper()
	server.Subnet, server.Allow = netip.MustParsePrefix("127.0.0.0/8"), nil
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- server.ServePXE(conn) }()
	client, err = net.Dial("udp4", conn.LocalAddr().String())
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	return client, func() {
		require.NoError(t, conn.Close())
		require.NoError(t, <-ended)
	}
}

func TestTheSecondQuestion(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	client, stop := servePXE(t, newServer(t, &log))
	request := discover(t, uefi, iana.EFI_X86_64, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithClientIP(net.IPv4(127, 0, 0, 9)))
	_, err := client.Write(request.ToBytes())
	require.NoError(t, err)
	buffer := make([]byte, 1500)
	n, err := client.Read(buffer)
	require.NoError(t, err)
	answer, err := dhcpv4.FromBytes(buffer[:n])
	require.NoError(t, err)
	assert.Equal(t, dhcpv4.MessageTypeAck, answer.MessageType())
	assert.Equal(t, "ec-ipxe.efi", answer.BootFileNameOption())
	stop()
}

// A client of an architecture that there is no boot file for gets no answer, but is counted,
// and the first of each architecture is logged.
func TestUnknownArchitectures(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	server, registry := newServer(t, &log), prometheus.NewRegistry()
	server.Journal = journal.New(slog.New(slog.NewTextHandler(&log, nil)), registry)
	client, stop := servePXE(t, server)
	request := dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest)
	for _, packet := range []*dhcpv4.DHCPv4{
		discover(t, "PXEClient:Arch:00006", iana.EFI_IA32, request),
		discover(t, "PXEClient:Arch:00006", iana.EFI_IA32, request),
		discover(t, http, iana.EFI_X86_64, request), // HTTP, of firmware that is not for HTTP
		without93(discover(t, "PXEClient:Arch:00027:UNDI:003000", 0, request)),
		discover(t, "PXEClient", 0xfff0, request),
		discover(t, "PXEClient", 0x30, request),
		discover(t, "MSFT 5.0", iana.EFI_IA32, request), // does not boot
		discover(t, uefi, iana.EFI_X86_64, request),     // is answered, so that all others have been read
	} {
		_, err := client.Write(packet.ToBytes())
		require.NoError(t, err)
	}
	require.NoError(t, client.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err := client.Read(make([]byte, 1500))
	require.NoError(t, err)
	stop()

	const name = "netboot_proxy_dhcp_unknown_architecture_total"
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP `+name+` PXE clients whose architecture no boot file is for.
# TYPE `+name+` counter
`+name+`{architecture="27"} 1
`+name+`{architecture="6"} 2
`+name+`{architecture="7"} 1
`+name+`{architecture="other"} 2
`), name))
	const line = `msg="no boot file is for machines of this architecture (DHCP option 93)" architecture=`
	assert.Equal(t, 4, strings.Count(log.String(), line), log.String())
	for _, architecture := range []string{"6", "7", "27", "65520"} {
		assert.Equal(t, 1, strings.Count(log.String(), line+architecture+" mac="+mac.String()), architecture)
	}
}

// without93 takes the client's architecture out of a packet.
func without93(packet *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	packet.Options.Del(dhcpv4.OptionClientSystemArchitectureType)
	return packet
}
