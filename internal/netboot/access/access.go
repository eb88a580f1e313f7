// Package access decides who may boot: by the network that a client's address
// is in, and by the chain token in the path that it asks for.
package access

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

// Networks are the networks that may boot. No networks means that all may.
type Networks []netip.Prefix

// ParseNetworks reads networks in CIDR notation (RFC 4632), for example
// 10.20.30.0/24. A single address stands for itself.
func ParseNetworks(list []string) (Networks, error) {
	var networks Networks
	for _, text := range list {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			address, addressErr := netip.ParseAddr(text)
			if addressErr != nil {
				return nil, fmt.Errorf("%q is no network; use for example 10.20.30.0/24", text)
			}
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
		networks = append(networks, prefix.Masked())
	}
	return networks, nil
}

// Allow tells whether a client with this address may boot.
func (n Networks) Allow(address netip.Addr) bool {
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

// Address returns the IP address of a connection's end, without its port, or
// the zero address if it has none.
func Address(end net.Addr) netip.Addr {
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

// A Token is the chain token: the first part of the path of everything that a
// booting machine asks for. The zero value is no token: the path has no such part.
// It hides itself from logs; only Path tells it.
type Token struct {
	value string
}

// ReadToken reads a token from a file, without the white space around it. No
// error contains it.
func ReadToken(path string) (Token, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return Token{}, err
	}
	token, err := ParseToken(string(content))
	if err != nil {
		return Token{}, fmt.Errorf("the token %w", err)
	}
	return token, nil
}

// ParseToken reads a token, without the white space around it. No error
// contains it.
func ParseToken(text string) (Token, error) {
	const most = 64 // a boot file's address has to fit in the 127 bytes of a DHCP packet's field
	value := strings.TrimSpace(text)
	switch {
	case value == "":
		return Token{}, errors.New("is empty; put in for example the output of: openssl rand -hex 16")
	case len(value) > most:
		return Token{}, fmt.Errorf("is longer than %d characters", most)
	case strings.Trim(value, ".") == "":
		return Token{}, errors.New("has only dots, which mean a folder in a path")
	case strings.ContainsFunc(value, notInPath):
		return Token{}, errors.New("has a character that needs escaping in a path; use letters, digits, and . _ ~ -")
	}
	return Token{value}, nil
}

// notInPath tells which characters are not "unreserved" (RFC 3986, section 2.3).
func notInPath(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._~-", r)
}

// Set tells whether there is a token.
func (t Token) Set() bool { return t.value != "" }

// Matches tells whether a part of a path is the token, in a time that does not
// depend on where the two differ. No token matches nothing.
func (t Token) Matches(part string) bool {
	want, got := sha256.Sum256([]byte(t.value)), sha256.Sum256([]byte(part))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1 && t.Set()
}

// Path returns the beginning of the path of all that the token guards: "/T/", or
// "/" without a token. It is a secret.
func (t Token) Path() string {
	if !t.Set() {
		return "/"
	}
	return "/" + t.value + "/"
}

// String hides the token, from %v too.
func (t Token) String() string {
	if !t.Set() {
		return "no token"
	}
	return "hidden token"
}

// GoString hides the token from %#v.
func (t Token) GoString() string { return t.String() }
