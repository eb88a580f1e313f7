// Package deploy connects the steps of a run: build the images of a
// plan, package them, publish them as a release, and report. It is the only
// package that knows all of the steps; none of them knows another.
package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/checksum"
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
	Closures(ctx context.Context, paths ...string) (nix.Closures, error)
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

	// Timings has the report tell how long each part of the run has taken.
	Timings bool

	parts *timings
}

// Run carries out the plan. Nothing is published unless all images were built and
// packaged.
func (d Deployment) Run(ctx context.Context) error {
	if d.Plan.Skipped {
		d.Report.Notice("skipped: %s", d.Plan.Reason)
		d.Report.Summary("Skipped: " + d.Plan.Reason + ".\n")
		return d.setOutputs(nil, release.Release{})
	}
	d.parts = newTimings()
	files, published, started, err := d.deploy(ctx)
	if d.Timings {
		d.parts.tell(d.Report)
	}
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
	// The links of a run that was killed may lie in the flake: what is looked at is what is built.
	if err := d.clearLinkDir(); err != nil {
		return nil, published, false, err
	}
	source, err := d.check(ctx)
	if err != nil {
		return nil, published, false, err
	}
	defer func() { _ = d.clearLinkDir() }() // what stays does no harm
	built, err := d.build(ctx)
	if err != nil {
		return nil, published, false, err
	}
	if source.err != nil {
		return nil, published, false, source.err
	}
	if err := d.copy(ctx, built); err != nil {
		return nil, published, false, err
	}
	m := &making{Deployment: d, source: source, built: built}
	if m.closures, err = d.closures(ctx, built); err != nil {
		return nil, published, false, err
	}
	if d.Plan.Publish {
		return d.publish(ctx, m)
	}
	progress := d.Report.Progress("package")
	defer progress.Close()
	if err := m.pack(ctx, progress, nil); err != nil {
		return nil, published, false, err
	}
	files, err = m.keepLocally(ctx)
	return files, published, false, err
}

// A making packages what was built, and attests where it came from.
type making struct {
	Deployment
	source   source
	built    []nix.Result
	closures nix.Closures

	packaged []artifact.Artifact
	line     trust.Attestation // of provenance
}

// pack calls whole, if that is set, with each artifact that is whole, while others are
// still being packaged.
func (m *making) pack(ctx context.Context, progress *report.Progress, whole func(a *artifact.Artifact)) (err error) {
	p := packaging{
		report: m.Report, progress: progress, plan: m.Plan, modTime: m.ModTime, whole: whole, parts: m.parts,
		within: func(_ context.Context, built nix.Result) ([]string, error) { return m.closures.Of(built.Output), nil },
	}
	m.packaged, err = p.run(ctx, m.built)
	return err
}

// upload packages, and uploads each artifact when it is whole. An upload that fails keeps
// nobody from what is packaged: all files are in the folder then, with their provenance.
func (m *making) upload(ctx context.Context, p *publication, upload release.UploadAhead) error {
	p.progress = m.Report.Progress("package")
	defer p.progress.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	uploads, uploading := errgroup.WithContext(ctx)
	err := m.pack(ctx, p.progress, func(a *artifact.Artifact) {
		uploads.Go(func() error {
			defer m.parts.begin("upload")()
			file, err := upload(uploading, toPublish(*a))
			a.SHA256 = file.SHA256
			return err
		})
	})
	if err != nil {
		cancel(err)
		_ = uploads.Wait() // which fail of that
		return err
	}
	if err = uploads.Wait(); err == nil {
		return m.attest(ctx)
	}
	p.started = true
	_, kept := m.keepLocally(ctx)
	return errors.Join(err, kept)
}

// closures returns what Nix knows to belong to what was built.
func (d Deployment) closures(ctx context.Context, built []nix.Result) (nix.Closures, error) {
	defer d.parts.begin("closures")()
	var outputs []string
	for _, b := range built {
		outputs = append(outputs, b.Output)
	}
	return d.Nix.Closures(ctx, outputs...)
}

const checkTimeout = 10 * time.Second

// A source is what is built, and with which Nix.
type source struct {
	nix.Metadata
	err     error  // why it is not known; the build reports better what is wrong with a flake
	version string // of Nix
}

// check finds what would make a run fail after hours of building, and looks at the flake
// before anything is written, which may be into the flake's folder.
func (d Deployment) check(ctx context.Context) (found source, err error) {
	defer d.parts.begin("check")()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group errgroup.Group
	group.Go(func() error {
		found.Metadata, found.err = d.Nix.FlakeMetadata(ctx, "", d.Plan.Flake)
		return nil
	})
	group.Go(func() (err error) {
		found.version, err = d.Nix.Version(ctx)
		return err
	})
	forge := make(chan error, 1)
	go func() { forge <- d.checkForge(ctx) }()
	if err = group.Wait(); err == nil { // without Nix nothing else matters
		err = <-forge
	}
	return found, err
}

