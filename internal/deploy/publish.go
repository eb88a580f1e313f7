package deploy

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/trust"
)

// A publication brings files into the plan's release.
type publication struct {
	report *report.Report
	store  *release.Store
	plan   plan.Plan
	key    *trust.Key // nil for none

	// make uploads files when they are whole, before the others are known. It calls begin.
	make func(ctx context.Context, upload release.UploadAhead) error

	// files are the release's, given the provenance that it has, or nil. With a key,
	// those from a path have their checksums.
	files func(ctx context.Context, provenance []byte) ([]release.File, error)

	// kept, if set, is given all files that are published, in the end with what
	// proves them.
	kept func(ctx context.Context, files []release.File) error

	// origin is the line of the notes about where the images came from, given the
	// notes of the release.
	origin func(notes string) string

	// architectures are those of the kernels in the bundles that are published, by the
	// names of the files; empty where they do not say it.
	architectures map[string]string

	progress *report.Progress // what is shown now
	started  bool             // the release may have changed: it is known what it should be, or an upload has failed
	end      func()           // of what begin shows; nil before that
	left     int              // lines of provenance that the key did not vouch for, and that are gone
	warned   bool             // of bundles that boot servers do not take
	before   *earlier         // nil: nobody has looked yet
}

// Attach publishes files that were packaged elsewhere in the plan's release, and
// signs that with the key if there is one. Its notes keep what the other files were
// built from. Provenance among the files is added to the release's. A file that is not as
// listed, unless that is nil, is a plan.InputErrors, and then nothing is published. With
// keepOld it fails if the release has one of the files with other bytes.
func Attach(ctx context.Context, r *report.Report, store *release.Store, p plan.Plan, files []release.File, listed checksum.Sums, key *trust.Key, keepOld bool) error {
	attached := publication{report: r, store: store, plan: p, key: key, origin: originIn}
	files = slices.Clone(files)
	attached.make = func(ctx context.Context, upload release.UploadAhead) error {
		attached.begin()
		if err := attached.attach(ctx, files, upload); err != nil {
			return err
		}
		return compare(files, listed)
	}
	attached.files = func(ctx context.Context, provenance []byte) ([]release.File, error) {
		return withProvenance(ctx, files, provenance, key)
	}
	published, err := attached.run(ctx, keepOld)
	if err != nil {
		return err
	}
	attachedNow := slices.DeleteFunc(published.Files, func(of release.File) bool {
		return !slices.ContainsFunc(files, func(f release.File) bool { return f.Name == of.Name })
	})
	r.Result(Table(artifacts(attachedNow)) + "Release " + published.Release.URL + "\n")
	return nil
}

// attach uploads the files side by side, and completes them by their checksums. Beside
// that it looks into bundles. Provenance is uploaded when it is merged.
func (p *publication) attach(ctx context.Context, files []release.File, upload release.UploadAhead) error {
	given := slices.Clone(files)
	group, ctx := errgroup.WithContext(ctx)
	for i, file := range given {
		group.Go(func() (err error) {
			if file.Name == trust.ProvenanceFileName {
				files[i].SHA256, files[i].Size, err = checksum.File(ctx, file.Path)
			} else {
				files[i], err = upload(ctx, file)
			}
			return err
		})
	}
	group.Go(func() error {
		p.architectures = architecturesIn(ctx, given)
		return nil
	})
	return group.Wait()
}

// compare finds the files that are not as listed.
func compare(files []release.File, listed checksum.Sums) error {
	if listed == nil {
		return nil
	}
	var wrong plan.InputErrors
	for _, file := range files {
		if file.SHA256 != listed[file.Name] {
			wrong = append(wrong, &plan.InputError{
				Input: "file", Value: file.Path,
				Why: fmt.Sprintf("is not what the %s beside it lists; package it again", checksum.FileName),
			})
		}
	}
	if len(wrong) > 0 {
		return wrong
	}
	return nil
}

// withProvenance adds the provenance among files to what is published.
func withProvenance(ctx context.Context, files []release.File, published []byte, key *trust.Key) ([]release.File, error) {
	files = slices.Clone(files)
	for i, file := range files {
		if file.Name != trust.ProvenanceFileName {
			continue
		}
		content, err := os.ReadFile(file.Path)
		if err != nil {
			return nil, err
		}
		if published != nil && !bytes.Equal(published, content) {
			if content, err = merge(ctx, published, trust.ParseProvenance(content), key); err != nil {
				return nil, err
			}
		}
		files[i] = release.File{Name: file.Name, Content: content}
	}
	return files, nil
}

// merge adds lines to the published provenance.
func merge(ctx context.Context, published []byte, lines []trust.Attestation, key *trust.Key) (merged []byte, err error) {
	merged = published
	for _, line := range lines {
		if merged, err = trust.MergeProvenance(ctx, merged, line, key); err != nil {
			return nil, err
		}
	}
	return merged, nil
}

