// Package journal records what the boot server does, for people: a log line for each
// stage of a boot, numbers for Prometheus, and a table of the machines that were seen.
package journal

import (
	"cmp"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

// The protocols that a label or a log line names.
const (
	HTTP      = "http"
	TFTP      = "tftp"
	ProxyDHCP = "proxy-dhcp"
)

// A Client is the sender of a request.
type Client struct {
	Address  netip.Addr
	MAC      machine.MAC      // not valid: not sent
	Firmware machine.Firmware // the zero value: not sent
}

// A Journal may be written to and read from several goroutines at once.
type Journal struct {
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  metrics
	lines    *lines

	mu      sync.Mutex
	table   table
	unknown sync.Map          // the architectures that UnknownArchitecture has logged
	begun   map[Boot]struct{} // boots that began, without their rings
	changed chan struct{}     // closed at the next change
	changes uint64            // how many there were, counting the journal's beginning
}

// New returns a journal that writes to log, and whose numbers registry gathers.
func New(log *slog.Logger, registry *prometheus.Registry) *Journal {
	return &Journal{
		log:      log,
		registry: registry,
		metrics:  newMetrics(registry),
		lines:    newLines(log),
		table:    newTable(),
		begun:    map[Boot]struct{}{},
		changed:  make(chan struct{}),
		changes:  1,
	}
}

// Machines returns the machines that were seen, the last seen first.
func (j *Journal) Machines() []Machine {
	j.mu.Lock()
	machines := j.table.list()
	j.mu.Unlock()
	slices.SortFunc(machines, func(a, b Machine) int {
		return cmp.Or(b.Seen.Compare(a.Seen), a.MAC.Compare(b.MAC), a.Address.Compare(b.Address))
	})
	return machines
}

// full reports whether Machines are not all that were seen.
func (j *Journal) full() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.table.full
}

// Changed returns a channel that is closed when what Machines returns changes.
func (j *Journal) Changed() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changed
}

// update changes the machine of a client, and returns a copy of it for the log.
func (j *Journal) update(client Client, change func(machine *record, now time.Time)) Machine {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	machine := j.table.find(client, now)
	change(machine, now)
	j.notify()
	return machine.Machine
}

func (j *Journal) notify() {
	close(j.changed)
	j.changed = make(chan struct{})
	j.changes++
}

func (j *Journal) changeCount() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.changes
}

// Known reports whether a machine at an address has got something from this server: its
// release's script or image, or a whole boot program. An address that was made up has not.
func (j *Journal) Known(address netip.Addr) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.table.get(Client{Address: address}).known
}

// Flush writes to the log how much was left out of it since it last said so.
func (j *Journal) Flush() { j.lines.flush() }

// warn writes a log line about a client.
func (j *Journal) warn(client Client, message string, attributes ...slog.Attr) {
	j.mu.Lock()
	machine := j.table.get(client)
	j.mu.Unlock()
	j.lines.write(machine.name(), machine.known, slog.LevelWarn, message, attributes...)
}

// stage writes the log line of a stage.
func (j *Journal) stage(message string, machine Machine, attributes ...slog.Attr) {
	var all []slog.Attr
	add := func(key, value string) {
		if value != "" {
			all = append(all, slog.String(key, value))
		}
	}
	add("mac", machine.MAC.String())
	if machine.Address.IsValid() {
		add("address", machine.Address.String())
	}
	add("firmware", machine.Firmware.String())
	add("release", machine.Boot.Release)
	add("architecture", string(machine.Boot.Architecture))
	add("ring", machine.Boot.Ring)
	j.lines.write(machine.name(), machine.known, slog.LevelInfo, message, append(all, attributes...)...)
}

// Answered records that ProxyDHCP sent a client the name of a boot file.
func (j *Journal) Answered(client Client, file string) {
	j.metrics.proxyAnswers.WithLabelValues(client.Firmware.String()).Inc()
	machine := j.update(client, func(machine *record, _ time.Time) {
		if machine.Stage >= Script {
			machine.restart()
		}
	})
	j.stage("sent the boot file's name by DHCP", machine, slog.String("file", file))
}

// attemptExpiry is how long after a script a machine that asks for it again is still in
// the same attempt: iPXE tries again and again where it cannot load the kernel.
const attemptExpiry = 15 * time.Minute

