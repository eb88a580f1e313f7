package stage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/checksum"
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
		return s.Store.Latest(ctx, release.TagPrefix)
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
	found := candidate{tag: of.Tag, source: of.URL, evidence: believed, complete: true}
	for _, name := range names {
		sum, listed := believed.sums[name]
		if !listed {
			return candidate{}, fmt.Errorf("its %s does not list %s: it is being published, or was changed by hand; stage it again in a moment", checksum.FileName, name)
		}
		there := slices.IndexFunc(of.Assets, func(asset release.Asset) bool { return asset.Name == name })
		if there < 0 {
			return candidate{}, fmt.Errorf("its %s lists %s, which is not there: it is being published, or somebody hides it; stage it again in a moment", checksum.FileName, name)
		}
		found.found = append(found.found, bundle{name, sum, func(ctx context.Context) (*os.File, error) {
			return s.download(ctx, of.Assets[there], sum)
		}})
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

// bundleNames returns what may be netboot bundles of a release by its SHA256SUMS.txt, or
// by its assets: whoever serves it must not choose by hiding one of them. Of those whose
// names say one and the same architecture, it is the one that is taken.
func bundleNames(of release.Release, listed checksum.Sums) ([]string, error) {
	all := slices.Collect(maps.Keys(listed))
	var others []string // whose names do not say the architecture
	for _, name := range all {
		if _, named := artifact.NamedArchitecture(name); !named && artifact.MayBeBundle(name, of.Tag) {
			others = append(others, name)
		}
	}
	for _, asset := range of.Assets {
		all = append(all, asset.Name)
	}
	slices.Sort(all)
	named := map[string][]string{}
	for _, name := range slices.Compact(all) {
		if architecture, ok := artifact.NamedArchitecture(name); ok {
			named[architecture] = append(named[architecture], name)
		}
	}
	names := others
	for architecture, same := range named {
		chosen, err := artifact.ChooseBundle(architecture, same)
		if err != nil {
			return nil, err
		}
		names = append(names, chosen)
	}
	if len(names) == 0 { // one that was published under a name of its own
		names = slices.DeleteFunc(slices.Collect(maps.Keys(listed)), func(name string) bool { return !strings.HasSuffix(name, ".tar.gz") })
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("it has no netboot bundle, such as ec-runner-x86_64-netboot-%[1]s.tar.gz, or NAME-%[1]s.tar.gz of another image", of.Tag)
	}
	slices.Sort(names)
	return names, nil
}

// tagOf returns the tag in a bundle's name.
func tagOf(asset string) (tag string, ok bool) {
	name, ok := strings.CutSuffix(asset, ".tar.gz")
	_, after, isNetboot := strings.Cut(name, "-netboot-")
	if _, named := artifact.NamedArchitecture(asset); named {
		return after, ok && after != ""
	}
	if at := strings.LastIndex(name, "-"+release.TagPrefix); at >= 0 {
		return name[at+1:], ok
	}
	return after, ok && isNetboot && after != ""
}
