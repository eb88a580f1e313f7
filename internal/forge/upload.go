package forge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"every.channel/runner-images/internal/count"
	"every.channel/runner-images/internal/redact"
)

// An upload is the content of an asset-to-be.
type upload struct {
	name   string // that it gets on the server first
	asset  string // that it is for
	size   int64
	sha256 func() (string, error)
	open   func() (io.ReadCloser, error) // anew for each attempt
	done   func(bytes int64)             // is told how many have been accepted
}

// temporaryPrefix begins the names of uploads that are not yet assets.
const temporaryPrefix = "uploading-"

// temporaryName is the name of an upload of these bytes. It tells a later run
// what they are, and ends as the asset's name does, because forges judge the
// type of a file by that.
func temporaryName(asset, sha256 string) string {
	const enough = 16
	return temporaryPrefix + sha256[:min(enough, len(sha256))] + "-" + asset
}

// isUploadOf tells whether a name is that of an upload for this asset, of
// whatever bytes.
func isUploadOf(asset, name string) bool {
	rest, ok := strings.CutPrefix(name, temporaryPrefix)
	_, of, _ := strings.Cut(rest, "-")
	return ok && of == asset
}

// fileUpload is the upload of a file, of which the checksum may become known
// only meanwhile.
func (p Publication) fileUpload(file File, sha256 func() (string, error)) upload {
	return upload{
		name: temporaryName(file.Name, file.SHA256), asset: file.Name, size: file.Size, sha256: sha256,
		open: func() (io.ReadCloser, error) { return openFile(file) },
		done: func(bytes int64) { p.progress(file, bytes) },
	}
}

func openFile(file File) (io.ReadCloser, error) {
	content, err := os.Open(file.Path)
	if err != nil {
		return nil, err
	}
	info, err := content.Stat()
	if err == nil && info.Size() != file.Size {
		err = fmt.Errorf("%s has %d bytes now and had %d when its checksum was made: package it again", file.Path, info.Size(), file.Size)
	}
	if err != nil {
		return nil, errors.Join(err, content.Close())
	}
	return content, nil
}

func bytesUpload(asset string, content []byte) upload {
	sum := sha256.Sum256(content)
	text := hex.EncodeToString(sum[:])
	return upload{
		name: temporaryName(asset, text), asset: asset, size: int64(len(content)),
		sha256: func() (string, error) { return text, nil },
		open:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		done:   func(int64) {},
	}
}

// upload attaches content to a release, in as many attempts as it takes. After
// a failure the release's list of assets decides whether the server has stored
// it all the same.
//
// Only the first attempt shares the line with other uploads. Some servers take
// uploads one after the other (with SQLite, Gitea and Forgejo do), so that of
// those at once all but one stand still.
func (c client) upload(ctx context.Context, release int64, u upload) (asset apiAsset, err error) {
	attempts := 0
	err = c.retry(ctx, func() error {
		if attempts++; attempts == 1 {
			c.line.RLock()
			defer c.line.RUnlock()
		} else {
			c.line.Lock()
			defer c.line.Unlock()
			if found, err := c.findUpload(ctx, release, u); err != nil || found != nil {
				if found != nil {
					asset = *found
				}
				return err
			}
		}
		asset, err = c.uploadOnce(ctx, release, u)
		return err
	})
	return asset, err
}

// findUpload returns the asset that an attempt has left, or nil.
func (c client) findUpload(ctx context.Context, release int64, u upload) (*apiAsset, error) {
	state, err := c.releaseByID(ctx, release)
	if err != nil {
		return nil, err
	}
	for _, asset := range state.Assets {
		if asset.Name != u.name {
			continue
		}
		if err := c.check(ctx, release, asset, u); err == nil {
			return &asset, nil
		}
	}
	return nil, nil
}

func (c client) uploadOnce(ctx context.Context, release int64, u upload) (asset apiAsset, err error) {
	asset, err = c.post(ctx, release, u, c.multipart.Load())
	var failed *Error
	if errors.As(err, &failed) && wantsMultipart(failed) && !c.multipart.Swap(true) {
		c.config.Log("this forge does not take files as they are; sending them as forms")
		asset, err = c.post(ctx, release, u, true)
	}
	if err != nil {
		return apiAsset{}, err
	}
	return asset, c.check(ctx, release, asset, u)
}

// wantsMultipart recognises a server from before uploads of raw bytes.
func wantsMultipart(failed *Error) bool {
	return failed.Status == http.StatusUnsupportedMediaType ||
		failed.Status >= 400 && strings.Contains(strings.ToLower(failed.Words), "multipart")
}

// check compares what the server has stored with what was sent, and deletes it
// if it is something else.
func (c client) check(ctx context.Context, release int64, asset apiAsset, u upload) error {
	failed := &Error{Operation: "check the upload of", Asset: u.asset, URL: redact.URL(c.apiURL(assetPath(release, asset.ID)))}
	if asset.Size != u.size {
		failed.Err = fmt.Errorf("%d of %d bytes have been stored", asset.Size, u.size)
	} else if c.config.VerifyUploads == VerifySHA256 {
		want, err := u.sha256()
		if err != nil {
			return err
		}
		sum, err := c.readBack(ctx, asset)
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
	return errors.Join(failed, c.deleteAsset(ctx, release, asset))
}

// post sends the content once: as the request's body or as a form's only field.
func (c client) post(ctx context.Context, release int64, u upload, form bool) (asset apiAsset, err error) {
	address := c.apiURL(releasePath(release) + "/assets")
	failed := &Error{Operation: "upload", Asset: u.asset, URL: redact.URL(address)}
	address.RawQuery = url.Values{"name": {u.name}}.Encode()

	content, err := u.open()
	if err != nil {
		return apiAsset{}, fmt.Errorf("upload %s: %w", u.asset, err)
	}
	defer content.Close()
	ctx, stall := watch(ctx, c.config.StallTimeout)
	defer stall.stop()
	// The transport reads the next piece when the last one has been accepted.
	body := count.Reader(content, func(bytes int64) {
		if bytes < u.size {
			stall.moved()
		} else {
			stall.allow(max(answerTimeout, stall.timeout))
		}
		u.done(bytes)
	})
	size, contentType := u.size, "application/octet-stream"
	if form {
		if body, size, contentType, err = asForm(u.name, body, u.size); err != nil {
			return apiAsset{}, err
		}
	}
	if size == 0 {
		body = http.NoBody
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address.String(), body)
	if err != nil {
		return apiAsset{}, fmt.Errorf("upload %s: %w", u.asset, err)
	}
	request.ContentLength = size
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Content-Type", contentType)
	if size > 1<<20 {
		// A refusal (401, 413 of a proxy) then comes before the file is sent.
		request.Header.Set("Expect", "100-continue")
	}
	err = c.exchange(request, failed, &asset)
	return asset, err
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
