package nix

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A BuildError is what was not built, and why.
type BuildError struct {
	Failures []Failure
	Built    []string // the names of the images that were built nevertheless
}

// A Failure is a derivation that was not built, and with it images.
type Failure struct {
	Images     []string // the names of those that need it
	Derivation string   // its store path: an image's own, or that of something that images are made of; the image's output if that was asked for
	Dependency bool     // it is not an image's own
	Kind       FailureKind
	Reason     string   // a sentence, for example "the builder ended with exit code 1"
	Hint       string   // what to do; may be empty
	Log        []string // the last lines of its log, 25 at most
}

// A FailureKind groups failures by what they ask of the user.
type FailureKind string

// The kinds of failures.
const (
	BuilderFailed   FailureKind = "builder failed"
	NotReproducible FailureKind = "not reproducible" // only with Rebuild: built again, it has other bytes
	WrongMachine    FailureKind = "wrong machine"    // no machine at hand builds for this system, or has the features
	DiskFull        FailureKind = "disk full"
	OtherFailure    FailureKind = "other"
)

// Error returns the failures, one after the other.
func (e *BuildError) Error() string {
	texts := make([]string, len(e.Failures))
	for i, f := range e.Failures {
		texts[i] = f.Error()
	}
	return strings.Join(texts, "\n")
}

// Unwrap returns the failures, for errors.As and to report them one by one.
func (e *BuildError) Unwrap() []error {
	failures := make([]error, len(e.Failures))
	for i, f := range e.Failures {
		failures[i] = f
	}
	return failures
}

// Error returns the failure in a sentence, followed by the end of the log and
// what to do.
func (f Failure) Error() string {
	lines := []string{f.Sentence()}
	if len(f.Log) > 0 {
		lines = append(lines, fmt.Sprintf("  the end of its log (all of it: nix log %s):", f.Derivation))
	}
	for _, line := range f.Log {
		lines = append(lines, "  > "+line)
	}
	if f.Hint != "" {
		lines = append(lines, "  "+f.Hint)
	}
	return strings.Join(lines, "\n")
}

// Sentence names the images, the derivation and the reason.
func (f Failure) Sentence() string {
	were := " was"
	if len(f.Images) > 1 {
		were = " were"
	}
	what := Name(f.Derivation)
	if f.Dependency {
		what = "the dependency " + what
	}
	if f.Kind == NotReproducible {
		return fmt.Sprintf("%s%s not built the same again: %s: %s", strings.Join(f.Images, ", "), were, what, f.Reason)
	}
	return fmt.Sprintf("%s%s not built: %s: %s", strings.Join(f.Images, ", "), were, what, f.Reason)
}

// newBuildError returns nil if there are no failures.
func newBuildError(failures []Failure, targets []target) error {
	if len(failures) == 0 {
		return nil
	}
	inOrder := func(f Failure) int {
		return slices.IndexFunc(targets, func(t target) bool { return t.image.Name == f.Images[0] })
	}
	slices.SortStableFunc(failures, func(a, b Failure) int { return inOrder(a) - inOrder(b) })
	result := &BuildError{Failures: failures}
	for _, t := range targets {
		failed := slices.ContainsFunc(failures, func(f Failure) bool { return slices.Contains(f.Images, t.image.Name) })
		if !failed && !slices.Contains(result.Built, t.image.Name) {
			result.Built = append(result.Built, t.image.Name)
		}
	}
	return result
}

// explain finds out what a build that failed did not build, and why. It returns
// as rest, fewer than all targets, those that Nix gave up without a reason of
// their own.
func (n Nix) explain(ctx context.Context, v version, targets []target, s *stream, failure error) (failures []Failure, rest []target, err error) {
	reasons := s.reasons()
	var nameless []target // not built, and Nix names no derivation
	for _, t := range targets {
		needs := n.closure(ctx, t.derivation)
		explained := false
		for _, r := range reasons {
			if needs[r.derivation] {
				failures = addFailure(failures, t.image.Name, r)
				explained = true
			}
		}
		if !explained && !n.valid(ctx, t.output) {
			nameless = append(nameless, t)
		}
	}
	switch text := s.namelessReason(); {
	case len(nameless) == 0:
	case len(failures) > 0 && text == "":
		rest = nameless
	default:
		if text == "" {
			text = s.lastError(failure)
		}
		for _, t := range nameless {
			for _, derivation := range n.unfinished(ctx, v, t, s) {
				failures = addFailure(failures, t.image.Name, reason{derivation, text})
			}
		}
	}
	for i := range failures {
		n.describe(ctx, &failures[i], targets, s)
	}
	switch {
	case ctx.Err() != nil: // then not all that was asked of Nix was answered
		return nil, nil, stopped(ctx)
	case len(failures) == 0:
		return nil, nil, fmt.Errorf("nix build: %s", s.lastError(failure))
	}
	return failures, rest, nil
}

