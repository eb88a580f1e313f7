package serve

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

// A bundleID names the content of a release's bundle: a release can be staged again
// under its tag with other files.
type bundleID struct {
	tag          string
	architecture machine.Architecture
	digest       string // the first digits of the bundle's SHA-256
}

func bundleOf(release state.Release, architecture machine.Architecture) bundleID {
	const digits = 12
	sum := release.Bundles[architecture].SHA256
	return bundleID{release.Tag, architecture, sum[:min(digits, len(sum))]}
}

// parseBundleID reads TAG/ARCHITECTURE/DIGEST, and returns the parts that follow.
func parseBundleID(parts []string) (bundleID, []string, error) {
	if len(parts) < 3 {
		return bundleID{}, nil, errors.New("the path names no release, architecture and sum")
	}
	tag, err := unescapeTag(parts[0])
	if err != nil {
		return bundleID{}, nil, err
	}
	return bundleID{tag, machine.Architecture(parts[1]), parts[2]}, parts[3:], nil
}

// path returns TAG/ARCHITECTURE/DIGEST/.
func (b bundleID) path() string {
	return strings.Join([]string{escapeTag(b.tag), string(b.architecture), b.digest}, "/") + "/"
}

// escapeTag writes a tag as one part of a path that iPXE does not change: iPXE turns
// %2F into a slash, and expands ${…}. Every byte other than a letter, a digit and
// . _ - becomes ~ and two hexadecimal digits; git allows no ~ in a tag.
func escapeTag(tag string) string {
	var escaped strings.Builder
	for _, b := range []byte(tag) {
		if b < 0x80 && !notInPart(rune(b)) {
			escaped.WriteByte(b)
		} else {
			fmt.Fprintf(&escaped, "~%02X", b)
		}
	}
	return escaped.String()
}

// unescapeTag reverses escapeTag.
func unescapeTag(part string) (string, error) {
	pieces := strings.Split(part, "~")
	tag := []byte(pieces[0])
	for _, piece := range pieces[1:] {
		if len(piece) < 2 {
			return "", fmt.Errorf("%q has a ~ without two hexadecimal digits", part)
		}
		escaped, err := hex.DecodeString(piece[:2])
		if err != nil {
			return "", fmt.Errorf("%q has a ~ without two hexadecimal digits", part)
		}
		tag = append(append(tag, escaped...), piece[2:]...)
	}
	return string(tag), nil
}

func notInPart(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
}
