package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

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
	defer r.Group("Package into " + p.OutputDir)()
	progress := r.Progress("package")
	defer progress.Close()

	// The checksums of an earlier run are not those of the files from here on.
	root, err := disk.OpenFolder(p.OutputDir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := root.Remove(checksum.FileName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var artifacts []artifact.Artifact
	for _, b := range built {
		paths, err := within(ctx, b)
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", b.Name, err)
		}
		packager := artifact.Packager{
			Within: paths,
			Tag:    p.ReleaseTag, Dir: p.OutputDir, ModTime: modTime,
			Progress: func(done, total int64) { progress.Bytes(b.Name, done, total) },
			Warn:     func(text string) { r.Warning("%s", text) },
		}
		packaged, err := packager.Package(ctx, b.Image, cmp.Or(b.Output, b.Link))
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", b.Name, err)
		}
		if _, named := artifact.NamedArchitecture(packaged.Name); packaged.Architecture == "" && !named && strings.HasSuffix(packaged.Name, ".tar.gz") {
			r.Line("%s is not what a boot server stages: %s; if it is meant to be, call the image for example NAME-x86_64-netboot", packaged.Name, noBundle)
		}
		packaged.Derivation, packaged.Output = b.Derivation, b.Output
		artifacts = append(artifacts, packaged)
	}
	sums, err := artifact.Sums(artifacts)
	if err != nil {
		return nil, err
	}
	return artifacts, sums.WriteFile(ctx, p.OutputDir)
}

// Within returns the paths in which all files of a result must lie; see
// artifact.Packager.
type Within func(ctx context.Context, built nix.Result) ([]string, error)

// inClosure has the files of a result lie in what Nix knows to belong to it.
func inClosure(n interface {
	Closure(ctx context.Context, path string) ([]string, error)
},
) Within {
	return func(ctx context.Context, built nix.Result) ([]string, error) { return n.Closure(ctx, built.Output) }
}

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
