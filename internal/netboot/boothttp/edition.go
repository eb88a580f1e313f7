package boothttp

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

// An edition is a release's bundle as it is at one time: a release can be staged
// again under its tag with other files.
type edition struct {
	tag          string
	architecture machine.Architecture
	sum          string // the first digits of the bundle's sum
}

func editionOf(release state.Release, architecture machine.Architecture) edition {
	const digits = 12
	sum := release.Bundles[architecture].SHA256
	return edition{release.Tag, architecture, sum[:min(digits, len(sum))]}
}

// parseEdition reads TAG/ARCHITECTURE/SUM, and what follows.
func parseEdition(parts []string) (edition, []string, error) {
	if len(parts) < 3 {
		return edition{}, nil, errors.New("the path names no release, architecture and sum")
	}
	tag, err := unescapeTag(parts[0])
	if err != nil {
		return edition{}, nil, err
	}
	return edition{tag, machine.Architecture(parts[1]), parts[2]}, parts[3:], nil
}

// path writes TAG/ARCHITECTURE/SUM/.
func (e edition) path() string {
	return strings.Join([]string{escapeTag(e.tag), string(e.architecture), e.sum}, "/") + "/"
}

// escapeTag writes a tag as one part of a path that iPXE does not touch: it takes
// %2F back to a slash, and fills in ${…}. Every other byte than a letter, a digit
// and . _ - becomes ~ and two hexadecimal digits; git allows no ~ in a tag.
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

// unescapeTag is escapeTag's inverse.
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
