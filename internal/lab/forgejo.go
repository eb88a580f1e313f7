package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// A Forgejo is a proxy before a real Gitea that answers as a Forgejo of some version
// does, where that answers otherwise.
type Forgejo struct {
	version     string
	words       *strings.Replacer // of errors
	showsDrafts bool              // to everybody who asks for their tag
	pageSize    int               // of the list of releases, at most
}

// theToken stands for the request's token in the words of an error.
const theToken = "TOKEN OF THE REQUEST"

// scopes finds what Gitea says of a token's, which Forgejo does not.
var scopes = regexp.MustCompile(`required scope\(s\), required=(\[[^]]*\]), token scope=[a-z:,]*`)

// Forgejo12 answers as Forgejo 12, and Forgejo15 as Forgejo 15.0.3.
var (
	Forgejo12 = Forgejo{
		version: "12.0.4+gitea-1.22.0",
		words: strings.NewReplacer(
			"Release is has no Tag", "Release has no Tag",
			"invalid username, password or token", "user does not exist [uid: 0, name: ]",
		),
		showsDrafts: true,
		pageSize:    10,
	}
	Forgejo15 = Forgejo{
		version: "15.0.3+gitea-1.22.0",
		words: strings.NewReplacer(
			"Release is has no Tag", "Release has no Tag",
			"invalid username, password or token", "access token does not exist [sha: "+theToken+"]",
			`"message":"not found"`, `"message":"The target couldn't be found."`,
			`"message":"Not found."`, `"message":"The target couldn't be found."`,
		),
		pageSize: 50,
	}
)

// Before returns the proxy to the Gitea at an address. token is one that sees drafts.
func (f Forgejo) Before(gitea *url.URL, token string) http.Handler {
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(gitea)
			p.Out.Host = p.In.Host
			f.rewrite(p.Out, token)
		},
		ErrorLog:       log.New(io.Discard, "", 0), // a client may hang up
		ModifyResponse: f.answer,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/version" {
			w.Header().Set("Content-Type", "application/json;charset=utf-8")
			_ = json.NewEncoder(w).Encode(map[string]string{"version": f.version})
			return
		}
		// A server goes on with what it has wholly received, and a test's server waits
		// for the end of that, also when the client is gone.
		ctx, end := context.WithCancel(context.WithoutCancel(r.Context()))
		defer end()
		proxy.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (f Forgejo) rewrite(r *http.Request, token string) {
	if f.showsDrafts && strings.Contains(r.URL.Path, "/releases/tags/") && r.Header.Get("Authorization") == "" {
		r.Header.Set("Authorization", "token "+token)
	}
	query := r.URL.Query()
	if strings.HasSuffix(r.URL.Path, "/releases") && query.Has("limit") {
		query.Set("limit", strconv.Itoa(f.pageSize))
		r.URL.RawQuery = query.Encode()
	}
}

func (f Forgejo) answer(response *http.Response) error {
	if response.StatusCode < 400 || !strings.HasPrefix(response.Request.URL.Path, "/api/v1/") {
		return nil
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	_, token, _ := strings.Cut(response.Request.Header.Get("Authorization"), " ")
	text := scopes.ReplaceAllString(f.words.Replace(string(body)), "required scope(s): $1")
	body = []byte(strings.ReplaceAll(text, theToken, token))
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	response.Header.Del("Content-Length")
	return nil
}
