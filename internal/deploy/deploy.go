// Package deploy connects the steps of a run: build the images of a
// plan, package them, publish them as a release, and report. It is the only
// package that knows all of the steps; none of them knows another.
package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/disk"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/redact"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/trust"
)

// Nix is what a deployment needs of the nix command; nix.Nix has it.
type Nix interface {
	// Version also checks that Nix is installed and new enough.
	Version(ctx context.Context) (string, error)
	FlakeMetadata(ctx context.Context, dir, flake string) (nix.Metadata, error)
	Build(ctx context.Context, request nix.Request) ([]nix.Result, error)
	Copy(ctx context.Context, to string, paths []string, events func(nix.Event)) error
	PathInfo(ctx context.Context, paths ...string) (map[string]nix.PathInfo, error)
	Closure(ctx context.Context, path string) ([]string, error)
}

// A Deployment is one run of the whole line.
type Deployment struct {
	Plan    plan.Plan
	Nix     Nix
	Store   *release.Store // where to publish; unused if the plan does not publish
	Report  *report.Report
	ModTime time.Time // of the files in bundles

	// Key signs the release; nil for none.
	Key *trust.Key

	// About is what is known of the run before it begins, for its provenance.
	About trust.Build
}

// Run carries out the plan. Nothing is published unless all images were built and
// packaged.
func (d Deployment) Run(ctx context.Context) error {
	if d.Plan.Skipped {
		d.Report.Notice("skipped: %s", d.Plan.Reason)
		d.Report.Summary("Skipped: " + d.Plan.Reason + ".\n")
		return d.setOutputs(nil, release.Release{})
	}
	files, published, started, err := d.deploy(ctx)
	if err == nil {
		addresses(files, published)
		d.summarise(files, published)
		return d.setOutputs(files, published)
	}
	if ctx.Err() == nil {
		what := "Nothing was published."
		if started {
			what = "The release was not completed: a new one is still a draft, an existing one may be partly changed. Run again to complete it."
		}
		d.Report.Summary(fmt.Sprintf("## Boot images %s: failed\n\n%s\n\n```\n%s\n```\n", d.Plan.ReleaseTag, what, err))
	}
	return err
}

// deploy returns the files and, if the plan publishes, the release. It also reports
// whether it started to publish.
func (d Deployment) deploy(ctx context.Context) (files []artifact.Artifact, published release.Release, started bool, err error) {
	packaged, line, revision, err := d.make(ctx)
	if err != nil {
		return nil, published, false, err
	}
	if !d.Plan.Publish {
		files, err = d.keepLocally(ctx, packaged, line)
		return files, published, false, err
	}
	files, published, err = d.publish(ctx, packaged, line, revision)
	return files, published, true, err
}

// make builds and packages the images. It returns them with a line of provenance, and
// the flake's revision.
func (d Deployment) make(ctx context.Context) (packaged []artifact.Artifact, line trust.Attestation, revision string, err error) {
	if err := d.check(ctx); err != nil {
		return nil, line, "", err
	}
	if err := d.clearLinkDir(); err != nil {
		return nil, line, "", err
	}
	defer func() { _ = d.clearLinkDir() }() // what stays does no harm
	// Before anything is written, which may be into the flake's folder. The build
	// reports better what is wrong with a flake.
	source, sourceErr := d.Nix.FlakeMetadata(ctx, "", d.Plan.Flake)
	built, err := d.build(ctx)
	if err != nil {
		return nil, line, "", err
	}
	if sourceErr != nil {
		return nil, line, "", sourceErr
	}
	if err := d.copy(ctx, built); err != nil {
		return nil, line, "", err
	}
	if packaged, err = Package(ctx, d.Report, built, inClosure(d.Nix), d.Plan, d.ModTime); err != nil {
		return nil, line, "", err
	}
	line, err = d.attest(ctx, source, packaged)
	return packaged, line, source.Revision, err
}

const checkTimeout = 10 * time.Second

// check finds what would make a run fail after hours of building.
func (d Deployment) check(ctx context.Context) error {
	if _, err := d.Nix.Version(ctx); err != nil {
		return err
	}
	if !d.Plan.Publish {
		return nil
	}
	// Before the build there is no reason to wait for a forge that does not answer;
	// after it there is.
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, fmt.Errorf("no valid answer within %s", checkTimeout))
	defer cancel()
	if _, err := d.Store.Release(ctx, d.Plan.ReleaseTag); err != nil && !errors.Is(err, release.ErrNotFound) {
		return fmt.Errorf("before anything is built: %w", err)
	}
	return nil
}

// linkDir holds the links to what was built, which keep Nix from collecting it
// while it is being packaged.
func (d Deployment) linkDir() string { return filepath.Join(d.Plan.OutputDir, linksFolder) }

const linksFolder = ".results"

