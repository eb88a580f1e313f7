// Package verify compares a published release with what this machine builds from
// its own copy of the flake, bit for bit, and explains how they differ.
package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/trust"
)

// ErrDifferent means that something published is not what it should be.
var ErrDifferent = errors.New("the release differs")

// ErrChanged means that the release was changed while it was being read, which may
// explain the differences: the caller should verify it again.
var ErrChanged = errors.New("the release has changed while it was being verified; verify it again")

// ErrNothingComparable means that nothing could be compared.
var ErrNothingComparable = errors.New("nothing could be compared")

// A Request is what to compare with what.
type Request struct {
	Source Source

	// Tag is the release's. If it is empty, it is the one that the provenance in
	// the source is about.
	Tag string

	// Signers are those whose signature SHA256SUMS.txt must have. nil asks for
	// no signature.
	Signers trust.AllowedSigners
	Now     time.Time // when the signers must be valid

	// Flake is what this machine builds from, the part before the # of an
	// installable, and Metadata its source. Without Rebuild they are not used.
	Flake    string
	Metadata trust.Flake

	// Images are those of the flake that the release may have, for files that its
	// provenance does not describe. With OnlyImages nothing else is built, whatever
	// the provenance describes.
	Images     []Image
	OnlyImages bool

	// Rebuild builds images and packages them as files for the tag. nil compares
	// the published files with SHA256SUMS.txt only.
	Rebuild func(ctx context.Context, tag string, images []Image) ([]Rebuilt, error)

	// Settle is how long a publication may leave a release incomplete. A difference
	// counts only if the release is unchanged after that time.
	Settle time.Duration

	// Progress, if set, is called with what is being done, in words.
	Progress func(message string)

	// small are the files that have been read whole: what is verified, what it says, and
	// what is compared with the list are the same bytes.
	small map[string][]byte
}

// An Image is something that this machine can try to build.
type Image struct {
	artifact.Image
	ModTime time.Time // of the files in a bundle, as published; zero if that is not known
}

// Rebuilt is what became of an image.
type Rebuilt struct {
	Image
	Path string // of the packaged file; empty if it was not built
	File string // its name, which is the asset's

	// Reason is why it was not built: its system is not this machine's. Err is why
	// the build failed.
	Reason string
	Err    error
}

// Verify compares. The error is why that was not possible at all, or that the
// signature was refused: then it wraps trust.ErrUnsigned, ErrWrongTag or
// ErrNotAllowed where that is the reason; or it wraps ErrChanged. What the
// comparison found is in the report; see its Err.
func Verify(ctx context.Context, r Request) (Report, error) {
	settled := time.After(r.Settle)
	r.small = map[string][]byte{}
	before, err := r.proofs(ctx)
	if err != nil {
		return Report{}, err
	}
	report, err := r.compare(ctx)
	var refused *release.Error
	if err == nil && report.Err() == nil || errors.As(err, &refused) && !errors.Is(err, release.ErrNotFound) {
		return report, err
	}
	select {
	case <-ctx.Done():
		return report, err
	case <-settled:
	}
	r.small = map[string][]byte{} // a second look
	if after, lookErr := r.proofs(ctx); lookErr == nil && after != before {
		return Report{}, fmt.Errorf("release %s: %w", oneLine(r.Tag), ErrChanged)
	}
	return report, err
}

// proofs returns SHA256SUMS.txt and its signature, which publications change.
func (r Request) proofs(ctx context.Context) (proofs [2]string, err error) {
	for i, name := range []string{checksum.FileName, trust.SignatureFileName} {
		content, err := r.readSmall(ctx, name)
		if err != nil && !errors.Is(err, release.ErrNotFound) {
			return proofs, err
		}
		proofs[i] = string(content)
	}
	return proofs, nil
}

func (r Request) compare(ctx context.Context) (Report, error) {
	published, err := r.read(ctx)
	if err != nil {
		return Report{}, err
	}
	report := Report{
		Tag: published.tag, Signer: published.signer, Published: formatTime(published.at), Notes: published.notes,
		Origins: []Origin{}, Assets: []Asset{},
	}
	for _, build := range published.builds {
		report.Origins = append(report.Origins, originOf(build))
	}
	report.compareFlakes(r, published)
	if report.OtherFlake != "" {
		r.progress(report.OtherFlake) // before hours are spent on building
	}
	report.Notes = append(report.Notes, r.otherAttributes(published)...)
	rebuilt, err := r.rebuild(ctx, published)
	if err != nil {
		return Report{}, err
	}
	for _, name := range published.names() {
		asset, err := r.compareAsset(ctx, published, name, rebuilt)
		if err != nil {
			return Report{}, err
		}
		report.Assets = append(report.Assets, asset)
	}
	report.Result = report.result()
	return report, nil
}

