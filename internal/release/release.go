// Package release reads and publishes releases: named by a tag, with files
// attached, as Forgejo and Gitea have them. Where they are kept is a Backend's
// matter: package forgejo has one for servers, package folder one for a folder.
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
// # Publishing is a transaction
//
// Store.Update is the only algorithm that changes a release. It is given a
// function that composes what the release should be from a snapshot of what is
// there, and calls it again whenever that has changed: so what depends on the
// release (provenance that is merged, what may be signed) is decided there, once.
//
// Store.UpdateAhead is Update for files that become whole one after the other. Before
// these steps it takes step 3, and what that needs of step 2, for each file that is
// whole, and it takes the uploads back if the release is never composed.
//
//  1. Find the release and compose. If everything is as it should be, stop here:
//     nothing has been written.
//  2. Create the release as a draft if it is not there. Take the lease: one run
//     at a time changes a release. Find it again and compose again. An error of
//     compose ends the run here.
//  3. Upload each file that is not there yet under a temporary name that holds
//     the beginning of its SHA-256, so that a run that dies here leaves work
//     that the next one recognises and uses.
//  4. If a file with other bytes has a line in SHA256SUMS.txt, replace
//     SHA256SUMS.txt by one without these lines, and with it the files that sign
//     it: first all uploads, then all renames, then all deletions, so that sums
//     and signature disagree for one request only, and a run that dies here
//     leaves both.
//  5. Give each upload its asset's name, then delete the asset that had it before.
//     Servers keep both for this moment, so the name always leads to one of them.
//  6. Replace SHA256SUMS.txt, in the same manner, by the union of its lines and
//     the new ones.
//  7. Edit the notes and publish the draft, in one request. Delete what is left
//     of runs that died.
//  8. Find it again and compose again. If another hand has changed the release
//     meanwhile, go on at 3, a bounded number of times.
package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"every.channel/runner-images/internal/checksum"
)

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

	// Unfinished is true in what Transaction.Find returns if a run is publishing
	// the release, or has died meanwhile.
	Unfinished bool
}

// An Asset is a file attached to a release.
type Asset struct {
	Name string
	Size int64  // bytes
	URL  string // where it can be downloaded

	// ID is the backend's own name of this asset, whatever its name is, in what a
	// Transaction returns. An asset with an ID has the same bytes for ever.
	ID string
}

// A Store holds the releases of one repository. Set the fields before use.
type Store struct {
	Backend Backend

	VerifyUploads VerifyUploads // VerifySize by default
	Parallel      int           // uploads at once, 4 by default

	// Log, if set, is given a sentence about what users may want to know.
	Log func(message string)
}

func (s *Store) parallel() int {
	const atOnce = 4
	return cmp.Or(s.Parallel, atOnce)
}

// VerifyUploads is how an upload is checked.
type VerifyUploads string

const (
	VerifySize   VerifyUploads = "size"   // by the size that the server reports
	VerifySHA256 VerifyUploads = "sha256" // by reading the asset back
)

// Release returns the release of a tag, a draft too where the token may see it,
// or an error that wraps ErrNotFound. Uploads under way are not among its assets,
// and of two assets with one name only the newer is.
func (s *Store) Release(ctx context.Context, tag string) (Release, error) {
	release, err := s.Backend.Release(ctx, tag)
	if err != nil {
		return Release{}, err
	}
	return release.visible(), release.checkNames()
}

// Check returns what would keep a release of the tag from being made: a repository
// without releases, for example, or neither its tag nor the draft's commit there.
func (s *Store) Check(ctx context.Context, tag string, draft Draft) error {
	transaction, err := s.Backend.Begin(tag)
	if err != nil {
		return err
	}
	return transaction.Check(ctx, draft)
}

// Latest returns the newest release that is neither a draft nor a prerelease and
// whose tag begins with prefix, or an error that wraps ErrNotFound. Newest is the
// one created last, whatever its tag is: a machine without a pinned tag boots what
// was published last.
func (s *Store) Latest(ctx context.Context, prefix string) (Release, error) {
	release, err := s.Backend.Latest(ctx, prefix)
	if err != nil {
		return Release{}, err
	}
	return release.visible(), release.checkNames()
}

