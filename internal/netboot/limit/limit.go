// Package limit decides which clients are served when more come than there is room for,
// by TFTP or by HTTP.
//
// The address of who sends a request by UDP may be made up, and a connection may have
// been opened to occupy it. So what nothing has come of yet gives way, the oldest of the
// client that has the most first; before that what has done its work already, and is kept
// for a next request that may never come. Clients that are not known share a part of the room,
// so that there is always some for machines that have booted from this server before.
package limit

import (
	"net/netip"
	"sync"
)

// A Table holds what occupies the room: transfers, or connections. Only its numbers are
// required.
type Table struct {
	Most          int // in all
	MostPerClient int // of a client
	MostUnknown   int // of all clients together that are not known

	// Fair is how many a client may have before those that are busy give way to others.
	Fair int

	// Known reports whether a client is known. Nil: none is.
	Known func(client netip.Addr) bool

	mu      sync.Mutex
	entries map[*Entry]struct{}
	count   map[netip.Addr]int
	unknown int
	next    uint64
}

// An Entry is one of a client's.
type Entry struct {
	table  *Table
	client netip.Addr
	known  bool
	busy   bool
	served bool   // it was busy, and is not any more
	number uint64 // in the order of entering
	oust   func()
}

// Enter makes room for one more of a client's. If it is another's that gives way, its
// oust is called. It returns nil if there is no room; else the caller must call Leave.
func (t *Table) Enter(client netip.Addr, oust func()) *Entry {
	entry := &Entry{table: t, client: key(client), oust: oust}
	entry.known = t.Known != nil && t.Known(client)
	victim, ok := t.enter(entry)
	if !ok {
		return nil
	}
	if victim != nil {
		victim.oust()
	}
	return entry
}

// key returns what counts as one client: in IPv6 a host has a /64 of addresses.
func key(client netip.Addr) netip.Addr {
	client = client.Unmap().WithZone("")
	if client.Is6() {
		prefix, _ := client.Prefix(64) // it has 128 bits
		return prefix.Addr()
	}
	return client
}

func (t *Table) enter(entry *Entry) (victim *Entry, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.entries == nil {
		t.entries, t.count = map[*Entry]struct{}{}, map[netip.Addr]int{}
	}
	switch {
	case t.count[entry.client] >= t.MostPerClient:
		victim = t.victim(func(other *Entry) bool { return other.client == entry.client && !other.busy })
	case !entry.known && t.unknown >= t.MostUnknown:
		victim = t.victim(func(other *Entry) bool { return !other.known && t.givesWay(other, entry) })
	case len(t.entries) >= t.Most:
		victim = t.victim(func(other *Entry) bool { return t.givesWay(other, entry) })
	default:
		t.add(entry)
		return nil, true
	}
	if victim == nil {
		return nil, false
	}
	t.remove(victim)
	t.add(entry)
	return victim, true
}

// givesWay reports whether an entry may be removed for a new one.
func (t *Table) givesWay(entry, forNew *Entry) bool {
	switch {
	case entry.busy:
		return t.count[entry.client] > t.Fair
	case entry.served:
		return true
	}
	return !entry.known || t.count[entry.client] > t.count[forNew.client]+1
}

// victim returns the entry that gives way first of those that may, or nil.
func (t *Table) victim(may func(*Entry) bool) (first *Entry) {
	for entry := range t.entries {
		if may(entry) && (first == nil || t.before(entry, first)) {
			first = entry
		}
	}
	return first
}

func (t *Table) before(a, b *Entry) bool {
	switch {
	case a.busy != b.busy:
		return b.busy
	case a.served != b.served:
		return a.served
	case a.known != b.known:
		return b.known
	case t.count[a.client] != t.count[b.client]:
		return t.count[a.client] > t.count[b.client]
	}
	return a.number < b.number
}

func (t *Table) add(entry *Entry) {
	t.next++
	entry.number = t.next
	t.entries[entry] = struct{}{}
	t.count[entry.client]++
	if !entry.known {
		t.unknown++
	}
}

func (t *Table) remove(entry *Entry) {
	if _, ok := t.entries[entry]; !ok {
		return
	}
	delete(t.entries, entry)
	if t.count[entry.client]--; t.count[entry.client] == 0 {
		delete(t.count, entry.client)
	}
	if !entry.known {
		t.unknown--
	}
}

// SetBusy says whether something has come of the entry: the client has answered, or its
// request is being answered. It then gives way only if its client has more than is fair.
func (e *Entry) SetBusy(busy bool) {
	e.table.mu.Lock()
	defer e.table.mu.Unlock()
	e.served = !busy && (e.busy || e.served)
	e.busy = busy
}

// Leave gives the room back. It may be called again, and by who was ousted.
func (e *Entry) Leave() {
	e.table.mu.Lock()
	defer e.table.mu.Unlock()
	e.table.remove(e)
}
