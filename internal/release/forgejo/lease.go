package forgejo

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"code.gitea.io/sdk/gitea"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/release"
)

// A ticket's name is publishing-RANDOM.RUN-RENEWALS-SHA256SUMS.txt, where RUN is the
// number of the run of Actions, if there is one. Its end is that of a file which a
// forge must take anyway.
const ticketText = "A run of runner-images is publishing this release. This file goes when it ends.\n"

func isTicket(a *gitea.Attachment) bool { return strings.HasPrefix(a.Name, release.LeasePrefix) }

// errLeaseLost ends a run whose lease another one has taken for expired.
var errLeaseLost = errors.New("another run has taken over this release, because this one did not renew its lease; run again")

// expiryRenewals is how often a run must have renewed its own ticket before it
// takes another one's for expired: a server that writes nothing for a while, as
// one with SQLite does during an upload, keeps the other's back as well.
const expiryRenewals = 6

// endedRenewals is in place of expiryRenewals where the forge says that the other run
// has ended: its process has gone, is about to be killed or has no token any more.
const endedRenewals = 2

// lease is the right to change a release: a ticket that is the oldest.
type lease struct {
	*transaction
	run      string // a random name, and the number of the run of Actions
	mutex    sync.Mutex
	ticket   int64 // its ID, 0 if it is not known
	renewals int
	renewed  time.Time // when the ticket was last known to be there
	cancel   context.CancelCauseFunc
	stopped  chan struct{} // closed when the renewals have ended
}

var _ release.Lease = (*lease)(nil)

// Lease waits until no other run is publishing this release.
func (t *transaction) Lease(ctx context.Context) (context.Context, release.Lease, error) {
	random := make([]byte, 4)
	_, _ = rand.Read(random) // never fails since Go 1.24
	l := &lease{transaction: t, run: hex.EncodeToString(random), stopped: make(chan struct{})}
	if t.config.Run > 0 {
		l.run += fmt.Sprintf(".%d", t.config.Run)
	}
	if err := l.queue(ctx); err != nil {
		l.giveBack(ctx)
		if errors.Is(err, release.ErrNotFound) {
			t.id = 0 // the release has gone; there may be another one for the tag
		}
		return nil, nil, err
	}
	ctx, l.cancel = context.WithCancelCause(ctx)
	go l.renewUntil(ctx)
	return ctx, l, nil
}

// queue attaches a ticket and returns when it is the oldest.
func (l *lease) queue(ctx context.Context) error {
	if err := l.attach(ctx); err != nil {
		return err
	}
	waitedFor := int64(0) // the ticket of another run
	others := watched{}
	renewals := 0 // of this run's own
	for {
		tickets, err := l.tickets(ctx)
		if err != nil {
			return err
		}
		others.look(tickets, renewals)
		mine := slices.ContainsFunc(tickets, func(t *gitea.Attachment) bool { return t.ID == l.ticket })
		if !mine { // taken for expired while this machine slept
			if err := l.attach(ctx); err != nil {
				return err
			}
			continue
		}
		oldest := tickets[0]
		if oldest.ID == l.ticket {
			return nil
		}
		if oldest.ID != waitedFor {
			l.config.Log("another run is publishing this release; waiting for it to end")
			waitedFor = oldest.ID
		}
		unchanged := renewals - others[oldest.ID].since
		if unchanged >= expiryRenewals || unchanged >= endedRenewals && l.hasEnded(ctx, oldest) {
			l.config.Log("the lease of the other run has expired; going on without it")
			if err := l.Remove(ctx, asAsset(oldest)); err != nil {
				return err
			}
			continue
		}
		if err := l.config.wait(ctx, l.config.renewal/5); err != nil {
			return err
		}
		if l.since(l.renewed) >= l.config.renewal {
			switch err := l.renew(ctx); {
			case err == nil:
				renewals++
			case !errors.Is(err, release.ErrNotFound) && !passes(err):
				return err
			}
		}
	}
}

// watched is the tickets of a release by their IDs: the name of each, and how often this
// run had renewed its own when it had that name first. All are watched at once, so that
// those of several dead runs expire together.
type watched map[int64]struct {
	name  string
	since int
}

func (w watched) look(tickets []*gitea.Attachment, renewals int) {
	for _, ticket := range tickets {
		if known, ok := w[ticket.ID]; !ok || known.name != ticket.Name {
			known.name, known.since = ticket.Name, renewals
			w[ticket.ID] = known
		}
	}
}

// hasEnded reports whether the forge says that the run of a ticket has ended. Where
// nothing is known, it is not.
func (l *lease) hasEnded(ctx context.Context, ticket *gitea.Attachment) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(ticket.Name, release.LeasePrefix), "-")
	_, number, _ := strings.Cut(name, ".")
	run, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return false
	}
	var tasks *gitea.ActionTaskResponse
	err = l.once(ctx, request{"look at the runs", "", func(api api) (err error) {
		tasks, _, err = api.ListRepoActionTasks(api.owner, api.name, gitea.ListOptions{Page: 1, PageSize: 50}) // the newest
		return err
	}})
	if err != nil {
		return false
	}
	ended := false
	for _, task := range tasks.WorkflowRuns {
		if task.RunNumber != run {
			continue
		}
		if !slices.Contains([]string{"success", "failure", "cancelled", "skipped"}, task.Status) {
			return false
		}
		ended = true
	}
	return ended
}

