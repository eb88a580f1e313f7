package nix

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/artifact"
)

// A Request is what to build, and how.
type Request struct {
	Images []artifact.Image

	// Dir is the folder that relative flakes in installables, such as ".", start
	// from; this process's working directory if empty.
	Dir string

	// Args are extra arguments to nix build, for example --option NAME VALUE.
	Args []string

	// LinkDir is where the symlinks to the outputs go, each with its image's name;
	// it is made if it is not there. Without one there are no links, and the
	// garbage collector may take the outputs.
	LinkDir string

	// Rebuild builds once more what this machine built itself, now or earlier:
	// the images and the store paths that they link to. Other bytes than the
	// first time are a failure. What came from a binary cache is not built.
	Rebuild bool

	// MinFree is how many bytes must be free where the store is, unless all is
	// built already, and where LinkDir is. DefaultMinFree if zero; a negative
	// one leaves the disk unchecked.
	MinFree int64

	// Events is called for each event, one at a time. Nix waits while it runs.
	Events func(Event)
}

// Build evaluates all images and then builds them in one call of Nix, which
// goes on after a failure as far as it can. It returns a result for each image,
// in their order.
//
// Its errors are those of Version, an *EvaluationError if images cannot be
// evaluated, a *DiskError if there is too little room, and a *BuildError if
// images cannot be built. If ctx is done, Nix and all its builders have ended
// when Build returns.
func (n Nix) Build(ctx context.Context, request Request) ([]Result, error) {
	v, err := n.version(ctx)
	if err != nil {
		return nil, err
	}
	targets, err := n.evaluate(ctx, request)
	if err != nil {
		return nil, err
	}
	if request.Events != nil {
		request.Events(Event{Kind: Evaluated})
	}
	if err := checkDisk(targets, request); err != nil {
		return nil, err
	}
	if request.LinkDir != "" {
		if request.LinkDir, err = filepath.Abs(request.LinkDir); err == nil {
			err = os.MkdirAll(request.LinkDir, 0o755)
		}
		if err != nil {
			return nil, fmt.Errorf("the folder for links to what is built: %w", err)
		}
	}

	// Links of the whole build hold the outputs until each has its own.
	links := []string{"--no-link"}
	if request.LinkDir != "" {
		folder, err := os.MkdirTemp(request.LinkDir, ".building-")
		if err != nil {
			return nil, fmt.Errorf("the folder for links to what is built: %w", err)
		}
		defer os.RemoveAll(folder)
		links = []string{"--out-link", filepath.Join(folder, "result")}
	}
	if err := n.realise(ctx, v, targets, request, links); err != nil {
		return nil, err
	}
	if request.Rebuild {
		again, err := n.builtHere(ctx, v, targets)
		if err != nil {
			return nil, err
		}
		if err := n.realise(ctx, v, again, request, []string{"--no-link", "--rebuild"}); err != nil {
			return nil, err
		}
	}
	return n.link(ctx, targets, request.LinkDir)
}

// realise builds derivations and explains what failed. Some failures make Nix
// give up the rest in spite of --keep-going, which is then built by itself.
func (n Nix) realise(ctx context.Context, v version, targets []target, request Request, more []string) error {
	var failures []Failure
	for rest := targets; len(rest) > 0; {
		var installables []string
		for _, t := range rest {
			if installable := t.installable(v); !slices.Contains(installables, installable) {
				installables = append(installables, installable)
			}
		}
		s := newStream(request.Events)
		_, err := n.buildCommand(ctx, request, s, append([]string{"--keep-going"}, more...), installables)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return err
		}
		var found []Failure
		if found, rest, err = n.explain(ctx, v, rest, s, err); err != nil {
			return err
		}
		failures = append(failures, found...)
	}
	return newBuildError(failures, targets)
}

// buildCommand runs nix build and returns its JSON. Nix's stderr goes to s.
func (n Nix) buildCommand(ctx context.Context, request Request, s *stream, options, installables []string) ([]byte, error) {
	var stdout bytes.Buffer
	command := n.command(request.Dir, slices.Concat(
		[]string{"build", "--json", "--log-format", "internal-json"},
		n.Args, request.Args, options, []string{"--"}, installables)...)
	command.Stdout, command.Stderr = &stdout, s
	err := n.run(ctx, command)
	return stdout.Bytes(), err
}

// link makes the links of the images.
func (n Nix) link(ctx context.Context, targets []target, folder string) ([]Result, error) {
	results := make([]Result, len(targets))
	group, ctx := errgroup.WithContext(ctx)
	for i, t := range targets {
		results[i] = Result{Image: t.image, Derivation: t.derivation, Output: t.output}
		if folder == "" {
			continue
		}
		results[i].Link = filepath.Join(folder, t.image.Name)
		group.Go(func() error {
			// Nix makes the link, so that it knows of it as a GC root.
			if _, err := n.output(ctx, "", "build", "--out-link", results[i].Link, "--", t.output); err != nil {
				return fmt.Errorf("link %s to what was built: %w", results[i].Link, err)
			}
			return nil
		})
	}
	return results, group.Wait()
}

// builtHere returns the derivations of the targets and of the store paths that
// their outputs refer to, so far as this machine built them.
func (n Nix) builtHere(ctx context.Context, v version, targets []target) ([]target, error) {
	var found []target
	for _, t := range targets {
		output, err := n.pathInfo(ctx, v, false, t.output)
		if err != nil {
			return nil, err
		}
		// The references are in the order in which Nix sorts them, which the order of
		// what is built again follows.
		paths := append([]string{t.output}, output[t.output].References...)
		known, err := n.pathInfo(ctx, v, false, paths...)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			info := known[path]
			if _, err := os.Stat(info.Deriver); !info.BuiltHere || err != nil {
				continue
			}
			part := target{image: t.image, derivation: info.Deriver, output: info.Path, part: true}
			if info.Path == t.output {
				part = t
			}
			if !slices.ContainsFunc(found, func(f target) bool { return f.output == part.output }) {
				found = append(found, part)
			}
		}
	}
	return found, nil
}
