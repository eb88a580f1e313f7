package forgejo

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"code.gitea.io/sdk/gitea"

	"every.channel/runner-images/internal/redact"
	"every.channel/runner-images/internal/release"
)

// client sends the requests of one operation of the store, which share one budget
// for waiting.
type client struct {
	*server
	budget *budget
	line   *sync.RWMutex // locked by an upload that wants no others beside it
}

func (s *server) client() client {
	return client{server: s, budget: newBudget(s.config.RetryBudget), line: &sync.RWMutex{}}
}

// A request is one of the API's with JSON in and out, sent by Gitea's SDK. The
// operation and the asset are for its error.
type request struct {
	operation, asset string
	send             func(api api) error
}

// An api is Gitea's SDK for one request, and the repository that it is about.
type api struct {
	*gitea.Client
	repository
}

// do sends a request, again and again while that makes sense.
func (c client) do(ctx context.Context, r request) error {
	return c.retry(ctx, func() error { return c.once(ctx, r) })
}

// ask is do for a request whose answer matters.
func ask[T any](ctx context.Context, c client, operation string, send func(api api) (T, *gitea.Response, error)) (answer T, err error) {
	err = c.do(ctx, request{operation, "", func(api api) (err error) {
		answer, _, err = send(api)
		if err == nil && hasNull(answer) {
			err = errNull
		}
		return err
	}})
	return answer, err
}

// errNull is the error of an answer that lacks what it should consist of.
var errNull = errors.New("it has null where it should have an object")

// hasNull reports whether an answer has null where an object should be.
func hasNull(answer any) bool {
	switch answer := answer.(type) {
	case *gitea.Repository:
		return answer == nil
	case *gitea.Release:
		return answer == nil || slices.Contains(answer.Attachments, nil)
	case []*gitea.Release:
		return slices.ContainsFunc(answer, func(r *gitea.Release) bool { return hasNull(r) })
	}
	return false
}

// once sends a request once. Its whole time is limited: its answer is small.
func (c client) once(ctx context.Context, r request) error {
	ctx, stall := watch(ctx, c.config.StallTimeout)
	defer stall.stop()
	ctx, sent := withSent(ctx)
	sent.isJSON = true
	sdk, err := gitea.NewClient(c.base.String(), gitea.SetGiteaVersion(""), gitea.SetHTTPClient(&c.http), gitea.SetContext(ctx))
	if err != nil {
		return fmt.Errorf("%s: %w", r.operation, err)
	}
	err = r.send(api{sdk, *c.repository.Load()})
	return c.failure(ctx, err, sent, release.Error{Operation: r.operation, Asset: r.asset})
}

// failure completes the error of a request, or returns nil if there was none. It
// is about where the request ended, which may be where a redirect has led.
func (c client) failure(ctx context.Context, err error, sent *sent, failed release.Error) error {
	failed.URL = redact.URL(sent.last)
	var refused *refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		failed.Status, failed.Words, failed.Err = refused.status, refused.words, refused.err
		failed.Advice = c.advice(refused, sent, failed.Operation)
		if after, ok := retryAfter(refused.retryAfter, c.config.now()); ok {
			return &waitError{&failed, after}
		}
	case isNotTheAPI(err):
		failed.Err = fmt.Errorf("the answer is not the API's: %w", err)
		failed.Advice = "check the forge's address, and run again"
	default:
		failed.Err = cause(ctx, networkError(err))
		failed.Advice = networkAdvice(failed.Err)
		if sent.isElsewhere() && failed.Advice != "" {
			failed.Advice = "the forge redirects to this address: " + failed.Advice
		}
	}
	return &failed
}

// advice says what to do about an answer.
func (c client) advice(refused *refusal, sent *sent, operation string) string {
	switch {
	case refused.status == http.StatusUnauthorized && c.accepted.Load():
		return "this token was good earlier in this run: the run was cancelled or has ended, or somebody has deleted the token; run again"
	case refused.status/100 == 3 && refused.location != nil:
		return c.redirectAdvice(refused.location)
	case sent.isElsewhere():
		return elsewhereAdvice(refused.status)
	}
	return advice(refused, strings.HasPrefix(operation, publishOperation))
}

// isNotTheAPI reports whether an answer could not be understood.
func isNotTheAPI(err error) bool {
	return isAny[*json.SyntaxError](err) || isAny[*json.UnmarshalTypeError](err) || errors.Is(err, errTooLong) || errors.Is(err, errNull)
}