// checkForge looks whether the forge answers, and would take the release. Before the
// build there is no reason to wait for one that does not; after it there is.
func (d Deployment) checkForge(ctx context.Context) error {
	if !d.Plan.Publish {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, fmt.Errorf("no valid answer within %s", checkTimeout))
	defer cancel()
	found, err := d.Store.Release(ctx, d.Plan.ReleaseTag)
	if errors.Is(err, release.ErrNotFound) || err == nil && found.Draft {
		err = d.Store.Check(ctx, d.Plan.ReleaseTag, release.Draft{Commit: d.Plan.Commit})
	}
	if err != nil {
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
	if err := root.RemoveAll(linksFolder); err != nil {
		return fmt.Errorf("the folder %s cannot be written to: %w", d.Plan.OutputDir, err)
	}
	return nil
}

func (d Deployment) build(ctx context.Context) ([]nix.Result, error) {
	defer d.Report.Group(fmt.Sprintf("Build %s of %s", count(len(d.Plan.Images), "image"), d.Plan.Flake))()
	progress := d.Report.Progress("build")
	defer progress.Close()

	for _, image := range d.Plan.Images {
		d.Report.Line("%s: %s", image.Name, image.Installable)
	}
	evaluated := d.parts.begin("evaluate")
	defer d.parts.begin("build")() // evaluation included
	return d.Nix.Build(ctx, nix.Request{
		Images:  d.Plan.Images,
		Args:    d.Plan.NixArgs,
		LinkDir: d.linkDir(),
		Events: func(e nix.Event) {
			if e.Kind == nix.Evaluated {
				evaluated()
			}
			show(d.Report, progress, e)
		},
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
	defer d.parts.begin("copy")()
	defer d.Report.Group("Copy what was built to " + redact.Text(d.Plan.NixCopyTo))()
	progress := d.Report.Progress("copy")
	defer progress.Close()
	var outputs []string
	for _, result := range results {
		outputs = append(outputs, result.Output)
	}
	return d.Nix.Copy(ctx, d.Plan.NixCopyTo, outputs, func(e nix.Event) { show(d.Report, progress, e) })
}

// publish publishes what was built, with a line of provenance added to what the release
// has. Each file is uploaded when it is whole.
func (d Deployment) publish(ctx context.Context, m *making) (files []artifact.Artifact, _ release.Release, started bool, err error) {
	origin := origin(d.Plan, m.source.Revision)
	p := publication{report: d.Report, store: d.Store, plan: d.Plan, key: d.Key, origin: func(string) string { return origin }}
	p.architectures = map[string]string{}
	published := func() {}
	p.make = func(ctx context.Context, upload release.UploadAhead) error {
		if err := m.upload(ctx, &p, upload); err != nil {
			return err
		}
		for _, a := range m.packaged {
			p.architectures[a.Name] = a.Architecture
		}
		published = m.parts.begin("publish")
		p.begin()
		return nil
	}
	p.files = func(ctx context.Context, provenance []byte) ([]release.File, error) {
		provenance, err := trust.MergeProvenance(ctx, provenance, m.line, d.Key)
		var files []release.File
		for _, a := range m.packaged {
			files = append(files, toPublish(a))
		}
		return append(files, release.File{Name: trust.ProvenanceFileName, Content: provenance}), err
	}
	var listed []release.File
	p.kept = func(ctx context.Context, published []release.File) (err error) {
		proofs := published[len(m.packaged):]
		if files != nil && slices.EqualFunc(listed, proofs, isSame) {
			return nil
		}
		listed = proofs
		files, err = d.list(ctx, m.packaged, proofs)
		return err
	}
	release, err := p.run(ctx, false)
	published()
	return files, release.Release, p.started, err
}

// isSame reports whether two small files are the same.
func isSame(a, b release.File) bool { return a.Name == b.Name && bytes.Equal(a.Content, b.Content) }

// keepLocally lists what was packaged in the plan's folder, with its provenance and,
// if there is a key, what proves it: as a new release would have it.
func (m *making) keepLocally(ctx context.Context) (_ []artifact.Artifact, err error) {
	for i := range m.packaged {
		if a := &m.packaged[i]; a.SHA256 == "" {
			if a.SHA256, _, err = checksum.File(ctx, a.Path); err != nil {
				return nil, err
			}
		}
	}
	if err := m.attest(ctx); err != nil {
		return nil, err
	}
	provenance, err := trust.MergeProvenance(ctx, nil, m.line, m.Key)
	if err != nil {
		return nil, err
	}
	proofs := []release.File{{Name: trust.ProvenanceFileName, Content: provenance}}
	if m.Key != nil {
		next := trust.Publication{Tag: m.Plan.ReleaseTag, Now: time.Now()}
		if next.New, err = artifact.Sums(m.packaged); err != nil {
			return nil, err
		}
		snapshot, err := next.Snapshot(ctx, *m.Key)
		if err != nil {
			return nil, err
		}
		proofs = slices.Insert(proofs, 0, release.File{Name: trust.SnapshotFileName, Content: snapshot})
	}
	return m.list(ctx, m.packaged, proofs)
}

// summarise shows the outcome: a table at a terminal and in the log, the same in
// Markdown in the job's summary, and there what has changed.
func (d Deployment) summarise(files []artifact.Artifact, published release.Release) {
	where := "Files in " + d.Plan.OutputDir
	if d.Plan.Publish {
		where = "Release " + published.URL
	}
	d.Report.Result(Table(files) + where + "\n")
	d.Report.Summary(fmt.Sprintf("## Boot images %s\n\n%s\n\n%s\n%s\n", d.Plan.ReleaseTag, where, assetTable(files)+changesIn(published.Notes), d.parts.line()))
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
