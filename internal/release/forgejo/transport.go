package forgejo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

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
	accepted  *atomic.Bool // is set when the forge takes the token
}

func (a *authorised) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Set("User-Agent", a.userAgent)
	request.Header.Del("Authorization")
	request.Header.Del("Referer")
	withToken := a.token != "" && isSameServer(request.URL, a.base)
	if withToken {
		request.Header.Set("Authorization", "token "+a.token)
	}
	response, err := a.next.RoundTrip(request)
	if withToken && err == nil && response.StatusCode/100 == 2 {
		a.accepted.Store(true)
	}
	return response, err
}

// isSameServer reports whether two addresses lead to the same server by the same
// protocol.
func isSameServer(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(address *url.URL) string {
	if address.Port() != "" {
		return address.Port()
	}
	return map[string]string{"http": "80", "https": "443"}[address.Scheme]
}

// reaching tells errors of connections to servers that have never answered from
// those of connections to others.
type reaching struct {
	next     http.RoundTripper
	answered sync.Map // by host
}

// unreachableError is a connection that was not made, to a server that has never
// answered.
type unreachableError struct{ error }

func (e *unreachableError) Unwrap() error { return e.error }

func (r *reaching) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := r.next.RoundTrip(request)
	if err == nil {
		r.answered.Store(request.URL.Host, true)
		return response, nil
	}
	if _, answered := r.answered.Load(request.URL.Host); !answered && isNotConnected(err) {
		return nil, &unreachableError{err}
	}
	return nil, err
}

// isNotConnected reports whether an error is of making a connection.
func isNotConnected(err error) bool {
	var failed *net.OpError
	return errors.As(err, &failed) && (failed.Op == "dial" || failed.Op == "proxyconnect") ||
		isAny[*net.DNSError](err) || isAny[*proxyError](err)
}

// proxyError is a proxy's answer that it cannot connect to the forge.
type proxyError struct{ status string }

func (e *proxyError) Error() string {
	return fmt.Sprintf("the proxy of the environment cannot connect: it answers %s", e.status)
}

var errProxyWantsPassword = errors.New("the proxy of the environment wants a user and a password")

func checkProxy(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	switch answer.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusProxyAuthRequired:
		return errProxyWantsPassword
	}
	return &proxyError{answer.Status}
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
	reads      bool   // the request would have changed nothing
	fromForge  bool   // in the API's form; else something before the forge has answered
	retryAfter string // the header's value
	err        error  // where it redirects to, if it does
	location   *url.URL
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
		response.Body = &limited{ReadCloser: response.Body, left: longestAnswer}
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
// that write are not repeated elsewhere: net/http would turn a POST into a GET. What is
// no address of the web is an error that another attempt would have again.
func isFollowed(request *http.Request, response *http.Response) bool {
	to, err := response.Location()
	return request.Method == http.MethodGet && err == nil && isWeb(to) && slices.Contains([]int{
		http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect,
	}, response.StatusCode)
}

func isWeb(address *url.URL) bool {
	return (address.Scheme == "http" || address.Scheme == "https") && address.Host != ""
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
		reads:      response.Request.Method == http.MethodGet,
		fromForge:  json.Valid(body),
		retryAfter: response.Header.Get("Retry-After"),
	}
	if to, err := response.Location(); err == nil && response.StatusCode/100 == 3 {
		refused.err = fmt.Errorf("it redirects to %s", redact.URL(to))
		if isWeb(to) {
			refused.location = to
		}
	}
	return refused
}

// finish reads the little that is left of an answer, so that the next request can
// have its connection.
func finish(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	_ = body.Close()
}

// mostValues is how many values an answer with JSON may have. Each takes much more memory
// than its two bytes in the answer. Ten thousand assets have a tenth of it.
const mostValues = 1 << 20

// limited is a body with JSON that fails when it is longer, or has more values, than it
// may.
type limited struct {
	io.ReadCloser
	left     int64
	values   int
	inString bool
	escaped  bool
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	l.count(p[:n])
	if l.left -= int64(n); l.left < 0 || l.values > mostValues {
		return 0, errTooLong
	}
	return n, err
}

// count counts what begins a value or follows one, outside of strings.
func (l *limited) count(json []byte) {
	for _, b := range json {
		switch {
		case l.escaped:
			l.escaped = false
		case b == '"':
			l.inString = !l.inString
		case l.inString:
			l.escaped = b == '\\'
		case b == ',' || b == '[' || b == '{':
			l.values++
		}
	}
}

// sent is the addresses of a request: the first, and the last that redirects have
// led to.
type sent struct {
	first, last *url.URL
	isJSON      bool // the answer is to be small, and JSON
}

// isElsewhere reports whether redirects have led to another server.
func (s *sent) isElsewhere() bool { return s.first.Host != s.last.Host }

type sentKey struct{}

// withSent returns a context whose request's addresses are noted in sent.
func withSent(ctx context.Context) (context.Context, *sent) {
	noted := &sent{first: &url.URL{}, last: &url.URL{}}
	return context.WithValue(ctx, sentKey{}, noted), noted
}

// noteSent reports whether the answer is to be JSON.
func noteSent(request *http.Request) (isJSON bool) {
	noted, ok := request.Context().Value(sentKey{}).(*sent)
	if !ok {
		return false
	}
	if request.Response == nil {
		noted.first = request.URL
	}
	noted.last = request.URL
	return noted.isJSON
}
