package forgejo

import (
	"fmt"
	"net/url"
	"strings"

	"every.channel/runner-images/internal/redact"
)

// A repository is the owner and the name of one, as the forge spells them as far
// as that is known.
type repository struct{ owner, name string }

func (r repository) String() string { return r.owner + "/" + r.name }

// learn takes a repository's name from the forge. It compares names without regard
// to case, and leads from a name that a repository had to the one that it has: both
// for reading only, so that other requests must use the name that it has.
func (s *server) learn(fullName string) {
	owner, name, ok := strings.Cut(fullName, "/")
	before := s.repository.Load()
	if !ok || *before == (repository{owner, name}) {
		return
	}
	s.repository.Store(&repository{owner, name})
	if !strings.EqualFold(before.String(), fullName) {
		s.config.Log(fmt.Sprintf("the repository %s is now %s; use this name", before, fullName))
	}
}

// learnFromPage takes a repository's name, and the address at which people see it,
// from the address of a release's page.
func (s *server) learnFromPage(page string) {
	address, err := url.Parse(page)
	if err != nil {
		return
	}
	start, _, ok := strings.Cut(address.EscapedPath(), "/releases/tag/")
	if !ok {
		return
	}
	segments := strings.Split(start, "/")
	if len(segments) < 3 {
		return
	}
	s.learn(strings.Join(segments[len(segments)-2:], "/"))
	s.public.Store(&url.URL{Host: address.Host, Path: start})
}

// reachable leads a download over the address that this store was given: a
// forge writes its addresses for the public, and only its own get the token.
// What leads elsewhere, as a link to another site does, stays.
func (s *server) reachable(address *url.URL) *url.URL {
	start, file, ok := strings.Cut(address.EscapedPath(), "/releases/download/")
	if !ok {
		return address
	}
	named, public := s.repository.Load(), s.public.Load()
	own := s.base.JoinPath(url.PathEscape(named.owner), url.PathEscape(named.name))
	is := func(host, path string) bool {
		return strings.EqualFold(address.Host, host) && strings.EqualFold(start, path)
	}
	switch {
	case is(own.Host, own.EscapedPath()):
	case public != nil && is(public.Host, public.Path):
	case public == nil && strings.EqualFold("/"+named.String(), start[max(0, len(start)-len(named.String())-1):]):
	default:
		return address
	}
	return own.JoinPath("releases/download", file)
}

// redirectAdvice says what to do about a redirect of a request that is not repeated
// elsewhere.
func (s *server) redirectAdvice(to *url.URL) string {
	forge, path, ok := strings.Cut(redact.URL(to), "/api/v1/")
	if !ok {
		return "use the address that the forge redirects to as the forge's address"
	}
	before := s.repository.Load()
	segments := strings.Split(path, "/")
	if len(segments) > 2 && segments[0] == "repos" && !strings.EqualFold(before.String(), segments[1]+"/"+segments[2]) {
		return fmt.Sprintf("the repository %s is now %s/%s: use this name", before, segments[1], segments[2])
	}
	return fmt.Sprintf("use %s as the forge's address", forge)
}

// elsewhereAdvice says what to do about an answer of a server that the forge has
// redirected to, an object storage for example.
func elsewhereAdvice(status int) string {
	if status == 429 || status >= 500 {
		return "the forge redirects to this address, which is in trouble: run again later"
	}
	return "the forge redirects to this address, which refuses: ask the forge's administrator about its storage"
}