// BootStarted records that a client was sent the script of its release. A machine that
// asks for it again, and has loaded nothing since, has not begun another boot.
func (j *Journal) BootStarted(client Client, boot Boot) {
	if machine, again := j.sendScript(client, boot, false); !again {
		j.begin(boot)
		j.stage("sent the release's script", machine)
	}
}

// HandedOver is BootStarted where the kernel and the initrd come from elsewhere: nothing
// of the boot is seen after its script, unless the machine asks for that again.
func (j *Journal) HandedOver(client Client, boot Boot) {
	machine, again := j.sendScript(client, boot, true)
	if again {
		j.metrics.askedAgain.WithLabelValues(boot.Release, string(boot.Architecture)).Inc()
		return
	}
	j.metrics.handedOver.WithLabelValues(boot.Release, string(boot.Architecture)).Inc()
	j.remember(boot)
	j.stage("sent the release's script; its files come from elsewhere", machine)
}

// sendScript records that a client is sent the script of its release, and reports whether
// it asks again in the same attempt.
func (j *Journal) sendScript(client Client, boot Boot, elsewhere bool) (machine Machine, again bool) {
	machine = j.update(client, func(machine *record, now time.Time) {
		again = machine.Stage == Script && machine.Boot == boot && machine.Elsewhere == elsewhere && now.Sub(machine.asked) < attemptExpiry
		machine.asked = now
		if again {
			machine.Again++
			return
		}
		if machine.Stage >= Script {
			machine.restart()
		}
		machine.startBoot(boot, now)
		machine.Elsewhere = elsewhere
		machine.known = true
	})
	return machine, again
}

// SendLoader records that a file that leads to the release is sent: an iPXE binary,
// or a script. The name is for people.
func (j *Journal) SendLoader(client Client, protocol, name string, size int64) *Transfer {
	transfer := j.transfer(protocol, name, size)
	j.update(client, func(machine *record, now time.Time) {
		switch {
		case machine.Stage < Script:
		case !client.MAC.IsValid() && machine.MAC.IsValid():
			machine.assumeSame()
		default:
			machine.restart()
		}
		machine.Stage = Loader
		transfer.add(machine, now)
	})
	return transfer
}

// SendImage records that the kernel or the initrd of a release is sent, by its
// name in the state folder.
func (j *Journal) SendImage(client Client, boot Boot, name string, size int64) *Transfer {
	transfer := j.transfer(HTTP, name, size)
	begins := false
	j.update(client, func(machine *record, now time.Time) {
		same := machine.Boot.Release == boot.Release && machine.Boot.Architecture == boot.Architecture
		if begins = !same || machine.Stage == Booted || machine.Stage < Script || machine.Elsewhere; begins {
			if machine.Stage >= Script {
				machine.restart()
			}
			machine.startBoot(boot, now)
		}
		machine.known = true
		machine.Stage = Kernel
		if name == state.Initrd {
			machine.Stage = Initrd
		}
		transfer.add(machine, now)
	})
	if begins {
		j.begin(boot)
	}
	return transfer
}

// SendToCache records that the kernel or the initrd of a release, or a part of it, is sent
// to a client that is no machine: it keeps it for machines.
func (j *Journal) SendToCache(client Client, boot Boot, name string, size int64) *Transfer {
	transfer := j.transfer(HTTP, name, size)
	transfer.toCache = true
	transfer.add(&record{Machine: Machine{Address: client.Address, Boot: boot, known: true}}, time.Now())
	return transfer
}

// A Transfer is a file on its way to a client.
type Transfer struct {
	journal  *Journal
	protocol string
	name     string
	size     int64
	started  time.Time
	machine  *record
	fetch    *Fetch
	toCache  bool // machine is in no table
}

func (j *Journal) transfer(protocol, name string, size int64) *Transfer {
	j.metrics.active.WithLabelValues(protocol).Inc()
	return &Transfer{journal: j, protocol: protocol, name: name, size: size}
}

func (t *Transfer) add(machine *record, now time.Time) {
	t.machine, t.started = machine, now
	t.fetch = machine.fetch(t.name, t.size, now)
}

