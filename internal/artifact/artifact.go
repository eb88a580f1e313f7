// Package artifact turns the output of a NixOS image's build into the file that a
// release carries: a bundle of a netboot image's kernel, initrd and script, an ISO,
// or an SD image. It also reads bundles that come from elsewhere, without trusting
// them.
package artifact

import (
	"fmt"
	"io/fs"
	"regexp"

	"every.channel/runner-images/internal/checksum"
)

// An Image is one image to build.
type Image struct {
	Name        string `json:"name"`        // the beginning of its asset's name
	Installable string `json:"installable"` // what `nix build` is given
}

// An Artifact is a file that a release carries or is to carry. Its JSON form is an
// entry of the action's output assets.
type Artifact struct {
	Name   string `json:"name"`   // of the asset, without a folder
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // lower-case hexadecimal; empty while nobody has needed it
	URL    string `json:"url"`    // where it can be downloaded; empty if it is not published
	Path   string `json:"-"`      // on this machine; empty if it is not here

	// Info is the file at Path as it was when it was packaged; nil for another one.
	Info fs.FileInfo `json:"-"`

	// What it was made of. These are empty for a file that is not an image, such as
	// the provenance, and for one that was packaged elsewhere.
	Image      Image  `json:"-"`
	Derivation string `json:"-"` // the store path of the derivation, ending in .drv
	Output     string `json:"-"` // the store path of the build's output

	// Architecture is that of the kernel of a netboot image ("x86_64", "aarch64"); empty
	// for another image, and where the kernel does not say it.
	Architecture string `json:"-"`
}

var (
	unsafeInName = regexp.MustCompile(`[^A-Za-z0-9._+-]`)
	safeName     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*$`)
)

// ValidName reports whether an image may have this name, which must be safe at the
// beginning of a file's name on any system.
func ValidName(name string) bool { return safeName.MatchString(name) }

// FileName returns the name of an image's asset: "NAME-TAG" and the extension.
// Letters, digits, ".", "_", "+" and "-" of the tag stay; each other character
// that git allows in a tag, such as "/", becomes a "-", because a file's name
// must be safe on any system and in any address.
func FileName(name, tag, extension string) string {
	return name + "-" + unsafeInName.ReplaceAllLiteralString(tag, "-") + extension
}

// Sums returns the checksums of artifacts. Two that have the same name and other
// bytes are an error.
func Sums(artifacts []Artifact) (checksum.Sums, error) {
	sums := checksum.Sums{}
	for _, a := range artifacts {
		if known, ok := sums[a.Name]; ok && known != a.SHA256 {
			return nil, fmt.Errorf("two different files have the name %s", a.Name)
		}
		sums[a.Name] = a.SHA256
	}
	return sums, nil
}
