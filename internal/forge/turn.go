package forge

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"every.channel/runner-images/internal/checksum"
)

// ticketPrefix begins the names of tickets: publishing-RUN-NUMBER-SHA256SUMS.txt.
// The end is that of a file which a forge must take anyway.
const ticketPrefix = "publishing-"

const ticketText = "A run of runner-images is publishing this release. This file goes when it ends.\n"

// errTurnLost ends a run that another one has taken for dead.
var errTurnLost = errors.New("another run has taken over this release, because this one gave no sign of life; run again")

// A turn is the right to change a release, until it ends.
type turn struct {
	client
	release int64
	run     string // a random name
	mutex   sync.Mutex
	ticket  apiAsset
	beats   int
	seen    time.Time // when the ticket was last known to be there
	cancel  context.CancelCauseFunc
	stopped chan struct{} // closed when the signs of life have ended
}

// takeTurn waits until no other run is publishing this release, and returns the
// release as it is then. The returned context ends when the turn is lost.
func (c client) takeTurn(ctx context.Context, release int64) (context.Context, *turn, apiRelease, error) {
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails since Go 1.24
	t := &turn{client: c, release: release, run: hex.EncodeToString(random), stopped: make(chan struct{})}
	now, err := t.queue(ctx)
	if err != nil {
		t.giveBack(ctx)
		return nil, nil, apiRelease{}, err
	}
	ctx, t.cancel = context.WithCancelCause(ctx)
	go t.live(ctx)
	return ctx, t, now, nil
}

// queue attaches a ticket and returns when it is the oldest, with the release
// of that moment.
func (t *turn) queue(ctx context.Context) (apiRelease, error) {
	if err := t.attach(ctx); err != nil {
		return apiRelease{}, err
	}
	var watched apiAsset // the oldest ticket, as it was
	signs := 0           // of this run's own life since then
	for {
		state, err := t.releaseByID(ctx, t.release)
		if err != nil {
			return apiRelease{}, err
		}
		oldest, mine := tickets(state, t.ticket.ID)
		switch {
		case !mine: // taken for dead while this machine slept
			if err := t.attach(ctx); err != nil {
				return apiRelease{}, err
			}
			continue
		case oldest.ID == t.ticket.ID:
			return state, nil
		case oldest.ID != watched.ID || oldest.Name != watched.Name:
			if oldest.ID != watched.ID {
				t.config.Log("another run is publishing this release; waiting for it to end")
			}
			watched, signs = oldest, 0
		case signs >= enoughSigns:
			t.config.Log("the other run gives no sign of life; going on without it")
			if err := t.deleteAsset(ctx, t.release, oldest); err != nil {
				return apiRelease{}, err
			}
			continue
		}
		if err := t.config.wait(ctx, t.config.beat/5); err != nil {
			return apiRelease{}, err
		}
		if t.since(t.seen) >= t.config.beat {
			switch err := t.sign(ctx); {
			case err == nil:
				signs++
			case !errors.Is(err, ErrNotFound) && !passes(err):
				return apiRelease{}, err
			}
		}
	}
}

// enoughSigns is how many signs of life a run must have got through itself
// before it takes another one for dead: a server that writes nothing for a while,
// as one with SQLite does during an upload, keeps the other's back as well.
const enoughSigns = 6

// lease is how long a ticket counts without a sign of life, at least.
func (t *turn) lease() time.Duration { return enoughSigns * t.config.beat }

func (t *turn) since(then time.Time) time.Duration { return t.config.now().Sub(then) }

func tickets(state apiRelease, mine int64) (oldest apiAsset, found bool) {
	for _, asset := range state.Assets {
		if !strings.HasPrefix(asset.Name, ticketPrefix) {
			continue
		}
		if oldest.ID == 0 || asset.ID < oldest.ID {
			oldest = asset
		}
		found = found || asset.ID == mine
	}
	return oldest, found
}

func (t *turn) name() string {
	return fmt.Sprintf("%s%s-%d-%s", ticketPrefix, t.run, t.beats, checksum.FileName)
}

func (t *turn) attach(ctx context.Context) (err error) {
	ticket := bytesUpload(checksum.FileName, []byte(ticketText))
	t.beats++
	ticket.name = t.name()
	t.ticket, err = t.upload(ctx, t.release, ticket)
	t.seen = t.config.now()
	return err
}

// sign gives a sign of life: the ticket's next name.
func (t *turn) sign(ctx context.Context) error {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.beats++
	err := t.once(ctx, call{
		operation: "keep the turn with", asset: t.name(), method: "PATCH", path: assetPath(t.release, t.ticket.ID),
		body: map[string]string{"name": t.name()},
	})
	if err == nil {
		t.seen = t.config.now()
	}
	return plain(err)
}

// live gives signs of life until the context ends.
func (t *turn) live(ctx context.Context) {
	defer close(t.stopped)
	for wait(ctx, t.config.beat) == nil { // not the config's: life goes on by itself
		if err := t.sign(ctx); errors.Is(err, ErrNotFound) {
			t.cancel(errTurnLost)
		}
	}
}

// hold makes sure of the turn before a step that others can see.
func (t *turn) hold(ctx context.Context) error {
	t.mutex.Lock()
	fresh := t.since(t.seen) < t.lease()/2
	t.mutex.Unlock()
	if fresh {
		return nil
	}
	err := t.retry(ctx, func() error { return t.sign(ctx) })
	if errors.Is(err, ErrNotFound) {
		return errTurnLost
	}
	return err
}

// end gives the turn to the next run.
func (t *turn) end(ctx context.Context) {
	t.cancel(context.Canceled)
	<-t.stopped
	t.giveBack(ctx)
}

// giveBack deletes the ticket, also after the run was cancelled. If that fails,
// others wait a little longer.
func (t *turn) giveBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	own := []apiAsset{t.ticket}
	if t.ticket.ID == 0 { // the server may have stored it, and its answer was not waited for
		release, err := t.releaseByID(ctx, t.release)
		if err != nil {
			return // more than what has ended the run need not be said
		}
		own = slices.DeleteFunc(release.Assets, func(a apiAsset) bool {
			return !strings.HasPrefix(a.Name, ticketPrefix+t.run+"-")
		})
	}
	for _, ticket := range own {
		if err := t.deleteAsset(ctx, t.release, ticket); err != nil {
			t.config.Log(fmt.Sprintf("the next run will wait for %s: %v", t.lease(), err))
		}
	}
}
