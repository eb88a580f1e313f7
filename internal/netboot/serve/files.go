package serve

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// parseFilesURL checks the address where machines find kernels and initrds, and returns
// it without a slash at its end. iPXE takes it as it is from a script, where "${" begins a
// setting and white space ends a word.
func parseFilesURL(text string) (string, error) {
	const example = "use for example http://cache.lan:8080/boot"
	parsed, err := url.Parse(text)
	var why string
	switch {
	case err != nil:
		why = "is no address; " + example
	case parsed.Scheme != "http" && parsed.Scheme != "https":
		why = "does not begin with http:// or https://; " + example
	case parsed.User != nil:
		why = "has a user name, which every machine would be told; leave it out"
	case strings.Contains(text, "?"):
		why = "has a query (?), and the files' paths come after it; leave it out"
	case strings.Contains(text, "#"):
		why = "has a fragment (#), which no server is sent; leave it out"
	case !isHostPort(parsed.Host):
		why = "has no host that machines could ask; " + example
	case strings.ContainsFunc(parsed.EscapedPath(), func(r rune) bool { return r != '/' && notInPath(r) }):
		why = "has a character in its path that needs escaping; use letters, digits, and . _ ~ - /"
	default:
		// iPXE of 2019 knows the scheme in small letters only.
		return strings.TrimRight(parsed.Scheme+text[len(parsed.Scheme):], "/"), nil
	}
	return "", &OptionError{"files-url", text, why}
}

// isHostPort reports whether a text is a host's name or IP address, with a port or
// without, as an address has it: IPv6 in brackets.
func isHostPort(text string) bool {
	host := text
	if name, port, err := net.SplitHostPort(text); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil || port[0] == '0' { // which iPXE reads as octal
			return false
		}
		host = name
		if strings.HasPrefix(text, "[") {
			host = "[" + name + "]"
		}
	}
	if inside, ok := strings.CutPrefix(host, "["); ok {
		address, err := netip.ParseAddr(strings.TrimSuffix(inside, "]"))
		return err == nil && address.Is6() && address.Zone() == "" && strings.HasSuffix(inside, "]")
	}
	return hostname.MatchString(host)
}
