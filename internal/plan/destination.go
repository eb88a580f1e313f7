package plan

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// destination returns where releases are: the forge's address in its one form, see
// forgeURL, and the repository there.
func (r *reader) destination(c Context, publish bool) (forgeURL, repository string) {
	forgeURL, repository = r.value(ForgeURL), r.value(Repository)
	if forgeURL == "" {
		forgeURL = c.ServerURL
	}
	if repository == "" {
		repository = c.Repository
	}
	if forgeURL != "" {
		forgeURL = r.forgeURL(forgeURL, repository)
	}
	if repository != "" {
		r.checkRepository(repository)
	}
	if !publish || strings.HasPrefix(forgeURL, "file:") {
		return forgeURL, repository
	}
	if forgeURL == "" {
		why := "there is no forge to publish to; give its address, for example https://forge.example or file:///folder"
		if !r.onlyPublishes {
			why += ", or set " + PublishRelease + " to false"
		}
		r.fail(ForgeURL, "", "%s%s", why, r.because(c.NoRemote))
	}
	if repository == "" {
		r.fail(Repository, "", "there is no repository to publish to; give owner/name%s", r.because(c.NoRemote))
	}
	if c.NeedToken && r.value(Token) == "" {
		r.fail(Token, "", "publishing needs a token with the scope write:repository; in a workflow that is github.token, at a terminal --token-file or the variable FORGEJO_TOKEN")
	}
	return forgeURL, repository
}

// ForReading is Make for commands that only read releases: of this forge and
// repository, in their one form. Neither is needed.
func ForReading(given map[string]string) (forgeURL, repository string, err error) {
	r := reader{given: given}
	forgeURL, repository = r.destination(Context{}, false)
	return forgeURL, repository, r.err()
}

// forgeURL returns a forge's address in the one form that others can be compared
// with: scheme and host in lower case, without a slash at its end.
func (r *reader) forgeURL(address, repository string) string {
	u, err := url.Parse(address)
	if err != nil {
		r.fail(ForgeURL, wrongAddress(address), "is not an address; use for example https://forge.example%s", ipv6Advice(address))
		return address
	}
	if u.User != nil {
		u.User = nil
		r.fail(ForgeURL, u.String(), "an address must not carry a user or a password; hand the token over in %s", Token)
		return address
	}
	u.Host = strings.ToLower(u.Host)
	if u.Scheme == "file" {
		if u.Host != "" || !path.IsAbs(u.Path) || path.Clean(u.Path) == "/" {
			r.fail(ForgeURL, address, "a folder of releases is given as file:// and its whole path, for example file:///srv/releases")
		}
		return "file" + strings.TrimRight(address[len("file"):], "/")
	}
	r.checkServer(u, address, repository)
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u.String()
}

// checkServer refuses what is no server's address, or the address of something
// else on a forge.
func (r *reader) checkServer(u *url.URL, address, repository string) {
	start := *u // the address of the start page that was meant, as far as one can tell
	port, portErr := strconv.ParseUint(u.Port(), 10, 16)
	cleaned := strings.TrimRight(u.Path, "/")
	repository = strings.TrimSuffix(repository, ".git")
	repositoryPath := strings.TrimSuffix(cleaned, ".git")
	switch {
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		r.fail(ForgeURL, wrongAddress(address), "takes an http, https or file address, for example https://forge.example")
	case strings.Count(u.Host, ":") > 1 && !strings.HasPrefix(u.Host, "["):
		r.fail(ForgeURL, address, "is not an address; use for example https://forge.example%s", ipv6Advice(address))
	case u.Port() != "" && (portErr != nil || port == 0):
		r.fail(ForgeURL, address, "has a port that is none; use 1 to 65535, for example https://forge.example:3000")
	case strings.ContainsAny(address, "?#"):
		r.fail(ForgeURL, address, "takes the server's address without ? and #, for example https://forge.example")
	case strings.Contains(cleaned+"/", "/api/v1/"):
		start.Path, _, _ = strings.Cut(u.Path, "/api/v1")
		r.fail(ForgeURL, address, "takes the address of the forge's start page, without /api/v1: %s", start.String())
	case repository != "" && strings.HasSuffix(strings.ToLower(repositoryPath), strings.ToLower("/"+repository)):
		start.Path = repositoryPath[:len(repositoryPath)-len("/"+repository)]
		r.fail(ForgeURL, address, "takes the address of the forge's start page, without the repository: %s", start.String())
	case strings.HasSuffix(cleaned, ".git"):
		r.fail(ForgeURL, address, "takes the address of the forge's start page; the repository goes into %s as owner/name", Repository)
	}
}

// ipv6Advice is said of an address that may have an IPv6 address without brackets.
func ipv6Advice(address string) string {
	_, rest, _ := strings.Cut(address, "://")
	host, _, _ := strings.Cut(rest, "/")
	if strings.Count(host, ":") < 2 || strings.ContainsAny(host, "[]@") {
		return ""
	}
	return ", or https://[2001:db8::1]:3000 for a host that is an IPv6 address"
}

// wrongAddress returns an invalid address as an error may show it: without a scheme,
// text before an "@" may still be a user and a password.
func wrongAddress(value string) string {
	if strings.Contains(value, "@") && !strings.Contains(value, "://") {
		return "***"
	}
	return value
}

var repositoryName = regexp.MustCompile(`^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$`)

// isRepositoryName reports whether a text is owner/name, and not a path that leads
// elsewhere.
func isRepositoryName(text string) bool {
	owner, name, _ := strings.Cut(text, "/")
	dots := []string{".", ".."}
	return repositoryName.MatchString(text) && !slices.Contains(dots, owner) && !slices.Contains(dots, name)
}

// checkRepository refuses what is no repository's name. No forge has one that ends
// with .git: that is only the end of its address.
func (r *reader) checkRepository(repository string) {
	meant := strings.TrimSuffix(strings.Trim(repository, "/"), ".git")
	switch {
	case strings.Contains(repository, "://"):
		r.fail(Repository, repository, "takes owner/name; the forge's address goes into %s", ForgeURL)
	case meant != repository && isRepositoryName(meant):
		r.fail(Repository, repository, "takes owner/name: %s", meant)
	case !isRepositoryName(repository):
		r.fail(Repository, repository, "takes owner/name")
	}
}
