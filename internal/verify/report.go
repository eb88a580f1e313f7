package verify

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"every.channel/runner-images/internal/trust"
)

// A Verdict is what the comparison of one file came to.
type Verdict string

const (
	Same        Verdict = "same"         // bit for bit
	Different   Verdict = "different"    // or missing, or not listed
	NotCompared Verdict = "not compared" // see the reason
	Failed      Verdict = "failed"       // it could not be built
)

// A Report is what the comparison of a release came to. Its JSON form is what
// `runner-images verify --json` prints.
type Report struct {
	Tag    string `json:"release_tag"`
	Result string `json:"result"` // "same", "different", "failed" or "nothing comparable"

	// Signer is who signed SHA256SUMS.txt; nil if no signature was asked for.
	Signer *trust.Signer `json:"signer"`

	// Published is when the release was last published with a change, by the clock of
	// the signer, in RFC 3339; empty if that is not proved.
	Published string `json:"published"`

	// Origins are the builds that made the release's files, according to its
	// provenance; only signed provenance if a signature was asked for.
	Origins []Origin `json:"origins"`

	// OtherFlake describes how the flake here differs from the release's. It is empty if they are the same, or if one is not known.
	OtherFlake string   `json:"other_flake"`
	Flake      *Flakes  `json:"flake"`
	Assets     []Asset  `json:"assets"`
	Notes      []string `json:"notes"`
}

// An Origin is one run that made files of a release. Its fields are empty where
// that is not known.
type Origin struct {
	Repository string `json:"repository"` // its address
	Commit     string `json:"commit"`
	Run        string `json:"run"`      // the address of the workflow's run
	Finished   string `json:"finished"` // RFC 3339
}

func originOf(build trust.Build) Origin {
	origin := Origin{Repository: build.Repository, Commit: build.Commit, Run: build.Run.URL}
	origin.Finished = formatTime(build.Run.Finished)
	return origin
}

// formatTime writes a time in RFC 3339, and nothing for none.
func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// String returns the origin in words.
func (o Origin) String() string {
	text := "built"
	for _, part := range []struct{ before, value string }{
		{" on ", o.Finished}, {" from commit ", o.Commit}, {" of ", o.Repository}, {" by ", o.Run},
	} {
		if part.value != "" {
			text += part.before + oneLine(part.value)
		}
	}
	return text
}

// Flakes are the flakes of the release and of this machine.
type Flakes struct {
	Published Flake `json:"published"`
	Here      Flake `json:"here"`
}

// A Flake is a source that was built.
type Flake struct {
	URL      string `json:"url"`
	Revision string `json:"revision"`
	NARHash  string `json:"nar_hash"`
}

// An Asset is one published file. Sums are SHA-256 in lower-case hexadecimal, and
// empty where there is none.
type Asset struct {
	Name        string       `json:"name"`
	Size        int64        `json:"size"`      // bytes, of the published file
	Listed      string       `json:"listed"`    // the sum in SHA256SUMS.txt
	Published   string       `json:"published"` // the sum of the published file
	Rebuilt     string       `json:"rebuilt"`
	Verdict     Verdict      `json:"verdict"`
	Reason      string       `json:"reason"`
	Differences []Difference `json:"differences"`
}

const nothingComparable = "nothing comparable"

// with returns the names of the files with a verdict.
func (r Report) with(verdict Verdict) []string {
	var names []string
	for _, asset := range r.Assets {
		if asset.Verdict == verdict {
			names = append(names, asset.Name)
		}
	}
	return names
}

func (r Report) result() string {
	for _, verdict := range []Verdict{Different, Failed, Same} {
		if len(r.with(verdict)) > 0 {
			return string(verdict)
		}
	}
	return nothingComparable
}

// Err returns nil if all that could be compared is the same; else an error, which
// wraps ErrDifferent or ErrNothingComparable where that is the result.
func (r Report) Err() error {
	switch r.Result {
	case string(Same):
		return nil
	case string(Different):
		return fmt.Errorf("release %s: %w: %s", oneLine(r.Tag), ErrDifferent, oneLine(strings.Join(r.with(Different), ", ")))
	case string(Failed):
		return fmt.Errorf("release %s: could not be rebuilt: %s", oneLine(r.Tag), oneLine(strings.Join(r.with(Failed), ", ")))
	default:
		return fmt.Errorf("release %s: %w", oneLine(r.Tag), ErrNothingComparable)
	}
}

