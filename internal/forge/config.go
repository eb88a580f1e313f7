package forge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A Config says where releases are and how to reach them.
type Config struct {
	URL        string // https://HOST[/PATH], or file:///FOLDER
	Repository string // owner/name; not for a folder
	Token      string // may be empty for reading what is public
	CAFile     string // certificates in PEM to trust besides the system's
	UserAgent  string // "runner-images" by default

	Replace       Replace       // ReplaceAlways by default
	VerifyUploads VerifyUploads // VerifySize by default
	Parallel      int           // uploads at once, 4 by default

	// StallTimeout is how long a transfer may stand still; 60 s by default.
	// There is no limit to a transfer's whole time.
	StallTimeout time.Duration

	// RetryBudget is the time that one publication may spend on waiting between
	// attempts, for all its requests together; 5 minutes by default.
	RetryBudget time.Duration

	// Log, if set, is told in a sentence what is tried again or waited for.
	Log func(message string)

	now  func() time.Time
	wait func(ctx context.Context, d time.Duration) error
	beat time.Duration // between signs of life of a ticket
}

// Replace says what happens to an asset that is there with other bytes.
type Replace string

const (
	ReplaceAlways Replace = "always"
	ReplaceNever  Replace = "never" // it is an error, and nothing is changed
)

// VerifyUploads says how an upload is checked.
type VerifyUploads string

const (
	VerifySize   VerifyUploads = "size"   // by the size that the server reports
	VerifySHA256 VerifyUploads = "sha256" // by reading the asset back
)

// Open returns the store that config describes, without any request to it.
func Open(config Config) (Store, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	address, err := url.Parse(config.URL)
	if err != nil {
		return nil, fmt.Errorf("forge address: %w", err.(*url.Error).Err) // without the address: it may hold a password
	}
	switch {
	case address.User != nil:
		return nil, fmt.Errorf("forge address %s: leave the user and password out; give a token", address.Redacted())
	case address.Scheme == "file" && address.Host == "" && filepath.IsAbs(address.Path):
		return &folder{root: filepath.Clean(address.Path), config: config}, nil
	case (address.Scheme == "https" || address.Scheme == "http") && address.Host != "":
	default:
		return nil, fmt.Errorf("forge address %q: use https://HOST, http://HOST or file:///FOLDER", config.URL)
	}

	owner, name, ok := strings.Cut(config.Repository, "/")
	if !ok || owner == "" || name == "" || strings.Contains(name, "/") {
		return nil, fmt.Errorf("repository %q: use owner/name", config.Repository)
	}
	transport, err := newTransport(config)
	if err != nil {
		return nil, err
	}
	base := &url.URL{Scheme: address.Scheme, Host: address.Host, Path: strings.TrimRight(address.Path, "/")}
	return &server{base: base, owner: owner, repository: name, config: config, transport: &authorised{
		transport: transport, base: base, token: config.Token, userAgent: config.UserAgent,
	}}, nil
}

func (c Config) withDefaults() (Config, error) {
	setDefault(&c.UserAgent, "runner-images")
	setDefault(&c.Replace, ReplaceAlways)
	setDefault(&c.VerifyUploads, VerifySize)
	setDefault(&c.Parallel, 4)
	setDefault(&c.StallTimeout, time.Minute)
	setDefault(&c.RetryBudget, 5*time.Minute)
	setDefault(&c.beat, 5*time.Second)
	if c.Log == nil {
		c.Log = func(string) {}
	}
	if c.wait == nil {
		c.now, c.wait = time.Now, wait
	}
	switch {
	case c.Replace != ReplaceAlways && c.Replace != ReplaceNever:
		return c, fmt.Errorf("replace %q: use %s or %s", c.Replace, ReplaceAlways, ReplaceNever)
	case c.VerifyUploads != VerifySize && c.VerifyUploads != VerifySHA256:
		return c, fmt.Errorf("verify_uploads %q: use %s or %s", c.VerifyUploads, VerifySize, VerifySHA256)
	case strings.ContainsFunc(c.Token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return c, errors.New("token: it has a space, a line break or another character that no token has; give the token alone")
	case c.Parallel < 0 || c.StallTimeout < 0 || c.RetryBudget < 0:
		return c, fmt.Errorf("parallel uploads, stall timeout and retry budget must not be negative")
	}
	return c, nil
}

func setDefault[T comparable](value *T, standard T) {
	var zero T
	if *value == zero {
		*value = standard
	}
}

// wait sleeps, unless the context ends first.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// newTransport trusts config.CAFile besides the system's certificates. (These
// net/http reads by itself, when it first needs them.)
func newTransport(config Config) (*http.Transport, error) {
	trust := &tls.Config{}
	if config.CAFile != "" {
		pem, err := os.ReadFile(config.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		if trust.RootCAs, err = x509.SystemCertPool(); err != nil {
			return nil, fmt.Errorf("the system's certificates: %w", err)
		}
		if !trust.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %s: no certificate in PEM form in it", config.CAFile)
		}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() // with the proxies of the environment
	transport.TLSClientConfig = trust
	// One request a connection at a time: an upload over HTTP/2 is slower, and
	// its flow control hides whether bytes are accepted.
	transport.ForceAttemptHTTP2 = false
	transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	transport.MaxIdleConnsPerHost = config.Parallel + 2
	// How long an upload waits for leave to send its body, see upload.
	transport.ExpectContinueTimeout = 5 * time.Second
	transport.WriteBufferSize = 256 << 10
	transport.ReadBufferSize = 64 << 10
	return transport, nil
}

// authorised adds the token to requests for the forge itself and to no others:
// a redirect to another host, as to an object storage, goes without it.
// (net/http's own rule would also send it to subdomains.)
type authorised struct {
	transport *http.Transport
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
	return a.transport.RoundTrip(request)
}

// jitter returns a duration between half of d and one and a half of it, so that
// runs that failed together do not come back together.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d+1)
}
