package journal

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"every.channel/runner-images/internal/netboot/state"
	"every.channel/runner-images/internal/size"
)

const (
	// updateEvery is the shortest time between two updates of a page.
	updateEvery = 500 * time.Millisecond

	// refreshEvery is how soon "2 minutes ago" is looked at again, and the state
	// folder, which another process writes.
	refreshEvery = 5 * time.Second
)

// The parts of the page that are kept up to date, by the names of their
// templates, elements and events.
var parts = []string{"summary", "machines", "releases"}

//go:embed web
var web embed.FS

var page = template.Must(template.New("page.html").Funcs(template.FuncMap{
	"bytes": size.Text,
	"since": formatSince,
	"date":  func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") },
	"stamp": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
}).ParseFS(web, "web/page.html"))

// A statusPage answers the requests of browsers.
type statusPage struct {
	ctx      context.Context // ends the live pages
	state    *state.Dir
	rings    func() state.Rings
	filesURL string
	journal  *Journal
}

// StatusPage returns a handler for browsers and for Prometheus: a page with the
// releases, the rings and the machines, which keeps itself up to date until the
// context ends, and the metrics at /metrics. rings returns the rings that are in
// force, and filesURL is where machines load their kernel and initrd from, or empty.
func (j *Journal) StatusPage(ctx context.Context, dir *state.Dir, rings func() state.Rings, filesURL string) http.Handler {
	p := &statusPage{ctx, dir, rings, filesURL, j}
	j.registry.MustRegister(newestProof{dir}, served{dir})
	numbers := promhttp.HandlerFor(j.registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(j.log.Handler(), slog.LevelError)})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", p.page)
	mux.HandleFunc("GET /events", p.events)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		j.showZeros(dir)
		numbers.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	for _, asset := range []string{"live.js", "style.css", "icon.svg"} {
		mux.HandleFunc("GET /"+asset, func(w http.ResponseWriter, r *http.Request) {
			http.ServeFileFS(w, r, web, "web/"+asset)
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "no-referrer")
		mux.ServeHTTP(w, r)
	})
}

func (p *statusPage) page(w http.ResponseWriter, _ *http.Request) {
	var text bytes.Buffer
	if err := page.Execute(&text, p.view(time.Now())); err != nil {
		p.journal.log.Error("cannot show the status page", "error", err)
		http.Error(w, "the status page cannot be shown; see the server's log", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text.Bytes()) // the browser may have gone
}

// events sends the parts of the page that have changed, as server-sent events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html).
func (p *statusPage) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	control := http.NewResponseController(w)
	sent := map[string]string{}
	for {
		changed := p.journal.Changed()
		if err := errors.Join(p.send(w, sent), control.Flush()); err != nil {
			return
		}
		if !wait(r.Context(), p.ctx, time.After(updateEvery), nil) ||
			!wait(r.Context(), p.ctx, time.After(refreshEvery), changed) {
			return
		}
	}
}

// wait waits for either channel, and reports whether neither context has ended.
func wait(request, server context.Context, over <-chan time.Time, changed <-chan struct{}) bool {
	select {
	case <-request.Done():
		return false
	case <-server.Done():
		return false
	case <-over:
	case <-changed:
	}
	return true
}

// send sends the parts that have changed since they were sent.
func (p *statusPage) send(w http.ResponseWriter, sent map[string]string) error {
	view := p.view(time.Now())
	for _, part := range parts {
		var text strings.Builder
		if err := page.ExecuteTemplate(&text, part, view); err != nil {
			p.journal.log.Error("cannot show the status page", "error", err)
			return err
		}
		if sent[part] == text.String() {
			continue
		}
		sent[part] = text.String()
		if _, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", part, strings.ReplaceAll(text.String(), "\n", "\ndata: ")); err != nil {
			return err
		}
	}
	return nil
}