// clearLinkDir removes what is in the place of linkDir, which may be a link that came
// with the checkout. It makes nothing: the flake may be in the folder.
func (d Deployment) clearLinkDir() error {
	if _, err := os.Lstat(d.Plan.OutputDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	root, err := disk.OpenFolder(d.Plan.OutputDir)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll(linksFolder)
}

func (d Deployment) build(ctx context.Context) ([]nix.Result, error) {
	defer d.Report.Group(fmt.Sprintf("Build %s of %s", count(len(d.Plan.Images), "image"), d.Plan.Flake))()
	progress := d.Report.Progress("build")
	defer progress.Close()

	for _, image := range d.Plan.Images {
		d.Report.Line("%s: %s", image.Name, image.Installable)
	}
	return d.Nix.Build(ctx, nix.Request{
		Images:  d.Plan.Images,
		Args:    d.Plan.NixArgs,
		LinkDir: d.linkDir(),
		Events:  func(e nix.Event) { show(d.Report, progress, e) },
	})
}

// show reports how far a build is. Its log lines are not shown: those of a build
// that fails come with the error.
func show(r *report.Report, progress *report.Progress, e nix.Event) {
	if e.Kind == nix.Warning {
		r.Line("nix: %s", e.Text)
	}
	if status := e.Progress.String(); status != "" {
		progress.Status("%s", status)
	}
}

// copy copies what was built to a store from which others can substitute it.
func (d Deployment) copy(ctx context.Context, results []nix.Result) error {
	if d.Plan.NixCopyTo == "" {
		return nil
	}
	defer d.Report.Group("Copy what was built to " + redact.Text(d.Plan.NixCopyTo))()
	progress := d.Report.Progress("copy")
	defer progress.Close()
	var outputs []string
	for _, result := range results {
		outputs = append(outputs, result.Output)
	}
	return d.Nix.Copy(ctx, d.Plan.NixCopyTo, outputs, func(e nix.Event) { show(d.Report, progress, e) })
}

// publish publishes what was packaged, with the line of provenance added to what
// the release has.
func (d Deployment) publish(ctx context.Context, packaged []artifact.Artifact, line trust.Attestation, flakeRevision string) (files []artifact.Artifact, _ release.Release, err error) {
	origin := origin(d.Plan, flakeRevision)
	p := publication{report: d.Report, store: d.Store, plan: d.Plan, key: d.Key, origin: func(string) string { return origin }}
	p.files = func(ctx context.Context, provenance []byte) ([]release.File, error) {
		provenance, err := trust.MergeProvenance(ctx, provenance, line, d.Key)
		return append(toPublish(packaged), release.File{Name: trust.ProvenanceFileName, Content: provenance}), err
	}
	p.architectures = map[string]string{}
	for _, a := range packaged {
		p.architectures[a.Name] = a.Architecture
	}
	p.kept = func(ctx context.Context, published []release.File) (err error) {
		files, err = d.list(ctx, packaged, published[len(packaged):])
		return err
	}
	published, err := p.run(ctx, false)
	return files, published.Release, err
}

// keepLocally lists what was packaged in the plan's folder, with its provenance and,
// if there is a key, what proves it: as a new release would have it.
func (d Deployment) keepLocally(ctx context.Context, packaged []artifact.Artifact, line trust.Attestation) ([]artifact.Artifact, error) {
	provenance, err := trust.MergeProvenance(ctx, nil, line, d.Key)
	if err != nil {
		return nil, err
	}
	proofs := []release.File{{Name: trust.ProvenanceFileName, Content: provenance}}
	if d.Key != nil {
		next := trust.Publication{Tag: d.Plan.ReleaseTag, Now: time.Now()}
		if next.New, err = artifact.Sums(packaged); err != nil {
			return nil, err
		}
		snapshot, err := next.Snapshot(ctx, *d.Key)
		if err != nil {
			return nil, err
		}
		proofs = slices.Insert(proofs, 0, release.File{Name: trust.SnapshotFileName, Content: snapshot})
	}
	return d.list(ctx, packaged, proofs)
}

// summarise shows the outcome: a table at a terminal and in the log, the same in
// Markdown in the job's summary, and there what has changed.
func (d Deployment) summarise(files []artifact.Artifact, published release.Release) {
	where := "Files in " + d.Plan.OutputDir
	if d.Plan.Publish {
		where = "Release " + published.URL
	}
	d.Report.Result(Table(files) + where + "\n")
	d.Report.Summary(fmt.Sprintf("## Boot images %s\n\n%s\n\n%s", d.Plan.ReleaseTag, where, assetTable(files)+changesIn(published.Notes)))
}

func (d Deployment) setOutputs(files []artifact.Artifact, published release.Release) error {
	encoded, err := json.Marshal(append([]artifact.Artifact{}, files...)) // [] where there are none
	if err != nil {
		return err
	}
	err = d.Report.Outputs(
		report.Output{Name: "skipped", Value: fmt.Sprint(d.Plan.Skipped)},
		report.Output{Name: "release_tag", Value: d.Plan.ReleaseTag},
		report.Output{Name: "release_url", Value: published.URL},
		report.Output{Name: "assets", Value: string(encoded)},
		report.Output{Name: "output_dir", Value: d.Plan.OutputDir},
	)
	switch {
	case err == nil || d.Plan.Skipped:
		return err
	case d.Plan.Publish:
		return fmt.Errorf("the release %s is published and whole, but %w", published.URL, err)
	}
	return fmt.Errorf("the files in %s are whole, but %w", d.Plan.OutputDir, err)
}

// addresses completes the files by where they can be downloaded.
func addresses(files []artifact.Artifact, published release.Release) {
	for i := range files {
		for _, asset := range published.Assets {
			if asset.Name == files[i].Name {
				files[i].URL = asset.URL
			}
		}
	}
}

// count writes a number of things: "1 image", "2 images".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