func addFailure(failures []Failure, image string, r reason) []Failure {
	for i, f := range failures {
		if f.Derivation != r.derivation {
			continue
		}
		if !slices.Contains(f.Images, image) {
			failures[i].Images = append(f.Images, image)
		}
		return failures
	}
	return append(failures, Failure{Images: []string{image}, Derivation: r.derivation, Reason: r.text})
}

// describe completes a failure whose reason is still the text of Nix.
func (n Nix) describe(ctx context.Context, f *Failure, targets []target, s *stream) {
	f.Dependency = !slices.ContainsFunc(targets, func(t target) bool { return !t.part && cmp.Or(t.derivation, t.output) == f.Derivation })
	if log := s.logs[f.Derivation]; log != nil {
		f.Log = log.lines
	}
	f.Kind, f.Reason, f.Hint = reword(f.Reason)
	if f.Kind == BuilderFailed && len(f.Log) == 0 {
		f.Log = n.logEnd(ctx, f.Derivation)
	}
	if noSpace.MatchString(f.Reason + "\n" + strings.Join(f.Log, "\n")) {
		f.Kind = DiskFull
		f.Hint = fullDisk
	}
}

var noSpace = regexp.MustCompile(`(?i)no space left on device|ENOSPC|disk quota exceeded|database or disk is full`)

// A reason is why a derivation was not built, in the text of Nix.
type reason struct{ derivation, text string }

var (
	quotedDerivation = regexp.MustCompile(`'([^']*\.drv)(?:[\^!][^']*)?'`)
	// "1 dependencies of derivation '…' failed to build", "build of '…', '…' failed",
	// and since 2.31 "Reason: 1 dependency failed."
	consequence = regexp.MustCompile(`^[0-9]+ dependenc(y|ies) of |^build of '|Reason: [0-9]+ dependenc(y|ies) failed`)
)

// reasons returns the derivations that failed by themselves, according to Nix.
func (s *stream) reasons() []reason {
	var found []reason
	for _, e := range s.errors {
		match := quotedDerivation.FindStringSubmatch(e.text)
		if match == nil || consequence.MatchString(e.text) {
			continue
		}
		if !slices.ContainsFunc(found, func(r reason) bool { return r.derivation == match[1] }) {
			found = append(found, reason{match[1], e.text})
		}
	}
	return found
}

// namelessReason returns an error that names no derivation, if there is one.
func (s *stream) namelessReason() string {
	for _, e := range s.errors {
		if !quotedDerivation.MatchString(e.text) && !consequence.MatchString(e.text) {
			return e.text
		}
	}
	return ""
}

// unfinished returns what Nix began to build of a target and did not finish;
// the target itself if that is nothing.
func (n Nix) unfinished(ctx context.Context, v version, t target, s *stream) []string {
	needs := n.closure(ctx, t.derivation)
	var found []string
	for derivation := range s.logs {
		if needs[derivation] && !n.valid(ctx, target{derivation: derivation}.installable(v)) {
			found = append(found, derivation)
		}
	}
	if len(found) == 0 {
		found = []string{cmp.Or(t.derivation, t.output)}
	}
	slices.Sort(found)
	return found
}

func (s *stream) lastError(failure error) string {
	for _, e := range slices.Backward(s.errors) {
		if !consequence.MatchString(e.text) {
			return e.text
		}
	}
	if len(s.other.lines) > 0 {
		return strings.Join(s.other.lines, "\n")
	}
	return failure.Error()
}

