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
// and the next one deletes it. It does so after a third of that if the forge says
// that the other was a run of Actions which has ended: one that was cancelled cannot
// take its ticket away, since its token is taken from it first.
package forgejo

import (
	"context"
	"errors"
	"fmt"
	"iter"
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
	config     Config
	http       http.Client
	repository atomic.Pointer[repository]
	public     atomic.Pointer[url.URL] // host and path of the repository's page, as the forge writes them
	accepted   atomic.Bool             // the token has been good for a request
	multipart  atomic.Bool             // this server takes uploads as forms only
	noExpect   atomic.Bool             // it does not take the header Expect
	noSlash    atomic.Bool             // it does not take %2F in an address
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

// Latest reads the whole list of releases: forges order it by dates of their own
// choice, that of a release's commit for example.
func (s *server) Latest(ctx context.Context, prefix string) (release.Release, error) {
	var newest *gitea.Release
	for found, err := range s.client().list(ctx, gitea.ListReleasesOptions{IsDraft: new(bool), IsPreRelease: new(bool)}) {
		if err != nil {
			return release.Release{}, err
		}
		fits := !found.IsDraft && !found.IsPrerelease && strings.HasPrefix(found.TagName, prefix)
		if fits && (newest == nil || isNewer(found, newest)) {
			newest = found
		}
	}
	if newest != nil {
		return s.release(newest), nil
	}
	return release.Release{}, &release.Error{
		Operation: fmt.Sprintf("find the newest release with a tag that begins with %q", prefix),
		URL:       redact.URL(s.apiURL("releases")), Err: release.ErrNotFound,
		Advice: "publish one, or check the repository's name and what the token may see",
	}
}

// isNewer compares when releases were published. A forge that does not tell has at
// least numbered them; created_at may be the date of the commit.
func isNewer(a, b *gitea.Release) bool {
	if !a.PublishedAt.IsZero() && !b.PublishedAt.IsZero() && !a.PublishedAt.Equal(b.PublishedAt) {
		return a.PublishedAt.After(b.PublishedAt)
	}
	return a.ID > b.ID
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
	named := s.repository.Load()
	return s.base.JoinPath("api", "v1", "repos", url.PathEscape(named.owner), url.PathEscape(named.name), path)
}

// release is what the server has of a release. Tickets are not among its assets.
func (s *server) release(r *gitea.Release) release.Release {
	s.learnFromPage(r.HTMLURL)
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
		// The address by name may lead to the other one, or nowhere.
		if times[asset.Name] > 1 || s.noSlash.Load() && strings.Contains(r.TagName, "/") {
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
	found, err := ask(ctx, c, operation, func(api api) (*gitea.Release, *gitea.Response, error) {
		return api.GetReleaseByTag(api.owner, api.name, tag)
	})
	if isRefused(err, http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound) && strings.Contains(tag, "/") {
		return c.releaseInList(ctx, tag, err)
	}
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

// releaseInList returns the release of a tag with a slash from the list of all
// releases: some proxies do not pass on addresses with %2F. refused is what looking
// by the tag has met.
func (c client) releaseInList(ctx context.Context, tag string, refused error) (*gitea.Release, error) {
	for found, err := range c.list(ctx, gitea.ListReleasesOptions{}) {
		if err != nil {
			return nil, refused
		}
		if found.TagName == tag {
			if !c.noSlash.Swap(true) {
				c.config.Log(fmt.Sprintf("something before the forge does not pass on addresses with %%2F, as %s has: "+
					"allow them there (Apache: AllowEncodedSlashes NoDecode), or use tags without a slash; the release was found by listing", tag))
			}
			return found, nil
		}
	}
	if errors.Is(refused, release.ErrNotFound) {
		return nil, refused
	}
	return nil, &release.Error{
		Operation: "find the release " + tag, URL: redact.URL(c.apiURL("releases")), Err: release.ErrNotFound,
		Advice: "it is not in the list of releases, or the token cannot see it",
	}
}

// list goes through the list of releases, page by page.
func (c client) list(ctx context.Context, options gitea.ListReleasesOptions) iter.Seq2[*gitea.Release, error] {
	return func(yield func(*gitea.Release, error) bool) {
		const (
			pageSize = 50   // the most that forges give
			pages    = 2000 // more than any repository has: a server could go on for ever
		)
		var first int64
		for page := 1; ; page++ {
			options.ListOptions = gitea.ListOptions{Page: page, PageSize: pageSize}
			releases, err := ask(ctx, c, "list the releases", func(api api) ([]*gitea.Release, *gitea.Response, error) {
				return api.ListReleases(api.owner, api.name, options)
			})
			if err == nil && page > pages {
				err = fmt.Errorf("list the releases: there are more than %d", pages*pageSize)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if len(releases) == 0 || releases[0].ID == first { // the latter from a server that knows no pages
				return
			}
			first = releases[0].ID
			for _, found := range releases {
				if !yield(found, nil) {
					return
				}
			}
		}
	}
}

// exists reports whether look finds something. A forge that cannot answer is no
// reason to stop.
func (c client) exists(ctx context.Context, name string, look func(api api) error) bool {
	return !errors.Is(c.do(ctx, request{"look for", name, look}), release.ErrNotFound)
}
