package serve

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"every.channel/runner-images/internal/netboot/state"
)

// leaseExpiry is how long after its script, or its last file, a machine may ask for
// the next file of its release.
const leaseExpiry = 15 * time.Minute

// leases keep the releases open that machines are booting, so that they can load the
// rest whatever is switched, pruned or staged again meanwhile. The zero value is ready
// for use.
type leases struct {
	mu       sync.Mutex
	byBundle map[bundleID]*lease
}

type lease struct {
	snapshot *state.Snapshot
	expiry   *time.Timer
}

// grant keeps a snapshot open for a machine that boots a bundle of it, and closes it
// when the lease expires.
func (l *leases) grant(bundle bundleID, snapshot *state.Snapshot) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if granted, ok := l.byBundle[bundle]; ok {
		granted.expiry.Reset(leaseExpiry)
		return snapshot.Close()
	}
	if l.byBundle == nil {
		l.byBundle = map[bundleID]*lease{}
	}
	l.byBundle[bundle] = &lease{snapshot, time.AfterFunc(leaseExpiry, func() { l.end(bundle) })}
	return nil
}

func (l *leases) end(bundle bundleID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if granted, ok := l.byBundle[bundle]; ok {
		granted.expiry.Stop()
		_ = granted.snapshot.Close() // it was only read
		delete(l.byBundle, bundle)
	}
}

// close ends all leases.
func (l *leases) close() {
	l.mu.Lock()
	bundles := slices.Collect(maps.Keys(l.byBundle))
	l.mu.Unlock()
	for _, bundle := range bundles {
		l.end(bundle)
	}
}

// open opens a file of a release that a machine boots, and renews its lease, or of one
// that is staged.
func (l *leases) open(dir *state.Dir, file fileID) (*os.File, state.Release, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, granted := range l.byBundle {
		release := granted.snapshot.Release
		if fileOf(release, file.architecture, file.name) == file {
			granted.expiry.Reset(leaseExpiry)
			opened, err := granted.snapshot.Open(file.architecture, file.name)
			return opened, release, err
		}
	}
	snapshot, err := dir.OpenRelease(file.tag)
	if err != nil {
		return nil, state.Release{}, err
	}
	defer func() { _ = snapshot.Close() }() // it is only read
	if fileOf(snapshot.Release, file.architecture, file.name) != file {
		return nil, state.Release{}, fmt.Errorf("release %s has no %s/%s of this sum, or not any more: %w", file.tag, file.architecture, file.name, fs.ErrNotExist)
	}
	opened, err := snapshot.Open(file.architecture, file.name)
	return opened, snapshot.Release, err
}