// Open returns the content of an asset from offset (in bytes) to its end. The
// caller closes it. A read that stands still fails; the caller may open the asset
// again at the next offset.
func (s *Store) Open(ctx context.Context, asset Asset, offset int64) (io.ReadCloser, error) {
	return s.Backend.Open(ctx, asset, offset)
}

// Read returns the content of an asset, from its start to its end. It is read on
// where a connection breaks.
func (s *Store) Read(ctx context.Context, asset Asset) (io.ReadCloser, error) {
	return ReadOn(ctx, func(offset int64) (io.ReadCloser, error) { return s.Open(ctx, asset, offset) })
}

// smallSize is more than any list of checksums, signature or provenance has, in
// bytes.
const smallSize = 16 << 20

// ReadSmall returns the content of a small asset: a list of checksums, a signature
// or provenance. The error wraps ErrNotFound if the release does not have it. It
// refuses to read without end what someone may have put there instead.
func (s *Store) ReadSmall(ctx context.Context, release Release, name string) ([]byte, error) {
	i := slices.IndexFunc(release.Assets, func(a Asset) bool { return a.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("%s in the release %s: %w", name, release.Tag, ErrNotFound)
	}
	content, err := s.Read(ctx, release.Assets[i])
	if err != nil {
		return nil, err
	}
	defer content.Close()
	return ReadSmall(name, content)
}

// ReadSmall returns the content of a small file of this name, to its end.
func ReadSmall(name string, content io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(content, smallSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(text) > smallSize {
		return nil, fmt.Errorf("%s is larger than %d MiB; it is not what its name says", name, smallSize>>20)
	}
	return text, nil
}

// checkNames checks the names that a backend has found, for all who use them: a server
// may say anything.
func (r Release) checkNames() error {
	if err := CheckTag(r.Tag); err != nil {
		return fmt.Errorf("there is a release with the tag %q: %w", r.Tag, err)
	}
	for _, asset := range r.Assets {
		if err := checksum.CheckName(asset.Name); err != nil {
			return fmt.Errorf("the release %s has an asset %q: %w; rename it, or delete it from the release", r.Tag, asset.Name, err)
		}
	}
	return nil
}

// visible is the release as readers see it.
func (r Release) visible() Release {
	byName := group(r.Assets)
	r.Unfinished = false
	assets := r.Assets
	r.Assets = nil
	for _, asset := range assets {
		if same := byName[asset.Name]; isReserved(asset.Name) || asset != same[len(same)-1] {
			continue
		}
		asset.ID = ""
		r.Assets = append(r.Assets, asset)
	}
	return r
}

// group sorts assets by name. Those of one name stay in their order, from old to
// new.
func group(assets []Asset) map[string][]Asset {
	byName := map[string][]Asset{}
	for _, asset := range assets {
		byName[asset.Name] = append(byName[asset.Name], asset)
	}
	return byName
}

// Names with these prefixes are not for readers.
const (
	temporaryPrefix = "uploading-"

	// LeasePrefix begins the names of assets with which a backend keeps leases.
	LeasePrefix = "publishing-"
)

func isReserved(name string) bool {
	return strings.HasPrefix(name, temporaryPrefix) || strings.HasPrefix(name, LeasePrefix)
}

// temporaryName is the name of an upload of these bytes, by which a later run
// recognises them. It ends as the asset's name does, because forges judge the type
// of a file by that.
func temporaryName(asset, sha256 string) string {
	const digits = 16
	return temporaryPrefix + sha256[:min(digits, len(sha256))] + "-" + asset
}

// isUploadOf reports whether a name is that of an upload for this asset, of
// whatever bytes. Version 0.1 left the checksum out in a folder.
func isUploadOf(asset, name string) bool {
	rest, ok := strings.CutPrefix(name, temporaryPrefix)
	_, of, _ := strings.Cut(rest, "-")
	return ok && (of == asset || rest == asset)
}

// errKeepsChanging ends a run that other hands keep from its end.
var errKeepsChanging = errors.New("the release keeps changing during publication; let nothing else edit it, and run again")