// run publishes.
func (p *publication) run(ctx context.Context, keepOld bool) (release.Published, error) {
	known := release.Content{
		Commit: p.plan.Commit, Prerelease: p.plan.Prerelease, KeepOld: keepOld,
		Progress: func(name string, done, total int64) { p.progress.BytesOf("upload", name, done, total) },
		Status:   func(what string) { p.progress.Status("%s", what) },
	}
	compose := func(ctx context.Context, there release.Snapshot) (release.Content, error) {
		return p.compose(ctx, there, known)
	}
	defer func() {
		if p.end != nil {
			p.end()
		}
	}()
	published, err := p.store.UpdateAhead(ctx, p.plan.ReleaseTag, known, p.make, compose)
	if err != nil {
		return release.Published{}, err
	}
	if p.left > 0 {
		p.report.Line("left %s of %s out, which this key has not signed", count(p.left, "line"), trust.ProvenanceFileName)
	}
	if p.key != nil {
		p.report.Line("signed for %s with the key %s", p.plan.ReleaseTag, p.key.AuthorizedKey())
	}
	for _, what := range []struct {
		done  string
		names []string
	}{{"uploaded", published.Uploaded}, {"replaced", published.Replaced}, {"unchanged", published.Unchanged}} {
		if len(what.names) > 0 {
			p.report.Line("%s: %s", what.done, strings.Join(what.names, ", "))
		}
	}
	return published, nil
}

// begin shows that the release is published now.
func (p *publication) begin() {
	where := strings.TrimSpace(p.plan.ForgeURL + " " + p.plan.Repository) // a folder has no repository
	endGroup := p.report.Group(fmt.Sprintf("Publish release %s at %s", p.plan.ReleaseTag, where))
	p.progress = p.report.Progress("upload")
	p.end = func() {
		p.progress.Close()
		endGroup()
	}
}

// compose decides what the release should be: with the provenance of all its files,
// signed if that is allowed, and with notes.
func (p *publication) compose(ctx context.Context, there release.Snapshot, content release.Content) (release.Content, error) {
	known, err := prove(ctx, there, p.key, p.plan.ReleaseTag)
	if err != nil {
		return release.Content{}, err
	}
	p.left = max(p.left, known.left)
	files, err := p.files(ctx, known.provenance)
	if err != nil {
		return release.Content{}, err
	}
	if p.key != nil {
		if files, err = p.withSnapshot(ctx, there, known, files); err != nil {
			return release.Content{}, err
		}
	}
	if err := checkTrust(ctx, there, known, p.key, p.plan.ReleaseTag, files); err != nil {
		return release.Content{}, err
	}
	p.warnOfBundles(there, files)
	if p.kept != nil {
		if err := p.kept(ctx, files); err != nil {
			return release.Content{}, err
		}
	}
	origin, signed := p.origin(there.Release.Notes), p.key != nil || isSigned(there.Release)
	changes := p.changes(ctx, there.Release, files, known.provenance)
	content.Files, content.Sign = files, signWith(p.key, p.plan.ReleaseTag)
	content.Notes = func(assets []release.File) string {
		return notes(p.plan, origin, changes, p.known(assets), signed)
	}
	p.started = true
	return content, nil
}

// warnOfBundles says, before anything is published, that boot servers will not stage the
// release because several of its bundles are for the same machines.
func (p *publication) warnOfBundles(there release.Snapshot, files []release.File) {
	if p.warned {
		return
	}
	all := slices.Clone(files)
	for name := range there.Others(files) {
		all = append(all, release.File{Name: name})
	}
	bundles := map[string][]string{}
	for _, a := range p.known(all) {
		if a.Architecture != "" && a.Architecture != noArchitecture {
			bundles[a.Architecture] = append(bundles[a.Architecture], a.Name)
		}
	}
	for _, architecture := range slices.Sorted(maps.Keys(bundles)) {
		slices.Sort(bundles[architecture])
		if _, err := artifact.ChooseBundle(architecture, bundles[architecture]); err != nil {
			p.report.Warning("boot servers will not stage the release %s: %v", p.plan.ReleaseTag, err)
			p.warned = true
		}
	}
}

// architecturesIn returns those of the kernels in files that are bundles.
func architecturesIn(ctx context.Context, files []release.File) map[string]string {
	found := map[string]string{}
	for _, f := range files {
		file, err := os.Open(f.Path)
		if err != nil || !strings.HasSuffix(f.Name, ".tar.gz") {
			continue // if it cannot be read, publishing it says so
		}
		found[f.Name], _ = artifact.BundleArchitecture(ctx, file, artifact.Limits{}) // any other file has none
		_ = file.Close()                                                             // it was only read
	}
	return found
}

// known returns files of the release as what they are, with the architecture that a boot
// server takes a bundle for. What was published before is taken for what its name says;
// that is nothing, perhaps.
func (p *publication) known(files []release.File) []artifact.Artifact {
	found := artifacts(files)
	for i := range found {
		name := found[i].Name
		architecture, ours := p.architectures[name]
		named, isNamed := artifact.NamedArchitecture(name)
		switch {
		case architecture != "":
			found[i].Architecture = architecture
		case isNamed:
			found[i].Architecture = named
		case ours || !artifact.MayBeBundle(name, p.plan.ReleaseTag):
			found[i].Architecture = noArchitecture
		}
	}
	return found
}

// artifacts returns files of a publication as what they are.
func artifacts(files []release.File) []artifact.Artifact {
	var found []artifact.Artifact
	for _, f := range files {
		found = append(found, artifact.Artifact{Name: f.Name, Path: f.Path, Size: f.Size, SHA256: f.SHA256})
	}
	return found
}

// toPublish returns an artifact as a file of a publication.
func toPublish(a artifact.Artifact) release.File {
	return release.File{Name: a.Name, Path: a.Path, Size: a.Size, SHA256: a.SHA256, Info: a.Info}
}