// published is what the source contains and claims.
type published struct {
	tag    string
	sums   checksum.Sums
	there  []string // names of the files in the source
	builds []trust.Build
	signer *trust.Signer
	at     time.Time // when it was published, if that is proved
	notes  []string
}

func (r Request) progress(message string) {
	if r.Progress != nil {
		r.Progress(message)
	}
}

func (r Request) read(ctx context.Context) (published, error) {
	p := published{notes: []string{}}
	var err error
	if p.there, err = r.Source.Names(); err != nil {
		return p, err
	}
	for _, name := range []string{checksum.FileName, trust.SignatureFileName} {
		if count(p.there, name) > 1 {
			return p, fmt.Errorf("the release has more than one %s, and downloads may give any", name)
		}
	}
	sums, err := r.readSmall(ctx, checksum.FileName)
	switch {
	case errors.Is(err, release.ErrNotFound) && !r.Source.Whole() && r.Signers == nil && r.Rebuild != nil:
		p.notes = append(p.notes, "there is no "+checksum.FileName+"; the files are compared with the rebuilt ones only")
	case errors.Is(err, release.ErrNotFound) && !r.Source.Whole() && r.Signers == nil:
		return p, fmt.Errorf("%w: %w; download it from the release as well", ErrNothingComparable, err)
	case err != nil:
		return p, err
	}
	if p.sums, err = checksum.Parse(bytes.NewReader(sums)); err != nil {
		return p, err
	}
	content, err := r.readSmall(ctx, trust.ProvenanceFileName)
	if errors.Is(err, release.ErrNotFound) {
		p.notes = append(p.notes, "there is no "+trust.ProvenanceFileName+": what the release was built from is not recorded")
	} else if err != nil {
		return p, err
	}
	if p.tag, err = r.tag(trust.ParseProvenance(content)); err != nil {
		return p, err
	}
	return p, r.readBuilds(ctx, &p, sums, content)
}

// readBuilds finds out what the release was built from, and who vouches for it
// if signatures are asked for.
func (r Request) readBuilds(ctx context.Context, p *published, sums, provenance []byte) error {
	var notes []string
	lines := trust.ParseProvenance(provenance)
	if others := countLines(provenance) - len(lines); others > 0 {
		p.notes = append(p.notes, fmt.Sprintf("%d of the lines in %s cannot be used: they are of another kind, or call things by names that no release has", others, trust.ProvenanceFileName))
	}
	if r.Signers == nil {
		listed := p.sums
		if sums == nil {
			listed = nil
		}
		if listed != nil && provenance != nil && listed[trust.ProvenanceFileName] != trust.SumOf(provenance) {
			notes = append(notes, trust.ProvenanceFileName+" is not the one that "+checksum.FileName+" lists, and is not used")
			lines = nil
		}
		builds, others := buildsOf(p.tag, listed, lines, func(trust.Attestation) error { return nil })
		p.builds, notes = builds, append(notes, others...)
	} else {
		proof, err := Prove(ctx, p.tag, sums, func(name string) ([]byte, error) {
			return r.readSmall(ctx, name)
		}, r.Signers, r.Now)
		if err != nil {
			return fmt.Errorf("release %s: %w", p.tag, err)
		}
		p.signer, p.builds, notes = &proof.Signer, proof.Builds, proof.Notes
		if proof.Snapshot != nil {
			p.at = proof.Snapshot.Published
		}
	}
	p.notes = append(p.notes, notes...)
	return nil
}

// countLines returns the number of lines that are not empty.
func countLines(text []byte) (count int) {
	for line := range bytes.Lines(text) {
		if len(bytes.TrimSpace(line)) > 0 {
			count++
		}
	}
	return count
}

func (r Request) tag(lines []trust.Attestation) (string, error) {
	if r.Tag != "" {
		return r.Tag, nil
	}
	if len(lines) > 0 {
		tag := lines[0].Build.Tag
		if err := release.CheckTag(tag); err != nil {
			return "", fmt.Errorf("%s is about the release %q: %w", trust.ProvenanceFileName, tag, err)
		}
		return tag, nil
	}
	return "", fmt.Errorf("%w: the release of these files is unknown, since no %s among them tells it; give it with --release-tag", ErrNothingComparable, trust.ProvenanceFileName)
}

