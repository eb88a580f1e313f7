package forgejo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"every.channel/runner-images/internal/redact"
	"every.channel/runner-images/internal/release"
)

// A Config is where releases are and how to reach them.
type Config struct {
	URL        string // https://HOST[/PATH]
	Repository string // owner/name
	Token      string // may be empty for reading what is public
	CAFile     string // certificates in PEM to trust besides the system's
	UserAgent  string // "runner-images" by default

	// Run is the number in this repository of the run of Actions that this is a part
	// of, if it is: other runs can tell by it whether it has ended.
	Run int64

	VerifyUploads release.VerifyUploads // release.VerifySize by default
	Parallel      int                   // uploads at once, 4 by default

	// StallTimeout is how long a transfer may stand still; 60 s by default.
	// There is no limit to a transfer's whole time.
	StallTimeout time.Duration

	// RetryBudget is the time that one publication may spend on waiting between
	// attempts, for all its requests together; 5 minutes by default.
	RetryBudget time.Duration

	// Log, if set, is given a sentence about what is tried again or waited for.
	Log func(message string)

	now     func() time.Time
	wait    func(ctx context.Context, d time.Duration) error
	renewal time.Duration // between renewals of a lease
}

// Open returns the store of releases that config describes, without any request
// to it.
func Open(config Config) (*release.Store, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	base, err := parseBase(config.URL)
	if err != nil {
		return nil, err
	}
	owner, name, ok := strings.Cut(config.Repository, "/")
	if !ok || owner == "" || name == "" || strings.Contains(name, "/") {
		return nil, fmt.Errorf("repository %q: use owner/name", config.Repository)
	}
	transport, err := newTransport(config)
	if err != nil {
		return nil, err
	}
	backend := &server{base: base, config: config}
	backend.repository.Store(&repository{owner, name})
	backend.http = http.Client{
		Transport: &refusing{
			&authorised{&reaching{next: transport}, base, config.Token, config.UserAgent, &backend.accepted}, config.Token,
		},
		CheckRedirect: checkRedirect,
	}
	return &release.Store{Backend: backend, VerifyUploads: config.VerifyUploads, Parallel: config.Parallel, Log: config.Log}, nil
}

// parseBase returns the address of the forge's start page.
func parseBase(text string) (*url.URL, error) {
	address, err := url.Parse(text)
	var invalid *url.Error
	if errors.As(err, &invalid) {
		return nil, fmt.Errorf("forge address: %w", invalid.Err) // without the address: it may hold a password
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("forge address: %w", err)
	case address.User != nil:
		return nil, fmt.Errorf("forge address %s: leave the user and password out; give a token", redact.URL(address))
	case address.Scheme != "https" && address.Scheme != "http" || address.Host == "":
		return nil, fmt.Errorf("forge address %q: use https://HOST, http://HOST or file:///FOLDER", text)
	}
	return &url.URL{Scheme: address.Scheme, Host: strings.ToLower(address.Host), Path: strings.TrimRight(address.Path, "/")}, nil
}

func (c Config) withDefaults() (Config, error) {
	setDefault(&c.UserAgent, "runner-images")
	setDefault(&c.VerifyUploads, release.VerifySize)
	setDefault(&c.Parallel, 4)
	setDefault(&c.StallTimeout, time.Minute)
	setDefault(&c.RetryBudget, 5*time.Minute)
	setDefault(&c.renewal, 5*time.Second)
	if c.Log == nil {
		c.Log = func(string) {}
	}
	if c.wait == nil {
		c.now, c.wait = time.Now, wait
	}
	switch {
	case c.VerifyUploads != release.VerifySize && c.VerifyUploads != release.VerifySHA256:
		return c, fmt.Errorf("verify_uploads %q: use %s or %s", c.VerifyUploads, release.VerifySize, release.VerifySHA256)
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
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConns:        100,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
		TLSClientConfig:     trust,

		OnProxyConnectResponse: checkProxy,
	}
	// One request a connection at a time: an upload over HTTP/2 is slower, and
	// its flow control hides whether bytes are accepted.
	transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	transport.MaxIdleConnsPerHost = config.Parallel + 2
	// How long an upload waits for leave to send its body, see upload.
	transport.ExpectContinueTimeout = 5 * time.Second
	transport.WriteBufferSize = 256 << 10
	transport.ReadBufferSize = 64 << 10
	return transport, nil
}

// jitter returns a duration between half of d and one and a half of it, so that
// runs that failed together do not come back together.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d+1)
}
