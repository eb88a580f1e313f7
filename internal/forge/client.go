package forge

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"every.channel/runner-images/internal/redact"
)

// server is the store of a Forgejo or Gitea server.
type server struct {
	base       *url.URL // of the forge's start page
	owner      string
	repository string
	config     Config
	transport  http.RoundTripper
	multipart  atomic.Bool // this server takes uploads as forms only
}

var _ Store = (*server)(nil)

// client speaks the API for one operation of the store, of which all requests
// share one budget for waiting.
type client struct {
	*server
	budget *budget
	line   *sync.RWMutex // locked by an upload that wants no others beside it
}

func (s *server) client() client {
	return client{server: s, budget: newBudget(s.config.RetryBudget), line: &sync.RWMutex{}}
}

// apiRelease and apiAsset are the parts of the API's answers in use here,
// https://codeberg.org/api/swagger#/repository/repoGetRelease.
type apiRelease struct {
	ID         int64      `json:"id"`
	Tag        string     `json:"tag_name"`
	Title      string     `json:"name"`
	Notes      string     `json:"body"`
	Draft      bool       `json:"draft"`
	Prerelease bool       `json:"prerelease"`
	Created    time.Time  `json:"created_at"`
	Page       string     `json:"html_url"`
	Assets     []apiAsset `json:"assets"`
}

type apiAsset struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
	Size int64  `json:"size"`
	UUID string `json:"uuid"`
	URL  string `json:"browser_download_url"`
}

// apiRepository is what the API says of a repository.
type apiRepository struct {
	Empty    bool `json:"empty"`
	Archived bool `json:"archived"`
}

// call is a request to the API with JSON in and out.
type call struct {
	operation string // for its error
	asset     string // for its error
	method    string
	path      string // below the repository's
	query     url.Values
	body      any // as JSON, if not nil
	result    any // of the JSON answer, if not nil
}

// do sends a request, again and again while that makes sense.
func (c client) do(ctx context.Context, r call) error {
	return c.retry(ctx, func() error { return c.once(ctx, r) })
}

func (c client) once(ctx context.Context, r call) error {
	address := c.apiURL(r.path)
	address.RawQuery = r.query.Encode()
	failed := &Error{Operation: r.operation, Asset: r.asset, URL: redact.URL(address)}

	var body io.Reader
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return fmt.Errorf("%s: %w", r.operation, err)
		}
		body = bytes.NewReader(text)
	}
	ctx, stall := watch(ctx, c.config.StallTimeout)
	defer stall.stop()
	request, err := http.NewRequestWithContext(ctx, r.method, address.String(), body)
	if err != nil {
		return fmt.Errorf("%s: %w", r.operation, err)
	}
	request.Header.Set("Accept", "application/json")
	if r.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return c.exchange(request, failed, r.result)
}

func (s *server) apiURL(path string) *url.URL {
	return s.base.JoinPath("api", "v1", "repos", url.PathEscape(s.owner), url.PathEscape(s.repository), path)
}

// exchange sends one request and decodes its answer.
func (c client) exchange(request *http.Request, failed *Error, result any) error {
	response, err := c.send(request)
	if err != nil {
		failed.Err = cause(request.Context(), networkError(err))
		failed.Advice = networkAdvice(failed.Err)
		return failed
	}
	defer finish(response.Body)
	if response.StatusCode/100 != 2 {
		return c.refusal(response, failed)
	}
	if result == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(result); err != nil {
		failed.Err = fmt.Errorf("the answer is not the API's: %w", cause(request.Context(), err))
		failed.Advice = "check the forge's address, and run again"
		return failed
	}
	return nil
}

// finish reads the little that is left of an answer, so that the next request can
// have its connection.
func finish(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	_ = body.Close()
}

// send follows the redirects of requests that only read. Others are not
// repeated elsewhere: net/http would turn a POST into a GET.
func (c client) send(request *http.Request) (*http.Response, error) {
	sender := http.Client{Transport: c.transport, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errRedirects
		}
		return nil
	}}
	if request.Method != http.MethodGet {
		sender.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return sender.Do(request)
}

var errRedirects = errors.New("it redirects again and again")

// refusal completes the error about an answer that is not a success.
func (c client) refusal(response *http.Response, failed *Error) error {
	body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10)) // what arrives of it will do
	contentType := response.Header.Get("Content-Type")
	failed.Status = response.StatusCode
	failed.Words = serverWords(contentType, body, c.config.Token)
	failed.Advice = advice(failed.Status, failed.Words, json.Valid(body), strings.HasPrefix(failed.Operation, publishOperation))
	if to, err := response.Location(); err == nil && response.StatusCode/100 == 3 {
		failed.Err = fmt.Errorf("it redirects to %s", redact.URL(to))
	}
	if after, ok := retryAfter(response.Header.Get("Retry-After"), c.config.now()); ok {
		return &waitError{refusal: failed, after: after}
	}
	return failed
}

