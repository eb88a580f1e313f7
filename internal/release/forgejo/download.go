package forgejo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"every.channel/runner-images/internal/redact"
	"every.channel/runner-images/internal/release"
)

// Open downloads an asset from offset on.
func (s *server) Open(ctx context.Context, asset release.Asset, offset int64) (io.ReadCloser, error) {
	return s.client().download(ctx, asset, asset.URL, offset)
}

func (c client) download(ctx context.Context, asset release.Asset, from string, offset int64) (content io.ReadCloser, err error) {
	err = c.retry(ctx, func() (err error) {
		content, err = c.open(ctx, asset.Name, from, offset)
		return err
	})
	var refused *release.Error
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound && c.config.Token != "" && c.isPrivate(ctx) {
		refused.Advice = "it is not there, or the token cannot download it: the token of a run of Actions can do so in a private repository " +
			"on Gitea only; on Forgejo, give a user's token with the scope write:repository"
	}
	return content, err
}

func (c client) isPrivate(ctx context.Context) (private bool) {
	err := c.once(ctx, request{"look at the repository", "", func(api api) error {
		found, _, err := api.GetRepo(api.owner, api.name)
		private = err == nil && found.Private
		return err
	}})
	return err == nil && private
}

// open sends the request for an asset from offset on. A server that does not give
// that part is asked for all of it, RFC 9110, section 14.2.
func (c client) open(ctx context.Context, name, from string, offset int64) (io.ReadCloser, error) {
	content, err := c.openRange(ctx, name, from, offset)
	if offset == 0 || !errors.Is(err, errNoRange) && !isRefused(err, http.StatusBadRequest, http.StatusNotImplemented) {
		return content, err
	}
	if content, err = c.openRange(ctx, name, from, 0); err != nil {
		return nil, err
	}
	return skip(content, offset)
}

func skip(content io.ReadCloser, offset int64) (io.ReadCloser, error) {
	if _, err := io.CopyN(io.Discard, content, offset); err != nil {
		return nil, errors.Join(err, content.Close())
	}
	return content, nil
}

// errNoRange is a server that gives another part of a file than it was asked for.
var errNoRange = errors.New("the server sends another part")

func (c client) openRange(ctx context.Context, name, from string, offset int64) (io.ReadCloser, error) {
	address, err := url.Parse(from)
	if err != nil {
		return nil, fmt.Errorf("download %s: invalid URL", name)
	}
	failed := &release.Error{Operation: "download", Asset: name}
	ctx, stall := watch(ctx, c.config.StallTimeout)
	ctx, sent := withSent(ctx)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.reachable(address).String(), nil)
	if err != nil {
		stall.stop()
		return nil, fmt.Errorf("download %s: %w", name, err)
	}
	request.Header.Set("Accept-Encoding", "identity") // the bytes as they are stored
	if offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	response, err := c.http.Do(request)
	if err := c.failure(ctx, err, sent, *failed); err != nil {
		stall.stop()
		return nil, err
	}
	failed.URL = redact.URL(sent.last)
	content := &download{ctx: ctx, body: response.Body, stall: stall, failed: failed}
	switch {
	case response.StatusCode == http.StatusPartialContent && offset > 0:
		if !strings.HasPrefix(response.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)) {
			failed.Err = fmt.Errorf("%w: asked for the bytes from %d on, it sends %q", errNoRange, offset, response.Header.Get("Content-Range"))
			return nil, errors.Join(failed, content.Close())
		}
		return content, nil
	case response.StatusCode == http.StatusOK: // a server without ranges sends it all
		return skip(content, offset)
	case response.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0:
		// Nothing is left from there on.
		return http.NoBody, content.Close()
	}
	failed.Err = fmt.Errorf("the server answers %s", response.Status)
	return nil, errors.Join(failed, content.Close())
}

// uuidURL is the address of one very asset, also while another has its name.
func (s *server) uuidURL(uuid string) string { return s.base.JoinPath("attachments", uuid).String() }

// download is an answer's body that fails when it stands still.
type download struct {
	ctx    context.Context
	body   io.ReadCloser
	stall  *stall
	failed *release.Error
}

func (d *download) Read(p []byte) (int, error) {
	d.stall.moved()
	n, err := d.body.Read(p)
	d.stall.pause() // what the caller does between two reads is not a stall
	if err != nil && !errors.Is(err, io.EOF) {
		d.failed.Err = cause(d.ctx, networkError(err))
		err = d.failed
	}
	return n, err
}

func (d *download) Close() error {
	d.stall.stop()
	return d.body.Close()
}
