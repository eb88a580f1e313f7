package forge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"every.channel/runner-images/internal/redact"
)

// Open downloads an asset from offset on.
func (s *server) Open(ctx context.Context, asset Asset, offset int64) (io.ReadCloser, error) {
	c := s.client()
	var content io.ReadCloser
	err := c.retry(ctx, func() (err error) {
		content, err = c.open(ctx, asset.Name, asset.URL, offset)
		return err
	})
	return content, err
}

func (c client) open(ctx context.Context, name, from string, offset int64) (io.ReadCloser, error) {
	address, err := url.Parse(from)
	if err != nil {
		return nil, fmt.Errorf("download %s: its address is not one", name)
	}
	address = c.reachable(address)
	failed := &Error{Operation: "download", Asset: name, URL: redact.URL(address)}
	ctx, stall := watch(ctx, c.config.StallTimeout)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		stall.stop()
		return nil, fmt.Errorf("download %s: %w", name, err)
	}
	request.Header.Set("Accept-Encoding", "identity") // the bytes as they are stored
	if offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	response, err := c.send(request)
	if err != nil {
		failed.Err = cause(ctx, networkError(err))
		failed.Advice = networkAdvice(failed.Err)
		stall.stop()
		return nil, failed
	}
	content := &download{ctx: ctx, body: response.Body, stall: stall, failed: failed}
	switch {
	case response.StatusCode == http.StatusPartialContent && offset > 0:
		if !strings.HasPrefix(response.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)) {
			failed.Err = fmt.Errorf("asked for the bytes from %d on, the server sends %q", offset, response.Header.Get("Content-Range"))
			return nil, errors.Join(failed, content.Close())
		}
		return content, nil
	case response.StatusCode == http.StatusOK: // a server without ranges sends it all
		if _, err := io.CopyN(io.Discard, content, offset); err != nil {
			return nil, errors.Join(err, content.Close())
		}
		return content, nil
	case response.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0:
		// Nothing is left from there on.
		return http.NoBody, content.Close()
	}
	defer content.Close()
	return nil, c.refusal(response, failed)
}

// reachable leads a download over the address that this store was given: a
// forge writes its addresses for the public, and only its own get the token.
// What leads elsewhere, as a link to another site does, stays.
func (s *server) reachable(address *url.URL) *url.URL {
	_, file, ok := strings.Cut(address.EscapedPath(), "/"+url.PathEscape(s.owner)+"/"+url.PathEscape(s.repository)+"/releases/download/")
	if !ok {
		return address
	}
	return s.base.JoinPath(url.PathEscape(s.owner), url.PathEscape(s.repository), "releases/download", file)
}

// uuidURL is the address of one very asset, also while another has its name.
func (s *server) uuidURL(asset apiAsset) string {
	return s.base.JoinPath("attachments", asset.UUID).String()
}

// readBack returns the SHA-256 of what the server has stored.
func (c client) readBack(ctx context.Context, asset apiAsset) (sum string, err error) {
	hash := sha256.New()
	err = c.fetch(ctx, asset, hash.Reset, hash)
	return hex.EncodeToString(hash.Sum(nil)), err
}

// smallSize is more than any list of checksums or signature has, in bytes.
const smallSize = 8 << 20

// readSmall returns the content of a small asset, a list of checksums or a
// signature.
func (c client) readSmall(ctx context.Context, asset apiAsset) ([]byte, error) {
	if asset.Size > smallSize {
		return nil, fmt.Errorf("%s has %d bytes: this is not one of runner-images' making", asset.Name, asset.Size)
	}
	var content strings.Builder
	err := c.fetch(ctx, asset, content.Reset, &content)
	return []byte(content.String()), err
}

// fetch writes an asset's content to w, again from the start after a failure.
func (c client) fetch(ctx context.Context, asset apiAsset, reset func(), w io.Writer) error {
	return c.retry(ctx, func() error {
		reset()
		content, err := c.open(ctx, asset.Name, c.uuidURL(asset), 0)
		if err != nil {
			return err
		}
		defer content.Close()
		_, err = io.Copy(w, content)
		return err
	})
}

// download is an answer's body that fails when it stands still.
type download struct {
	ctx    context.Context
	body   io.ReadCloser
	stall  *stall
	failed *Error
}

func (d *download) Read(p []byte) (int, error) {
	d.stall.moved()
	n, err := d.body.Read(p)
	d.stall.pause() // what the caller does between two reads is not a stall
	if err != nil && err != io.EOF {
		d.failed.Err = cause(d.ctx, networkError(err))
		err = d.failed
	}
	return n, err
}

func (d *download) Close() error {
	d.stall.stop()
	return d.body.Close()
}
