package nix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// An EventKind is what happened.
type EventKind string

// The kinds of events.
const (
	Evaluating EventKind = "evaluating" // an installable is being evaluated: Text is it
	Evaluated  EventKind = "evaluated"  // all have been, and Nix goes on to build
	Started    EventKind = "started"    // the build of a derivation started
	Line       EventKind = "line"       // a builder wrote a line: Text
	Ended      EventKind = "ended"      // the build of a derivation ended, whether it succeeded or not
	Warning    EventKind = "warning"    // Nix, or a program that it ran, printed a message: Text
	Changed    EventKind = "changed"    // only Progress changed
)

// An Event is something that happened while Nix evaluates, builds or copies.
type Event struct {
	Kind       EventKind
	Derivation string // its store path, for Started, Line and Ended
	Text       string
	Progress   Progress
}

// Progress is how far Nix is. The slices are not changed afterwards, so a
// Progress can be kept.
type Progress struct {
	Evaluating string  // the installable that is being evaluated, if one is
	Building   []Build // what is being built now, the longest first
	Built      int     // derivations that have been built
	ToBuild    int     // derivations to build in all, as far as is known yet
	Copying    []Copy  // store paths that are being downloaded or uploaded now, the longest first
	Copied     int     // store paths that have been
	ToCopy     int     // store paths to copy in all, as far as is known yet
	Bytes      int64   // copied, uncompressed
	ToCopySize int64   // bytes to copy in all, uncompressed, as far as is known yet
}

// A Build is a derivation that is being built.
type Build struct {
	Derivation string // its store path
	Machine    string // the remote builder; empty if it is this machine
	Phase      string // "buildPhase", if the builder reports it
	Since      time.Time
}

// A Copy is a store path on its way.
type Copy struct {
	Path     string
	From, To string // stores, for example "https://cache.nixos.org"
	Since    time.Time
}

// String describes the current work in a few words that change only when it does,
// for example "building initrd-linux-6.12 (buildPhase) and 2 more, 3 of 12 done".
// It is empty if nothing is known to go on.
func (p Progress) String() string {
	switch {
	case len(p.Building) > 0:
		now := p.Building[0]
		text := "building " + Name(now.Derivation)
		if now.Phase != "" {
			text += " (" + now.Phase + ")"
		}
		if now.Machine != "" {
			text += " on " + now.Machine
		}
		return text + more(len(p.Building)) + fmt.Sprintf(", %d of %d done", p.Built, p.ToBuild)
	case len(p.Copying) > 0:
		now := p.Copying[0]
		return "copying " + Name(now.Path) + more(len(p.Copying)) + fmt.Sprintf(", %d of %d done", p.Copied, p.ToCopy)
	case p.Evaluating != "":
		return "evaluating " + p.Evaluating
	}
	return ""
}

func more(all int) string {
	if all == 1 {
		return ""
	}
	return fmt.Sprintf(" and %d more", all-1)
}

// Name returns the name in a store path, without the folder, the hash and the
// .drv of a derivation: "linux-6.12" of "/nix/store/…-linux-6.12.drv". A path
// of another form is returned as it is.
func Name(storePath string) string {
	hash, name, found := strings.Cut(path.Base(storePath), "-")
	if !found || len(hash) != 32 {
		return storePath
	}
	return strings.TrimSuffix(name, ".drv")
}

// A stream reads what nix writes to stderr with --log-format internal-json. Its
// lines are described by nixpkgs nowhere; the numbers are the enumerations
// ActivityType and ResultType in Nix's src/libutil/logging.hh.
type stream struct {
	events   func(Event) // may be nil
	progress Progress
	logs     map[string]*tail // the end of the log of every derivation that was started, by its store path
	errors   []nixError       // in the order in which Nix reported them
	other    tail             // lines that are no JSON

	pending    []byte // of a line that is not complete
	activities map[uint64]*activity
}

// A nixError is an error as Nix reports it.
type nixError struct {
	text string // the message alone, which may have several lines
	full string // with where it happened
}

type activity struct {
	kind  int
	field string // a build's derivation
	bytes int64  // of a copy, so far
}

