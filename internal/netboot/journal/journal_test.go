package journal_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

var (
	address = netip.MustParseAddr("10.20.30.100")
	bios    = machine.Firmware{BIOS: true, Architecture: machine.X86_64}
	boot    = journal.Boot{Release: "boot-v1", Architecture: machine.X86_64}
)

var mac = address48("52:54:00:12:34:56")

func address48(text string) machine.MAC {
	mac, err := machine.ParseMAC(text)
	if err != nil {
		panic(err)
	}
	return mac
}

// A lockedBuilder is written to by the journal's timer too.
type lockedBuilder struct {
	mu sync.Mutex
	strings.Builder
}

func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.Write(p)
}

func (b *lockedBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.String()
}

type site struct {
	*journal.Journal
	t        testing.TB
	log      *lockedBuilder
	registry *prometheus.Registry
}

func start(t testing.TB) site {
	log, registry := &lockedBuilder{}, prometheus.NewRegistry()
	return site{journal.New(slog.New(slog.NewTextHandler(log, nil)), registry), t, log, registry}
}

// send sends a whole file.
func (s site) send(transfer *journal.Transfer, n int64) {
	transfer.Sent(n)
	transfer.End(true, nil)
}

// only returns the one machine that was seen.
func (s site) only() journal.Machine {
	s.t.Helper()
	machines := s.Machines()
	require.Len(s.t, machines, 1)
	return machines[0]
}

func names(machine journal.Machine) []string {
	var names []string
	for _, fetch := range machine.Fetched {
		names = append(names, fetch.Name)
	}
	return names
}

// TestABoot is one from the firmware on, which TFTP knows by its address only.
func TestABoot(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.send(s.SendLoader(journal.Client{Address: address}, journal.TFTP, "ec-ipxe.efi", 1000), 1000)
	assert.Equal(t, journal.Loader, s.only().Stage)
	assert.Empty(t, s.only().MAC)

	changed := s.Changed()
	s.BootStarted(journal.Client{Address: address, MAC: mac, Firmware: bios}, boot)
	assert.NotNil(t, changed)
	<-changed
	machine := s.only()
	assert.Equal(t, journal.Script, machine.Stage)
	assert.Equal(t, mac, machine.MAC)
	assert.Equal(t, []string{"ec-ipxe.efi"}, names(machine))

	s.send(s.SendImage(journal.Client{Address: address, MAC: mac}, boot, state.Kernel, 10), 10)
	initrd := s.SendImage(journal.Client{Address: address}, boot, state.Initrd, 100)
	initrd.Sent(40)
	machine = s.only()
	assert.Equal(t, journal.Initrd, machine.Stage)
	assert.Equal(t, int64(40), machine.Fetched[2].Sent)
	assert.True(t, machine.LastBoot.IsZero())
	s.send(initrd, 60)
	machine = s.only()
	assert.Equal(t, journal.Booted, machine.Stage)
	assert.Equal(t, boot, machine.Last)
	assert.False(t, machine.LastBoot.IsZero())
	assert.Equal(t, []string{"ec-ipxe.efi", "kernel", "initrd"}, names(machine))

	for _, line := range []string{
		`msg="sent a file" address=10.20.30.100 file.name=ec-ipxe.efi file.bytes=1000 file.protocol=tftp`,
		`msg="sent the release's script" mac=52:54:00:12:34:56 address=10.20.30.100 firmware=BIOS release=boot-v1 architecture=x86_64`,
		`msg=booted mac=52:54:00:12:34:56 address=10.20.30.100 firmware=BIOS release=boot-v1 architecture=x86_64`,
	} {
		assert.Contains(t, s.log.String(), line)
	}
	assert.Equal(t, 5, strings.Count(s.log.String(), "\n"), "one line a stage:\n%s", s.log)

	// It boots again: what it fetched for the boot before is no part of this one.
	s.BootStarted(journal.Client{Address: address, MAC: mac}, boot)
	machine = s.only()
	assert.Equal(t, journal.Script, machine.Stage)
	assert.Empty(t, machine.Fetched)
	assert.Equal(t, boot, machine.Last)
	assert.Equal(t, bios, machine.Firmware)
	s.send(s.SendImage(journal.Client{MAC: mac}, boot, state.Initrd, 100), 100)
	assert.NotEqual(t, journal.Booted, s.only().Stage, "the kernel was sent for the boot before")
}

func TestBootsAreCountedOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	// One with the script, one that loads by fixed names, one that breaks off.
	s.BootStarted(journal.Client{MAC: mac}, boot)
	for _, client := range []journal.Client{{MAC: mac}, {Address: address}} {
		s.send(s.SendImage(client, boot, state.Kernel, 10), 10)
		s.send(s.SendImage(client, boot, state.Initrd, 10), 10)
	}
	other := journal.Boot{Release: "boot-v2", Architecture: machine.AArch64}
	s.send(s.SendImage(journal.Client{MAC: address48("52:54:00:00:00:01")}, other, state.Kernel, 10), 10)
	broken := s.SendImage(journal.Client{MAC: address48("52:54:00:00:00:01")}, other, state.Initrd, 10)
	broken.Sent(5)
	broken.End(false, errors.New("connection reset by peer"))
	part := s.SendImage(journal.Client{MAC: address48("52:54:00:00:00:01")}, other, state.Initrd, 10)
	part.Sent(2)
	part.End(false, nil)

	require.NoError(t, testutil.GatherAndCompare(s.registry, strings.NewReader(`
# HELP netboot_boots_begun_total Boots that began: a machine asked for its release's script or kernel.
# TYPE netboot_boots_begun_total counter
netboot_boots_begun_total{architecture="x86_64",release="boot-v1"} 2
netboot_boots_begun_total{architecture="aarch64",release="boot-v2"} 1
# HELP netboot_boots_finished_total Boots for which the kernel and the initrd were sent to their ends.
# TYPE netboot_boots_finished_total counter
netboot_boots_finished_total{architecture="x86_64",release="boot-v1"} 2
# HELP netboot_active_transfers Transfers that are under way.
# TYPE netboot_active_transfers gauge
netboot_active_transfers{protocol="http"} 0
# HELP netboot_sent_bytes_total Bytes of files and scripts sent.
# TYPE netboot_sent_bytes_total counter
netboot_sent_bytes_total{protocol="http"} 57
`), "netboot_boots_begun_total", "netboot_boots_finished_total", "netboot_active_transfers", "netboot_sent_bytes_total"))
	assert.Contains(t, s.log.String(), `msg="transfer broke off" mac=52:54:00:00:00:01 release=boot-v2`)
}

// A machine that asks for its script again and again is in one attempt, until it has
// loaded something or comes from its firmware again.
func TestOneBootAnAttempt(t *testing.T) {
	t.Parallel()
	s := start(t)
	client := journal.Client{Address: address, MAC: mac}
	begun := func(want string) {
		t.Helper()
		require.NoError(t, testutil.GatherAndCompare(s.registry, strings.NewReader(`
# HELP netboot_boots_begun_total Boots that began: a machine asked for its release's script or kernel.
# TYPE netboot_boots_begun_total counter
`+want), "netboot_boots_begun_total"))
	}
	for range 1000 {
		s.BootStarted(client, boot)
	}
	begun("netboot_boots_begun_total{architecture=\"x86_64\",release=\"boot-v1\"} 1\n")
	assert.Equal(t, 1, strings.Count(s.log.String(), "sent the release's script"))

	s.send(s.SendImage(client, boot, state.Kernel, 10), 10)
	s.BootStarted(client, boot)
	s.BootStarted(client, boot)
	begun("netboot_boots_begun_total{architecture=\"x86_64\",release=\"boot-v1\"} 2\n")

	s.send(s.SendLoader(client, journal.TFTP, "ec-ipxe.efi", 10), 10)
	s.BootStarted(client, boot)
	begun("netboot_boots_begun_total{architecture=\"x86_64\",release=\"boot-v1\"} 3\n")

	s.BootStarted(client, journal.Boot{Release: "boot-v2", Architecture: machine.X86_64})
	begun("netboot_boots_begun_total{architecture=\"x86_64\",release=\"boot-v1\"} 3\n" +
		"netboot_boots_begun_total{architecture=\"x86_64\",release=\"boot-v2\"} 1\n")
}

