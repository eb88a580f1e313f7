package forgejo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"time"

	"code.gitea.io/sdk/gitea"

	"every.channel/runner-images/internal/redact"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/transfer"
)

// Upload attaches content to a release, in as many attempts as it takes. After
// a failure the release's list of assets decides whether the server has stored
// it all the same.
//
// Only the first attempt shares the line with other uploads. Some servers take
// uploads one after the other (with SQLite, Gitea and Forgejo do), so that of
// those at once all but one stand still.
func (t *transaction) Upload(ctx context.Context, u release.Upload) (asset release.Asset, err error) {
	attempts := 0
	err = t.retry(ctx, func() error {
		if attempts++; attempts == 1 {
			t.line.RLock()
			defer t.line.RUnlock()
		} else {
			t.line.Lock()
			defer t.line.Unlock()
			if found, err := t.findUpload(ctx, u); err != nil || found != nil {
				if found != nil {
					asset = *found
				}
				return err
			}
		}
		asset, err = t.uploadOnce(ctx, u)
		return err
	})
	return asset, err
}

// findUpload returns the asset that an attempt has left, or nil.
func (t *transaction) findUpload(ctx context.Context, u release.Upload) (*release.Asset, error) {
	found, err := t.releaseByID(ctx)
	if err != nil {
		return nil, err
	}
	for _, attachment := range found.Attachments {
		if attachment.Name != u.Name {
			continue
		}
		if asset := asAsset(attachment); t.checkUpload(ctx, asset, u) == nil {
			return &asset, nil
		}
	}
	return nil, nil
}

func (t *transaction) uploadOnce(ctx context.Context, u release.Upload) (asset release.Asset, err error) {
	// Another upload may find out meanwhile what this server does not take.
	form, expect := t.multipart.Load(), !t.noExpect.Load()
	asset, err = t.post(ctx, u, form, expect)
	var failed *release.Error
	if expect && errors.As(err, &failed) && failed.Status == http.StatusExpectationFailed {
		// RFC 9110, section 10.1.1: something on the way does not know it.
		t.noExpect.Store(true)
		expect = false
		asset, err = t.post(ctx, u, form, expect)
	}
	if !form && errors.As(err, &failed) && wantsMultipart(failed) {
		if !t.multipart.Swap(true) {
			t.config.Log("this forge does not take files as they are; sending them as forms")
		}
		asset, err = t.post(ctx, u, true, expect)
	}
	if err != nil {
		return release.Asset{}, err
	}
	return asset, t.checkUpload(ctx, asset, u)
}

// wantsMultipart recognises a server from before uploads of raw bytes.
func wantsMultipart(failed *release.Error) bool {
	return failed.Status == http.StatusUnsupportedMediaType ||
		failed.Status >= 400 && strings.Contains(strings.ToLower(failed.Words), "multipart")
}

// checkUpload compares what the server has stored with what was sent, and deletes it
// if it is something else.
func (t *transaction) checkUpload(ctx context.Context, asset release.Asset, u release.Upload) error {
	id, _ := idOf(asset)
	failed := &release.Error{
		Operation: "check the upload of", Asset: u.Asset,
		URL: redact.URL(t.apiURL(fmt.Sprintf("releases/%d/assets/%d", t.id, id))),
	}
	if asset.Size != u.Size {
		failed.Err = fmt.Errorf("%d of %d bytes have been stored", asset.Size, u.Size)
	} else if t.config.VerifyUploads == release.VerifySHA256 {
		want, err := u.SHA256()
		if err != nil {
			return err
		}
		sum, err := t.readBack(ctx, asset)
		if err != nil {
			return err
		}
		if sum == want {
			return nil
		}
		failed.Err = fmt.Errorf("it has the SHA-256 %s in place of %s", sum, want)
	} else {
		return nil
	}
	return errors.Join(failed, t.Remove(ctx, asset))
}

// readBack returns the SHA-256 of what the server has stored.
func (t *transaction) readBack(ctx context.Context, asset release.Asset) (sum string, err error) {
	content, err := release.ReadOn(ctx, func(offset int64) (io.ReadCloser, error) { return t.Open(ctx, asset, offset) })
	if err != nil {
		return "", err
	}
	defer content.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, content)
	return hex.EncodeToString(hash.Sum(nil)), err
}

// post sends the content once: as the request's body or as a form's only field. With
// expect a large one waits for the server to say that it takes it.
func (t *transaction) post(ctx context.Context, u release.Upload, form, expect bool) (asset release.Asset, err error) {
	address := t.apiURL(fmt.Sprintf("releases/%d/assets", t.id))
	failed := release.Error{Operation: "upload", Asset: u.Asset}
	address.RawQuery = url.Values{"name": {u.Name}}.Encode()

	content, err := u.Open()
	if err != nil {
		return release.Asset{}, fmt.Errorf("upload %s: %w", u.Asset, err)
	}
	defer content.Close()
	ctx, stall := watch(ctx, t.config.StallTimeout)
	defer stall.stop()
	ctx, sent := withSent(ctx)
	// The transport reads the next piece when the last one has been accepted.
	body := transfer.WithProgress(content, func(bytes int64) {
		if bytes < u.Size {
			stall.moved()
		} else {
			stall.allow(max(answerTimeout, stall.timeout))
		}
		u.Progress(bytes)
	})
	size, contentType := u.Size, "application/octet-stream"
	if form {
		if body, size, contentType, err = asForm(u.Name, body, u.Size); err != nil {
			return release.Asset{}, err
		}
	}
	if size == 0 {
		body = http.NoBody
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address.String(), body)
	if err != nil {
		return release.Asset{}, fmt.Errorf("upload %s: %w", u.Asset, err)
	}
	request.ContentLength = size
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Content-Type", contentType)
	if size > 1<<20 && expect {
		// A refusal (401, 413 of a proxy) then comes before the file is sent.
		request.Header.Set("Expect", "100-continue")
	}
	var attached gitea.Attachment
	if err := t.failure(ctx, t.exchange(request, &attached), sent, failed); err != nil {
		return release.Asset{}, err
	}
	return asAsset(&attached), nil
}

// exchange sends a request, and decodes its answer.
func (s *server) exchange(request *http.Request, answer any) error {
	response, err := s.http.Do(request)
	if err != nil {
		return err
	}
	defer finish(response.Body)
	return json.NewDecoder(&limited{ReadCloser: response.Body, left: longestAnswer}).Decode(answer)
}

// asForm wraps content as the field that the API expects, with a known length.
func asForm(name string, content io.Reader, size int64) (body io.Reader, length int64, contentType string, err error) {
	var frame bytes.Buffer
	form := multipart.NewWriter(&frame)
	if _, err := form.CreateFormFile("attachment", name); err != nil {
		return nil, 0, "", err
	}
	head := bytes.Clone(frame.Bytes())
	frame.Reset()
	if err := form.Close(); err != nil {
		return nil, 0, "", err
	}
	length = int64(len(head)) + size + int64(frame.Len())
	return io.MultiReader(bytes.NewReader(head), content, &frame), length, form.FormDataContentType(), nil
}

// answerTimeout is how long a server may take to store an upload after its last
// byte: a proxy may only then begin to pass it on.
const answerTimeout = 10 * time.Minute
