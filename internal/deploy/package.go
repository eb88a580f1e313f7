package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/disk"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/size"
)

// Package packages what was built into the plan's folder, for the plan's tag,
// and writes SHA256SUMS.txt next to it. Files in bundles get modTime. The paths in
// which the files of a result may lie are what within returns.
func Package(ctx context.Context, r *report.Report, built []nix.Result, within Within, p plan.Plan, modTime time.Time) ([]artifact.Artifact, error) {
	progress := r.Progress("package")
	defer progress.Close()
	artifacts, err := packaging{report: r, progress: progress, plan: p, modTime: modTime, within: within, parts: newTimings()}.run(ctx, built)
	if err != nil {
		return nil, err
	}
	sums, err := artifact.Sums(artifacts)
	if err != nil {
		return nil, err
	}
	root, err := disk.OpenFolder(p.OutputDir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return artifacts, writeOutput(ctx, root, p, checksum.FileName, sums.Bytes())
}

// A packaging packages images side by side into the plan's folder.
type packaging struct {
	report   *report.Report
	progress *report.Progress
	plan     plan.Plan
	modTime  time.Time
	within   Within
	parts    *timings

	// whole, if set, is called for each artifact when it is whole, while others are still
	// being packaged. It may complete the artifact by its checksum, also later.
	whole func(a *artifact.Artifact)
}

// packagedAtOnce is how many images are packaged at once. A bundle takes 30 MiB, and
// keeps eight cores busy by itself: two of them, beside an upload, make 84 MiB of the
// process.
const packagedAtOnce = 2

func (p packaging) run(ctx context.Context, built []nix.Result) ([]artifact.Artifact, error) {
	defer p.report.Group("Package into " + p.plan.OutputDir)()
	root, err := disk.OpenFolder(p.plan.OutputDir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// The checksums of an earlier run are not those of the files from here on.
	if err := root.Remove(checksum.FileName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the folder %s cannot be written to: %w", p.plan.OutputDir, err)
	}
	artifacts := make([]artifact.Artifact, len(built))
	slots := make(chan struct{}, packagedAtOnce)
	group, ctx := errgroup.WithContext(ctx)
	for i, b := range built {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done(): // one of the others has failed
			return nil, cmp.Or(group.Wait(), ctx.Err())
		}
		group.Go(func() error {
			packaged, err := p.one(ctx, b)
			<-slots
			if err != nil {
				return fmt.Errorf("package %s: %w", b.Name, err)
			}
			artifacts[i] = packaged
			if p.whole != nil {
				p.whole(&artifacts[i])
			}
			return nil
		})
	}
	return artifacts, group.Wait()
}

// one packages an image.
func (p packaging) one(ctx context.Context, b nix.Result) (artifact.Artifact, error) {
	defer p.parts.begin("package")()
	paths, err := p.within(ctx, b)
	if err != nil {
		return artifact.Artifact{}, err
	}
	packager := artifact.Packager{
		Within: paths, Temporary: !p.plan.KeepsFiles,
		Tag: p.plan.ReleaseTag, Dir: p.plan.OutputDir, ModTime: p.modTime,
		Progress: func(done, total int64) { p.progress.Bytes(b.Name, done, total) },
		Warn:     func(text string) { p.report.Warning("%s", text) },
	}
	packaged, err := packager.Package(ctx, b.Image, cmp.Or(b.Output, b.Link))
	if err != nil {
		return artifact.Artifact{}, err
	}
	if _, named := artifact.NamedArchitecture(packaged.Name); packaged.Architecture == "" && !named && strings.HasSuffix(packaged.Name, ".tar.gz") {
		p.report.Line("%s is not what a boot server stages: %s; if it is meant to be, call the image for example NAME-x86_64-netboot", packaged.Name, noBundle)
	}
	packaged.Derivation, packaged.Output = b.Derivation, b.Output
	return packaged, nil
}

// writeOutput writes a small file beside what was packaged. It is on the disk, as they
// are, if somebody has asked for them.
func writeOutput(ctx context.Context, root *os.Root, p plan.Plan, name string, content []byte) error {
	create := disk.CreateUnsyncedIn
	if p.KeepsFiles {
		create = disk.CreateIn
	}
	_, _, err := create(ctx, root, name, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	return err
}

// Within returns the paths in which all files of a result must lie; see
// artifact.Packager.
type Within func(ctx context.Context, built nix.Result) ([]string, error)

// InStore has the files of a result that was built elsewhere lie in the store of this
// Nix, or in the result's own tree.
func InStore(n nix.Nix) Within {
	return func(ctx context.Context, built nix.Result) ([]string, error) {
		store, err := n.StoreDir(ctx)
		if err != nil {
			return nil, err
		}
		return artifact.Trees(built.Link, store)
	}
}

// Table is a table of artifacts for a terminal.
func Table(artifacts []artifact.Artifact) string {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, a := range artifacts {
		fmt.Fprintf(table, "%s\t%s\t%s\n", a.Name, size.Text(a.Size), a.SHA256)
	}
	_ = table.Flush() // a strings.Builder takes everything
	return text.String()
}
