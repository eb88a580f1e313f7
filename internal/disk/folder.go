package disk

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// OpenFolder opens a folder to write into, and makes it if it is not there. A link in a
// path below the working directory, or in a relative one, may have come with a checkout:
// it must not lead out of the folder that the path starts from (the working directory,
// or for "../x" the one above it). The caller closes the root.
func OpenFolder(path string) (*os.Root, error) {
	base, below := split(path)
	if base == "" {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, cmp.Or(CheckFolder(path), err)
		}
		return os.OpenRoot(path)
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := root.MkdirAll(below, 0o755); err != nil {
		return nil, refused(path, base, below, err)
	}
	folder, err := root.OpenRoot(below)
	if err != nil {
		return nil, refused(path, base, below, err)
	}
	return folder, nil
}

// refused says why a folder cannot be opened: by the first link in its path that leads
// out of the base, if there is one.
func refused(path, base, below string, err error) error {
	at := base
	for part := range strings.SplitSeq(below, "/") {
		at = filepath.Join(at, part)
		target, noLink := os.Readlink(at)
		if noLink == nil && leadsOut(base, at, target) {
			return fmt.Errorf("the folder %s: %s is a link to %s, and no link may lead out of where it starts, because it may have come with a checkout; give the folder that it leads to by its own path, or remove the link", path, at, target)
		}
	}
	return cmp.Or(CheckFolder(path), fmt.Errorf("the folder %s: %w", path, err))
}

// CheckFolder says what stands where a folder is or should be made: a file, or a link to
// nothing, in its place or above it. It changes nothing.
func CheckFolder(path string) error {
	for at := path; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		target, noLink := os.Readlink(at)
		switch {
		case err == nil && info.IsDir():
			return nil
		case err == nil:
			return fmt.Errorf("the folder %s: %s is no folder; give another one, or move that away", path, at)
		case noLink == nil:
			return fmt.Errorf("the folder %s: %s is a link to %s, which is not there; make that folder, or remove the link", path, at, target)
		case at == filepath.Dir(at):
			return nil
		}
	}
}

// leadsOut reports whether a link below a base leads out of it, as os.Root has it: an
// absolute one always does.
func leadsOut(base, link, target string) bool {
	if filepath.IsAbs(target) {
		return true
	}
	end := filepath.Join(filepath.Dir(link), target)
	if resolved, err := filepath.EvalSymlinks(end); err == nil {
		end = resolved
	}
	if resolved, err := filepath.EvalSymlinks(base); err == nil && filepath.IsAbs(end) {
		base = resolved
	}
	relative, err := filepath.Rel(base, end)
	return err != nil || !filepath.IsLocal(relative)
}

// split returns where a path starts from and the rest of it, or "" for an absolute path
// that is not below the working directory.
func split(path string) (base, below string) {
	below = filepath.Clean(path)
	if filepath.IsAbs(below) {
		here, err := os.Getwd()
		if err != nil {
			return "", below
		}
		relative, err := filepath.Rel(here, below)
		if err != nil || relative == ".." || strings.HasPrefix(relative, "../") {
			return "", below
		}
		return here, relative
	}
	base = "."
	for below == ".." || strings.HasPrefix(below, "../") {
		base = filepath.Join(base, "..")
		below = filepath.Clean(strings.TrimPrefix(strings.TrimPrefix(below, ".."), "/"))
	}
	return base, below
}

// WriteFileIn is WriteFile for a file in a root, which no link leads out of.
func WriteFileIn(ctx context.Context, root *os.Root, name string, content []byte) (sum string, err error) {
	sum, _, err = CreateIn(ctx, root, name, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	return sum, err
}