// Activities and results of Nix.
const (
	activityUnknown   = 0
	activityCopyPath  = 100
	activityRealise   = 102
	activityCopyPaths = 103
	activityBuilds    = 104
	activityBuild     = 105

	resultLogLine  = 101
	resultPhase    = 104
	resultProgress = 105
	resultExpected = 106
)

// Levels of messages.
const (
	levelError  = 0
	levelNotice = 2
)

func newStream(events func(Event)) *stream {
	return &stream{events: events, logs: map[string]*tail{}, activities: map[uint64]*activity{}}
}

// Write reads a piece of the stream; lines may be of any length.
func (s *stream) Write(piece []byte) (int, error) {
	s.pending = append(s.pending, piece...)
	for {
		line, rest, found := bytes.Cut(s.pending, []byte("\n"))
		if !found {
			return len(piece), nil
		}
		s.line(string(line))
		s.pending = rest
	}
}

func (s *stream) line(line string) {
	text, found := strings.CutPrefix(line, "@nix ")
	var m struct {
		Action   string          `json:"action"`
		ID       uint64          `json:"id"`
		Type     int             `json:"type"`
		Level    int             `json:"level"`
		Text     string          `json:"text"`
		Fields   json.RawMessage `json:"fields"`
		Message  string          `json:"msg"`
		ErrorRaw *string         `json:"raw_msg"`
	}
	if !found || json.Unmarshal([]byte(text), &m) != nil {
		if line = plain(line); line != "" {
			s.other.add(line)
			s.emit(Event{Kind: Warning, Text: line})
		}
		return
	}
	switch m.Action {
	case "msg":
		s.message(m.Level, m.Message, m.ErrorRaw)
	case "start":
		s.start(m.ID, m.Type, m.Text, m.Fields)
	case "stop":
		s.stop(m.ID)
	case "result":
		s.result(m.ID, m.Type, m.Fields)
	}
}

// "these 12 derivations will be built:", and the paths below it
var planned = regexp.MustCompile(`^(  /|these [0-9]+ |this (path|derivation) )`)

func (s *stream) message(level int, message string, raw *string) {
	message = plain(message)
	switch {
	case raw != nil && level == levelError:
		s.errors = append(s.errors, nixError{text: strings.TrimSpace(plain(*raw)), full: message})
	case level <= levelNotice && message != "" && !planned.MatchString(message):
		s.emit(Event{Kind: Warning, Text: message})
	}
}

var evaluatingText = regexp.MustCompile(`^evaluating derivation '(.*)'$`)

func (s *stream) start(id uint64, kind int, text string, raw json.RawMessage) {
	a := &activity{kind: kind}
	switch kind {
	case activityUnknown:
		match := evaluatingText.FindStringSubmatch(plain(text))
		if match == nil {
			return
		}
		s.progress.Evaluating = match[1]
		s.emit(Event{Kind: Evaluating, Text: match[1]})
	case activityBuild:
		// The derivation, the machine, and two numbers that mean nothing any more.
		fields := texts(raw)
		if len(fields) < 2 {
			return
		}
		a.field = fields[0]
		if s.logs[a.field] == nil { // a build on another machine may start twice
			s.logs[a.field] = &tail{}
		}
		s.progress.Evaluating = ""
		s.progress.Building = append(slices.Clone(s.progress.Building),
			Build{Derivation: a.field, Machine: fields[1], Since: time.Now()})
		s.emit(Event{Kind: Started, Derivation: a.field})
	case activityCopyPath:
		fields := texts(raw)
		if len(fields) < 3 {
			return
		}
		a.field = fields[0]
		s.progress.Evaluating = ""
		s.progress.Copying = append(slices.Clone(s.progress.Copying),
			Copy{Path: a.field, From: fields[1], To: fields[2], Since: time.Now()})
		s.emit(Event{Kind: Changed})
	case activityRealise, activityCopyPaths, activityBuilds:
	default:
		return
	}
	s.activities[id] = a
}

