package nix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"every.channel/runner-images/internal/artifact"
)

// An EvaluationError is why images cannot be evaluated: their flake or their
// attribute does not exist, or it has a mistake. Nothing has been built.
type EvaluationError struct {
	Problems []Problem
}

// A Problem is a reason why images cannot be evaluated.
type Problem struct {
	Images []string // their names
	Kind   ProblemKind
	Reason string // a sentence; messages of NixOS, such as failed assertions, may have several lines
	Detail string // all that Nix printed, with positions; may be empty
}

// A ProblemKind groups problems by what they ask of the user.
type ProblemKind string

// The kinds of problems.
const (
	NoFlake     ProblemKind = "no flake"     // the flake does not exist
	NoAttribute ProblemKind = "no attribute" // the flake has no such output, or it is nothing to build
	Mistake     ProblemKind = "mistake"      // anything else, such as a failed assertion or a wrong argument
)

// Error returns the reasons, each on a line of its own.
func (e *EvaluationError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.Reason
		if p.Kind != NoFlake { // then the image has no part in it
			lines[i] = strings.Join(p.Images, ", ") + ": " + p.Reason
		}
	}
	return strings.Join(lines, "\n")
}

// A target is an evaluated image.
type target struct {
	image      artifact.Image
	derivation string            // empty for an installable that is a store path
	outputs    map[string]string // the store paths of the derivation's outputs to build, by name
	output     string            // the one that is the image
	part       bool              // of the image, not the image itself
}

// installable returns the target as an argument for nix build that needs no
// evaluation.
func (t target) installable(v version) string {
	switch {
	case t.derivation == "":
		return t.output
	case v.before(version{major: 2, minor: 13}): // all outputs
		return t.derivation
	case len(t.outputs) == 0:
		return t.derivation + "^*"
	}
	return t.derivation + "^" + strings.Join(slices.Sorted(maps.Keys(t.outputs)), ",")
}

// evaluate returns a target for each image, in their order. It evaluates them
// together, and only if that fails one by one, to report everything that is wrong.
func (n Nix) evaluate(ctx context.Context, request Request) ([]target, error) {
	if len(request.Images) == 0 {
		return nil, errors.New("there is no image to build")
	}
	if err := missingFlakes(request); err != nil {
		return nil, err
	}
	targets, problem, err := n.evaluateTogether(ctx, request)
	if problem == nil || err != nil {
		return targets, err
	}
	if len(request.Images) == 1 {
		return nil, &EvaluationError{Problems: []Problem{*problem}}
	}

	var problems []Problem
	for _, image := range request.Images {
		alone := request
		alone.Images = []artifact.Image{image}
		_, problem, err := n.evaluateTogether(ctx, alone)
		if err != nil {
			return nil, err
		}
		if problem != nil {
			problems = addProblem(problems, *problem)
		}
	}
	if len(problems) == 0 { // only all of them together fail, for lack of memory for example
		problems = []Problem{*problem}
	}
	return nil, &EvaluationError{Problems: problems}
}

func addProblem(problems []Problem, p Problem) []Problem {
	for i := range problems {
		if problems[i].Kind == p.Kind && problems[i].Reason == p.Reason {
			problems[i].Images = append(problems[i].Images, p.Images...)
			return problems
		}
	}
	return append(problems, p)
}

// evaluateTogether returns a target for each image, or what Nix found wrong with
// one of them.
func (n Nix) evaluateTogether(ctx context.Context, request Request) ([]target, *Problem, error) {
	s := newStream(request.Events)
	s.progress.Evaluating = request.Images[0].Installable
	s.emit(Event{Kind: Evaluating, Text: s.progress.Evaluating})
	var installables []string
	for _, image := range request.Images {
		installables = append(installables, image.Installable)
	}
	output, err := n.buildCommand(ctx, request, s, []string{"--dry-run", "--no-link"}, installables)
	if ctx.Err() != nil {
		return nil, nil, err
	}
	if err != nil {
		p := s.problem(request, err)
		return nil, &p, nil
	}
	targets, err := readTargets(request.Images, output)
	return targets, nil, err
}

