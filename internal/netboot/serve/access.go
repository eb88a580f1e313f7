package serve

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
)

// networks are the networks that may boot. No networks means that all may.
type networks []netip.Prefix

// parseNetworks reads networks in CIDR notation (RFC 4632), for example
// 10.20.30.0/24. A single address stands for itself.
func parseNetworks(list []string) (networks, error) {
	var parsed networks
	for _, text := range list {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			address, addressErr := netip.ParseAddr(text)
			if addressErr != nil {
				return nil, fmt.Errorf("%q is no network; use for example 10.20.30.0/24", text)
			}
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
		parsed = append(parsed, prefix.Masked())
	}
	return parsed, nil
}

// allow reports whether a client with this address may boot.
func (n networks) allow(address netip.Addr) bool {
	if len(n) == 0 {
		return true
	}
	address = address.Unmap().WithZone("")
	for _, network := range n {
		if network.Contains(address) {
			return true
		}
	}
	return false
}

// addressOf returns the IP address of a connection's end, without its port, or
// the zero address if it has none.
func addressOf(end net.Addr) netip.Addr {
	var address netip.AddrPort
	switch end := end.(type) {
	case *net.TCPAddr:
		address = end.AddrPort()
	case *net.UDPAddr:
		address = end.AddrPort()
	default:
		return netip.Addr{}
	}
	return address.Addr().Unmap()
}

// A chainToken is the first part of the path of everything that a booting machine
// asks for, which keeps out clients that do not know it. The zero value is no token:
// the path has no such part. Logs do not show it; only path returns it.
type chainToken struct {
	value string
}

// readToken reads a token from a file, without the white space around it. No
// error contains it.
func readToken(path string) (chainToken, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return chainToken{}, err
	}
	token, err := parseToken(string(content))
	if err != nil {
		return chainToken{}, fmt.Errorf("the token %w", err)
	}
	return token, nil
}

// parseToken reads a token, without the white space around it. No error
// contains it.
func parseToken(text string) (chainToken, error) {
	const most = 64 // a boot file's address has to fit in the 127 bytes of a DHCP packet's field
	value := strings.TrimSpace(text)
	switch {
	case value == "":
		return chainToken{}, errors.New("is empty; put in for example the output of: openssl rand -hex 16")
	case len(value) > most:
		return chainToken{}, fmt.Errorf("is longer than %d characters", most)
	case strings.Trim(value, ".") == "":
		return chainToken{}, errors.New("has only dots, which mean a folder in a path")
	case strings.ContainsFunc(value, notInPath):
		return chainToken{}, errors.New("has a character that needs escaping in a path; use letters, digits, and . _ ~ -")
	}
	return chainToken{value}, nil
}

// notInPath reports which characters are not "unreserved" (RFC 3986, section 2.3).
func notInPath(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._~-", r)
}

// isSet reports whether there is a token.
func (t chainToken) isSet() bool { return t.value != "" }

// matches reports whether a part of a path is the token, in a time that does not
// depend on where the two differ. No token matches nothing.
func (t chainToken) matches(part string) bool {
	want, got := sha256.Sum256([]byte(t.value)), sha256.Sum256([]byte(part))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1 && t.isSet()
}

// path returns the beginning of the path of all that the token guards: "/T/", or
// "/" without a token. It is a secret.
func (t chainToken) path() string {
	if !t.isSet() {
		return "/"
	}
	return "/" + t.value + "/"
}

// String hides the token, from %v too.
func (t chainToken) String() string {
	if !t.isSet() {
		return "no token"
	}
	return "hidden token"
}

// GoString hides the token from %#v.
func (t chainToken) GoString() string { return t.String() }
