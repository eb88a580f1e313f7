package forgejo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"every.channel/runner-images/internal/redact"
)

// authorised adds the token to requests for the forge itself and to no others:
// a redirect to another host, as to an object storage, goes without it.
// (net/http's own rule would also send it to subdomains.)
type authorised struct {
	next      http.RoundTripper
	base      *url.URL
	token     string
	userAgent string
}

func (a *authorised) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Set("User-Agent", a.userAgent)
	request.Header.Del("Authorization")
	request.Header.Del("Referer")
	if a.token != "" && request.URL.Scheme == a.base.Scheme && request.URL.Host == a.base.Host {
		request.Header.Set("Authorization", "token "+a.token)
	}
	return a.next.RoundTrip(request)
}

// refusing makes errors of answers that are no success, with the server's own
// words, and limits the size of the API's answers.
type refusing struct {
	next  http.RoundTripper
	token string // must not be in an error
}

// A refusal is the error of an answer that is no success.
type refusal struct {
	status     int
	words      string // the server's own
	fromForge  bool   // in the API's form; else something before the forge has answered
	retryAfter string // the header's value
	err        error  // where it redirects to, if it does
}

func (r *refusal) Error() string { return fmt.Sprintf("the server answers %d", r.status) }

// longestAnswer is how many bytes an answer with JSON may have. A release with
// thousands of assets has less.
const longestAnswer = 64 << 20

// errTooLong is the error of an answer of the API's that does not end.
var errTooLong = errors.New("it is too long")

var errRedirects = errors.New("it redirects again and again")

func (t *refusing) RoundTrip(request *http.Request) (*http.Response, error) {
	isJSON := noteSent(request)
	response, err := t.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	switch {
	case response.StatusCode/100 == 2 && isJSON:
		response.Body = &limited{response.Body, longestAnswer}
		return response, nil
	case response.StatusCode/100 == 2:
		return response, nil
	case isFollowed(request, response):
		return response, nil
	case response.StatusCode == http.StatusRequestedRangeNotSatisfiable && request.Header.Get("Range") != "":
		return response, nil
	}
	defer finish(response.Body)
	return nil, t.refuse(response)
}

// isFollowed reports whether net/http goes where an answer redirects to. Requests
// that write are not repeated elsewhere: net/http would turn a POST into a GET.
func isFollowed(request *http.Request, response *http.Response) bool {
	return request.Method == http.MethodGet && response.Header.Get("Location") != "" && slices.Contains([]int{
		http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect,
	}, response.StatusCode)
}

func checkRedirect(_ *http.Request, via []*http.Request) error {
	const most = 10
	if len(via) >= most {
		return errRedirects
	}
	return nil
}

func (t *refusing) refuse(response *http.Response) *refusal {
	body, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10)) // what arrives of it will do
	refused := &refusal{
		status:     response.StatusCode,
		words:      serverWords(response.Header.Get("Content-Type"), body, t.token),
		fromForge:  json.Valid(body),
		retryAfter: response.Header.Get("Retry-After"),
	}
	if to, err := response.Location(); err == nil && response.StatusCode/100 == 3 {
		refused.err = fmt.Errorf("it redirects to %s", redact.URL(to))
	}
	return refused
}

// finish reads the little that is left of an answer, so that the next request can
// have its connection.
func finish(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	_ = body.Close()
}

// limited is a body that fails when it is longer than it may be.
type limited struct {
	io.ReadCloser
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// sent is the address of a request, as an error may show it: what a redirect
// leads to can be secret.
type sent struct{ url string }

type sentKey struct{}

// withSent returns a context whose request is noted in sent.
func withSent(ctx context.Context) (context.Context, *sent) {
	noted := &sent{}
	return context.WithValue(ctx, sentKey{}, noted), noted
}

// noteSent reports whether a request has such a context.
func noteSent(request *http.Request) bool {
	noted, ok := request.Context().Value(sentKey{}).(*sent)
	if ok && request.Response == nil {
		noted.url = redact.URL(request.URL)
	}
	return ok
}
