package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

// A view is what the page shows.
type view struct {
	Current  *release // nil: none
	Releases []release
	Rings    []ring
	Machines []machineRow // at most maxRows
	Seen     int          // how many machines are remembered
	Full     bool         // others were forgotten
	Booting  int
	FilesURL string // where machines load kernel and initrd from; empty: from here
	Stuck    int
	Problem  string // why the releases are not all shown, or empty

	// Proof is when the publisher has last changed a release, as far as that was
	// proved, and ProofAge how long ago that is; zero and empty if unknown.
	Proof    time.Time
	ProofAge string
}

type release struct {
	state.Release
	Current bool
	Bundles []bundle
}

type bundle struct {
	state.Bundle
	Architecture machine.Architecture
	Files        []file
}

type file struct {
	state.File
	Name string
}

type ring struct {
	state.Ring
	Staged bool // its release is
}

type machineRow struct {
	Machine
	Ring   string
	Now    string // how far it is
	Kind   string // "booting", "booted", "stuck" or "elsewhere"
	Fetch  *fetch // the image that is being sent, if any
	Files  []fetch
	Since  string // how long ago its boot began
	Booted string // how long ago its last boot was
}

type fetch struct {
	Fetch
	Percent int
}

// maxRows is how many machines the page shows, which is sent again and again while it is
// open.
const maxRows = 500

// stuckAfter is how long a machine that boots may ask for nothing before the page
// reports it.
const stuckAfter = 2 * time.Minute

func (p *statusPage) view(now time.Time) view {
	v := view{FilesURL: p.filesURL, Full: p.journal.full()}
	current, err := p.state.Current()
	releases, releasesErr := p.state.Releases()
	if err == nil && releasesErr != nil {
		v.Problem = releasesErr.Error()
	}
	if err != nil {
		v.Problem = err.Error()
	}
	switch mark, err := p.state.Mark(); {
	case err == nil && !mark.Published.IsZero():
		v.Proof, v.ProofAge = mark.Published, formatSince(mark.Published, now)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		v.Problem = strings.TrimPrefix(v.Problem+"; "+err.Error(), "; ")
	}
	staged := map[string]bool{}
	for _, r := range releases {
		shown := newRelease(r)
		shown.Current = r.Tag == current.Tag
		if shown.Current {
			v.Current = &shown
		}
		v.Releases = append(v.Releases, shown)
		staged[r.Tag] = true
	}
	rings := p.rings()
	for _, r := range rings.Rings {
		v.Rings = append(v.Rings, ring{r, staged[r.Tag]})
	}
	for _, m := range p.journal.Machines() {
		shown := newMachineRow(m, now)
		ring, _ := rings.For(m.MAC)
		shown.Ring = ring.Name
		switch shown.Kind {
		case "booting":
			v.Booting++
		case "stuck":
			v.Stuck++
		}
		v.Machines = append(v.Machines, shown)
	}
	v.Seen = len(v.Machines)
	if v.Seen > maxRows {
		slices.SortStableFunc(v.Machines, func(a, b machineRow) int { return a.rank() - b.rank() })
		v.Machines = v.Machines[:maxRows]
	}
	// A row stays where it is while its machine boots.
	slices.SortStableFunc(v.Machines, func(a, b machineRow) int {
		return cmp.Or(a.MAC.Compare(b.MAC), a.Address.Compare(b.Address))
	})
	return v
}

func newRelease(r state.Release) release {
	shown := release{Release: r}
	for _, architecture := range machine.Architectures() {
		b, ok := r.Bundles[architecture]
		if !ok {
			continue
		}
		shownBundle := bundle{Bundle: b, Architecture: architecture}
		for _, name := range state.FileNames() {
			shownBundle.Files = append(shownBundle.Files, file{b.Files[name], name})
		}
		shown.Bundles = append(shown.Bundles, shownBundle)
	}
	return shown
}

func newMachineRow(m Machine, now time.Time) machineRow {
	shown := machineRow{Machine: m, Now: m.Stage.String(), Kind: "booting", Since: formatSince(m.Began, now)}
	var last *fetch
	for _, f := range m.Fetched {
		shown.Files = append(shown.Files, fetch{f, percent(f)})
		last = &shown.Files[len(shown.Files)-1]
		if f.Ended.IsZero() {
			shown.Fetch = last
		}
	}
	quiet := now.Sub(m.Seen) > stuckAfter
	switch {
	case m.Refused != "":
		shown.Kind, shown.Now = "stuck", "refused: "+m.Refused
	case m.Stage == Booted:
		shown.Kind = "booted"
	case m.Elsewhere:
		shown.Kind = "elsewhere"
	case last != nil && !last.Ended.IsZero() && !last.Complete:
		shown.Kind, shown.Now = "stuck", "broke off: "+last.Name
	case quiet && shown.Fetch == nil:
		shown.Kind, shown.Now = "stuck", shown.Now+", then nothing"
	}
	if !m.LastBoot.IsZero() {
		shown.Booted = formatSince(m.LastBoot, now)
	}
	return shown
}

func percent(f Fetch) int {
	if f.Size <= 0 {
		return 100
	}
	return int(min(100, f.Sent*100/f.Size))
}

// formatSince writes how long ago something was, in steps that let a page be.
func formatSince(t, now time.Time) string {
	count := func(n int, unit string) string {
		if n == 1 {
			return "1 " + unit + " ago"
		}
		return fmt.Sprintf("%d %ss ago", n, unit)
	}
	switch ago := now.Sub(t); {
	case ago < time.Minute:
		return "just now"
	case ago < time.Hour:
		return count(int(ago.Minutes()), "minute")
	case ago < 48*time.Hour:
		return count(int(ago.Hours()), "hour")
	default:
		return count(int(ago.Hours()/24), "day")
	}
}

// rank says which rows are shown where there are too many, 0 first.
func (m machineRow) rank() int {
	if m.Kind == "booting" {
		return 0
	}
	return 1
}

// Name returns what the machine is called.
func (m machineRow) Name() string { return m.name() }