// waitError is an answer with a Retry-After.
type waitError struct {
	refusal *release.Error
	after   time.Duration
}

func (e *waitError) Error() string { return e.refusal.Error() }
func (e *waitError) Unwrap() error { return e.refusal }

// retryAfter reads the header of RFC 9110, section 10.2.3: seconds or a date.
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second, true
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(now)), true
	}
	return 0, false
}

// budget is the time that may be spent on waiting between attempts.
type budget struct {
	whole time.Duration
	mutex sync.Mutex
	left  time.Duration
}

func newBudget(whole time.Duration) *budget { return &budget{whole: whole, left: whole} }

func (b *budget) spend(d time.Duration) bool {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if d > b.left {
		return false
	}
	b.left -= d
	return true
}

// patience is for how long a server is tried that has never answered: its address
// is more often wrong than it is being started.
const patience = 10 * time.Second

// retry repeats attempt after failures that may pass, with waits that double
// from about a second to about half a minute, or as long as the server asks
// for, until the budget is used up.
func (c client) retry(ctx context.Context, attempt func() error) error {
	const longest = 30 * time.Second
	start := c.config.now()
	for pause := time.Second; ; pause = min(2*pause, longest) {
		err := attempt()
		if err == nil || !passes(err) {
			return plain(err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w, after: %w", context.Cause(ctx), plain(err))
		}
		delay := jitter(pause)
		var asked *waitError
		if errors.As(err, &asked) {
			delay = max(delay, asked.after)
		}
		if isAny[*unreachableError](err) && c.config.now().Add(delay).Sub(start) > patience {
			return fmt.Errorf("%w (given up: nothing has ever answered there)", err)
		}
		if !c.budget.spend(delay) {
			why := fmt.Sprintf("the waits between attempts have used up their %s", c.budget.whole)
			if asked != nil && asked.after > c.budget.whole {
				why = fmt.Sprintf("the server asks to wait for %s", asked.after)
			}
			return fmt.Errorf("%w (given up: %s)", plain(err), why)
		}
		c.config.Log(fmt.Sprintf("%v; next attempt in %s", err, delay.Round(time.Second/10)))
		if waited := c.config.wait(ctx, delay); waited != nil {
			return fmt.Errorf("%w, while waiting after: %w", waited, plain(err))
		}
	}
}

// plain takes the *waitError off, which is not for callers.
func plain(err error) error {
	var asked *waitError
	if errors.As(err, &asked) {
		return asked.refusal
	}
	return err
}

// passes reports whether the same request may succeed later.
func passes(err error) bool {
	var failed *release.Error
	if !errors.As(err, &failed) || errors.Is(err, context.Canceled) {
		return false
	}
	switch failed.Status {
	case 0:
		return !isAny[*tls.CertificateVerificationError](err) && !errors.Is(err, http.ErrSchemeMismatch) && !errors.Is(err, errRedirects) && !isNotTheAPI(err) && !errors.Is(err, errProxyWantsPassword) && !errors.Is(err, errKeepsName)
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	default:
		return failed.Status >= 500 && !isFinal.MatchString(failed.Words)
	}
}

// isFinal is what forges say with 500 where they mean that they refuse.
var isFinal = regexp.MustCompile(`protected|is archived`)

// isRefused reports whether an error is an answer with one of these statuses.
func isRefused(err error, statuses ...int) bool {
	var failed *release.Error
	return errors.As(err, &failed) && slices.Contains(statuses, failed.Status)
}

func isAny[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// errStalled is why a request is cut off that has stood still.
type errStalled struct{ after time.Duration }

func (e errStalled) Error() string { return fmt.Sprintf("no byte has moved for %s", e.after) }

// stall cancels a request when nothing has moved for some time.
type stall struct {
	timeout time.Duration
	timer   *time.Timer
	cancel  context.CancelCauseFunc
}

func watch(ctx context.Context, timeout time.Duration) (context.Context, *stall) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(timeout, func() { cancel(errStalled{timeout}) })
	return ctx, &stall{timeout: timeout, timer: timer, cancel: cancel}
}

func (s *stall) moved()                { s.timer.Reset(s.timeout) }
func (s *stall) allow(d time.Duration) { s.timer.Reset(d) }
func (s *stall) pause()                { s.timer.Stop() }
func (s *stall) stop()                 { s.timer.Stop(); s.cancel(context.Canceled) }

// cause returns why a context has ended, if that is why err came: a stall, for
// example, in place of "context canceled".
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
