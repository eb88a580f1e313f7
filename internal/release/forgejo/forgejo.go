// Package forgejo keeps releases on a Forgejo or Gitea server, through its API.
// Requests with JSON are sent by Gitea's SDK; uploads and downloads are streams of
// this package's own, since the SDK reads a whole file into memory.
//
// # Leases
//
// The API has no locks. A run attaches a small asset, its ticket, and the oldest
// ticket has the lease: the server numbers assets in order. A run renews its
// ticket by renaming it every few seconds. A ticket that keeps its name while the
// next run has renewed its own for half a minute has expired: its run has died,
// and the next one deletes it.
package forgejo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"code.gitea.io/sdk/gitea"

	"every.channel/runner-images/internal/redact"
	"every.channel/runner-images/internal/release"
)

// server is a repository of a Forgejo or Gitea server.
type server struct {
	base       *url.URL // of the forge's start page
	owner      string
	repository string
	config     Config
	http       http.Client
	multipart  atomic.Bool // this server takes uploads as forms only
}

var _ release.Backend = (*server)(nil)

// Release returns the release of a tag, a draft too where the token may see it.
func (s *server) Release(ctx context.Context, tag string) (release.Release, error) {
	found, err := s.client().releaseByTag(ctx, tag)
	if err != nil {
		return release.Release{}, err
	}
	return s.release(found), nil
}

// Latest reads the list of releases, which forges give newest first, page by
// page until one has a release that fits.
func (s *server) Latest(ctx context.Context, prefix string) (release.Release, error) {
	c := s.client()
	var first int64
	for page := 1; ; page++ {
		releases, err := c.listReleases(ctx, page)
		if err != nil {
			return release.Release{}, err
		}
		if len(releases) == 0 || releases[0].ID == first { // the latter from a server that knows no pages
			break
		}
		first = releases[0].ID
		releases = slices.DeleteFunc(releases, func(r *gitea.Release) bool {
			return r.IsDraft || r.IsPrerelease || !strings.HasPrefix(r.TagName, prefix)
		})
		if len(releases) > 0 {
			newest := slices.MaxFunc(releases, func(a, b *gitea.Release) int { return a.CreatedAt.Compare(b.CreatedAt) })
			return s.release(newest), nil
		}
	}
	return release.Release{}, &release.Error{
		Operation: fmt.Sprintf("find the newest release with a tag that begins with %q", prefix),
		URL:       redact.URL(s.apiURL("releases")), Err: release.ErrNotFound,
		Advice: "publish one, or check the repository's name and what the token may see",
	}
}

// Begin returns the verbs of one publication, which need a token.
func (s *server) Begin(tag string) (release.Transaction, error) {
	if s.config.Token == "" {
		return nil, &release.Error{
			Operation: "publish " + tag, URL: redact.URL(s.apiURL("")),
			Err:    fmt.Errorf("publishing needs a token (%d without one)", http.StatusUnauthorized),
			Advice: "give a token with the scope write:repository",
		}
	}
	return &transaction{client: s.client(), tag: tag}, nil
}

func (s *server) apiURL(path string) *url.URL {
	return s.base.JoinPath("api", "v1", "repos", url.PathEscape(s.owner), url.PathEscape(s.repository), path)
}

// release is what the server has of a release. Tickets are not among its assets.
func (s *server) release(r *gitea.Release) release.Release {
	found := release.Release{
		Tag: r.TagName, Title: r.Title, Notes: r.Note, Draft: r.IsDraft, Prerelease: r.IsPrerelease,
		Created: r.CreatedAt, URL: r.HTMLURL,
	}
	attachments := slices.Clone(r.Attachments)
	slices.SortFunc(attachments, func(a, b *gitea.Attachment) int { return int(a.ID - b.ID) })
	times := map[string]int{}
	for _, attachment := range attachments {
		times[attachment.Name]++
	}
	for _, attachment := range attachments {
		if isTicket(attachment) {
			found.Unfinished = true
			continue
		}
		asset := asAsset(attachment)
		if times[asset.Name] > 1 { // the address by name may lead to the other one
			asset.URL = s.uuidURL(attachment.UUID)
		}
		found.Assets = append(found.Assets, asset)
	}
	return found
}

// asAsset names an attachment by its number and its UUID, both of which requests
// need.
func asAsset(a *gitea.Attachment) release.Asset {
	return release.Asset{Name: a.Name, Size: a.Size, URL: a.DownloadURL, ID: fmt.Sprintf("%d/%s", a.ID, a.UUID)}
}

func idOf(asset release.Asset) (id int64, uuid string) {
	number, uuid, _ := strings.Cut(asset.ID, "/")
	id, _ = strconv.ParseInt(number, 10, 64) // asAsset has written it
	return id, uuid
}

// releaseByTag finds drafts, too, where the token may see them.
func (c client) releaseByTag(ctx context.Context, tag string) (*gitea.Release, error) {
	operation, address := "find the release "+tag, redact.URL(c.apiURL("releases/tags/"+url.PathEscape(tag)))
	if tag == "" {
		return nil, &release.Error{Operation: operation, URL: address, Err: release.ErrNotFound, Advice: "give a tag"}
	}
	found, err := ask(ctx, c, operation, func(api *gitea.Client) (*gitea.Release, *gitea.Response, error) {
		return api.GetReleaseByTag(c.owner, c.repository, tag)
	})
	if err != nil {
		return nil, err
	}
	if found.TagName != tag { // forges compare tags without regard to case
		return nil, &release.Error{
			Operation: operation, URL: address, Status: http.StatusNotFound,
			Advice: fmt.Sprintf("there is %s, which to this forge is the same tag: use one spelling", found.TagName),
		}
	}
	return found, nil
}

// listReleases returns a page, from 1 on, of the releases that are neither
// drafts nor prereleases.
func (c client) listReleases(ctx context.Context, page int) ([]*gitea.Release, error) {
	const pageSize = 50 // the most that forges give
	return ask(ctx, c, "list the releases", func(api *gitea.Client) ([]*gitea.Release, *gitea.Response, error) {
		return api.ListReleases(c.owner, c.repository, gitea.ListReleasesOptions{
			ListOptions: gitea.ListOptions{Page: page, PageSize: pageSize}, IsDraft: new(bool), IsPreRelease: new(bool),
		})
	})
}

// exists reports whether look finds something. A forge that cannot answer is no
// reason to stop.
func (c client) exists(ctx context.Context, name string, look func(api *gitea.Client) error) bool {
	return !errors.Is(c.do(ctx, request{"look for", name, look}), release.ErrNotFound)
}