// tickets returns those of the release, the oldest first.
func (l *lease) tickets(ctx context.Context) ([]*gitea.Attachment, error) {
	found, err := l.releaseByID(ctx)
	if err != nil {
		return nil, err
	}
	tickets := slices.DeleteFunc(found.Attachments, func(a *gitea.Attachment) bool { return !isTicket(a) })
	slices.SortFunc(tickets, func(a, b *gitea.Attachment) int { return cmp.Compare(a.ID, b.ID) })
	return tickets, nil
}

// expiry is how long a ticket counts that is not renewed, at least.
func (l *lease) expiry() time.Duration { return expiryRenewals * l.config.renewal }

func (l *lease) since(then time.Time) time.Duration { return l.config.now().Sub(then) }

func (l *lease) name() string {
	return fmt.Sprintf("%s%s-%d-%s", release.LeasePrefix, l.run, l.renewals, checksum.FileName)
}

func (l *lease) attach(ctx context.Context) error {
	sum := sha256.Sum256([]byte(ticketText))
	l.renewals++
	l.ticket = 0
	ticket, err := l.Upload(ctx, release.Upload{
		Name: l.name(), Asset: checksum.FileName, Size: int64(len(ticketText)),
		SHA256:   func() (string, error) { return hex.EncodeToString(sum[:]), nil },
		Open:     func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(ticketText)), nil },
		Progress: func(int64) {},
	})
	l.ticket, _ = idOf(ticket)
	l.renewed = l.config.now()
	return err
}

// renew gives the ticket its next name.
func (l *lease) renew(ctx context.Context) error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.renewals++
	err := l.once(ctx, request{"renew the lease with", l.name(), l.rename(l.ticket, l.name())})
	if err == nil {
		l.renewed = l.config.now()
	}
	return plain(err)
}

// renewUntil renews the lease until the context ends.
func (l *lease) renewUntil(ctx context.Context) {
	defer close(l.stopped)
	for wait(ctx, l.config.renewal) == nil { // not the config's: the lease is renewed by itself
		switch err := l.renew(ctx); {
		case errors.Is(err, release.ErrNotFound):
			l.cancel(errLeaseLost)
		case isRefused(err, http.StatusUnauthorized): // the end of the run: no need to go on with an upload
			l.cancel(err)
		}
	}
}

// Hold renews the lease if it might have expired before the next step.
func (l *lease) Hold(ctx context.Context) error {
	l.mutex.Lock()
	fresh := l.since(l.renewed) < l.expiry()/2
	l.mutex.Unlock()
	if fresh {
		return nil
	}
	err := l.retry(ctx, func() error { return l.renew(ctx) })
	if errors.Is(err, release.ErrNotFound) {
		return errLeaseLost
	}
	return err
}

// Discard deletes the draft, unless there is the ticket of another run.
func (l *lease) Discard(ctx context.Context) error {
	found, err := l.releaseByID(ctx)
	if err != nil {
		return err
	}
	for _, attachment := range found.Attachments {
		if isTicket(attachment) && attachment.ID != l.ticket {
			return nil // that one goes on from what is there
		}
	}
	err = l.do(ctx, request{"delete the draft of the release " + l.tag, "", func(api api) error {
		_, err := api.DeleteRelease(api.owner, api.name, l.id)
		return err
	}})
	if errors.Is(err, release.ErrNotFound) {
		return nil // an attempt whose answer was lost, or another hand
	}
	return err
}

// End gives the lease to the next run.
func (l *lease) End(ctx context.Context) {
	l.cancel(context.Canceled)
	<-l.stopped
	l.giveBack(ctx)
}

// giveBack deletes the ticket, also after the run was cancelled. If that fails,
// others wait a little longer.
func (l *lease) giveBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	own := []release.Asset{asAsset(&gitea.Attachment{ID: l.ticket, Name: l.name()})}
	if l.ticket == 0 { // the server may have stored it, and its answer was not waited for
		found, err := l.releaseByID(ctx)
		if err != nil {
			return // what has ended the run is enough to report
		}
		own = nil
		for _, attachment := range found.Attachments {
			if strings.HasPrefix(attachment.Name, release.LeasePrefix+l.run+"-") {
				own = append(own, asAsset(attachment))
			}
		}
	}
	for _, ticket := range own {
		if err := l.Remove(ctx, ticket); err != nil {
			l.config.Log(fmt.Sprintf("the next run will wait for up to %s: %v", l.expiry(), err))
		}
	}
}
