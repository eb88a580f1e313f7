package disk

import (
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
			return nil, err
		}
		return os.OpenRoot(path)
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := root.MkdirAll(below, 0o755); err != nil {
		return nil, outside(path, err)
	}
	folder, err := root.OpenRoot(below)
	if err != nil {
		return nil, outside(path, err)
	}
	return folder, nil
}

func outside(path string, err error) error {
	return fmt.Errorf("the folder %s, in which no link may lead out of where it starts: %w", path, err)
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