// TestAddressesMove is two machines that have the same address in turn.
func TestAddressesMove(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.BootStarted(journal.Client{Address: address, MAC: mac}, boot)
	second := address48("52:54:00:00:00:02")
	s.BootStarted(journal.Client{Address: address, MAC: second}, boot)
	s.send(s.SendImage(journal.Client{Address: address}, boot, state.Kernel, 10), 10)
	machines := map[string]journal.Machine{}
	for _, machine := range s.Machines() {
		machines[machine.MAC.String()] = machine
	}
	require.Len(t, machines, 2)
	assert.Empty(t, names(machines[mac.String()]))
	assert.Equal(t, []string{"kernel"}, names(machines[second.String()]))

	// The first one comes back with another address, and is the same machine.
	moved := netip.MustParseAddr("10.20.30.101")
	s.BootStarted(journal.Client{Address: moved, MAC: mac}, boot)
	assert.Len(t, s.Machines(), 2)
	s.send(s.SendLoader(journal.Client{Address: moved}, journal.TFTP, "ipxe.efi", 1), 1)
	assert.Len(t, s.Machines(), 2)
}

// TestAnAddressIsLeasedAnew to a machine that loads iPXE before it tells its MAC:
// that says nothing of the machine which had the address.
func TestAnAddressIsLeasedAnew(t *testing.T) {
	t.Parallel()
	s := start(t)
	loads := func() {
		s.send(s.SendLoader(journal.Client{Address: address}, journal.TFTP, "ec-ipxe.efi", 1), 1)
		s.send(s.SendLoader(journal.Client{Address: address}, journal.TFTP, "autoexec.ipxe", 1), 1)
	}
	boots := func(mac machine.MAC) {
		client := journal.Client{Address: address, MAC: mac}
		s.BootStarted(client, boot)
		s.send(s.SendImage(client, boot, state.Kernel, 10), 10)
		s.send(s.SendImage(client, boot, state.Initrd, 10), 10)
	}
	all := []string{"ec-ipxe.efi", "autoexec.ipxe", "kernel", "initrd"}
	loads()
	boots(mac)
	before := s.only()
	require.Equal(t, all, names(before))
	loads()
	assert.Equal(t, journal.Loader, s.only().Stage, "it may be the same machine")

	second := address48("52:54:00:00:00:02")
	boots(second)
	machines := map[string]journal.Machine{}
	for _, machine := range s.Machines() {
		machines[machine.MAC.String()] = machine
	}
	require.Len(t, machines, 2)
	before.Seen = machines[mac.String()].Seen
	assert.Equal(t, before, machines[mac.String()])
	assert.Equal(t, all, names(machines[second.String()]))
	assert.Equal(t, journal.Booted, machines[second.String()].Stage)

	loads()
	boots(second)
	require.Len(t, s.Machines(), 2)
	assert.Equal(t, all, names(s.Machines()[0]), "it was the same machine this time")
}

// TestMadeUpMACs are forgotten, those seen last are not.
func TestMadeUpMACs(t *testing.T) {
	t.Parallel()
	s := start(t)
	for i := range 25_000 {
		s.BootStarted(journal.Client{MAC: address48(fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256))}, boot)
	}
	machines := s.Machines()
	assert.LessOrEqual(t, len(machines), 20_480)
	assert.Greater(t, len(machines), 20_000)
	assert.Equal(t, "02:00:00:00:61:a7", machines[0].MAC.String())
}

// TestRefusalsDoNotFillTheLog counts them all, and logs the first of them.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	s := start(t)
	for range 1000 {
		s.Refused(journal.TFTP, "network", address)
	}
	assert.Less(t, strings.Count(s.log.String(), "\n"), 100)
	assert.Contains(t, s.log.String(), `msg="refused a request" protocol=tftp reason=network address=10.20.30.100`)
	count, err := testutil.GatherAndCount(s.registry, "netboot_refused_requests_total")
	require.NoError(t, err)
	assert.Equal(t, 1, count)
}

// TestLinesOfTheLog are limited for each machine, whatever it does, and for all that are
// not known together. What is left out is counted.
func TestLinesOfTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := start(t)
		known := journal.Client{Address: address, MAC: mac}
		s.BootStarted(known, boot)
		for n := range 1000 {
			client := journal.Client{MAC: address48(fmt.Sprintf("02:00:00:00:%02x:%02x", n/256, n%256))}
			s.Answered(client, "ec-ipxe.efi")
			s.Refused(journal.HTTP, "limit", netip.AddrFrom4([4]byte{10, 21, byte(n >> 8), byte(n)}))
		}
		assert.Equal(t, 201, strings.Count(s.log.String(), "\n"))
		s.BootStarted(known, journal.Boot{Release: "boot-v2", Architecture: machine.X86_64}) // another boot, which has a line again
		assert.Equal(t, 2, strings.Count(s.log.String(), `msg="sent the release's script" mac=52:54:00:12:34:56`), "a machine that is known is not among them")
		for range 100 {
			s.TFTPFailed("not found", address, errors.New("no such file"))
		}
		assert.Equal(t, 58, strings.Count(s.log.String(), "no such file"))
		time.Sleep(time.Minute)
		synctest.Wait()
		assert.Contains(t, s.log.String(), `msg="left lines out of this log" machine=52:54:00:12:34:56 left_out=42`)
		assert.Contains(t, s.log.String(), `msg="left lines out of this log" machine="all others" left_out=1800`)
		s.TFTPFailed("not found", address, errors.New("no such file"))
		assert.Equal(t, 59, strings.Count(s.log.String(), "no such file"), "there are lines again")
	})
}