// waitError is an answer with a Retry-After.
type waitError struct {
	refusal *Error
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

// retry repeats attempt after failures that may pass, with waits that double
// from about a second to about half a minute, or as long as the server asks
// for, until the budget is used up.
func (c client) retry(ctx context.Context, attempt func() error) error {
	const longest = 30 * time.Second
	for pause := time.Second; ; pause = min(2*pause, longest) {
		err := attempt()
		if err == nil || !passes(err) || ctx.Err() != nil {
			return plain(err)
		}
		delay := jitter(pause)
		var asked *waitError
		if errors.As(err, &asked) {
			delay = max(delay, asked.after)
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

// passes tells whether the same request may succeed later.
func passes(err error) bool {
	var failed *Error
	if !errors.As(err, &failed) || errors.Is(err, context.Canceled) {
		return false
	}
	switch failed.Status {
	case 0:
		return !isAny[*tls.CertificateVerificationError](err) && !errors.Is(err, http.ErrSchemeMismatch) && !errors.Is(err, errRedirects) &&
			!isAny[*json.SyntaxError](err) && !isAny[*json.UnmarshalTypeError](err)
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	default:
		return failed.Status >= 500 && !strings.Contains(failed.Words, "protected")
	}
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

func (c client) getRepository(ctx context.Context) (repository apiRepository, err error) {
	err = c.do(ctx, call{operation: "look at the repository", method: http.MethodGet, result: &repository})
	return repository, err
}

// releaseByTag finds drafts, too, where the token may see them.
func (c client) releaseByTag(ctx context.Context, tag string) (release apiRelease, err error) {
	find := call{
		operation: "find the release " + tag, method: http.MethodGet,
		path: "releases/tags/" + url.PathEscape(tag), result: &release,
	}
	if err := c.do(ctx, find); err != nil {
		return apiRelease{}, err
	}
	if release.Tag != tag { // forges compare tags without regard to case
		return apiRelease{}, &Error{
			Operation: find.operation, URL: redact.URL(c.apiURL(find.path)), Status: http.StatusNotFound,
			Advice: fmt.Sprintf("there is %s, which to this forge is the same tag: use one spelling", release.Tag),
		}
	}
	return release, nil
}

func (c client) releaseByID(ctx context.Context, id int64) (release apiRelease, err error) {
	err = c.do(ctx, call{
		operation: "look at the release", method: http.MethodGet, path: releasePath(id), result: &release,
	})
	return release, err
}

// listReleases returns a page, from 1 on, of the releases that are neither
// drafts nor prereleases.
func (c client) listReleases(ctx context.Context, page int) (releases []apiRelease, err error) {
	err = c.do(ctx, call{
		operation: "list the releases", method: http.MethodGet, path: "releases", result: &releases,
		query: url.Values{"draft": {"false"}, "pre-release": {"false"}, "limit": {"50"}, "page": {strconv.Itoa(page)}},
	})
	return releases, err
}

func (c client) createDraft(ctx context.Context, tag, title, target string, prerelease bool) (release apiRelease, err error) {
	err = c.do(ctx, call{
		operation: "create the release " + tag, method: http.MethodPost, path: "releases", result: &release,
		body: map[string]any{
			"tag_name": tag, "name": title, "target_commitish": target, "draft": true, "prerelease": prerelease,
		},
	})
	return release, err
}

// A releaseEdit is what changes in a release; what is left out stays.
type releaseEdit struct {
	Draft      *bool  `json:"draft,omitempty"`
	Prerelease *bool  `json:"prerelease,omitempty"`
	Notes      string `json:"body,omitempty"`
	Target     string `json:"target_commitish,omitempty"`
}

func (c client) editRelease(ctx context.Context, operation string, id int64, edit releaseEdit) error {
	return c.do(ctx, call{operation: operation, method: http.MethodPatch, path: releasePath(id), body: edit})
}

func (c client) renameAsset(ctx context.Context, release int64, asset apiAsset, name string) error {
	return c.do(ctx, call{
		operation: "rename the upload of", asset: name, method: http.MethodPatch, path: assetPath(release, asset.ID),
		body: map[string]string{"name": name},
	})
}

// deleteAsset makes sure that an asset is gone.
func (c client) deleteAsset(ctx context.Context, release int64, asset apiAsset) error {
	err := c.do(ctx, call{
		operation: "delete", asset: asset.Name, method: http.MethodDelete, path: assetPath(release, asset.ID),
	})
	if errors.Is(err, ErrNotFound) {
		return nil // an attempt whose answer was lost, or another hand
	}
	return err
}

// exists tells whether a tag, branch or commit is there. A forge that cannot
// say is no reason to stop.
func (c client) exists(ctx context.Context, kind, name string) bool {
	err := c.do(ctx, call{operation: "look for", asset: name, method: http.MethodGet, path: kind + url.PathEscape(name)})
	return !errors.Is(err, ErrNotFound)
}

func releasePath(id int64) string { return fmt.Sprintf("releases/%d", id) }

func assetPath(release, asset int64) string {
	return fmt.Sprintf("releases/%d/assets/%d", release, asset)
}
