// Package forge reads and publishes releases: on a Forgejo or Gitea server
// through its API, and in a plain folder (file:// addresses) with the same
// promises.
package forge

import (
	"context"
	"errors"
	"io"
	"time"
)

// ErrNotFound says that the release, or the asset in it, is not there, or that
// the token in use cannot see it. Test for it with errors.Is.
var ErrNotFound = errors.New("not found")

// A Store holds the releases of one repository.
type Store interface {
	// Release returns the release of a tag, a draft too where the token may see
	// it, or an error that wraps ErrNotFound.
	Release(ctx context.Context, tag string) (Release, error)

	// Latest returns the newest release that is neither a draft nor a
	// prerelease and whose tag begins with prefix, or an error that wraps
	// ErrNotFound.
	Latest(ctx context.Context, prefix string) (Release, error)

	// Open returns the content of an asset from offset (in bytes) to its end.
	// The caller closes it.
	Open(ctx context.Context, asset Asset, offset int64) (io.ReadCloser, error)

	// Publish makes or completes the release that p describes, so that no
	// reader ever sees half of it.
	Publish(ctx context.Context, p Publication) (Published, error)
}

// A Release is a tag's release as the store has it.
type Release struct {
	Tag        string
	Title      string
	Notes      string // Markdown
	Draft      bool
	Prerelease bool
	Created    time.Time
	URL        string // the page for people
	Assets     []Asset
}

// An Asset is a file attached to a release.
type Asset struct {
	Name string
	Size int64  // bytes
	URL  string // where it can be downloaded
}

// A File is a file on this machine that a publication attaches.
type File struct {
	Name   string // the asset's name, without a folder
	Path   string
	Size   int64  // bytes
	SHA256 string // lower-case hexadecimal
}

// A Publication is what Publish makes of a release.
type Publication struct {
	Tag        string
	Commit     string // where the tag is made if it is not there: a sha or a branch
	Title      string // of a release that is not there yet; the tag by default
	Prerelease bool
	Files      []File

	// Notes returns the text of this project's block in the release's notes,
	// given every asset that SHA256SUMS.txt lists. Text outside the block stays.
	Notes func(assets []File) string

	// Sign, if set, is given the final SHA256SUMS.txt and returns further small
	// files, by name, that are published together with it (a signature).
	Sign func(sums []byte) (map[string][]byte, error)

	// Progress, if set, is told how many bytes of an asset have been accepted.
	// It may be called from several goroutines at once.
	Progress func(name string, done, total int64)
}

// Published says what Publish did.
type Published struct {
	Release   Release
	Files     []File   // every asset that SHA256SUMS.txt lists; Path is empty for those not in this publication
	Uploaded  []string // names that were not there before
	Replaced  []string // names that were there with other bytes
	Unchanged []string // names that were there with these bytes
}
