package folder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"every.channel/runner-images/internal/disk"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/transfer"
)

// uploadPrefix begins the names of uploads that are whole. One that is being
// written has a dot more.
const uploadPrefix = ".uploading-"

// transaction is the verbs of one publication.
type transaction struct {
	*folder
	tag string
}

var _ release.Transaction = (*transaction)(nil)

// dir is the folder of the release, or of its draft.
func (t *transaction) dir() (path string, draft bool) {
	if _, err := os.Lstat(filepath.Join(t.path(t.tag), descriptionName)); err == nil {
		return t.path(t.tag), false
	}
	return t.hidden(t.tag, "draft"), true
}

func (t *transaction) Find(context.Context) (release.Release, error) {
	path, draft := t.dir()
	found, err := t.releaseAt(path, t.tag)
	found.Draft = draft
	return found, err
}

// Check has nothing to look for: a folder that cannot be written to fails at once.
func (t *transaction) Check(context.Context, release.Draft) error { return nil }

// Create makes the folder of a release that nobody sees yet. It holds the lock
// meanwhile, so that no other run publishes the release before it is made again.
func (t *transaction) Create(ctx context.Context, wanted release.Draft) (made bool, err error) {
	if err := os.MkdirAll(t.root, 0o755); err != nil {
		return false, err
	}
	lock, err := t.lock(ctx)
	if err != nil {
		return false, err
	}
	defer lock.End(ctx)
	if _, err := t.Find(ctx); !errors.Is(err, release.ErrNotFound) {
		return false, err
	}
	path, draft := t.dir()
	if !draft {
		return false, fmt.Errorf("release %s: the folder %s is a copy of another release; remove it, and run again", t.tag, path)
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return false, err
	}
	about := description{
		Tag: t.tag, Commit: wanted.Commit, Title: wanted.Title, Prerelease: wanted.Prerelease, Created: time.Now().UTC().Round(0),
	}
	if err := writeDescription(ctx, path, about); err != nil {
		_ = os.Remove(path) // which is empty, unless it was there before
		return false, err
	}
	_, err = t.Find(ctx)
	return err == nil, err
}

// Lease takes a lock, which the operating system ends with the process.
func (t *transaction) Lease(ctx context.Context) (context.Context, release.Lease, error) {
	lock, err := t.lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	if _, err = t.Find(ctx); err == nil {
		err = t.removeHalfWritten()
	}
	if err != nil {
		lock.End(ctx)
		return nil, nil, err
	}
	return ctx, lock, nil
}

func (t *transaction) lock(ctx context.Context) (*lock, error) {
	file, err := os.OpenFile(t.hidden(t.tag, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = disk.Lock(ctx, file, func() { t.log("another run is publishing this release; waiting for it to end") })
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &lock{t, file}, nil
}

// lock is the right to change a release.
type lock struct {
	*transaction
	file *os.File
}

func (l *lock) Hold(context.Context) error { return nil }

// Discard removes the draft's folder. A run that waits for the lock finds no release.
func (l *lock) Discard(context.Context) error {
	if err := os.RemoveAll(l.hidden(l.tag, "draft")); err != nil {
		return err
	}
	return disk.SyncFolder(l.root)
}

func (l *lock) End(context.Context) { _ = l.file.Close() }

// removeHalfWritten deletes what runs that died were writing.
func (t *transaction) removeHalfWritten() error {
	path, _ := t.dir()
	entries, err := os.ReadDir(path)
	for _, entry := range entries {
		if isHalfWritten(entry.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(path, entry.Name())))
		}
	}
	return err
}

// Upload copies content into the folder, and compares its checksum on the way.
func (t *transaction) Upload(ctx context.Context, upload release.Upload) (release.Asset, error) {
	failed := func(err error) (release.Asset, error) {
		return release.Asset{}, fmt.Errorf("publish %s: %w", upload.Asset, err)
	}
	content, err := upload.Open()
	if err != nil {
		return failed(err)
	}
	defer content.Close()
	path, _ := t.dir()
	file := filepath.Join(path, "."+upload.Name)
	sum, size, err := disk.Create(ctx, file, func(w io.Writer) error {
		_, err := io.CopyBuffer(w, transfer.WithProgress(content, upload.Progress), make([]byte, 1<<20))
		return err
	})
	if err != nil {
		return failed(err)
	}
	want, err := upload.SHA256()
	if err == nil && sum != want {
		err = fmt.Errorf("it has the SHA-256 %s now and had %s: package it again", sum, want)
	}
	if err != nil {
		return failed(errors.Join(err, os.Remove(file)))
	}
	return release.Asset{Name: upload.Name, Size: size, URL: fileURL(file)}, disk.SyncFolder(path)
}

// Switch renames uploads. A rename replaces the file that has the name, so that
// none is left to be removed.
func (t *transaction) Switch(_ context.Context, switches ...release.Switch) error {
	path, _ := t.dir()
	for _, s := range switches {
		if s.Upload.Name == "" {
			continue
		}
		if err := os.Rename(filepath.Join(path, "."+s.Upload.Name), filepath.Join(path, s.Name)); err != nil {
			return err
		}
	}
	return disk.SyncFolder(path)
}

// Remove deletes the file of an asset or an upload.
func (t *transaction) Remove(_ context.Context, asset release.Asset) error {
	address, err := url.Parse(asset.URL)
	if err != nil {
		return err
	}
	path, _ := t.dir()
	if err := os.Remove(filepath.Join(path, filepath.Base(address.Path))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return disk.SyncFolder(path)
}

// Edit replaces the description, and gives a draft its final name.
func (t *transaction) Edit(ctx context.Context, edit release.Edit) error {
	path, draft := t.dir()
	about, err := readDescription(path)
	if err != nil {
		return fmt.Errorf("release %s: %w", t.tag, err)
	}
	about.Prerelease = about.Prerelease || edit.Prerelease
	if edit.Notes != nil {
		about.Notes = *edit.Notes
	}
	if err := errors.Join(writeDescription(ctx, path, about), disk.SyncFolder(path)); err != nil {
		return err
	}
	if !draft || !edit.Publish {
		return nil
	}
	if err := os.Rename(path, t.path(t.tag)); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is no release, because it has no %s; remove it, and publish again: %w", t.path(t.tag), descriptionName, err)
	} else if err != nil {
		return err
	}
	return disk.SyncFolder(t.root)
}
