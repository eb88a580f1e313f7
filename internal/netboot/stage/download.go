package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/size"
)

const (
	downloadsFolder = "downloads"

	// tries is how often a download is tried that makes no progress; one that makes
	// progress may be interrupted any number of times.
	tries = 5
)

// download returns an asset's content as a file, verified by its checksum.
func (s Stager) download(ctx context.Context, asset release.Asset, sum string) (_ *os.File, err error) {
	folder := filepath.Join(s.Dir.Path(), downloadsFolder)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(folder, partialName(sum))
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	resumed := info.Size() > 0
	for {
		if err := s.complete(ctx, asset, file); err != nil {
			if errors.Is(err, syscall.ENOSPC) {
				err = errors.Join(err, os.Remove(path)) // what is there takes the space of everything else
			}
			return nil, fmt.Errorf("download %s: %w", asset.Name, err)
		}
		got, _, err := checksum.File(ctx, path)
		if err != nil {
			return nil, err
		}
		wrong := matches(checksum.Sums{asset.Name: sum}, asset.Name, got)
		if wrong == nil {
			_, err = file.Seek(0, io.SeekStart)
			return file, err
		}
		if err := file.Truncate(0); err != nil {
			return nil, err
		}
		if !resumed {
			return nil, errors.Join(wrong, os.Remove(path))
		}
		s.notify("%s is not what was published, perhaps since its download broke off: downloading all of it again", asset.Name)
		resumed = false
	}
}

// complete downloads the rest of an asset that a file has a part of.
func (s Stager) complete(ctx context.Context, asset release.Asset, file *os.File) error {
	wait := backoff.NewExponentialBackOff()
	for failed := 0; ; failed++ {
		info, err := file.Stat()
		if err != nil {
			return err
		}
		have := info.Size()
		if have > asset.Size {
			if err := file.Truncate(0); err != nil {
				return err
			}
			have = 0
		}
		if have == asset.Size {
			return nil
		}
		if asset.Size > limits.TotalSize {
			return fmt.Errorf("it has %s, more than the %s that a bundle may have", size.Text(asset.Size), size.Text(limits.TotalSize))
		}
		if err := hasSpace(s.Dir.Path(), asset.Size-have); err != nil {
			return err
		}
		if have == 0 {
			s.notify("downloading %s, %s", asset.Name, size.Text(asset.Size))
		} else {
			s.notify("downloading %s, the remaining %s of %s", asset.Name, size.Text(asset.Size-have), size.Text(asset.Size))
		}
		written, err := s.fetch(ctx, asset, file, have)
		var broken *brokenOff
		switch {
		case err == nil && written == asset.Size-have:
			return nil
		case err == nil:
			err = &brokenOff{fmt.Errorf("the server sent %d bytes of %d", have+written, asset.Size)}
		case ctx.Err() != nil || !errors.As(err, &broken):
			return err
		}
		if written > 0 {
			failed = 0
			wait.Reset()
		}
		if failed+1 == tries {
			return err
		}
		pause := wait.NextBackOff()
		s.notify("the download of %s broke off (%v); going on in %s", asset.Name, err, pause.Round(100*time.Millisecond))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// brokenOff is the error of a transfer that can be resumed.
type brokenOff struct{ error }

func (b *brokenOff) Unwrap() error { return b.error }

// fetch appends an asset's content from an offset to a file, and returns how many
// bytes that were. Stores retry the start of a transfer by themselves, and end one
// that stalls.
func (s Stager) fetch(ctx context.Context, asset release.Asset, file *os.File, offset int64) (int64, error) {
	body, err := s.Store.Open(ctx, asset, offset)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	limited := io.LimitReader(body, asset.Size-offset)
	done := offset
	return io.Copy(file, readerFunc(func(p []byte) (int, error) {
		n, err := limited.Read(p)
		if done += int64(n); s.Progress != nil {
			s.Progress(asset.Name, done, asset.Size)
		}
		if err != nil && err != io.EOF {
			err = &brokenOff{err}
		}
		return n, err
	}))
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// clearDownloads removes what is left of downloads, but for those of the bundles
// that are wanted.
func (s Stager) clearDownloads(wanted []bundle) error {
	folder := filepath.Join(s.Dir.Path(), downloadsFolder)
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, bundle := range wanted {
		keep[partialName(bundle.sum)] = true
	}
	for _, entry := range entries {
		if !keep[entry.Name()] {
			err = errors.Join(err, os.RemoveAll(filepath.Join(folder, entry.Name())))
		}
	}
	return err
}

func partialName(sum string) string { return sum + ".partial" }