// readTargets reads the JSON of nix build --dry-run: an entry an installable,
// which is an object with a derivation, or for a store path a string or, in old
// versions, an object with a path.
func readTargets(images []artifact.Image, output []byte) ([]target, error) {
	var entries []json.RawMessage
	if err := json.Unmarshal(output, &entries); err != nil {
		return nil, fmt.Errorf("unexpected output of nix build --json: %w", err)
	}
	if len(entries) != len(images) {
		return nil, fmt.Errorf("nix evaluates %d installables where there are %d images: leave installables out of the arguments to nix", len(entries), len(images))
	}
	targets := make([]target, len(images))
	for i, entry := range entries {
		t := target{image: images[i]}
		if json.Unmarshal(entry, &t.output) != nil {
			var built struct {
				DrvPath string            `json:"drvPath"`
				Outputs map[string]string `json:"outputs"`
				Path    string            `json:"path"`
			}
			if err := json.Unmarshal(entry, &built); err != nil {
				return nil, fmt.Errorf("unexpected output of nix build --json: %w", err)
			}
			t.derivation, t.outputs, t.output = built.DrvPath, built.Outputs, built.Path
		}
		if t.output == "" && len(t.outputs) > 0 {
			t.output = t.outputs["out"]
			if t.output == "" {
				t.output = t.outputs[slices.Sorted(maps.Keys(t.outputs))[0]]
			}
		}
		if t.output == "" {
			return nil, fmt.Errorf("%s: Nix does not know the output of %s before it is built (a content-addressed derivation?), which images need", images[i].Name, images[i].Installable)
		}
		targets[i] = t
	}
	return targets, nil
}

var (
	noAttribute = regexp.MustCompile(`^flake '(.*)' does not provide attribute (.*)$`)
	suggestion  = regexp.MustCompile(`Did you mean (.*)\?`)
	notToBuild  = regexp.MustCompile(`flake output attribute '(.*)' (is not a derivation|to be a derivation or path but found (.*))`)
	lastQuoted  = regexp.MustCompile(`'([^']*)'[^']*$`)
	untracked   = regexp.MustCompile(`not tracked by Git|-source/(.*/)?flake\.nix'`)
	noDaemon    = regexp.MustCompile(`(?:^|: )cannot connect to socket at '(.*?)': (.*)`)
	remoteFlake = regexp.MustCompile(`cannot find flake '|Git repository .* does not exist|does not appear to be a git repository|^path '.*' does not exist$`)
)

// problem explains a failed evaluation in one sentence. Errors of Nix differ
// only by their text; an error that is not known here keeps it.
func (s *stream) problem(request Request, failure error) Problem {
	p := Problem{Images: names(request.Images), Kind: Mistake}
	if len(s.errors) == 0 {
		p.Reason = "Nix failed and gave no reason: " + failure.Error()
		if len(s.other.lines) > 0 {
			p.Reason = strings.Join(s.other.lines, "\n")
		}
		return p
	}
	last := s.errors[len(s.errors)-1]
	p.Detail = last.full
	if reason := attributeProblem(last); reason != "" {
		p.Kind, p.Reason = NoAttribute, reason
		return p
	}
	if reason := daemonProblem(last.text); reason != "" {
		p.Reason = reason
		return p
	}
	p.Kind, p.Reason = s.flakeProblem(request, last)
	return p
}

// daemonProblem explains that the daemon does not answer. It returns "" for another error.
func daemonProblem(text string) (reason string) {
	if match := noDaemon.FindStringSubmatch(text); match != nil {
		reason = fmt.Sprintf("the Nix daemon does not answer at %s (%s): start it with `systemctl start nix-daemon`", match[1], match[2])
	}
	return reason
}

// attributeProblem explains that an attribute does not exist or cannot be built. It
// returns "" for another error.
func attributeProblem(e nixError) (reason string) {
	if match := noAttribute.FindStringSubmatch(e.text); match != nil {
		reason = "the flake " + match[1] + " has no attribute"
		// The last of the places where Nix looked for it is the one as written.
		if attribute := lastQuoted.FindStringSubmatch(firstLine(match[2])); attribute != nil {
			reason += " " + attribute[1]
		}
		if match := suggestion.FindStringSubmatch(e.full); match != nil {
			reason += "; did you mean " + match[1] + "?"
		}
		return reason
	}
	if match := notToBuild.FindStringSubmatch(e.text); match != nil {
		reason = "the attribute " + match[1] + " is nothing that can be built"
		if match[3] != "" {
			reason += ", but " + match[3]
		}
	}
	return reason
}

