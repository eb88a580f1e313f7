package limit_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/limit"
)

// address returns the address of client n.
func address(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 20, byte(n >> 8), byte(n)}) }

const firstKnown = 60_000 // this client, and those after it, are known

func newTable() *limit.Table {
	known := address(firstKnown)
	return &limit.Table{
		Most: 64, MostPerClient: 16, MostUnknown: 48, Fair: 4,
		Known: func(client netip.Addr) bool { return !client.Less(known) },
	}
}

// enter enters, and tells in ousted of what had to give way later.
func enter(table *limit.Table, client int, ousted *[]int) *limit.Entry {
	return table.Enter(address(client), func() { *ousted = append(*ousted, client) })
}

func TestMadeUpAddressesKeepNobodyOut(t *testing.T) {
	t.Parallel()
	table := newTable()
	var ousted []int
	for client := range 1000 {
		require.NotNil(t, enter(table, client, &ousted))
	}
	assert.Len(t, ousted, 1000-48)
	assert.Equal(t, 0, ousted[0], "the oldest first")
	machine := enter(table, 2000, &ousted)
	require.NotNil(t, machine, "a machine that is not known yet")
	machine.SetBusy(true)
	for client := range 1000 {
		enter(table, 3000+client, &ousted)
	}
	assert.NotContains(t, ousted, 2000, "it has answered")
}

func TestFewClientsTakeNotAll(t *testing.T) {
	t.Parallel()
	for _, busy := range []bool{false, true} {
		for _, attacker := range []int{1, firstKnown} {
			table := newTable()
			var ousted []int
			for client := range 4 {
				for range 16 {
					if entry := enter(table, attacker+client, &ousted); entry != nil {
						entry.SetBusy(busy)
					}
				}
			}
			ousted = nil
			for _, client := range []int{100, firstKnown + 100} {
				assert.NotNil(t, enter(table, client, &ousted), "client %d, attackers %d that are busy: %t", client, attacker, busy)
			}
		}
	}
}

func TestKnownMachinesHaveRoom(t *testing.T) {
	t.Parallel()
	table := newTable()
	var ousted []int
	for client := range 1000 { // each with an address of its own
		if entry := enter(table, client, &ousted); entry != nil {
			entry.SetBusy(true)
		}
	}
	ousted = nil
	assert.Nil(t, enter(table, 2000, &ousted))
	for machine := range 16 {
		entry := enter(table, firstKnown+machine, &ousted)
		require.NotNil(t, entry)
		entry.SetBusy(true)
	}
	assert.Empty(t, ousted, "and nobody's transfer breaks off for it")
	assert.Nil(t, enter(table, firstKnown+16, &ousted), "all are busy with few each")
}

func TestPerClient(t *testing.T) {
	t.Parallel()
	table := newTable()
	var ousted []int
	var entries []*limit.Entry
	for range 16 {
		entries = append(entries, enter(table, 1, &ousted))
		entries[len(entries)-1].SetBusy(true)
	}
	assert.Nil(t, enter(table, 1, &ousted))
	entries[3].SetBusy(false)
	again := enter(table, 1, &ousted)
	require.NotNil(t, again, "in the place of what nothing has come of")
	assert.Equal(t, []int{1}, ousted)
	entries[3].Leave() // as who was ousted does
	again.SetBusy(true)
	assert.Nil(t, enter(table, 1, &ousted))
	again.Leave()
	again.Leave()
	require.NotNil(t, enter(table, 1, &ousted))
	assert.Nil(t, func() *limit.Entry {
		entries[0].SetBusy(true)
		for range 16 {
			if entry := enter(table, 1, &ousted); entry != nil {
				entry.SetBusy(true)
			} else {
				return nil
			}
		}
		return entries[0]
	}())
}

// A host of IPv6 makes up addresses of its network.
func TestIPv6(t *testing.T) {
	t.Parallel()
	table := newTable()
	admitted := 0
	for n := range 32 {
		at := netip.MustParseAddr("2001:db8::").As16()
		at[15] = byte(n)
		if entry := table.Enter(netip.AddrFrom16(at), func() {}); entry != nil {
			entry.SetBusy(true)
			admitted++
		}
	}
	assert.Equal(t, 16, admitted)
}

// A fleet keeps its connections open when it has its scripts.
func TestWhatHasDoneItsWorkGivesWay(t *testing.T) {
	t.Parallel()
	table := newTable()
	var ousted []int
	fresh := enter(table, firstKnown+5000, &ousted)
	require.NotNil(t, fresh)
	busy := enter(table, firstKnown+5001, &ousted)
	busy.SetBusy(true)
	for _, first := range []int{firstKnown, 1} {
		for machine := range 200 {
			entry := enter(table, first+machine, &ousted)
			require.NotNil(t, entry, "machine %d", first+machine)
			entry.SetBusy(true)
			entry.SetBusy(false)
		}
	}
	require.Len(t, ousted, 402-64)
	assert.Equal(t, []int{firstKnown, firstKnown + 1}, ousted[:2], "the oldest first")
	assert.NotContains(t, ousted, firstKnown+5000, "its request has not come")
	assert.NotContains(t, ousted, firstKnown+5001, "it is being answered")
}
