package journal

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How many lines of the log there are for a machine that is known, for each client that
// is not, and for all of these together: some at once, and then one in a while. A boot
// has about a dozen.
const (
	linesAtOnce        = 60
	linesEvery         = 2 * time.Second
	unknownLinesAtOnce = 200
	unknownLinesEvery  = time.Second / 4
)

// leftOutEvery is how often the log says how much was left out of it.
const leftOutEvery = time.Minute

// mostNamed is how many machines it then names.
const mostNamed = 20

// lines writes the log, with a limit for each machine whatever protocol it uses.
type lines struct {
	log *slog.Logger

	mu       sync.Mutex
	machines map[string]*quota // by the name of the machine
	unknown  quota             // all that are not known, together
	timer    *time.Timer       // nil: nothing was left out
}

// A quota is a limit, and how much was left out because of it.
type quota struct {
	*rate.Limiter
	leftOut int
}

func newLines(log *slog.Logger) *lines {
	return &lines{
		log: log, machines: map[string]*quota{},
		unknown: quota{Limiter: rate.NewLimiter(rate.Every(unknownLinesEvery), unknownLinesAtOnce)},
	}
}

// write writes a line about a machine, or counts it.
func (l *lines) write(machine string, known bool, level slog.Level, message string, attributes ...slog.Attr) {
	leftOut, ok := l.take(machine, known)
	if !ok {
		return
	}
	if leftOut > 0 {
		attributes = append(attributes, slog.Int("left_out", leftOut))
	}
	l.log.LogAttrs(context.Background(), level, message, attributes...)
}

// take reports whether there is a line for a machine, and how many were left out since
// the last one.
func (l *lines) take(machine string, known bool) (leftOut int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.quota(machine)
	if own.Allow() && (known || l.unknown.Allow()) {
		leftOut, own.leftOut = own.leftOut, 0
		return leftOut, true
	}
	if known {
		own.leftOut++
	} else {
		l.unknown.leftOut++
	}
	if l.timer == nil {
		l.timer = time.AfterFunc(leftOutEvery, l.flush)
	}
	return 0, false
}

// quota returns a machine's. Names that were made up take the memory of as many as the
// journal remembers.
func (l *lines) quota(machine string) *quota {
	if own, ok := l.machines[machine]; ok {
		return own
	}
	if len(l.machines) >= maxMachines {
		for name, other := range l.machines { // any
			l.unknown.leftOut += other.leftOut
			delete(l.machines, name)
			break
		}
	}
	own := &quota{Limiter: rate.NewLimiter(rate.Every(linesEvery), linesAtOnce)}
	l.machines[machine] = own
	return own
}

// flush writes how much was left out since it last did.
func (l *lines) flush() {
	for _, line := range l.summary() {
		l.log.LogAttrs(context.Background(), slog.LevelWarn, "left lines out of this log", line...)
	}
}

func (l *lines) summary() (summary [][]slog.Attr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	others := l.unknown.leftOut
	l.unknown.leftOut = 0
	most := slices.SortedFunc(maps.Keys(l.machines), func(a, b string) int {
		return cmp.Or(cmp.Compare(l.machines[b].leftOut, l.machines[a].leftOut), cmp.Compare(a, b))
	})
	for i, machine := range most {
		own := l.machines[machine]
		if own.leftOut > 0 && i < mostNamed {
			summary = append(summary, []slog.Attr{slog.String("machine", machine), slog.Int("left_out", own.leftOut)})
		} else {
			others += own.leftOut
		}
		own.leftOut = 0
	}
	if others > 0 {
		summary = append(summary, []slog.Attr{slog.String("machine", "all others"), slog.Int("left_out", others)})
	}
	return summary
}