// buildOf returns the build that made an asset, by its name and sum.
func (p published) buildOf(name string) (trust.Build, bool) {
	for _, build := range slices.Backward(p.builds) {
		if sum, ok := build.Subjects[name]; ok && (p.sums[name] == "" || p.sums[name] == sum) {
			return build, true
		}
	}
	return trust.Build{}, false
}

// names returns the names of all files to look at, sorted.
func (p published) names() []string {
	names := slices.Clone(p.there)
	for name := range p.sums {
		names = append(names, name)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return slices.DeleteFunc(names, func(name string) bool {
		return name == checksum.FileName || name == trust.SignatureFileName
	})
}

// rebuild builds what can be built of what is published, by asset name.
func (r Request) rebuild(ctx context.Context, p published) (map[string]Rebuilt, error) {
	if r.Rebuild == nil {
		return nil, nil
	}
	results, err := r.Rebuild(ctx, p.tag, r.images(p))
	if err != nil {
		return nil, err
	}
	byName := map[string]Rebuilt{}
	for _, result := range results {
		if result.File != "" {
			byName[result.File] = result
			continue
		}
		// It was not built, so the name of its file is unknown.
		for _, name := range p.names() {
			if isFileOf(name, result.Name, p.tag) {
				byName[name] = result
			}
		}
	}
	return byName, nil
}

// isFileOf reports whether an asset's name is that of an image in a tag's release,
// with any extension.
func isFileOf(asset, name, tag string) bool {
	return strings.HasPrefix(asset, artifact.FileName(name, tag, "."))
}

// images returns what to build for the published files: the attributes in the
// provenance, of this machine's flake, else those that the flake is known to have.
func (r Request) images(p published) []Image {
	var images []Image
	for _, name := range p.names() {
		image, ok := r.imageOf(p, name)
		if ok && !slices.Contains(images, image) {
			images = append(images, image)
		}
	}
	return images
}

// otherAttributes returns a note for each file for which the provenance names another
// attribute than the flake has under the file's name: such a file may be the same as
// what is rebuilt and still not be what its name promises.
func (r Request) otherAttributes(p published) (notes []string) {
	if r.Rebuild == nil {
		return nil
	}
	for _, name := range p.names() {
		recorded, isBuilt := r.imageOf(p, name)
		own, hasName := r.ownImage(p, name)
		if isBuilt && hasName && recorded.Installable != own.Installable {
			notes = append(notes, oneLine(fmt.Sprintf("%s is compared with %s, as %s says, and not with %s, which has its name here",
				name, recorded.Installable, trust.ProvenanceFileName, own.Installable)))
		}
	}
	return notes
}

func (r Request) imageOf(p published, asset string) (Image, bool) {
	if build, ok := p.buildOf(asset); ok && !r.OnlyImages {
		for _, image := range build.Images {
			if image.Asset == asset {
				return r.fromOwnFlake(image, build.ModTime)
			}
		}
	}
	return r.ownImage(p, asset)
}

// ownImage returns the image whose name the file has.
func (r Request) ownImage(p published, asset string) (Image, bool) {
	for _, image := range r.Images {
		if isFileOf(asset, image.Name, p.tag) {
			return image, true
		}
	}
	return Image{}, false
}

// fromOwnFlake takes the attribute from the provenance and the flake from this
// machine: a release must not decide what is fetched and built here.
func (r Request) fromOwnFlake(image trust.Image, modTime time.Time) (Image, bool) {
	_, attribute, ok := strings.Cut(image.Installable, "#")
	return Image{artifact.Image{Name: image.Name, Installable: r.Flake + "#" + attribute}, modTime}, ok
}

func (r Request) compareAsset(ctx context.Context, p published, name string, rebuilt map[string]Rebuilt) (Asset, error) {
	asset := Asset{Name: name, Listed: p.sums[name], Differences: []Difference{}}
	switch times := count(p.there, name); {
	case times == 0 && r.Source.Whole():
		asset.Verdict, asset.Reason = Different, "listed in "+checksum.FileName+", but not in the release"
		return asset, nil
	case times == 0:
		asset.Verdict, asset.Reason = NotCompared, "not in the folder"
		return asset, nil
	case times > 1:
		asset.Verdict, asset.Reason = Different, fmt.Sprintf("the release has %d files of this name, and downloads may give any", times)
		return asset, nil
	case asset.Listed == "" && r.Source.Whole():
		asset.Verdict, asset.Reason = Different, "in the release, but not listed in "+checksum.FileName
		return asset, nil
	case asset.Listed == "" && r.Signers != nil && rebuilt[name].Path == "" && !strings.HasPrefix(name, "."):
		asset.Verdict, asset.Reason = Different, "not listed in "+checksum.FileName+", so nobody has signed it; move it out of the folder if it is not of the release"
		return asset, nil
	}
	r.progress("reading " + oneLine(name))
	counterpart := rebuilt[name]
	if asset.Listed == "" && counterpart.Path == "" {
		asset.Verdict, asset.Reason = NotCompared, "not listed in "+checksum.FileName
		return asset, nil
	}
	err := r.compareBytes(ctx, &asset, counterpart)
	return asset, err
}

func (r Request) compareBytes(ctx context.Context, asset *Asset, counterpart Rebuilt) error {
	c, err := r.compareWith(ctx, asset.Name, counterpart.Path)
	if err != nil {
		return err
	}
	asset.Size, asset.Published = c.publishedSize, c.publishedSum
	listed := asset.Listed == "" || asset.Listed == asset.Published
	switch {
	case counterpart.Path == "":
		asset.judgeAlone(r, listed, counterpart)
		return nil
	case c.same() && listed:
		asset.Rebuilt, asset.Verdict = asset.Published, Same
		return nil
	case c.same():
		asset.Rebuilt, asset.Verdict = asset.Published, Different
		asset.Reason = "the published and the rebuilt file are the same, but " + checksum.FileName + " has another sum"
		return nil
	}
	asset.Verdict = Different
	if asset.Rebuilt, _, err = checksum.File(ctx, counterpart.Path); err != nil {
		return err
	}
	switch {
	case asset.Rebuilt == asset.Listed:
		asset.Reason = "the rebuilt file is the one that " + checksum.FileName + " lists; the published file was changed afterwards"
	case !listed:
		asset.Reason = "the published file is neither the rebuilt one nor the one that " + checksum.FileName + " lists"
	default:
		asset.Reason = "the rebuilt file is another one"
	}
	asset.Differences, err = r.differences(ctx, asset.Name, counterpart.Path, c)
	return err
}

// judgeAlone judges a file that there is nothing rebuilt to compare with.
func (a *Asset) judgeAlone(r Request, listed bool, counterpart Rebuilt) {
	switch {
	case !listed:
		a.Verdict, a.Reason = Different, "the published file is not the one that "+checksum.FileName+" lists"
	case counterpart.Err != nil:
		a.Verdict, a.Reason = Failed, counterpart.Err.Error()
	case r.Rebuild == nil:
		a.Verdict = Same
	case counterpart.Reason != "":
		a.Verdict, a.Reason = NotCompared, counterpart.Reason
	case a.Name == trust.SnapshotFileName:
		a.Verdict, a.Reason = NotCompared, "it orders what was published, it is not built"
	case a.Name == trust.ProvenanceFileName:
		a.Verdict, a.Reason = NotCompared, "it describes the build and is not built itself"
	default:
		a.Verdict, a.Reason = NotCompared, "no image of the flake makes a file of this name"
	}
}

func (r Request) compareWith(ctx context.Context, name, rebuiltPath string) (comparison, error) {
	published, err := r.open(ctx, name)
	if err != nil {
		return comparison{}, err
	}
	defer published.Close()
	c, err := func() (comparison, error) {
		if rebuiltPath == "" {
			return compare(ctx, published, nil)
		}
		rebuilt, err := os.Open(rebuiltPath)
		if err != nil {
			return comparison{}, err
		}
		defer rebuilt.Close()
		return compare(ctx, published, rebuilt)
	}()
	if err != nil {
		return c, fmt.Errorf("read %s: %w", name, err)
	}
	return c, nil
}

func (r Request) differences(ctx context.Context, name, rebuiltPath string, c comparison) ([]Difference, error) {
	whole := Difference{File: name, PublishedSize: c.publishedSize, RebuiltSize: c.rebuiltSize, Offset: c.offset}
	if !strings.HasSuffix(name, ".tar.gz") {
		whole.Reason = "other content"
		return []Difference{whole}, nil
	}
	published, err := r.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer published.Close()
	inside, err := bundleDifferences(ctx, published, rebuiltPath)
	if err != nil || len(inside) > 0 {
		return inside, err
	}
	whole.Reason = "the files in it are the same; only how they are packed differs, as by another version of runner-images or of gzip"
	return []Difference{whole}, nil
}

func count(names []string, name string) int {
	n := 0
	for _, other := range names {
		if other == name {
			n++
		}
	}
	return n
}
