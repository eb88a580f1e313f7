package deploy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"every.channel/runner-images/internal/report"
)

// timings is when the parts of a run were under way. They may overlap, and a part may
// have several goroutines: it lasts from the first's begin to the last's end.
type timings struct {
	mutex sync.Mutex
	begun time.Time
	parts []part
}

type part struct {
	name       string
	begin, end time.Time
}

func newTimings() *timings { return &timings{begun: time.Now()} }

// begin notes that a part is under way until the function is called that it returns.
func (t *timings) begin(name string) (end func()) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	i := slices.IndexFunc(t.parts, func(p part) bool { return p.name == name })
	if i < 0 {
		i = len(t.parts)
		t.parts = append(t.parts, part{name: name, begin: time.Now()})
	}
	return func() {
		t.mutex.Lock()
		defer t.mutex.Unlock()
		t.parts[i].end = time.Now()
	}
}

// tell reports each part: when it began in the run, and how long it took.
func (t *timings) tell(r *report.Report) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	for _, p := range t.parts {
		if !p.end.IsZero() {
			r.Line("timings: %-10s %7.2f s, from %.2f s on", p.name, p.end.Sub(p.begin).Seconds(), p.begin.Sub(t.begun).Seconds())
		}
	}
	r.Line("timings: %-10s %7.2f s", "all", time.Since(t.begun).Seconds())
}

// line is the parts that people wait for, in a line of the job's summary.
func (t *timings) line() string {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	var parts []string
	for _, name := range []string{"build", "package", "upload", "publish"} {
		if i := slices.IndexFunc(t.parts, func(p part) bool { return p.name == name }); i >= 0 {
			parts = append(parts, fmt.Sprintf("%s %.1f s", name, t.parts[i].end.Sub(t.parts[i].begin).Seconds()))
		}
	}
	what := "Time"
	if slices.ContainsFunc(t.parts, func(p part) bool { return p.name == "upload" }) {
		what += ", with uploads beside the packaging"
	}
	return what + ": " + strings.Join(parts, ", ") + "."
}