// flakeProblem explains that a flake does not exist or cannot be fetched. Any other
// error keeps the text of Nix.
func (s *stream) flakeProblem(request Request, e nixError) (kind ProblemKind, reason string) {
	flake, _, _ := strings.Cut(request.Images[0].Installable, "#")
	folder, local := localFlake(request.Dir, flake)
	text := e.text
	if local && untracked.MatchString(text) {
		return NoFlake, untrackedFlake(flake, folder)
	}
	// For an input that is locked and cannot be fetched, Nix reports only that it is
	// missing.
	fetching := strings.Contains(e.full, "while fetching the input") || strings.HasPrefix(text, "Cannot find Git revision")
	failure, advice := s.saidByGit()
	switch {
	case failure == "":
	case fetching:
		text = failure // clearer than what Nix says
	default:
		text += "; git says: " + failure
	}
	kind, reason = Mistake, text
	switch {
	case !local && remoteFlake.MatchString(text) && (fetching || !strings.HasPrefix(text, "path ")):
		kind, reason = NoFlake, fmt.Sprintf("there is no flake %q: %s", flake, firstLine(text))
	case fetching:
		reason = fmt.Sprintf("the flake %q or one of its inputs cannot be fetched: %s", flake, text)
	}
	if noSpace.MatchString(text) {
		reason += "; " + fullDisk
	}
	if advice != "" {
		reason += "\n" + advice
	}
	return kind, reason
}

func untrackedFlake(flake, folder string) string {
	return fmt.Sprintf("there is no flake %q for Nix: in a git repository it sees only what git tracks, so `git add` the flake.nix in %s", flake, folder)
}

// saidByGit returns the first error of the git that Nix ran, and git's advice on it.
// Where git itself does not know the cause, that is what ssh or the server said last.
func (s *stream) saidByGit() (failure, advice string) {
	lines := s.other.lines
	isFatal := func(line string) bool { return strings.HasPrefix(line, "fatal: ") }
	at := slices.IndexFunc(lines, isFatal)
	if at < 0 {
		return "", ""
	}
	failure = strings.TrimPrefix(lines[at], "fatal: ")
	if at > 0 && strings.HasPrefix(failure, "Could not read from remote repository") {
		failure = lines[at-1]
	}
	rest := lines[at+1:]
	if next := slices.IndexFunc(rest, isFatal); next >= 0 {
		rest = rest[:next]
	}
	return failure, strings.Join(rest, "\n")
}

func names(images []artifact.Image) []string {
	var found []string
	for _, image := range images {
		found = append(found, image.Name)
	}
	return found
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// missingFlakes looks for the flakes that are folders. It can explain better than Nix
// that one is missing, and before Nix runs.
func missingFlakes(request Request) error {
	var problems []Problem
	for _, image := range request.Images {
		flake, _, found := strings.Cut(image.Installable, "#")
		folder, local := localFlake(request.Dir, flake)
		if !found || !local {
			continue
		}
		if reason := missingFlake(flake, folder); reason != "" {
			problems = addProblem(problems, Problem{Images: []string{image.Name}, Kind: NoFlake, Reason: reason})
		}
	}
	if len(problems) > 0 {
		return &EvaluationError{Problems: problems}
	}
	return nil
}

// localFlake returns the folder of a flake that is one by its form: ".", "./x",
// "/x" or "path:x", without parameters.
func localFlake(from, flake string) (string, bool) {
	folder, isPath := strings.CutPrefix(flake, "path:")
	if !isPath && !strings.HasPrefix(folder, ".") && !strings.HasPrefix(folder, "/") && folder != "" {
		return "", false
	}
	if strings.Contains(folder, "?") {
		return "", false
	}
	if !filepath.IsAbs(folder) {
		folder = filepath.Join(from, folder)
	}
	folder, err := filepath.Abs(folder)
	return folder, err == nil
}

func missingFlake(flake, folder string) string {
	info, err := os.Stat(folder)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Sprintf("there is no flake %q: no folder %s", flake, folder)
	}
	if err != nil || !info.IsDir() {
		return "" // an archive, or one that Nix may read
	}
	above := ""
	for at := folder; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "flake.nix")); err == nil {
			return ""
		}
		if strings.HasPrefix(flake, "path:") { // then Nix does not look above it
			break
		}
		above = " or a folder above it"
		if at == filepath.Dir(at) {
			break
		}
	}
	return fmt.Sprintf("there is no flake %q: no flake.nix in %s%s", flake, folder, above)
}
