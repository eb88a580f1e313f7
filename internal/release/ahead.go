package release

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// An UploadAhead uploads a file that is whole under a temporary name, unless the
// release has its bytes, and returns it with its checksum. A missing one is found beside
// the upload. It may be called from several goroutines at once.
type UploadAhead func(ctx context.Context, file File) (File, error)

// UpdateAhead is Update for a release whose files become whole one after the
// other. It first calls make, which uploads each of them when it is whole, beside
// the making of the next. None of that changes what readers have, and a release that
// has all of the files is not written to. known is the content as far as it is known
// before; its Files are not looked at.
//
// If make fails, or compose under the lease, Update takes back what it has uploaded,
// and the draft, if it has made that and there is nothing else in it. It stays if an
// upload has failed: the next run uses it.
func (s *Store) UpdateAhead(ctx context.Context, tag string, known Content,
	make func(ctx context.Context, upload UploadAhead) error,
	compose func(ctx context.Context, there Snapshot) (Content, error),
) (Published, error) {
	u, err := s.begin(tag, compose)
	if err != nil {
		return Published{}, err
	}
	u.content = known
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	return u.run(ctx, func() error {
		return make(ctx, func(part context.Context, file File) (File, error) {
			// A part of the run may end before the run does. While it asks for the lease, its
			// end is that of the run; the lease is the run's.
			return u.uploadAhead(part, file, func() error {
				stop := context.AfterFunc(part, func() { cancel(context.Cause(part)) })
				defer stop()
				return u.takeLease(ctx)
			})
		})
	})
}

// ahead is what is known of a release before it is composed.
type ahead struct {
	mutex   sync.Mutex        // one looks, or waits for the lease; uploads run beside each other
	now     *state            // as it was looked at, under the lease if there is one; nil if nobody has looked
	created bool              // the release, by this run
	begun   map[string]string // the uploads of this run, by their names: the checksum, if it is whole
	failed  atomic.Bool       // an upload, and not because something else has
}

// uploadAhead uploads a file.
func (u *update) uploadAhead(ctx context.Context, file File, takeLease func() error) (File, error) {
	if ctx.Err() != nil {
		return file, context.Cause(ctx)
	}
	file = file.known()
	if err := (Content{Files: []File{file}}).check(u.tag); err != nil {
		return file, err
	}
	move, err := u.planAhead(ctx, &file, takeLease)
	if err != nil || move == nil || move.file == nil {
		return file, err
	}
	select {
	case u.slots <- struct{}{}:
		defer func() { <-u.slots }()
	case <-ctx.Done():
		return file, context.Cause(ctx)
	}
	held, stop := untilBoth(ctx, u.held)
	defer stop()
	if err := u.uploadFile(held, move); err != nil {
		if ctx.Err() == nil {
			u.ahead.failed.Store(true)
		}
		return file, cause(held, err)
	}
	u.ahead.mutex.Lock()
	defer u.ahead.mutex.Unlock()
	u.ahead.begun[move.Upload.Name] = file.SHA256
	return file, nil
}

// planAhead finds out what has to happen for a file. It takes the lease if something
// has.
func (u *update) planAhead(ctx context.Context, file *File, takeLease func() error) (*move, error) {
	u.ahead.mutex.Lock()
	defer u.ahead.mutex.Unlock()
	if u.lease == nil {
		has, err := u.hasAhead(ctx, file)
		if has || err != nil && !errors.Is(err, ErrNotFound) { // this run may have met another one's half-way work
			return nil, err
		}
		if err := u.readyAhead(ctx); err != nil {
			return nil, err
		}
		if err := takeLease(); err != nil {
			return nil, cause(ctx, err)
		}
		u.ahead.now = nil // another run may have changed the release
	}
	now, err := u.lookAhead(ctx)
	if err != nil {
		return nil, err
	}
	if err := u.resolve(ctx, *now, file); err != nil {
		return nil, err
	}
	move, err := u.planFile(ctx, *now, file)
	if move != nil && move.file != nil {
		u.ahead.begun[temporaryName(file.Name, file.SHA256)] = ""
	}
	return move, err
}

