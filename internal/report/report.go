// Package report shows what a run does: in Actions as plain lines with
// groups, annotations, outputs and a job summary, at a terminal as short lines
// with progress bars. The text is the same in both. It is the only package
// that knows of Actions.
package report

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sethvargo/go-githubactions"
	"golang.org/x/term"

	"every.channel/runner-images/internal/redact"
)

// Options are where a report goes.
type Options struct {
	Out    io.Writer           // results, and in Actions everything
	Log    io.Writer           // at a terminal: what happens meanwhile
	Getenv func(string) string // the environment; os.Getenv by default

	// Interval is the shortest time between two lines of progress about the
	// same thing where there are no bars; 20 seconds by default.
	Interval time.Duration
}

// A Report is safe for use by several goroutines.
type Report struct {
	action   *githubactions.Action // nil at a terminal
	getenv   func(string) string
	interval time.Duration
	bars     bool // Log is a terminal

	mu      sync.Mutex
	out     io.Writer
	log     io.Writer
	secrets []string
}

// New returns a report for Actions if the environment has GITHUB_ACTIONS=true,
// as Forgejo's and Gitea's runners do, else one for a terminal.
func New(o Options) *Report {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Interval == 0 {
		o.Interval = 20 * time.Second
	}
	r := &Report{getenv: o.Getenv, interval: o.Interval, out: o.Out, log: o.Log}
	if o.Getenv("GITHUB_ACTIONS") == "true" {
		r.log = o.Out // one stream keeps the order
		r.action = githubactions.New(githubactions.WithWriter(writer(r.write)), githubactions.WithGetenv(o.Getenv))
		return r
	}
	if file, ok := o.Log.(*os.File); ok {
		r.bars = term.IsTerminal(int(file.Fd())) && o.Getenv("TERM") != "dumb"
	}
	return r
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// write is the one way into the log. A log that cannot be written to, such as a
// closed pipe, does not stop a release.
func (r *Report) write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = r.log.Write(p)
	return len(p), nil
}

// Mask hides a secret in everything that is reported from now on.
func (r *Report) Mask(secret string) {
	if secret == "" {
		return
	}
	if r.action != nil {
		for line := range strings.Lines(secret) {
			if line = strings.TrimSpace(line); line != "" {
				r.action.AddMask(line)
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets = append(r.secrets, redact.Printable(secret))
}

// clean removes secrets, those of addresses too, and what a terminal or a log would obey: everything that is
// reported passes it, and may be a server's words.
func (r *Report) clean(text string) string {
	text = redact.Addresses(redact.Printable(text))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, secret := range r.secrets {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return text
}

// Line reports one line of what happens.
func (r *Report) Line(format string, args ...any) {
	text := r.clean(fmt.Sprintf(format, args...))
	if r.action != nil {
		text = inert(text)
	}
	_, _ = r.write([]byte(text + "\n"))
}

// inert keeps text that comes from elsewhere, such as a builder's log, from
// being read as workflow commands.
func inert(text string) string {
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "::") || strings.HasPrefix(trimmed, "##[") {
			lines[i] = "> " + line
		}
	}
	return strings.Join(lines, "")
}

// Result prints what was asked for, on Out.
func (r *Report) Result(text string) {
	text = r.clean(text)
	if r.action != nil {
		text = inert(text)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = io.WriteString(r.out, text)
}

// Group begins a part of the run. The function that it returns ends it.
func (r *Report) Group(title string) (end func()) {
	if r.action == nil {
		r.Line("%s", title)
		return func() {}
	}
	r.action.Group(r.clean(title))
	return r.action.EndGroup
}

// Notice reports something that readers of the run should see.
func (r *Report) Notice(format string, args ...any) {
	r.annotate("note", (*githubactions.Action).Noticef, fmt.Sprintf(format, args...))
}

// Warning reports something that may be wrong.
func (r *Report) Warning(format string, args ...any) {
	r.annotate("warning", (*githubactions.Action).Warningf, fmt.Sprintf(format, args...))
}

// annotate reports a text: at a terminal behind its kind, in Actions with its first
// line as an annotation and the others above it. An annotation of several lines is one
// line of the log, with %0A in it, where the runner has no annotations (Forgejo's).
func (r *Report) annotate(kind string, command func(*githubactions.Action, string, ...any), text string) {
	if r.action == nil {
		r.Line("%s: %s", kind, text)
		return
	}
	first, rest, _ := strings.Cut(strings.Trim(r.clean(text), "\n"), "\n")
	if rest != "" {
		r.Line("%s", rest)
	}
	command(r.action, "%s", first)
}

// Error reports why the run fails. Errors that were joined are reported one by
// one.
func (r *Report) Error(err error) {
	if all := separate(err); len(all) > 0 {
		for _, err := range all {
			r.Error(err)
		}
		return
	}
	r.annotate("error", (*githubactions.Action).Errorf, err.Error())
}

// separate returns the errors that an error consists of: all of its words are theirs.
func separate(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var texts []string
	for _, err := range joined.Unwrap() {
		texts = append(texts, err.Error())
	}
	if strings.Join(texts, "\n") != err.Error() {
		return nil
	}
	return joined.Unwrap()
}
