package proxydhcp

import (
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/machine"
)

type x86Only struct{}

func (x86Only) Program(firmware machine.Firmware) (string, error) {
	if firmware.Architecture != machine.X86_64 {
		return "", errors.New("no iPXE")
	}
	return "ec-ipxe.efi", nil
}

func (x86Only) Script(machine.Firmware) string {
	return "http://10.77.0.1/netboot.ipxe"
}

// FuzzAnswer gives the server packets of any content. The seeds are what EDK2 and
// iPXE have sent. Whatever it answers is a whole packet that leases nothing, to
// the client that asked.
func FuzzAnswer(f *testing.F) {
	server := &Server{
		Address: netip.MustParseAddr("10.77.0.1"),
		Subnet:  netip.MustParsePrefix("10.77.0.0/24"),
		Journal: journal.New(slog.New(slog.NewTextHandler(io.Discard, nil)), prometheus.NewRegistry()),
		Boot:    x86Only{},
	}
	from := netip.MustParseAddrPort("10.77.0.50:4011")
	f.Fuzz(func(t *testing.T, packet []byte) {
		request, err := dhcpv4.FromBytes(packet)
		if err != nil {
			return
		}
		for _, respond := range []respond{server.offer, server.acknowledge} {
			answer, to := respond(request, from)
			if answer == nil {
				continue
			}
			sent, err := dhcpv4.FromBytes(answer.ToBytes())
			require.NoError(t, err)
			assert.Equal(t, dhcpv4.OpcodeBootReply, sent.OpCode)
			assert.Equal(t, request.TransactionID, sent.TransactionID)
			assert.Equal(t, request.ClientHWAddr, sent.ClientHWAddr)
			assert.True(t, sent.YourIPAddr.IsUnspecified())
			assert.False(t, sent.Options.Has(dhcpv4.OptionIPAddressLeaseTime))
			assert.NotEmpty(t, sent.BootFileNameOption())
			assert.True(t, server.Subnet.Contains(to.Addr()) || to.Addr() == netip.AddrFrom4([4]byte{255, 255, 255, 255}), "to %s", to)
		}
	})
}