var (
	exitCode   = regexp.MustCompile(`builder (?:for '.*' )?failed with exit code ([0-9]+)`)
	signal     = regexp.MustCompile(`builder (?:for '.*' )?failed due to signal ([0-9]+) \(([^)]*)\)`)
	noOutput   = regexp.MustCompile(`failed to produce output path for output '([^']*)'`)
	timedOut   = regexp.MustCompile(`timed out after ([0-9]+) seconds( of silence)?`)
	differs    = regexp.MustCompile(`may not be deterministic: (?:output|outputs) (.*?) differs?`)
	platform   = regexp.MustCompile(`a '(.*)' with features \{(.*)\} is required to build '.*', but I am a '(.*)' with features \{(.*)\}`)
	mismatch   = regexp.MustCompile(`platform mismatch\s+Required system: '(.*)'\s+Current system: '(.*)'`)
	features   = regexp.MustCompile(`missing system features\s+Required features: \{(.*)\}\s+Available features: \{(.*)\}`)
	reasonLine = regexp.MustCompile(`(?s)^Cannot build '.*?'\.\s*Reason: (.*?)\.?\s*(?:Output paths:.*)?$`)
)

const (
	otherMachine = "name such a machine with --builders, or build it there and publish the files"
	fullDisk     = "the disk of the store, or of the folder for builds, is full; nix-collect-garbage frees what nothing needs any more"
	killed       = "the kernel kills builders when memory runs out; see its log with dmesg"
)

// reword returns in plain words why a derivation was not built, of what kind that
// is, and what to do about it. Text of Nix that it does not know stays.
func reword(text string) (kind FailureKind, reason, hint string) {
	if match := exitCode.FindStringSubmatch(text); match != nil {
		return BuilderFailed, "the builder ended with exit code " + match[1], ""
	}
	if match := signal.FindStringSubmatch(text); match != nil {
		reason = fmt.Sprintf("the builder was ended by signal %s (%s)", match[1], match[2])
		if match[1] == "9" {
			hint = killed
		}
		return BuilderFailed, reason, hint
	}
	if match := noOutput.FindStringSubmatch(text); match != nil {
		return BuilderFailed, fmt.Sprintf("the builder ended well, but did not make its output %q", match[1]), ""
	}
	if match := timedOut.FindStringSubmatch(text); match != nil {
		return BuilderFailed, fmt.Sprintf("the builder was ended after %s seconds%s, which is the limit", match[1], match[2]), ""
	}
	if match := differs.FindStringSubmatch(text); match != nil {
		return NotReproducible, "other bytes in " + strings.NewReplacer("'", "", `"`, "").Replace(match[1]), ""
	}
	if match := platform.FindStringSubmatch(text); match != nil {
		if match[1] != match[3] {
			return WrongMachine, wrongSystem(match[1], match[3]), otherMachine
		}
		return WrongMachine, missingFeatures(match[2], match[4]), otherMachine
	}
	if match := mismatch.FindStringSubmatch(text); match != nil {
		return WrongMachine, wrongSystem(match[1], match[2]), otherMachine
	}
	if match := features.FindStringSubmatch(text); match != nil {
		return WrongMachine, missingFeatures(match[1], match[2]), otherMachine
	}
	if match := reasonLine.FindStringSubmatch(text); match != nil {
		text = match[1]
	}
	return OtherFailure, text, ""
}

func wrongSystem(needed, here string) string {
	return fmt.Sprintf("it must be built on %s, and this machine is %s", needed, here)
}

func missingFeatures(needed, here string) string {
	return fmt.Sprintf("it needs a builder with the system features {%s}, and this machine has {%s}", needed, here)
}

// closure returns all derivations that a derivation needs, and itself.
func (n Nix) closure(ctx context.Context, derivation string) map[string]bool {
	needs := map[string]bool{derivation: true}
	if derivation == "" {
		return needs
	}
	output, err := n.output(ctx, "", "path-info", "--offline", "--recursive", "--derivation", "--", derivation)
	if err != nil {
		return needs // it is for explanations only
	}
	for line := range strings.Lines(string(output)) {
		needs[strings.TrimSpace(line)] = true
	}
	return needs
}

// valid reports whether the path of an installable is in the store.
func (n Nix) valid(ctx context.Context, installable string) bool {
	_, err := n.output(ctx, "", "path-info", "--offline", "--", installable)
	return err == nil
}

func (n Nix) logEnd(ctx context.Context, derivation string) []string {
	log, err := n.Log(ctx, derivation)
	if err != nil {
		return nil
	}
	end := tail{}
	for line := range strings.Lines(log) {
		end.add(plain(line))
	}
	return end.lines
}
