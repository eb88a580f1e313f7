package journal

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"every.channel/runner-images/internal/netboot/machine"
)

// A Machine is what is known of a machine that was seen booting.
type Machine struct {
	MAC      machine.MAC      // not valid: not known yet
	Address  netip.Addr       // the last one
	Firmware machine.Firmware // the zero value: not known yet
	Seen     time.Time        // when it last asked for something

	// The boot that is under way, or the last one.
	Boot    Boot
	Stage   Stage
	Began   time.Time
	Fetched []Fetch // in the order of their start; of many the last ones

	// Elsewhere means that its kernel and initrd come from elsewhere, so that nothing is
	// seen after its script but that it asks for it Again, so many times.
	Elsewhere bool
	Again     int

	Refused string // why its last request for a script was not answered, or empty

	// The last boot that finished; LastBoot is zero if none has.
	LastBoot time.Time
	Last     Boot

	known bool // see Journal.Known
}

// name returns what the log calls the machine.
func (m Machine) name() string {
	if m.MAC.IsValid() {
		return m.MAC.String()
	}
	return m.Address.String()
}

// A Boot is what a machine boots.
type Boot struct {
	Release      string               `json:"release"` // the tag
	Architecture machine.Architecture `json:"architecture"`
	Ring         string               `json:"ring,omitempty"` // empty: in no ring
}

// A Stage is the progress of a boot.
type Stage int

// The stages of a boot, in their order.
const (
	Asked  Stage = iota // ProxyDHCP answered
	Loader              // iPXE is being loaded, or a script that leads to the release
	Script              // the release's script was sent
	Kernel              // the kernel is being sent, or was
	Initrd              // the initrd is being sent, or was
	Booted              // kernel and initrd were sent to their ends
)

// String returns what the stage is for people.
func (s Stage) String() string {
	return [...]string{"asked by DHCP", "loading iPXE", "has the script", "loading the kernel", "loading the initrd", "booted"}[s]
}

// A Fetch is a file that a machine fetched in a boot.
type Fetch struct {
	Name     string    `json:"name"`
	Sent     int64     `json:"sent"` // bytes
	Size     int64     `json:"size"` // bytes
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended,omitzero"` // zero: under way
	Complete bool      `json:"complete"`       // it was sent to its end
}

// maxMachines is how many machines are remembered, so that made-up MACs cost no memory.
// Beyond it some are forgotten: of those that are not known, or of those whose address
// another one has by now, as that of a client has that makes up MACs, or of all, the ones
// that were not seen for longest.
const maxMachines = 20_480

// forgottenAtOnce is how many they are. Each time all are looked at.
const forgottenAtOnce = maxMachines / 64

// maxFetches is how many files of a boot are remembered.
const maxFetches = 32

// A record is a machine whose transfers are under way.
type record struct {
	Machine
	fetches []*Fetch  // what becomes Machine.Fetched
	asked   time.Time // when it was last sent a script

	// before is the state before a client that did not send its MAC was taken for this
	// machine, by its address; nil if the machine has sent its MAC since.
	before *record
}

// startBoot records the start of a boot; what was fetched before it belongs to it.
func (r *record) startBoot(boot Boot, now time.Time) {
	r.Boot, r.Stage, r.Began, r.Refused = boot, Script, now, ""
	r.Elsewhere, r.Again = false, 0
}

// restart removes the boot that was in progress or done.
func (r *record) restart() {
	r.Boot, r.Stage, r.Began, r.Refused, r.fetches = Boot{}, Asked, time.Time{}, "", nil
	r.Elsewhere, r.Again = false, 0
}

// assumeSame records a new boot as this machine's, although another machine may have
// its address by now.
func (r *record) assumeSame() {
	if r.before == nil {
		before := *r
		r.before = &before
	}
	r.restart()
}

// revert undoes assumeSame, and returns what the other machine has fetched.
func (r *record) revert() []*Fetch {
	others := r.fetches
	*r = *r.before
	return others
}

