package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

// An arrangement says which bundle is for which machines.
type arrangement struct {
	bundles    map[machine.Architecture]bundle
	unknown    []bundle          // has to be looked into
	passedOver map[string]string // what is not taken: the assets and their SHA-256
}

// A verdict is what was found in a bundle.
type verdict struct {
	architecture machine.Architecture
	why          string // it is not taken
}

// arrangedAsStaged arranges the bundles of a candidate by what is staged of it and by
// their names.
func (s Stager) arrangedAsStaged(c candidate) (candidate, error) {
	staged, err := s.staged(c.tag)
	if err != nil {
		return c, err
	}
	c.arrangement, err = arrange(c.found, verdictsOf(c.found, staged))
	return c, err
}

// verdictsOf returns what was found, by their names, in those that were staged. Two
// bundles may be the same bytes.
func verdictsOf(found []bundle, staged state.Release) map[string]verdict {
	verdicts := map[string]verdict{}
	for _, b := range found {
		if staged.PassedOver[b.asset] == b.sum {
			verdicts[b.asset] = verdict{why: "it was passed over before"}
		}
		_, named := artifact.NamedArchitecture(b.asset)
		for architecture, there := range staged.Bundles {
			if there.SHA256 == b.sum && (there.Asset == b.asset || !named) {
				verdicts[b.asset] = verdict{architecture: architecture}
			}
		}
	}
	return verdicts
}

// arrange gives each bundle to the machines that it is for: by what was found in it, else
// by its name. What provenance says of it is not read for that. It names what was built,
// which is not for which machines, is anybody's without a signature, and would be looked
// at beside the kernel, which decides anyway.
func arrange(found []bundle, verdicts map[string]verdict) (arrangement, error) {
	arranged := arrangement{bundles: map[machine.Architecture]bundle{}, passedOver: map[string]string{}}
	same := map[machine.Architecture][]string{}
	for _, b := range found {
		verdict := verdicts[b.asset]
		named, _ := artifact.NamedArchitecture(b.asset)
		switch {
		case verdict.architecture != "":
			same[verdict.architecture] = append(same[verdict.architecture], b.asset)
		case verdict.why != "":
			arranged.passedOver[b.asset] = b.sum
		case named != "":
			same[machine.Architecture(named)] = append(same[machine.Architecture(named)], b.asset)
		default:
			arranged.unknown = append(arranged.unknown, b)
		}
	}
	for architecture, assets := range same {
		chosen, err := artifact.ChooseBundle(string(architecture), assets)
		if err != nil {
			return arrangement{}, err
		}
		for _, b := range found {
			switch {
			case b.asset == chosen:
				arranged.bundles[architecture] = b
			case slices.Contains(assets, b.asset):
				arranged.passedOver[b.asset] = b.sum
			}
		}
	}
	return arranged, nil
}

// openFiles are bundles that are open, by their names.
type openFiles map[string]*os.File

func (o openFiles) close() error {
	var errs []error
	for _, file := range o {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

// lookInside opens the bundles of a candidate that are not staged, and arranges them by
// the kernels in them.
func (s Stager) lookInside(ctx context.Context, c candidate, staged state.Release, files openFiles) (candidate, error) {
	verdicts := verdictsOf(c.found, staged)
	var passedOver []string
	for _, b := range c.found {
		if _, ok := verdicts[b.asset]; ok {
			continue
		}
		file, err := b.open(ctx)
		if err != nil {
			return c, err
		}
		files[b.asset] = file
		found, err := inspect(ctx, b.asset, file)
		if err != nil {
			return c, fmt.Errorf("unpack %s: %w", b.asset, err)
		}
		if named, ok := artifact.NamedArchitecture(b.asset); ok && found.architecture != "" && found.architecture != machine.Architecture(named) {
			s.notify("%s is for %s by its kernel, whatever its name says", b.asset, found.architecture)
		}
		if found.why != "" {
			s.notify("%s is passed over: %s", b.asset, found.why)
			passedOver = append(passedOver, b.asset+": "+found.why)
		}
		verdicts[b.asset] = found
	}
	var err error
	if c.arrangement, err = arrange(c.found, verdicts); err != nil {
		return c, fmt.Errorf("release %s: %w", c.tag, err)
	}
	if len(c.bundles) == 0 {
		return c, fmt.Errorf("release %s has no netboot bundle: %s", c.tag, strings.Join(passedOver, "; "))
	}
	if !c.complete {
		maps.Copy(c.passedOver, staged.PassedOver)
	}
	if err := s.admit(c.tag, c.bundleSums(), c.proof); err != nil {
		return c, fmt.Errorf("release %s: %w", c.tag, err)
	}
	return c, nil
}

// inspect finds out for which machines a bundle is. It is no error if a bundle whose name
// says that is damaged: unpacking it says how.
func inspect(ctx context.Context, asset string, file *os.File) (verdict, error) {
	_, named := artifact.NamedArchitecture(asset)
	architecture, err := artifact.BundleArchitecture(ctx, file, limits)
	var unreadable *fs.PathError
	switch {
	case ctx.Err() != nil || errors.As(err, &unreadable):
		return verdict{}, err
	case named && errors.Is(err, artifact.ErrOtherKernel):
		return verdict{}, err
	case named:
		return verdict{architecture: machine.Architecture(architecture)}, nil
	case err != nil:
		return verdict{why: err.Error()}, nil
	case architecture == "":
		return verdict{why: "neither its kernel nor its name says for which machines it is; call the image for example NAME-x86_64-netboot"}, nil
	}
	return verdict{architecture: machine.Architecture(architecture)}, nil
}
