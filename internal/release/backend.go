package release

import (
	"context"
	"io"
)

// A Backend keeps releases. It has the verbs that readers and Store.Update need
// and decides nothing itself.
type Backend interface {
	// Release returns the release of a tag as readers may see it, or an error that
	// wraps ErrNotFound.
	Release(ctx context.Context, tag string) (Release, error)

	// Latest is as Store.Latest.
	Latest(ctx context.Context, prefix string) (Release, error)

	// Open is as Store.Open.
	Open(ctx context.Context, asset Asset, offset int64) (io.ReadCloser, error)

	// Begin returns the verbs that change the release of a tag, for one run. An
	// error means that the backend could not write, whatever is there.
	Begin(tag string) (Transaction, error)
}

// A Transaction is the verbs that change one release. Each verb is whole when it
// returns, and tries again by itself what may succeed later. Verbs other than
// Find, Create and Lease are for a release that one of these has found.
type Transaction interface {
	// Find returns the release, also a draft, or an error that wraps ErrNotFound.
	// It has all assets, from old to new, uploads and several of one name included.
	Find(ctx context.Context) (Release, error)

	// Check looks for what would stop the draft's publication after all uploads: a
	// repository that cannot be written to, or a commit that is not there.
	Check(ctx context.Context, draft Draft) error

	// Create makes the release as a draft, unless somebody else has made it meanwhile. It
	// reports whether it has.
	Create(ctx context.Context, draft Draft) (made bool, err error)

	// Lease waits until no other run changes the release. The returned context
	// ends when the lease is lost. The error wraps ErrNotFound if the release has gone
	// meanwhile.
	Lease(ctx context.Context) (context.Context, Lease, error)

	// Upload adds content beside the release's assets. Nothing has the upload's
	// name before all of it is stored.
	Upload(ctx context.Context, upload Upload) (Asset, error)

	// Open is as Store.Open, for exactly this asset.
	Open(ctx context.Context, asset Asset, offset int64) (io.ReadCloser, error)

	// Switch gives uploads their final names, all of them first, and then removes
	// the assets that had these names.
	Switch(ctx context.Context, switches ...Switch) error

	// Remove makes sure that an asset is gone.
	Remove(ctx context.Context, asset Asset) error

	// Edit changes the release's description, and publishes it, in one step.
	Edit(ctx context.Context, edit Edit) error
}

// A Lease is the right to change a release, until it ends.
type Lease interface {
	// Hold makes sure of the lease before a step that others can see.
	Hold(ctx context.Context) error

	// Discard removes the release, which is a draft, unless another run waits for the
	// lease.
	Discard(ctx context.Context) error

	// End gives the lease to the next run, also if the context has ended.
	End(ctx context.Context)
}

// A Draft is a release that is to be made.
type Draft struct {
	Title      string
	Commit     string // where the tag is made if it is not there: a sha or a branch
	Prerelease bool
}

// An Upload is the content of an asset-to-be.
type Upload struct {
	Name     string // that the content has until it is switched
	Asset    string // the name that it is for
	Size     int64  // bytes
	SHA256   func() (string, error)
	Open     func() (io.ReadCloser, error) // anew for each attempt
	Progress func(done int64)              // is given how many bytes have been accepted
}

// A Switch gives an upload the name of its asset.
type Switch struct {
	Upload Asset // none if its Name is empty: then only the old ones go
	Name   string
	Old    []Asset // that have the name until then
}

// An Edit is what changes in a release; what is left out stays.
type Edit struct {
	Notes      *string
	Prerelease bool
	Publish    bool
	Commit     string // of a draft that is published
}