func (r *record) fetch(name string, size int64, now time.Time) *Fetch {
	fetch := &Fetch{Name: name, Size: size, Began: now}
	r.fetches = append(r.fetches, fetch)
	if len(r.fetches) > maxFetches {
		r.fetches = r.fetches[1:]
	}
	return fetch
}

// has reports whether a file was fetched to its end in this boot.
func (r *record) has(name string) bool {
	return slices.ContainsFunc(r.fetches, func(f *Fetch) bool { return f.Name == name && f.Complete })
}

// table finds machines by MAC and by address.
type table struct {
	machines  map[*record]struct{}
	byMAC     map[machine.MAC]*record
	byAddress map[netip.Addr]*record
	full      bool // some were forgotten
}

func newTable() table {
	return table{machines: map[*record]struct{}{}, byMAC: map[machine.MAC]*record{}, byAddress: map[netip.Addr]*record{}}
}

// find returns the machine of a client, a new one if need be. A client that
// does not send its MAC is the machine that was last seen at its address.
func (t *table) find(client Client, now time.Time) *record {
	machine := t.byMAC[client.MAC]
	atAddress := t.byAddress[client.Address]
	if machine == nil && atAddress != nil && (!client.MAC.IsValid() || !atAddress.MAC.IsValid()) {
		machine = atAddress
	}
	if machine == nil {
		machine = &record{}
		t.makeRoom()
		t.machines[machine] = struct{}{}
	}
	if client.MAC.IsValid() {
		if atAddress != nil && atAddress != machine && (!atAddress.MAC.IsValid() || atAddress.before != nil) {
			// What this machine did before it sent its MAC.
			if machine.Stage >= Script {
				machine.restart()
			}
			if !atAddress.MAC.IsValid() {
				machine.fetches = append(machine.fetches, atAddress.fetches...)
				machine.Firmware = cmp.Or(machine.Firmware, atAddress.Firmware)
				machine.known = machine.known || atAddress.known
				t.forget(atAddress)
			} else {
				machine.fetches = append(machine.fetches, atAddress.revert()...)
			}
		}
		machine.MAC, machine.before = client.MAC, nil
		t.byMAC[client.MAC] = machine
	}
	if client.Address.IsValid() && !client.Address.IsUnspecified() {
		if t.byAddress[machine.Address] == machine {
			delete(t.byAddress, machine.Address)
		}
		machine.Address = client.Address
		t.byAddress[client.Address] = machine
	}
	machine.Firmware = cmp.Or(client.Firmware, machine.Firmware)
	machine.Seen = now
	return machine
}

func (t *table) makeRoom() {
	if len(t.machines) < maxMachines {
		return
	}
	t.full = true
	machines := slices.SortedFunc(maps.Keys(t.machines), t.compareWorth)
	for _, machine := range machines[:forgottenAtOnce] {
		t.forget(machine)
	}
}

// compareWorth orders machines by which of them is forgotten first.
func (t *table) compareWorth(a, b *record) int {
	switch lost := t.byAddress[a.Address] != a; {
	case a.known != b.known:
		if b.known {
			return -1
		}
		return 1
	case lost != (t.byAddress[b.Address] != b):
		if lost {
			return -1
		}
		return 1
	}
	return a.Seen.Compare(b.Seen)
}

// get returns the machine of a client that is there, or what the client says of itself.
func (t *table) get(client Client) Machine {
	machine := t.byMAC[client.MAC]
	if machine == nil || !client.MAC.IsValid() {
		machine = t.byAddress[client.Address]
	}
	if machine == nil {
		return Machine{MAC: client.MAC, Address: client.Address}
	}
	return machine.Machine
}

func (t *table) forget(machine *record) {
	delete(t.machines, machine)
	delete(t.byMAC, machine.MAC)
	if t.byAddress[machine.Address] == machine {
		delete(t.byAddress, machine.Address)
	}
}

// list returns copies of all machines.
func (t *table) list() []Machine {
	machines := make([]Machine, 0, len(t.machines))
	for machine := range t.machines {
		copied := machine.Machine
		for _, fetch := range machine.fetches {
			copied.Fetched = append(copied.Fetched, *fetch)
		}
		machines = append(machines, copied)
	}
	return machines
}
