package boothttp

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

// beginWithin is how long after its script, or its last file, a machine may ask
// for the next file of its release.
const beginWithin = 15 * time.Minute

// begun holds the releases that machines have begun to boot, so that they can
// load the rest whatever is switched, pruned or staged anew meanwhile. Its zero
// value is ready for use.
type begun struct {
	mu    sync.Mutex
	holds map[edition]*begunHold
}

type begunHold struct {
	hold   *state.Hold
	expiry *time.Timer
}

// keep takes over a hold.
func (b *begun) keep(which edition, hold *state.Hold) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if kept, ok := b.holds[which]; ok {
		kept.expiry.Reset(beginWithin)
		return hold.Close()
	}
	if b.holds == nil {
		b.holds = map[edition]*begunHold{}
	}
	b.holds[which] = &begunHold{hold, time.AfterFunc(beginWithin, func() { b.drop(which) })}
	return nil
}

func (b *begun) drop(which edition) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if kept, ok := b.holds[which]; ok {
		kept.expiry.Stop()
		kept.hold.Close()
		delete(b.holds, which)
	}
}

// close lets all holds go.
func (b *begun) close() {
	b.mu.Lock()
	editions := slices.Collect(maps.Keys(b.holds))
	b.mu.Unlock()
	for _, which := range editions {
		b.drop(which)
	}
}

// open opens a file of an edition that a machine has begun with, or that is staged.
func (b *begun) open(dir *state.Dir, which edition, name string) (*os.File, state.Release, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if kept, ok := b.holds[which]; ok {
		kept.expiry.Reset(beginWithin)
		file, err := kept.hold.Open(which.architecture, name)
		return file, kept.hold.Release, err
	}
	hold, err := dir.Hold(which.tag)
	if err != nil {
		return nil, state.Release{}, err
	}
	defer hold.Close()
	if editionOf(hold.Release, which.architecture) != which {
		return nil, state.Release{}, fmt.Errorf("release %s has been staged anew: %w", which.tag, fs.ErrNotExist)
	}
	file, err := hold.Open(which.architecture, name)
	return file, hold.Release, err
}