// hasAhead reports whether the release is there and has the file.
func (u *update) hasAhead(ctx context.Context, file *File) (bool, error) {
	now, err := u.lookAhead(ctx)
	if err != nil || now.Tag == "" || now.Draft {
		return false, err
	}
	if err := u.resolve(ctx, *now, file); err != nil {
		return false, err
	}
	return u.has(ctx, *now, *file)
}

// lookAhead returns the release, without a tag if it is not there. It looks once, and
// once more under the lease.
func (u *update) lookAhead(ctx context.Context) (*state, error) {
	if u.ahead.now != nil {
		return u.ahead.now, nil
	}
	release, err := u.Find(ctx)
	if errors.Is(err, ErrNotFound) && u.lease == nil {
		release, err = Release{}, nil
	}
	if err != nil {
		return nil, err
	}
	if release.Tag != "" {
		if err := release.checkNames(); err != nil {
			return nil, err
		}
	}
	now, err := u.read(ctx, release)
	if err == nil {
		u.ahead.now = &now
	}
	return &now, err
}

// readyAhead makes sure that there is a release, and that it can be published.
func (u *update) readyAhead(ctx context.Context) error {
	switch now := u.ahead.now; {
	case now == nil: // it is being changed
		return nil
	case now.Tag == "":
		return u.create(ctx)
	case now.Draft:
		return u.Check(ctx, u.draft())
	}
	return nil
}

// untilBoth is a context that ends when the first of two does, and with its cause.
func untilBoth(a, b context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(a)
	stop := context.AfterFunc(b, func() { cancel(context.Cause(b)) })
	return ctx, func() { stop(); cancel(nil) }
}

// takeBackTimeout is how long a run that has failed, or was interrupted, may take to
// tidy up.
const takeBackTimeout = 10 * time.Second

// takeBack removes what this run has uploaded for a release that will not be composed,
// also after the run was cancelled.
func (u *update) takeBack(ctx context.Context) {
	// Another run has a lease that has ended before this one was interrupted.
	isLost := u.lease != nil && u.held.Err() != nil && !errors.Is(context.Cause(u.held), context.Cause(ctx))
	if isLost || u.composed || u.ahead.failed.Load() && ctx.Err() == nil || u.lease == nil && !u.ahead.created {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTimeout)
	defer cancel()
	err := u.leaseToTakeBack(ctx)
	if errors.Is(err, ErrNotFound) { // the release was not made, or is gone, and all that was in it
		return
	}
	if err == nil {
		err = u.lease.Hold(ctx)
	}
	if err == nil {
		err = u.removeBegun(ctx)
	}
	if err != nil && u.store.Log != nil {
		u.store.Log(fmt.Sprintf("what was uploaded ahead stays in the release %s, where the next run uses or removes it: %v", u.tag, err))
	}
}

// leaseToTakeBack takes the lease of a release that this run has made, and of which it
// has waited in vain for the lease.
func (u *update) leaseToTakeBack(ctx context.Context) error {
	if u.lease != nil {
		return nil
	}
	if _, err := u.Find(ctx); err != nil {
		return err
	}
	var err error
	u.held, u.lease, err = u.Lease(ctx)
	return err
}

func (u *update) removeBegun(ctx context.Context) error {
	release, err := u.Find(ctx)
	if err != nil {
		return err
	}
	var own []Asset
	others := false
	for _, asset := range release.Assets {
		if _, begun := u.ahead.begun[asset.Name]; begun {
			own = append(own, asset)
		} else if !strings.HasPrefix(asset.Name, LeasePrefix) {
			others = true
		}
	}
	if u.ahead.created && release.Draft && release.Notes == "" && !others {
		return u.lease.Discard(ctx)
	}
	for _, asset := range own {
		if err := u.Remove(ctx, asset); err != nil {
			return err
		}
	}
	return nil
}