// TestKnown tells machines from addresses and MACs that may be made up.
func TestKnown(t *testing.T) {
	t.Parallel()
	s := start(t)
	assert.False(t, s.Known(address))
	s.Answered(journal.Client{Address: address, MAC: mac}, "ec-ipxe.efi")
	loading := s.SendLoader(journal.Client{Address: address}, journal.TFTP, "ec-ipxe.efi", 100)
	assert.False(t, s.Known(address), "it has acknowledged nothing yet")
	s.send(loading, 100)
	assert.True(t, s.Known(address))
	for i := range 25_000 {
		made := address48(fmt.Sprintf("02:00:00:00:%02x:%02x", i/256, i%256))
		s.Answered(journal.Client{MAC: made}, "ec-ipxe.efi")
		s.BootStarted(journal.Client{Address: netip.MustParseAddr("10.20.30.66"), MAC: made}, boot)
	}
	assert.True(t, s.Known(address), "it is not forgotten for machines that one client makes up")
}

// TestHandedOver is about machines that load their kernel and initrd elsewhere: nothing
// that was not seen is shown or counted.
func TestHandedOver(t *testing.T) {
	t.Parallel()
	s := start(t)
	count := func(name string) float64 {
		families, err := s.registry.Gather()
		require.NoError(t, err)
		sum := 0.0
		for _, family := range families {
			for _, metric := range family.GetMetric() {
				if family.GetName() == name {
					sum += metric.GetCounter().GetValue()
				}
			}
		}
		return sum
	}
	first, second := client(1), client(2)
	s.HandedOver(first, boot)
	s.HandedOver(second, boot)
	assert.True(t, s.Known(first.Address))
	assert.Equal(t, 2.0, count("netboot_boots_handed_over_total"))
	assert.Contains(t, s.log.String(), `msg="sent the release's script; its files come from elsewhere" mac=52:54:00:00:00:01`)

	s.HandedOver(first, boot)
	assert.Equal(t, 2.0, count("netboot_boots_handed_over_total"), "the same attempt")
	assert.Equal(t, 1.0, count("netboot_boots_asked_again_total"))
	assert.Equal(t, 1, s.Machines()[0].Again)
	s.send(s.SendLoader(first, journal.TFTP, "ec-ipxe.efi", 10), 10)
	s.HandedOver(first, boot)
	assert.Equal(t, 3.0, count("netboot_boots_handed_over_total"), "its firmware has begun again")
	assert.Equal(t, 0, s.Machines()[0].Again)

	cache := journal.Client{Address: address}
	for _, complete := range []bool{false, true} {
		part := s.SendToCache(cache, boot, state.Initrd, 100)
		part.Sent(50)
		part.End(complete, nil)
	}
	assert.Equal(t, 100.0, count("netboot_cache_sent_bytes_total"))
	assert.Len(t, s.Machines(), 2, "a cache is no machine")
	assert.Equal(t, 1, strings.Count(s.log.String(), `msg="a cache has fetched a file to its end" address=10.20.30.100 release=boot-v1`))
	s.SendToCache(cache, boot, state.Initrd, 100).End(false, errors.New("connection reset"))
	assert.Contains(t, s.log.String(), `msg="transfer broke off" address=10.20.30.100`)
	for _, name := range []string{"netboot_boots_begun_total", "netboot_boots_finished_total"} {
		assert.Zero(t, count(name), "%s: an alert is about the difference of these", name)
	}

	s.send(s.SendImage(second, boot, state.Kernel, 10), 10) // the server has begun to have the files itself
	assert.False(t, s.Machines()[0].Elsewhere)
}
