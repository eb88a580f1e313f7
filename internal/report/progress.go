package report

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"every.channel/runner-images/internal/size"
)

// A Progress shows the progress of a long operation: as bars at a terminal, elsewhere
// as a line now and then. It is safe for use by several goroutines. The caller must
// close it.
type Progress struct {
	report *Report
	verb   string

	// Not under mu: the bars' own goroutine reads it.
	status atomic.Pointer[status]

	mu    sync.Mutex
	items map[string]*item
	shown time.Time // when the last line was printed

	bars    *mpb.Progress // at a terminal
	spinner *mpb.Bar
	before  io.Writer // the report's log, while the bars have it
	ticker  *time.Ticker
	closed  chan struct{}
	ticks   sync.WaitGroup
}

type status struct {
	text  string
	since time.Time
}

func (s *status) String() string {
	lasted := age(s.since)
	if lasted < 2*time.Second {
		return s.text
	}
	return fmt.Sprintf("%s (for %s)", s.text, lasted)
}

type item struct {
	verb, name  string
	done, total int64
	started     time.Time
	shown       time.Time
	finished    bool
	bar         *mpb.Bar
}

func (it *item) String() string {
	return fmt.Sprintf("%s %s: %s of %s (%d%%)", it.verb, it.name, size.Text(it.done), size.Text(it.total), percent(it.done, it.total))
}

// Progress begins to show the progress of an operation, for example "upload".
func (r *Report) Progress(verb string) *Progress {
	p := &Progress{
		report: r,
		verb:   verb,
		items:  map[string]*item{},
		shown:  time.Now(),
		ticker: time.NewTicker(r.interval),
		closed: make(chan struct{}),
	}
	if r.bars {
		r.mu.Lock()
		p.before = r.log
		p.bars = mpb.New(mpb.WithOutput(r.log), mpb.WithRefreshRate(150*time.Millisecond))
		r.log = p.bars
		r.mu.Unlock()
		p.spinner = p.bars.AddSpinner(1, mpb.BarRemoveOnComplete(), mpb.BarWidth(1),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return p.statusLine() })))
		return p
	}
	p.ticks.Go(func() {
		for {
			select {
			case <-p.closed:
				return
			case <-p.ticker.C:
				p.tick()
			}
		}
	})
	return p
}

// Status sets what is being done now. It stays until the next one, and is printed
// again, with its duration, after a while without other output.
func (p *Progress) Status(format string, args ...any) {
	text := p.report.clean(fmt.Sprintf(format, args...))
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := p.status.Load(); last != nil && last.text == text {
		return
	}
	p.status.Store(&status{text, time.Now()})
	if p.bars == nil && time.Since(p.shown) >= p.report.interval {
		p.print("%s", text)
	}
}

// Bytes sets how many bytes of an item are done, of how many. An item begins with 0
// bytes done and is finished when all are.
func (p *Progress) Bytes(name string, done, total int64) { p.BytesOf(p.verb, name, done, total) }

// BytesOf is Bytes for an operation that goes on beside the one that is shown.
func (p *Progress) BytesOf(verb, name string, done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := name
	if verb != p.verb {
		key = verb + " " + name
	}
	it := p.items[key]
	if it == nil {
		it = &item{verb: verb, name: name, started: time.Now(), shown: time.Now()}
		p.items[key] = it
		if p.bars != nil {
			it.bar = p.bar(key, total)
		}
	}
	// A file that is sent once more begins at zero again.
	it.done, it.total, it.finished = done, total, it.finished && done == total
	switch {
	case it.bar != nil:
		it.bar.SetCurrent(done)
	case done == total && !it.finished:
		it.finished = true
		p.print("%s %s: %s in %s", verb, name, size.Text(total), age(it.started))
	case time.Since(it.shown) >= p.report.interval:
		it.shown = time.Now()
		p.print("%s", it)
	}
}

// Close ends the display.
func (p *Progress) Close() {
	close(p.closed)
	p.ticker.Stop()
	p.ticks.Wait()
	if p.bars == nil {
		return
	}
	p.spinner.Abort(true)
	p.mu.Lock()
	for _, it := range p.items {
		it.bar.Abort(false) // nothing is left of this for a bar that is full
	}
	p.mu.Unlock()
	p.bars.Wait()
	p.report.mu.Lock()
	p.report.log = p.before
	p.report.mu.Unlock()
}

func (p *Progress) bar(name string, total int64) *mpb.Bar {
	return p.bars.AddBar(total,
		mpb.PrependDecorators(decor.Name(p.report.clean(name), decor.WCSyncSpaceR)),
		mpb.AppendDecorators(
			decor.CountersKibiByte("% .1f of % .1f", decor.WCSyncSpace),
			decor.AverageSpeed(decor.SizeB1024(0), "% .1f", decor.WCSyncSpace),
			decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace),
		),
	)
}

// tick prints the progress after a time without output.
func (p *Progress) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.shown) < p.report.interval/2 {
		return
	}
	if status := p.status.Load(); status != nil {
		p.print("%s", status)
	}
	var names []string
	for name, it := range p.items {
		if !it.finished {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		p.print("%s", p.items[name])
	}
}

func (p *Progress) print(format string, args ...any) {
	p.shown = time.Now()
	p.report.Line(format, args...)
}

func (p *Progress) statusLine() string {
	if status := p.status.Load(); status != nil {
		return status.String()
	}
	return p.verb
}

func age(since time.Time) time.Duration { return time.Since(since).Round(time.Second) }

func percent(done, total int64) int64 {
	if total <= 0 {
		return 100
	}
	return 100 * done / total
}
