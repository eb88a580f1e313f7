package stage

import (
	"context"
	"errors"
	"fmt"
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

// offer reads which bundles a release has, and which checksums they shall have.
func (s Stager) offer(ctx context.Context, of release.Release) (offer, error) {
	assets, err := bundleAssets(of)
	if err != nil {
		return offer{}, err
	}
	content, err := s.small(ctx, of, checksum.FileName)
	if err != nil {
		return offer{}, err
	}
	sums, proofs, err := s.believe(of.Tag, content, func(name string) ([]byte, error) {
		return s.small(ctx, of, name)
	})
	if err != nil {
		return offer{}, err
	}
	offered := offer{
		tag: of.Tag, source: of.URL, sums: sums, proofs: proofs, complete: true,
		bundles: map[machine.Architecture]bundle{},
	}
	for architecture, asset := range assets {
		sum, ok := sums[asset.Name]
		if !ok {
			return offer{}, fmt.Errorf("its %s does not list %s: it is being published, or was changed by hand; stage it again in a moment", checksum.FileName, asset.Name)
		}
		offered.bundles[architecture] = bundle{asset.Name, sum, func(ctx context.Context) (*os.File, error) {
			return s.download(ctx, asset, sum)
		}}
	}
	return offered, nil
}

// small returns the content of a small asset.
func (s Stager) small(ctx context.Context, of release.Release, name string) ([]byte, error) {
	if !slices.ContainsFunc(of.Assets, func(asset release.Asset) bool { return asset.Name == name }) {
		return nil, fmt.Errorf("it has no %s: %w", name, release.ErrNotFound)
	}
	return s.Store.ReadSmall(ctx, of, name)
}

// bundleAssets finds the netboot bundles among a release's assets.
func bundleAssets(of release.Release) (map[machine.Architecture]release.Asset, error) {
	found := map[machine.Architecture][]release.Asset{}
	for _, asset := range of.Assets {
		if architecture, ok := architectureOf(asset.Name); ok {
			found[architecture] = append(found[architecture], asset)
		}
	}
	bundles := map[machine.Architecture]release.Asset{}
	for architecture, assets := range found {
		own := slices.DeleteFunc(slices.Clone(assets), func(asset release.Asset) bool {
			return !strings.HasPrefix(asset.Name, "ec-runner-"+string(architecture)+netboot)
		})
		if len(own) == 1 { // a repository may have other images than the fleet's
			assets = own
		}
		if len(assets) > 1 {
			return nil, fmt.Errorf("it has %d netboot bundles for %s: %s; keep one of them", len(assets), architecture, strings.Join(names(assets), ", "))
		}
		bundles[architecture] = assets[0]
	}
	if len(bundles) == 0 {
		return nil, fmt.Errorf("it has no netboot bundle, such as ec-runner-x86_64-netboot-%s.tar.gz", of.Tag)
	}
	return bundles, nil
}

func names(assets []release.Asset) []string {
	var names []string
	for _, asset := range assets {
		names = append(names, asset.Name)
	}
	return names
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
