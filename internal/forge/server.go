package forge

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"every.channel/runner-images/internal/redact"
)

// Release returns the release of a tag. Uploads under way are not among its
// assets, and of two assets with one name only the newer is.
func (s *server) Release(ctx context.Context, tag string) (Release, error) {
	release, err := s.client().releaseByTag(ctx, tag)
	if err != nil {
		return Release{}, err
	}
	return s.release(release), nil
}

// Latest reads the list of releases, which forges give newest first, page by
// page until one has a release that fits.
func (s *server) Latest(ctx context.Context, prefix string) (Release, error) {
	c := s.client()
	var first int64
	for page := 1; ; page++ {
		releases, err := c.listReleases(ctx, page)
		if err != nil {
			return Release{}, err
		}
		if len(releases) == 0 || releases[0].ID == first { // the latter from a server that knows no pages
			break
		}
		first = releases[0].ID
		releases = slices.DeleteFunc(releases, func(r apiRelease) bool {
			return r.Draft || r.Prerelease || !strings.HasPrefix(r.Tag, prefix)
		})
		if len(releases) > 0 {
			newest := slices.MaxFunc(releases, func(a, b apiRelease) int { return a.Created.Compare(b.Created) })
			return s.release(newest), nil
		}
	}
	return Release{}, &Error{
		Operation: fmt.Sprintf("find the newest release with a tag that begins with %q", prefix),
		URL:       redact.URL(s.apiURL("releases")), Err: ErrNotFound,
		Advice: "publish one, or check the repository's name and what the token may see",
	}
}

func (s *server) release(r apiRelease) Release {
	release := Release{
		Tag: r.Tag, Title: r.Title, Notes: r.Notes, Draft: r.Draft, Prerelease: r.Prerelease,
		Created: r.Created, URL: r.Page,
	}
	byName := group(r.Assets)
	for _, asset := range r.Assets {
		same := byName[asset.Name]
		if isOurs(asset.Name) || asset.ID != same[len(same)-1].ID {
			continue
		}
		address := asset.URL
		if len(same) > 1 { // the address by name may lead to the other one
			address = s.uuidURL(asset)
		}
		release.Assets = append(release.Assets, Asset{Name: asset.Name, Size: asset.Size, URL: address})
	}
	return release
}

// group sorts assets by name, and those of one name from old to new.
func group(assets []apiAsset) map[string][]apiAsset {
	byName := map[string][]apiAsset{}
	for _, asset := range assets {
		byName[asset.Name] = append(byName[asset.Name], asset)
	}
	for _, same := range byName {
		slices.SortFunc(same, func(a, b apiAsset) int { return int(a.ID - b.ID) })
	}
	return byName
}

// isOurs tells whether a name is one of an upload or ticket of this package.
func isOurs(name string) bool {
	return strings.HasPrefix(name, temporaryPrefix) || strings.HasPrefix(name, ticketPrefix)
}

// Publish makes or completes a release; the package's documentation tells how.
func (s *server) Publish(ctx context.Context, p Publication) (Published, error) {
	if err := p.check(); err != nil {
		return Published{}, err
	}
	if s.config.Token == "" {
		return Published{}, &Error{
			Operation: "publish " + p.Tag, URL: redact.URL(s.apiURL("")), Err: errNoToken,
			Advice: "give a token with the scope write:repository",
		}
	}
	p.Files = slices.Clone(p.Files) // missing checksums are filled in
	seen := map[string]os.FileInfo{}
	for _, file := range p.Files {
		if file.SHA256 != "" {
			info, err := os.Stat(file.Path)
			if err != nil {
				return Published{}, fmt.Errorf("publish %s: %w", file.Name, err)
			}
			seen[file.Name] = info
		}
	}
	return (&publishing{client: s.client(), Publication: p, seen: seen, small: map[int64][]byte{}, taken: map[int64]bool{}}).run(ctx)
}

var errNoToken = fmt.Errorf("publishing needs a token (%d without one)", http.StatusUnauthorized)
