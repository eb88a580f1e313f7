package stage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
	"every.channel/runner-images/internal/release"
)

// find returns the release of a tag, or the latest one for an empty tag.
func (s Stager) find(ctx context.Context, tag string) (release.Release, error) {
	if s.Store == nil && tag != "" {
		return release.Release{}, fmt.Errorf("release %s is %w, and nothing says where to download it from: give --forge-url", tag, state.ErrNotStaged)
	}
	if s.Store == nil {
		return release.Release{}, errors.New("nothing says where to look for the latest release: give --forge-url")
	}
	if tag == "" {
		latest, err := s.Store.Latest(ctx, TagPrefix)
		if errors.Is(err, release.ErrNotFound) {
			return latest, fmt.Errorf("no release with a tag %s… is published: %w", TagPrefix, err)
		}
		return latest, err
	}
	found, err := s.Store.Release(ctx, tag)
	if err == nil && found.Draft {
		err = fmt.Errorf("release %s is a draft: it may not be whole yet; publish it first", tag)
	}
	return found, err
}

// candidate reads which bundles a release has, and which checksums they shall have.
func (s Stager) candidate(ctx context.Context, of release.Release) (candidate, error) {
	content, err := s.small(ctx, of, checksum.FileName)
	if err != nil {
		return candidate{}, err
	}
	believed, err := s.verifySums(of.Tag, content, func(name string) ([]byte, error) {
		return s.small(ctx, of, name)
	})
	if err != nil {
		return candidate{}, err
	}
	names, err := bundleNames(of, believed.sums)
	if err != nil {
		return candidate{}, err
	}
	found := candidate{
		tag: of.Tag, source: of.URL, evidence: believed, complete: true,
		bundles: map[machine.Architecture]bundle{},
	}
	for architecture, name := range names {
		sum, listed := believed.sums[name]
		if !listed {
			return candidate{}, fmt.Errorf("its %s does not list %s: it is being published, or was changed by hand; stage it again in a moment", checksum.FileName, name)
		}
		there := slices.IndexFunc(of.Assets, func(asset release.Asset) bool { return asset.Name == name })
		if there < 0 {
			return candidate{}, fmt.Errorf("its %s lists %s, which is not there: it is being published, or somebody hides it; stage it again in a moment", checksum.FileName, name)
		}
		found.bundles[architecture] = bundle{name, sum, func(ctx context.Context) (*os.File, error) {
			return s.download(ctx, of.Assets[there], sum)
		}}
	}
	return found, nil
}

// small returns the content of a small asset.
func (s Stager) small(ctx context.Context, of release.Release, name string) ([]byte, error) {
	if !slices.ContainsFunc(of.Assets, func(asset release.Asset) bool { return asset.Name == name }) {
		return nil, fmt.Errorf("it has no %s: %w", name, release.ErrNotFound)
	}
	return s.Store.ReadSmall(ctx, of, name)
}

// bundleNames finds the netboot bundles that a release has by its SHA256SUMS.txt, or by
// its assets: whoever serves it must not choose by hiding one of them.
func bundleNames(of release.Release, listed checksum.Sums) (map[machine.Architecture]string, error) {
	all := slices.Collect(maps.Keys(listed))
	for _, asset := range of.Assets {
		all = append(all, asset.Name)
	}
	slices.Sort(all)
	found := map[machine.Architecture][]string{}
	for _, name := range slices.Compact(all) {
		if architecture, ok := architectureOf(name); ok {
			found[architecture] = append(found[architecture], name)
		}
	}
	bundles := map[machine.Architecture]string{}
	for architecture, names := range found {
		own := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
			return !strings.HasPrefix(name, "ec-runner-"+string(architecture)+netboot)
		})
		if len(own) == 1 { // a repository may have other images than the fleet's
			names = own
		}
		if len(names) > 1 {
			return nil, fmt.Errorf("it has %d netboot bundles for %s: %s; keep one of them", len(names), architecture, strings.Join(names, ", "))
		}
		bundles[architecture] = names[0]
	}
	if len(bundles) == 0 {
		return nil, fmt.Errorf("it has no netboot bundle, such as ec-runner-x86_64-netboot-%s.tar.gz", of.Tag)
	}
	return bundles, nil
}

// The parts of a bundle's name: ec-runner-ARCHITECTURE-netboot-TAG.tar.gz.
const (
	netboot   = "-netboot-"
	extension = ".tar.gz"
)

// architectureOf returns the architecture that a netboot bundle's name ends in
// before "-netboot-", and whether it is a bundle's name at all.
func architectureOf(asset string) (machine.Architecture, bool) {
	image, _, ok := strings.Cut(asset, netboot)
	if !ok || !strings.HasSuffix(asset, extension) {
		return "", false
	}
	for _, architecture := range machine.Architectures() {
		if image == string(architecture) || strings.HasSuffix(image, "-"+string(architecture)) {
			return architecture, true
		}
	}
	return "", false
}

// tagOf returns the tag in a bundle's name.
func tagOf(asset string) (string, bool) {
	_, rest, _ := strings.Cut(asset, netboot)
	tag, ok := strings.CutSuffix(rest, extension)
	return tag, ok && tag != ""
}