// Sent records that n more bytes were sent.
func (t *Transfer) Sent(n int64) {
	t.journal.metrics.bytes.WithLabelValues(t.protocol).Add(float64(n))
	if t.toCache {
		t.journal.metrics.cacheBytes.Add(float64(n))
	}
	t.journal.mu.Lock()
	defer t.journal.mu.Unlock()
	t.fetch.Sent += n
	t.machine.Seen = time.Now()
	t.journal.notify()
}

// End records that the transfer is over: complete means that the client has the file
// to its end, and err is why it was interrupted, if it was. A part that the client
// asked for ends with neither.
func (t *Transfer) End(complete bool, err error) {
	t.journal.metrics.active.WithLabelValues(t.protocol).Dec()
	machine, booted := t.end(complete && err == nil)
	file := slog.Group("file",
		slog.String("name", t.name),
		slog.Int64("bytes", t.fetch.Sent),
		slog.String("protocol", t.protocol),
		slog.Duration("took", time.Since(t.started).Round(time.Millisecond)))
	if err != nil {
		t.journal.stage("transfer broke off", machine, file, slog.String("error", err.Error()))
		return
	}
	switch {
	case !t.toCache:
		t.journal.stage("sent a file", machine, file)
	case complete: // a cache may fetch it in many parts
		t.journal.stage("a cache has fetched a file to its end", machine, file)
	}
	if booted {
		took := machine.LastBoot.Sub(machine.Began)
		t.journal.metrics.finished.WithLabelValues(machine.Boot.Release, string(machine.Boot.Architecture)).Inc()
		t.journal.metrics.duration.WithLabelValues(machine.Boot.Release, string(machine.Boot.Architecture)).Observe(took.Seconds())
		t.journal.stage("booted", machine, slog.Duration("took", took.Round(time.Millisecond)))
	}
}

func (t *Transfer) end(complete bool) (machine Machine, booted bool) {
	t.journal.mu.Lock()
	defer t.journal.mu.Unlock()
	now := time.Now()
	t.fetch.Ended, t.fetch.Complete = now, complete
	t.machine.known = t.machine.known || complete
	if complete && t.machine.Stage < Booted && t.machine.has(state.Kernel) && t.machine.has(state.Initrd) {
		t.machine.Stage = Booted
		t.machine.LastBoot, t.machine.Last = now, t.machine.Boot
		booted = true
	}
	t.journal.notify()
	return t.machine.Machine, booted
}

// Refused records that a request was refused, for a reason that is one of a few
// words: "network", "token", "limit".
func (j *Journal) Refused(protocol, reason string, address netip.Addr) {
	j.metrics.refused.WithLabelValues(protocol, reason).Inc()
	j.warn(Client{Address: address}, "refused a request",
		slog.String("protocol", protocol), slog.String("reason", reason), slog.Any("address", address))
}

// TFTPFailed records a TFTP request or transfer that failed, for a reason that is
// one of a few words.
func (j *Journal) TFTPFailed(reason string, address netip.Addr, err error) {
	j.metrics.tftpErrors.WithLabelValues(reason).Inc()
	j.warn(Client{Address: address}, "TFTP failed",
		slog.String("reason", reason), slog.Any("address", address), slog.Any("error", err))
}

// Failed records why a machine is not served what it asked for.
func (j *Journal) Failed(client Client, err error) {
	j.warn(client, "cannot serve a machine",
		slog.Any("mac", client.MAC), slog.Any("address", client.Address), slog.Any("error", err))
}

// ScriptRefused records that a machine is not sent a script, and why.
func (j *Journal) ScriptRefused(client Client, err error) {
	j.update(client, func(machine *record, _ time.Time) {
		if machine.Stage >= Script {
			machine.restart()
		}
		machine.Refused = err.Error()
	})
	j.Failed(client, err)
}

// UnknownArchitecture records a client of ProxyDHCP whose architecture (option 93) no boot
// file is for. The first of each is logged.
func (j *Journal) UnknownArchitecture(client Client, architecture uint16) {
	label := architectureLabel(architecture)
	j.metrics.unknown.WithLabelValues(label).Inc()
	if _, logged := j.unknown.LoadOrStore(label, true); !logged {
		j.log.Warn("no boot file is for machines of this architecture (DHCP option 93)", "architecture", architecture, "mac", client.MAC)
	}
}