// compareFlakes describes how the flake of this machine differs from the release's,
// the most likely reason for other bytes.
func (r *Report) compareFlakes(request Request, p published) {
	if request.Rebuild == nil {
		return
	}
	ours := request.Metadata
	var others []string
	for _, build := range p.builds {
		theirs := build.Flake
		other := otherFlake(theirs, ours)
		if other != "" {
			others = append(others, other)
		}
		if r.Flake == nil || other == "" {
			r.Flake = &Flakes{Published: flakeOf(theirs), Here: flakeOf(ours)}
		}
	}
	switch {
	case len(others) == 0:
	case len(others) == len(p.builds):
		r.OtherFlake = others[0]
	default: // a part of the release was added from another revision
		r.Notes = append(r.Notes, others...)
	}
}

func flakeOf(f trust.Flake) Flake {
	return Flake{URL: f.URL, Revision: f.Revision, NARHash: f.NARHash}
}

// otherFlake describes how the flake here differs from the release's. It returns ""
// if they are the same or if that is unknown.
func otherFlake(theirs, ours trust.Flake) string {
	var how string
	switch {
	case theirs.NARHash != "" && theirs.NARHash == ours.NARHash:
		return "" // the same files, whatever the revision is called
	case theirs.Revision != "" && ours.Revision != "" && theirs.Revision != ours.Revision:
		how = fmt.Sprintf("the flake here is at revision %s, the release was built from %s", ours.Revision, theirs.Revision)
	case theirs.NARHash != "" && ours.NARHash != "":
		how = fmt.Sprintf("the flake here has other files (%s) than the one that the release was built from (%s)", ours.NARHash, theirs.NARHash)
	default:
		return ""
	}
	if theirs.Revision != "" {
		how += fmt.Sprintf("; to build that one: --flake '%s'", strings.ReplaceAll(theirs.URL, `'`, `'\''`))
	}
	return oneLine(how)
}

// Text returns the report for people: a table, with explanations below.
func (r Report) Text() string {
	var text strings.Builder
	if r.OtherFlake != "" {
		fmt.Fprintf(&text, "%s\n\n", r.OtherFlake)
	}
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "asset\tpublished\trebuilt\tverdict\n")
	for _, asset := range r.Assets {
		verdict := string(asset.Verdict)
		if asset.Verdict == NotCompared || asset.Verdict == Failed {
			verdict += ": " + firstLine(asset.Reason)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", oneLine(asset.Name), short(asset.Published), short(asset.Rebuilt), verdict)
	}
	_ = table.Flush() // a strings.Builder takes everything
	for _, asset := range r.Assets {
		asset.explain(&text)
	}
	for _, origin := range r.Origins {
		if origin != (Origin{}) {
			fmt.Fprintf(&text, "\n%s\n", origin)
		}
	}
	if r.Signer != nil {
		fmt.Fprintf(&text, "\nsigned for %s by %s (%s)\n", r.Tag, r.Signer.Principals, r.Signer.Fingerprint)
	}
	if r.Published != "" {
		fmt.Fprintf(&text, "published on %s, by the clock of the signer\n", r.Published)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&text, "\nnote: %s\n", note)
	}
	return text.String()
}

func (a Asset) explain(text *strings.Builder) {
	if a.Verdict != Different && a.Verdict != Failed {
		return
	}
	fmt.Fprintf(text, "\n%s: %s\n", oneLine(a.Name), a.Reason)
	if a.Listed != a.Published && a.Published != "" && a.Listed != "" {
		fmt.Fprintf(text, "  listed     %s\n  published  %s\n", a.Listed, a.Published)
	}
	for _, d := range a.Differences {
		fmt.Fprintf(text, "  %s\n", d)
	}
}

// String returns the difference in one line.
func (d Difference) String() string {
	var parts []string
	if d.PublishedSize >= 0 && d.RebuiltSize >= 0 {
		if d.PublishedSize == d.RebuiltSize {
			parts = append(parts, fmt.Sprintf("%d bytes in both", d.PublishedSize))
		} else {
			parts = append(parts, fmt.Sprintf("%d bytes published, %d rebuilt", d.PublishedSize, d.RebuiltSize))
		}
	} else if size := max(d.PublishedSize, d.RebuiltSize); size >= 0 {
		parts = append(parts, fmt.Sprintf("%d bytes", size))
	}
	if d.Offset >= 0 {
		parts = append(parts, fmt.Sprintf("first different at offset %d (%#x)", d.Offset, d.Offset))
	}
	line := d.Reason
	if d.File != "" {
		line = oneLine(d.File) + ": " + line
	}
	if len(parts) > 0 {
		line += ": " + strings.Join(parts, ", ")
	}
	return line
}

// short is the beginning of a sum, for a table.
func short(sum string) string {
	const digits = 12
	if sum == "" {
		return "-"
	}
	return sum[:min(len(sum), digits)]
}

// oneLine makes text of a release, such as a name or an address, safe to print: each
// character that is not printable becomes a �, so that the text cannot begin a line,
// move the cursor or change the direction of writing.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
