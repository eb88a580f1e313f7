// Package deploy strings the steps of a run together: build the images of a
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
	"time"

	"every.channel/runner-images/internal/forge"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/trust"
)

// A Deployment is one run of the whole line.
type Deployment struct {
	Plan    plan.Plan
	Nix     nix.Nix
	Store   forge.Store // where to publish; unused if the plan does not publish
	Report  *report.Report
	ModTime time.Time // of the files in bundles

	// Key signs the release; nil for none.
	Key *trust.Key

	// About is what is known of the run before it begins, for its provenance.
	About trust.Build
}

// Run does what the plan says. Whatever fails, nothing is published unless all
// images were built and packaged.
func (d Deployment) Run(ctx context.Context) error {
	if d.Plan.Skipped {
		d.Report.Notice("skipped: %s", d.Plan.Reason)
		d.Report.Summary("Skipped: " + d.Plan.Reason + ".\n")
		return d.setOutputs(nil, forge.Release{})
	}
	begun, err := d.deploy(ctx)
	if err != nil && ctx.Err() == nil {
		what := "Nothing was published."
		if begun {
			what = "The release was not completed: a new one is a draft at most, and of one that was there some may be changed. Run again to complete it."
		}
		d.Report.Summary(fmt.Sprintf("## Boot images %s: failed\n\n%s\n\n```\n%s\n```\n", d.Plan.ReleaseTag, what, err))
	}
	return err
}

// deploy also says whether it has begun to publish.
func (d Deployment) deploy(ctx context.Context) (begun bool, err error) {
	if err := d.check(ctx); err != nil {
		return false, err
	}
	defer os.RemoveAll(d.linkDir())
	// Before anything is written, which may be into the flake's folder. What is
	// wrong with a flake, the build says better.
	source, sourceErr := d.Nix.FlakeMetadata(ctx, "", d.Plan.Flake)
	built, err := d.build(ctx)
	if err != nil {
		return false, err
	}
	if sourceErr != nil {
		return false, sourceErr
	}
	if err := d.copy(ctx, built); err != nil {
		return false, err
	}
	packaged, err := d.pack(ctx, built)
	if err != nil {
		return false, err
	}
	line, err := d.attest(ctx, source, built, packaged)
	if err != nil {
		return false, err
	}
	var (
		files   []forge.File
		release forge.Release
	)
	err = beside(d.Report, func() error {
		if files, err = d.list(ctx, packaged, line); err != nil || !d.Plan.Publish {
			return err
		}
		begun = true
		release, err = d.publish(ctx, files, source.Revision)
		return err
	})
	if err != nil {
		return begun, err
	}
	d.tell(files, release)
	return begun, d.setOutputs(files, release)
}

const checkTimeout = 10 * time.Second

// check finds out what would make a run of hours fail at its end.
func (d Deployment) check(ctx context.Context) error {
	if err := d.Nix.Check(ctx); err != nil {
		return err
	}
	if !d.Plan.Publish {
		return nil
	}
	// A forge that does not answer now is not waited for as one is after a build
	// of hours.
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, fmt.Errorf("no good answer within %s", checkTimeout))
	defer cancel()
	if _, err := d.Store.Release(ctx, d.Plan.ReleaseTag); err != nil && !errors.Is(err, forge.ErrNotFound) {
		return fmt.Errorf("before anything is built: %w", err)
	}
	return nil
}

// linkDir holds the links to what was built, which keep Nix from collecting it
// while it is being packaged.
func (d Deployment) linkDir() string { return filepath.Join(d.Plan.OutputDir, ".results") }

func (d Deployment) build(ctx context.Context) ([]nix.Result, error) {
	defer d.Report.Group(fmt.Sprintf("Build %s of %s", count(len(d.Plan.Images), "image"), d.Plan.Flake))()
	progress := d.Report.Progress("build")
	defer progress.Close()

	images := make([]nix.Image, len(d.Plan.Images))
	for i, image := range d.Plan.Images {
		images[i] = nix.Image{Name: image.Name, Installable: image.Installable}
		d.Report.Line("%s: %s", image.Name, image.Installable)
	}
	return d.Nix.Build(ctx, nix.Request{
		Images:  images,
		Args:    d.Plan.NixArgs,
		LinkDir: d.linkDir(),
		Events:  func(e nix.Event) { show(d.Report, progress, e) },
	})
}

// show tells how far a build is. Its log lines are not shown: those of a build
// that fails come with the error.
func show(r *report.Report, progress *report.Progress, e nix.Event) {
	if e.Kind == nix.Warning {
		r.Line("nix: %s", e.Text)
	}
	if status := e.Progress.String(); status != "" {
		progress.Status("%s", status)
	}
}

// copy gives what was built to a store from which others can substitute it.
func (d Deployment) copy(ctx context.Context, results []nix.Result) error {
	if d.Plan.NixCopyTo == "" {
		return nil
	}
	defer d.Report.Group("Copy what was built to " + d.Plan.NixCopyTo)()
	progress := d.Report.Progress("copy")
	defer progress.Close()
	var outputs []string
	for _, result := range results {
		outputs = append(outputs, result.Output)
	}
	return d.Nix.Copy(ctx, d.Plan.NixCopyTo, outputs, func(e nix.Event) { show(d.Report, progress, e) })
}

func (d Deployment) pack(ctx context.Context, results []nix.Result) ([]forge.File, error) {
	built := make([]Built, len(results))
	for i, result := range results {
		built[i] = Built{Name: result.Name, Path: result.Link}
	}
	return Package(ctx, d.Report, built, d.Plan, d.ModTime)
}

func (d Deployment) publish(ctx context.Context, files []forge.File, flakeRevision string) (forge.Release, error) {
	origin := origin(d.Plan, flakeRevision)
	published, err := publish(ctx, d.Report, d.Store, d.Plan, files, func(string) string { return origin }, d.Key)
	return published.Release, err
}

// tell shows the outcome: a table at a terminal and in the log, the same in
// Markdown in the job's summary.
func (d Deployment) tell(files []forge.File, release forge.Release) {
	where := "Files in " + d.Plan.OutputDir
	if d.Plan.Publish {
		where = "Release " + release.URL
	}
	d.Report.Result(Table(files) + where + "\n")
	d.Report.Summary(fmt.Sprintf("## Boot images %s\n\n%s\n\n%s", d.Plan.ReleaseTag, where, assetTable(files, addresses(release))))
}

// An asset is one file in the action's output assets.
type asset struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
	URL    string `json:"url"` // empty if nothing was published
}

func (d Deployment) setOutputs(files []forge.File, release forge.Release) error {
	assets, addresses := []asset{}, addresses(release)
	for _, file := range files {
		assets = append(assets, asset{file.Name, file.Size, file.SHA256, addresses[file.Name]})
	}
	encoded, err := json.Marshal(assets)
	if err != nil {
		return err
	}
	d.Report.Output("skipped", fmt.Sprint(d.Plan.Skipped))
	d.Report.Output("release_tag", d.Plan.ReleaseTag)
	d.Report.Output("release_url", release.URL)
	d.Report.Output("assets", string(encoded))
	d.Report.Output("output_dir", d.Plan.OutputDir)
	return nil
}

// addresses are where a release's assets can be downloaded, by name.
func addresses(release forge.Release) map[string]string {
	addresses := map[string]string{}
	for _, asset := range release.Assets {
		addresses[asset.Name] = asset.URL
	}
	return addresses
}

// count writes a number of things: "1 image", "2 images".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
