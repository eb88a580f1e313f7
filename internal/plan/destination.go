package plan

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
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
	u.Host = oneForm(u)
	if u.Scheme == "file" {
		if strings.ContainsAny(address, "?#") {
			r.fail(ForgeURL, address, "has a ? or #, which end a path in an address; write %%3F or %%23 for it")
		}
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
	meant := inForge.FindStringIndex(cleaned + "/")
	repository = strings.TrimSuffix(repository, ".git")
	at := -1 // where the repository begins in the path
	if repository != "" {
		at = strings.Index(strings.ToLower(strings.TrimSuffix(cleaned, ".git")+"/"), strings.ToLower("/"+repository+"/"))
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		r.fail(ForgeURL, wrongAddress(address), "takes an http, https or file address, for example https://forge.example")
	case strings.Count(u.Host, ":") > 1 && !strings.HasPrefix(u.Host, "["):
		r.fail(ForgeURL, address, "is not an address; use for example https://forge.example%s", ipv6Advice(address))
	case u.Port() != "" && (portErr != nil || port == 0):
		r.fail(ForgeURL, address, "has a port that is none; use 1 to 65535, for example https://forge.example:3000")
	case strings.ContainsAny(address, "?#"):
		r.fail(ForgeURL, address, "takes the server's address without ? and #, for example https://forge.example")
	case !isHost(u.Hostname()):
		r.fail(ForgeURL, address, "has a host that is none; use for example https://forge.example")
	case cleaned != "" && path.Clean(cleaned) != cleaned:
		r.fail(ForgeURL, address, "has a path with // or dots in place of a name; use for example https://forge.example")
	case meant != nil:
		start.Path = cleaned[:meant[0]]
		r.fail(ForgeURL, address, "takes the address of the forge's start page, without %s: %s", strings.TrimSuffix((cleaned + "/")[meant[0]:meant[1]], "/"), start.String())
	case at >= 0:
		start.Path = cleaned[:at]
		r.fail(ForgeURL, address, "takes the address of the forge's start page, without the repository: %s", start.String())
	case strings.HasSuffix(cleaned, ".git"):
		r.fail(ForgeURL, address, "takes the address of the forge's start page; the repository goes into %s as owner/name", Repository)
	}
}

// inForge finds the pages of a forge that people take the address of.
var inForge = regexp.MustCompile(`(?i)/(api/(v1|swagger|forgejo)|user/login|explore/[a-z]+)/`)

// oneForm returns the host of an address in lower case, without the port that the scheme
// has anyway and without the dot that may end a name.
func oneForm(u *url.URL) string {
	host, port := hostInAddress(strings.TrimSuffix(u.Hostname(), ".")), u.Port()
	if number, err := strconv.Atoi(port); err == nil { // without zeros before it
		port = strconv.Itoa(number)
	}
	if port == "" || u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		return host
	}
	return host + ":" + port
}

// isHost reports whether a text may be a host: a name, in any script, or an IP address.
func isHost(host string) bool {
	if strings.Contains(host, ":") {
		return true // it stood in brackets, and url.Parse has looked at it
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || strings.ContainsFunc(label, func(c rune) bool {
			return c != '-' && c != '_' && !unicode.IsLetter(c) && !unicode.IsMark(c) && !unicode.IsDigit(c)
		}) {
			return false
		}
	}
	return true
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
	meant := strings.Trim(repository, "/")
	if end := len(meant) - len(".git"); end > 0 && strings.EqualFold(meant[end:], ".git") {
		meant = meant[:end]
	}
	switch {
	case strings.Contains(repository, "://"):
		r.fail(Repository, repository, "takes owner/name; the forge's address goes into %s", ForgeURL)
	case meant != repository && isRepositoryName(meant):
		r.fail(Repository, repository, "takes owner/name: %s", meant)
	case !isRepositoryName(repository):
		r.fail(Repository, repository, "takes owner/name")
	}
}
