package serve

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

// A bundleID names the content of a release's bundle: a release can be staged again
// under its tag with other files.
type bundleID struct {
	tag          string
	architecture machine.Architecture
	sha256       string // of the tarball
}

func bundleOf(release state.Release, architecture machine.Architecture) bundleID {
	return bundleID{release.Tag, architecture, release.Bundles[architecture].SHA256}
}

// A fileID names the kernel or the initrd of a release by its content, so that what is at
// its address never changes: caches may keep it forever.
type fileID struct {
	tag          string
	architecture machine.Architecture
	sha256       string // of the file
	name         string
}

func fileOf(release state.Release, architecture machine.Architecture, name string) fileID {
	return fileID{release.Tag, architecture, release.Bundles[architecture].Files[name].SHA256, name}
}

// parseFileID reads TAG/ARCHITECTURE/SHA256/NAME, or the same with a machine's MAC before
// the name. An error wraps fs.ErrNotExist.
func parseFileID(parts []string) (file fileID, mac machine.MAC, err error) {
	switch len(parts) {
	case 4:
	case 5:
		if mac, err = machine.ParseMAC(parts[3]); err != nil {
			return fileID{}, mac, notFound{err}
		}
	default:
		return fileID{}, mac, notFound{errors.New("the path names no release, architecture, sum and file")}
	}
	name := parts[len(parts)-1]
	if name != state.Kernel && name != state.Initrd {
		return fileID{}, mac, fs.ErrNotExist
	}
	tag, err := unescapeTag(parts[0])
	if err != nil {
		return fileID{}, mac, notFound{err}
	}
	if escapeTag(tag) != parts[0] { // a cache would have the file once for each way to write it
		return fileID{}, mac, notFound{fmt.Errorf("%q is not how the tag %s is written in an address", parts[0], tag)}
	}
	return fileID{tag, machine.Architecture(parts[1]), parts[2], name}, mac, nil
}

// path returns TAG/ARCHITECTURE/SHA256/NAME, with the MAC before the name if there is one.
func (f fileID) path(mac machine.MAC) string {
	parts := []string{escapeTag(f.tag), string(f.architecture), f.sha256}
	if mac.IsValid() {
		parts = append(parts, mac.Hyphenated())
	}
	return strings.Join(append(parts, f.name), "/")
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
