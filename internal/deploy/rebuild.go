package deploy

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/trust"
	"every.channel/runner-images/internal/verify"
)

// RebuildNix is what a rebuild needs of the nix command; nix.Nix has it.
type RebuildNix interface {
	Build(ctx context.Context, request nix.Request) ([]nix.Result, error)
	// Foreign returns why no machine at hand can build an image, by its name.
	Foreign(ctx context.Context, request nix.Request) (map[string]string, error)
	Closures(ctx context.Context, paths ...string) (nix.Closures, error)
}

// A Rebuild builds and packages images once more, to be compared with published
// ones: as a Deployment does, but each that can be, whatever becomes of the
// others.
type Rebuild struct {
	Nix     RebuildNix
	NixArgs []string
	Report  *report.Report
	Dir     string    // where the packaged files go
	ModTime time.Time // of the files in bundles, where it is not known how they were published

	// Again has Nix build once more what it has built here before, and takes
	// other bytes for a failure.
	Again bool
}

// Run returns what became of each image.
func (b Rebuild) Run(ctx context.Context, tag string, images []verify.Image) ([]verify.Rebuilt, error) {
	if len(images) == 0 {
		return nil, nil
	}
	outcomes := outcomes{}
	results, err := b.build(ctx, images, outcomes)
	if err != nil {
		return nil, err
	}
	var rebuilt []verify.Rebuilt
	for _, image := range images {
		outcome := outcomes[image.Name]
		outcome.Image = image
		if i := slices.IndexFunc(results, func(r nix.Result) bool { return r.Name == image.Name }); i >= 0 {
			if err := b.pack(ctx, tag, results[i], &outcome); err != nil {
				return nil, err
			}
		}
		rebuilt = append(rebuilt, outcome)
	}
	return rebuilt, nil
}

// outcomes are those of images that were not built, by name.
type outcomes map[string]verify.Rebuilt

func (o outcomes) notHere(name, reason string) { o[name] = verify.Rebuilt{Reason: reason} }

func (o outcomes) failed(name string, err error) {
	o[name] = verify.Rebuilt{Err: errors.Join(o[name].Err, err)}
}

// without returns the images that have no outcome yet.
func (o outcomes) without(images []artifact.Image) []artifact.Image {
	return slices.DeleteFunc(slices.Clone(images), func(i artifact.Image) bool {
		_, has := o[i.Name]
		return has
	})
}

// build builds the images that can be built here, and records in outcomes why the
// others are not.
func (b Rebuild) build(ctx context.Context, images []verify.Image, outcomes outcomes) ([]nix.Result, error) {
	defer b.Report.Group("Rebuild " + count(len(images), "image"))()
	progress := b.Report.Progress("build")
	defer progress.Close()
	request := nix.Request{
		Args: b.NixArgs, Rebuild: b.Again,
		LinkDir: filepath.Join(b.Dir, ".results"),
		Events:  func(e nix.Event) { show(b.Report, progress, e) },
	}
	for _, image := range images {
		request.Images = append(request.Images, image.Image)
	}
	if err := b.dropForeign(ctx, &request, outcomes); err != nil || len(request.Images) == 0 {
		return nil, err
	}
	results, err := b.Nix.Build(ctx, request)
	var failure *nix.BuildError
	if !errors.As(err, &failure) {
		return results, err
	}
	for _, f := range failure.Failures {
		for _, name := range f.Images {
			if f.Kind == nix.WrongMachine {
				outcomes.notHere(name, f.Reason)
			} else {
				outcomes.failed(name, &nix.BuildError{Failures: []nix.Failure{f}})
			}
		}
	}
	// What was built is there: this returns it.
	if request.Images = outcomes.without(request.Images); len(request.Images) == 0 {
		return nil, nil
	}
	request.Rebuild = false
	return b.Nix.Build(ctx, request)
}

// dropForeign takes those images out of the request that the flake does not have,
// or that no machine at hand can build.
func (b Rebuild) dropForeign(ctx context.Context, request *nix.Request, outcomes outcomes) error {
	foreign, err := b.Nix.Foreign(ctx, *request)
	if evaluation := (*nix.EvaluationError)(nil); errors.As(err, &evaluation) {
		for _, problem := range evaluation.Problems {
			if problem.Kind == nix.NoFlake {
				return err
			}
			for _, name := range problem.Images {
				if problem.Kind == nix.NoAttribute {
					outcomes.notHere(name, problem.Reason)
				} else {
					outcomes.failed(name, errors.New(problem.Reason))
				}
			}
		}
		request.Images = outcomes.without(request.Images)
		if len(request.Images) == 0 {
			return nil
		}
		foreign, err = b.Nix.Foreign(ctx, *request)
	}
	if err != nil {
		return err
	}
	for name, reason := range foreign {
		outcomes.notHere(name, reason)
	}
	request.Images = outcomes.without(request.Images)
	return nil
}

// pack makes the file of what was built.
func (b Rebuild) pack(ctx context.Context, tag string, result nix.Result, outcome *verify.Rebuilt) error {
	progress := b.Report.Progress("package")
	defer progress.Close()
	modTime := outcome.ModTime
	if modTime.IsZero() {
		modTime = b.ModTime
	}
	closures, err := b.Nix.Closures(ctx, result.Output)
	if err != nil {
		return err
	}
	packager := artifact.Packager{
		Within: closures.Of(result.Output), Temporary: true,
		Tag: tag, Dir: b.Dir, ModTime: modTime,
		Progress: func(done, total int64) { progress.Bytes(result.Name, done, total) },
	}
	packaged, err := packager.Package(ctx, result.Image, result.Output)
	if err != nil && ctx.Err() != nil {
		return err
	}
	outcome.Path, outcome.File, outcome.Err = packaged.Path, packaged.Name, err
	return nil
}

// Flake returns which source a flake is, in the words of provenance.
func Flake(ctx context.Context, n Nix, flake string) (trust.Flake, error) {
	source, err := n.FlakeMetadata(ctx, "", flake)
	return flakeOf(source, trust.Build{}), err
}
