package artifact

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrOutside means that a file of a build's output is a link that leads out of what
// was built, for example to a private key: it would be published.
var ErrOutside = errors.New("outside of what was built")

// sources are the paths in which all files must lie that are packaged. None of their
// folders is a link.
type sources []string

// newSources returns the sources for paths. A path itself stays as it is: one that is a
// link holds nothing.
func newSources(paths []string) (sources, error) {
	if len(paths) == 0 {
		return nil, errors.New("it is not known where the files of a build may lie")
	}
	var (
		found   sources
		folders = map[string]string{} // thousands of store paths have one folder
	)
	for _, path := range paths {
		folder, known := folders[filepath.Dir(path)]
		if !known {
			var err error
			if folder, err = filepath.EvalSymlinks(filepath.Dir(path)); err != nil {
				return nil, err
			}
			folders[filepath.Dir(path)] = folder
		}
		found = append(found, filepath.Join(folder, filepath.Base(path)))
	}
	return found, nil
}

// of returns the source in which a path without links lies.
func (s sources) of(path string) (source string, err error) {
	for _, source := range s {
		if path == source || strings.HasPrefix(path, strings.TrimSuffix(source, "/")+"/") {
			return source, nil
		}
	}
	return "", fmt.Errorf("%s is %w: only files that belong to it are packaged", path, ErrOutside)
}

// open opens a regular file that was found at a path without links. What has become a
// link meanwhile, or was put into the place of its source, is not opened.
func (s sources) open(path string) (*os.File, error) {
	source, err := s.of(path)
	if err != nil {
		return nil, err
	}
	// A source that is a file is looked for in its folder. No root follows a link that
	// leads out of it.
	before, err := os.Lstat(source)
	if err != nil {
		return nil, err
	}
	folder := source
	if !before.IsDir() {
		folder = filepath.Dir(source)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	name, err := filepath.Rel(folder, path)
	if err != nil {
		return nil, err
	}
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // or it waits for who writes to a pipe
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	if err := checkOpened(file, root, before); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), file.Close())
	}
	return file, nil
}

// checkOpened makes sure that an opened file is a regular one, and in, or is, the
// source that was looked at.
func checkOpened(file *os.File, root *os.Root, source fs.FileInfo) error {
	opened, err := file.Stat()
	if err != nil {
		return err
	}
	in := opened
	if source.IsDir() {
		if in, err = root.Stat("."); err != nil {
			return err
		}
	}
	switch {
	case !opened.Mode().IsRegular():
		return errors.New("it is not a regular file")
	case !os.SameFile(in, source):
		return fmt.Errorf("it was replaced, and may be %w", ErrOutside)
	}
	return nil
}

// Trees returns where the files of a result may lie that was built elsewhere: in the
// Nix store, whose folder store is, and in the result's own tree if that is not in the
// store. A link such as nix build leaves must lead into the store.
func Trees(result, store string) ([]string, error) {
	resolved, err := filepath.EvalSymlinks(result)
	if err != nil {
		return nil, fmt.Errorf("build output %s: %w (give a store path, or the link that nix build has left)", result, err)
	}
	if real, err := filepath.EvalSymlinks(store); err == nil { // else there is none
		store = real
	}
	in, isLink, err := leadsInto(result, store)
	switch {
	case err != nil:
		return nil, err
	case in:
		return []string{store}, nil
	case isLink:
		return nil, fmt.Errorf("%s leads to %s, which is not in the Nix store %s: name that itself, if it is to be packaged", result, resolved, store)
	}
	if resolved, err = filepath.Abs(resolved); err != nil {
		return nil, err
	}
	if _, err := os.Stat(store); err != nil { // there need not be one
		return []string{resolved}, nil
	}
	return []string{resolved, store}, nil
}

// leadsInto reports whether a path lies in a folder, or is a link that leads there at
// any of its steps; and whether it is a link. The folder has no links in it.
func leadsInto(path, folder string) (in, isLink bool, err error) {
	const steps = 40 // as Linux
	if path, err = filepath.Abs(path); err != nil {
		return false, false, err
	}
	for range steps {
		parent, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return false, isLink, err
		}
		path = filepath.Join(parent, filepath.Base(path))
		if strings.HasPrefix(path, folder+"/") {
			return true, isLink, nil
		}
		target, err := os.Readlink(path)
		if err != nil {
			return false, isLink, nil // it is no link
		}
		isLink = true
		if path = target; !filepath.IsAbs(path) {
			path = filepath.Join(parent, path)
		}
	}
	return false, isLink, fmt.Errorf("%s is a link to itself", path)
}
