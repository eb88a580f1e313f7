package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"every.channel/runner-images/internal/release"
)

// A Source is where published files are: a release, or a folder of files that
// someone has downloaded.
type Source interface {
	// Names returns the names of the files that are there. A release may have
	// one name twice.
	Names() ([]string, error)

	// Open returns the content of a file; the caller closes it. The error wraps
	// release.ErrNotFound if there is no such file.
	Open(ctx context.Context, name string) (io.ReadCloser, error)

	// Whole says whether everything that SHA256SUMS.txt lists must be there, and
	// nothing else. A folder may hold a part of a release, and other things.
	Whole() bool
}

// InRelease returns the files of a release.
func InRelease(store *release.Store, in release.Release) Source {
	return releaseSource{store, in}
}

type releaseSource struct {
	store   *release.Store
	release release.Release
}

func (s releaseSource) Names() ([]string, error) {
	var names []string
	for _, asset := range s.release.Assets {
		names = append(names, asset.Name)
	}
	return names, nil
}

func (s releaseSource) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	for _, asset := range s.release.Assets {
		if asset.Name == name {
			return s.store.Read(ctx, asset)
		}
	}
	return nil, fmt.Errorf("%s in the release %s: %w", name, s.release.Tag, release.ErrNotFound)
}

func (s releaseSource) Whole() bool { return true }

// InFolder returns the files in a folder on this machine, but for the one at a path
// that may be empty: the list of allowed signers can lie beside what they signed.
func InFolder(dir, except string) Source { return folderSource{dir, except} }

type folderSource struct{ dir, except string }

func (s folderSource) Names() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if s.isFile(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// isFile says whether there is a regular file, or a link to one: whoever opens a
// pipe may wait for ever.
func (s folderSource) isFile(name string) bool {
	info, err := os.Stat(filepath.Join(s.dir, name))
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	except, err := os.Stat(s.except)
	return err != nil || !os.SameFile(info, except)
}

func (s folderSource) Open(_ context.Context, name string) (io.ReadCloser, error) {
	if info, err := os.Stat(filepath.Join(s.dir, name)); errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s in %s: %w", name, s.dir, release.ErrNotFound)
	}
	file, err := os.Open(filepath.Join(s.dir, name))
	if err != nil {
		return nil, err // not file, which would be an interface that is not nil
	}
	return file, nil
}

func (s folderSource) Whole() bool { return false }

// readSmall returns the content of a file that a release has beside its images.
func (r Request) readSmall(ctx context.Context, name string) ([]byte, error) {
	file, err := r.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := release.ReadSmall(name, file)
	if err == nil {
		r.small[name] = content
	}
	return content, err
}

// open opens a file of the source that has not been read yet.
func (r Request) open(ctx context.Context, name string) (io.ReadCloser, error) {
	if content, ok := r.small[name]; ok {
		return io.NopCloser(bytes.NewReader(content)), nil
	}
	return r.Source.Open(ctx, name)
}
