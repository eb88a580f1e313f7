package stage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
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
	"every.channel/runner-images/internal/transfer"
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
		got, err := s.complete(ctx, asset, file)
		if err != nil {
			if errors.Is(err, syscall.ENOSPC) {
				err = errors.Join(err, os.Remove(path)) // what is there takes the space of everything else
			}
			return nil, fmt.Errorf("download %s: %w", asset.Name, err)
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

// complete downloads the rest of an asset that a file has a part of, and returns the
// SHA-256 of all of it.
func (s Stager) complete(ctx context.Context, asset release.Asset, file *os.File) (sum string, err error) {
	hash := sha256.New()
	have, err := hashPart(ctx, file, hash, asset.Size)
	if err != nil {
		return "", err
	}
	wait := backoff.NewExponentialBackOff()
	for failed := 0; have < asset.Size; failed++ {
		if asset.Size > limits.TotalSize {
			return "", fmt.Errorf("it has %s, more than the %s that a bundle may have", size.Text(asset.Size), size.Text(limits.TotalSize))
		}
		if err := hasSpace(s.Dir.Path(), asset.Size-have); err != nil {
			return "", err
		}
		if have == 0 {
			s.notify("downloading %s, %s", asset.Name, size.Text(asset.Size))
		} else {
			s.notify("downloading %s, the remaining %s of %s", asset.Name, size.Text(asset.Size-have), size.Text(asset.Size))
		}
		written, err := s.fetch(ctx, asset, file, hash, have)
		have += written
		var broken *brokenOff
		switch {
		case err == nil && have == asset.Size:
			continue
		case err == nil:
			err = &brokenOff{fmt.Errorf("the server sent %d bytes of %d", have, asset.Size)}
		case ctx.Err() != nil || !errors.As(err, &broken):
			return "", err
		}
		if written > 0 {
			failed = 0
			wait.Reset()
		}
		if failed+1 == tries {
			return "", err
		}
		pause := wait.NextBackOff()
		s.notify("the download of %s broke off (%v); going on in %s", asset.Name, err, pause.Round(100*time.Millisecond))
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(pause):
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// hashPart hashes the part of an asset that a file has, and returns its size in bytes. A
// file that has more than the asset is emptied.
func hashPart(ctx context.Context, file *os.File, hash hash.Hash, most int64) (have int64, err error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() > most {
		return 0, file.Truncate(0)
	}
	part := io.NewSectionReader(file, 0, info.Size())
	err = transfer.ReadAhead(transfer.WithContext(ctx, part), hash, func(part io.Reader) (err error) {
		have, err = io.Copy(io.Discard, part)
		return err
	})
	return have, err
}

// brokenOff is the error of a transfer that can be resumed.
type brokenOff struct{ error }

func (b *brokenOff) Unwrap() error { return b.error }

// fetch appends an asset's content from an offset to a file, and returns how many
// bytes that were; hash is given the same. Stores retry the start of a transfer by
// themselves, and end one that stalls.
func (s Stager) fetch(ctx context.Context, asset release.Asset, file *os.File, hash hash.Hash, offset int64) (written int64, err error) {
	body, err := s.Store.Open(ctx, asset, offset)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	limited := io.LimitReader(body, asset.Size-offset)
	done := offset
	content := readerFunc(func(p []byte) (int, error) {
		n, err := limited.Read(p)
		if done += int64(n); s.Progress != nil {
			s.Progress(asset.Name, done, asset.Size)
		}
		if err != nil && err != io.EOF {
			err = &brokenOff{err}
		}
		return n, err
	})
	// An error of the file, which has less than was hashed then, is no brokenOff: it ends
	// the download.
	err = transfer.ReadAhead(transfer.WithContext(ctx, content), hash, func(content io.Reader) (err error) {
		written, err = io.Copy(file, content)
		return err
	})
	return written, err
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
