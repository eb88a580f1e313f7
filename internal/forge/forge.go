// Package forge reads and publishes releases: on a Forgejo or Gitea server
// through its API, and in a plain folder (file:// addresses) with the same
// promises.
//
// # What a reader can rely on
//
// A new release is a draft until it is complete. In a published release every
// line of SHA256SUMS.txt is true of the asset that it names, at any moment; an
// asset that is being added or replaced has no line. A reader that downloads
// SHA256SUMS.txt, then an asset, and finds no line or another sum has met a
// publication half-way: it must refuse the asset, and may read both again.
// Forgejo shows a draft to everybody who knows its tag, so readers check
// Release.Draft, too; a draft has its SHA256SUMS.txt last of all.
//
// # The order of a publication
//
//  1. Find the release, or create it as a draft. If everything is as it should
//     be, stop here: nothing has been written.
//  2. Take a turn (below), and look again. If Publication.Check refuses, stop here.
//  3. Upload each file that is not there yet under a temporary name that holds
//     the beginning of its SHA-256, so that a run that dies here leaves work
//     that the next one can tell and use.
//  4. If a file with other bytes has a line in SHA256SUMS.txt, replace
//     SHA256SUMS.txt by one without these lines, and with it the files that sign
//     it: first all uploads, then all renames, then all deletions, so that sums
//     and signature disagree for one request only, and a run that dies here
//     leaves both.
//  5. Rename each upload to its asset's name, then delete the asset that had it
//     before. Servers keep both for this moment, so the name always leads to
//     one of them.
//  6. Replace SHA256SUMS.txt, in the same manner, by the union of its lines and
//     the new ones.
//  7. Edit the notes and publish the draft, in one request. Delete what is left
//     of runs that died.
//  8. Look again. If another hand has changed the release meanwhile, begin again.
//
// # Turns
//
// The API has no locks. A run attaches a small asset, its ticket, and the oldest
// ticket has the turn: the server numbers assets in order. A run renames its
// ticket every few seconds for as long as it lives. A ticket that keeps its name
// while the next run has renamed its own for half a minute belongs to a run that
// died, and the next one deletes it.
package forge

import (
	"context"
	"errors"
	"io"
	"time"

	"every.channel/runner-images/internal/checksum"
)

// ErrNotFound says that the release, or the asset in it, is not there, or that
// the token in use cannot see it. Test for it with errors.Is.
var ErrNotFound = errors.New("not found")

// ErrChanged says that the release has another asset than a file follows
// (File.Follows), so that nothing was published. Make the file anew from what is
// there now, and publish again. Test for it with errors.Is.
var ErrChanged = errors.New("another run has published it meanwhile; run again")

// A Store holds the releases of one repository.
type Store interface {
	// Release returns the release of a tag, a draft too where the token may see
	// it, or an error that wraps ErrNotFound.
	Release(ctx context.Context, tag string) (Release, error)

	// Latest returns the newest release that is neither a draft nor a
	// prerelease and whose tag begins with prefix, or an error that wraps
	// ErrNotFound. Newest is the one created last, whatever its tag says: a
	// machine without a pinned tag boots what was published last.
	Latest(ctx context.Context, prefix string) (Release, error)

	// Open returns the content of an asset from offset (in bytes) to its end.
	// The caller closes it. A read that gets nothing for Config.StallTimeout
	// fails; the caller may open the asset again at the next offset.
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
	SHA256 string // lower-case hexadecimal; left empty, Publish finds it while it uploads

	// Follows is the SHA-256 of the asset of this name that the file was made
	// from, or FollowsNone if there was none. It keeps what other runs have added
	// meanwhile: if the release has another asset, Publish changes nothing and
	// returns ErrChanged. Left empty, the file replaces whatever is there.
	Follows string
}

// FollowsNone is File.Follows of a file that is the first of its name.
const FollowsNone = "none"

// A Publication is what Publish makes of a release.
type Publication struct {
	Tag        string
	Commit     string // where the tag is made if it is not there: a sha or a branch
	Title      string // of a release that is not there yet; the tag by default
	Prerelease bool
	Files      []File

	// Notes returns the text of this project's block in the release's notes,
	// given the release as it is and every asset that SHA256SUMS.txt will list.
	// Text outside the block stays.
	Notes func(release Release, assets []File) string

	// Check, if set, may refuse the publication: its error ends it, and nothing
	// was changed. It is called in this run's turn, when all that other runs of
	// this project have published is whole, and again if another hand has changed
	// the release meanwhile. A release that is as it should be may pass unasked.
	Check func(ctx context.Context, before Before) error

	// Sign, if set, is given a SHA256SUMS.txt and returns further small files, by
	// name, that are published together with it (a signature). It may be called
	// more than once. A file that is already there with the same bytes is not
	// uploaded again. Of files that are not in this publication, only lines that
	// Check has seen are published.
	Sign func(sums []byte) (map[string][]byte, error)

	// Progress, if set, is told how many bytes of an asset have been accepted.
	// It may be called from several goroutines at once.
	Progress func(name string, done, total int64)

	// Status, if set, is told in a few words what is being done from now on, for
	// example "wait for another run to end". It may be called from several
	// goroutines at once.
	Status func(what string)
}

// Before is a release as a publication finds it.
type Before struct {
	Release Release

	// Listed is the lines of SHA256SUMS.txt, and Kept those of them that stay: of
	// assets that are there and that the publication leaves as they are.
	Listed, Kept checksum.Sums

	// Versions returns the content of a small asset, and after it what a run that
	// died has left of its replacement. It is empty if there is neither.
	Versions func(ctx context.Context, name string) ([][]byte, error)
}

// Published says what Publish did.
type Published struct {
	Release   Release
	Files     []File   // every asset that SHA256SUMS.txt lists; Path is empty for those not in this publication
	Uploaded  []string // names that were not there before
	Replaced  []string // names that were there with other bytes
	Unchanged []string // names that were there with these bytes
}
