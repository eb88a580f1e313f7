package release

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"every.channel/runner-images/internal/checksum"
)

// A File is one that a publication attaches, from a path or from memory.
type File struct {
	Name   string // the asset's name, without a folder
	Path   string
	Size   int64  // bytes
	SHA256 string // lower-case hexadecimal; left empty, Update finds it while it uploads

	// Info, if set, is the file at the path as it was when its checksum was made: one that
	// has changed since is not published. Update looks itself if it is nil.
	Info os.FileInfo

	// Content, if not nil, is the file, which is small and has no path. Update
	// finds its size and checksum.
	Content []byte
}

// Content is what a release should be.
type Content struct {
	Commit     string // where the tag is made if it is not there: a sha or a branch
	Title      string // of a release that is not there yet; the tag by default
	Prerelease bool
	Files      []File // others that the release has stay

	// KeepOld makes it an error if the release has a file of this name with other
	// bytes. Then nothing is changed.
	KeepOld bool

	// Notes, if set, returns the text of this project's block in the release's
	// notes, given every asset that SHA256SUMS.txt will list. Text outside the
	// block stays.
	Notes func(assets []File) string

	// Sign, if set, is given a SHA256SUMS.txt and returns further small files, by
	// name, that are published together with it (a signature). It may be called
	// more than once: the list without the lines of files that are being replaced
	// is signed, too. A file that is already there with the same bytes is not
	// uploaded again.
	Sign func(sums []byte) (map[string][]byte, error)

	// Progress, if set, is given how many bytes of an asset have been accepted.
	// It may be called from several goroutines at once.
	Progress func(name string, done, total int64)

	// Status, if set, is given in a few words what is done from now on, for
	// example "wait for another run to end". It may be called from several
	// goroutines at once.
	Status func(what string)
}

// known is the file with the size and the checksum of its content, if that is in
// memory.
func (f File) known() File {
	if f.Content != nil {
		f.Size, f.SHA256 = int64(len(f.Content)), sumOf(f.Content)
	}
	return f
}

// Published is what Update did.
type Published struct {
	Release   Release
	Files     []File   // every asset that SHA256SUMS.txt lists; Path is empty for those not in this publication
	Uploaded  []string // names that were not there before
	Replaced  []string // names that were there with other bytes
	Unchanged []string // names that were there with these bytes
}

// check finds mistakes in the content before anything is written.
func (c Content) check(tag string) error {
	var errs []error
	if len(c.Files) == 0 {
		errs = append(errs, fmt.Errorf("publish %s: no files given", tag))
	}
	names := map[string]bool{}
	for _, file := range c.Files {
		if err := checkName(file.Name); err != nil {
			errs = append(errs, err)
		}
		if names[file.Name] {
			errs = append(errs, fmt.Errorf("asset %q: two files have this name", file.Name))
		}
		names[file.Name] = true
		if sum, err := hex.DecodeString(file.SHA256); file.SHA256 != "" &&
			(err != nil || len(sum) != sha256.Size || strings.ToLower(file.SHA256) != file.SHA256) {
			errs = append(errs, fmt.Errorf("asset %q: its SHA-256 %q is not 64 lower-case hexadecimal digits", file.Name, file.SHA256))
		}
		if file.Size < 0 {
			errs = append(errs, fmt.Errorf("asset %q: its size %d is negative", file.Name, file.Size))
		}
	}
	return errors.Join(errs...)
}

func checkName(name string) error {
	const longest = 200 // bytes; forges keep 255, and an upload's temporary name is longer
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, `/\`):
		return fmt.Errorf("asset %q: use a plain file name, without a folder", name)
	case strings.ContainsFunc(name, unicode.IsControl) || !utf8.ValidString(name):
		return fmt.Errorf("asset %q: use a name of UTF-8 text without control characters", name)
	case strings.HasPrefix(name, "."):
		return fmt.Errorf("asset %q: names that begin with a dot are not for readers of a release; rename the file", name)
	case name == checksum.FileName:
		return fmt.Errorf("asset %q: this file is made from the others; leave it out", name)
	case isReserved(name):
		return fmt.Errorf("asset %q: names that begin with %s or %s belong to uploads under way; rename the file", name, temporaryPrefix, LeasePrefix)
	case len(name) > longest:
		return fmt.Errorf("asset %q: use a name of at most %d bytes", name, longest)
	}
	return nil
}

func (c Content) has(name string) bool {
	return slices.ContainsFunc(c.Files, func(f File) bool { return f.Name == name })
}

// lists returns the list of these checksums, and the files that go with it.
func (c Content) lists(sums checksum.Sums) ([]File, error) {
	lists := []File{{Name: checksum.FileName, Content: sums.Bytes()}}
	if c.Sign == nil {
		return lists, nil
	}
	signed, err := c.Sign(sums.Bytes())
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", checksum.FileName, err)
	}
	for _, name := range slices.Sorted(maps.Keys(signed)) {
		if err := checkName(name); err != nil {
			return nil, fmt.Errorf("sign %s: %w", checksum.FileName, err)
		}
		if c.has(name) {
			return nil, fmt.Errorf("sign %s: a published file is named %s, too", checksum.FileName, name)
		}
		lists = append(lists, File{Name: name, Content: signed[name]})
	}
	return lists, nil
}

func (c Content) status(format string, args ...any) {
	if c.Status != nil {
		c.Status(fmt.Sprintf(format, args...))
	}
}

func (c Content) progress(file File, done int64) {
	if c.Progress != nil {
		c.Progress(file.Name, done, file.Size)
	}
}