func (s *stream) stop(id uint64) {
	a := s.activities[id]
	if a == nil {
		return
	}
	delete(s.activities, id)
	switch a.kind {
	case activityBuild:
		s.progress.Building = slices.DeleteFunc(slices.Clone(s.progress.Building),
			func(b Build) bool { return b.Derivation == a.field })
		s.emit(Event{Kind: Ended, Derivation: a.field})
	case activityCopyPath:
		s.progress.Copying = slices.DeleteFunc(slices.Clone(s.progress.Copying),
			func(c Copy) bool { return c.Path == a.field })
		s.emit(Event{Kind: Changed})
	}
}

func (s *stream) result(id uint64, kind int, raw json.RawMessage) {
	a := s.activities[id]
	if a == nil {
		return
	}
	before := s.progress
	switch {
	case a.kind == activityBuild && kind == resultLogLine:
		if fields := texts(raw); len(fields) > 0 {
			line := plain(fields[0])
			s.logs[a.field].add(line)
			s.emit(Event{Kind: Line, Derivation: a.field, Text: line})
		}
		return
	case a.kind == activityBuild && kind == resultPhase:
		if fields := texts(raw); len(fields) > 0 {
			s.phase(a.field, fields[0])
		}
	case a.kind == activityBuilds && kind == resultProgress:
		// Done, expected, running, failed.
		if n := numbers(raw); len(n) >= 2 {
			s.progress.Built = int(n[0])
			s.progress.ToBuild = max(s.progress.ToBuild, int(n[1]), s.progress.Built)
		}
	case a.kind == activityCopyPaths && kind == resultProgress:
		if n := numbers(raw); len(n) >= 2 {
			s.progress.Copied = int(n[0])
			s.progress.ToCopy = max(s.progress.ToCopy, int(n[1]))
		}
	case a.kind == activityCopyPath && kind == resultProgress:
		if n := numbers(raw); len(n) >= 1 {
			s.progress.Bytes += n[0] - a.bytes
			a.bytes = n[0]
		}
	case (a.kind == activityRealise || a.kind == activityCopyPaths) && kind == resultExpected:
		// The kind of activity of which so much is expected, and how much.
		if n := numbers(raw); len(n) >= 2 && n[0] == activityCopyPath {
			s.progress.ToCopySize = n[1]
		}
	}
	if !same(before, s.progress) {
		s.emit(Event{Kind: Changed})
	}
}

func (s *stream) phase(derivation, phase string) {
	s.progress.Building = slices.Clone(s.progress.Building)
	for i := range s.progress.Building {
		if s.progress.Building[i].Derivation == derivation {
			s.progress.Building[i].Phase = phase
		}
	}
}

func same(a, b Progress) bool {
	return a.Evaluating == b.Evaluating && a.Built == b.Built && a.ToBuild == b.ToBuild && a.Copied == b.Copied &&
		a.ToCopy == b.ToCopy && a.Bytes == b.Bytes && a.ToCopySize == b.ToCopySize &&
		slices.Equal(a.Building, b.Building) && slices.Equal(a.Copying, b.Copying)
}

func (s *stream) emit(event Event) {
	if s.events == nil {
		return
	}
	event.Progress = s.progress
	s.events(event)
}

// texts returns the fields of a message that are strings, others as "".
func texts(raw json.RawMessage) []string {
	var fields []any
	if json.Unmarshal(raw, &fields) != nil {
		return nil
	}
	found := make([]string, len(fields))
	for i, field := range fields {
		found[i], _ = field.(string)
	}
	return found
}

func numbers(raw json.RawMessage) []int64 {
	var fields []int64
	if json.Unmarshal(raw, &fields) != nil {
		return nil
	}
	return fields
}

var controls = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)`)

// plain removes a terminal's control sequences, and what a progress bar has
// overwritten.
func plain(text string) string {
	text = strings.TrimRight(controls.ReplaceAllString(text, ""), "\r\n")
	if at := strings.LastIndexByte(text, '\r'); at >= 0 && !strings.Contains(text, "\n") {
		text = text[at+1:]
	}
	return text
}

// tailLines is how many of the last lines of a derivation's log are kept.
const tailLines = 25

// A tail keeps the last lines of a log.
type tail struct{ lines []string }

func (t *tail) add(line string) {
	t.lines = append(t.lines, line)
	if len(t.lines) > tailLines {
		t.lines = t.lines[1:]
	}
}
