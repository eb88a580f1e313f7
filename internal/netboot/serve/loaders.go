package serve

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A loaderDir is the folder of network boot programs: the iPXE binaries that firmware
// loads, and scripts beside them. The zero value is one without any.
type loaderDir struct {
	root *os.Root
	// store is the one place outside the folder that a link in it may lead to:
	// whatever lies in the Nix store may be read by everybody.
	store string
}

// openLoaders opens a folder of boot programs. No path stands for a folder without any.
func openLoaders(path string) (*loaderDir, error) {
	if path == "" {
		return &loaderDir{}, nil
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open the folder of iPXE binaries: %w", err)
	}
	return &loaderDir{root: root, store: "/nix/store/"}, nil
}

// Close closes the folder.
func (d *loaderDir) Close() error {
	if d.root == nil {
		return nil
	}
	return d.root.Close()
}

// cleanName returns the name of a file in the folder as it was asked for, with or
// without a leading slash and with either kind of slash (some firmware is of
// DOS descent), or an error that wraps fs.ErrNotExist.
func cleanName(name string) (string, error) {
	const most = 255 // bytes
	name = strings.TrimPrefix(path.Clean("/"+strings.ReplaceAll(name, `\`, "/")), "/")
	if name == "" || len(name) > most || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fs.ErrNotExist
	}
	return name, nil
}

// maxGarbage is how many bytes before the first that is no printable ASCII character may
// be no part of a name: an option's code, its length, and text such as a host's name.
const maxGarbage = 66

// served returns the name of what a client asks for, as cleanName does: of a file that is
// there, or one of the generated scripts. Some firmware sends what comes after the boot
// file's name in the DHCP packet too: the end of the options (255), or the next option,
// whose beginning may be printable. Where no file has the whole name, and a part of it is
// not printable, it is the longest name before that of which there is a file.
func (d *loaderDir) served(asked string, generated ...string) (string, error) {
	name, err := cleanName(asked)
	isThere := func(name string) bool { return slices.Contains(generated, name) || d.has(name) }
	if err == nil && isThere(name) {
		return name, nil
	}
	garbage := strings.IndexFunc(asked, func(r rune) bool { return r <= ' ' || r >= 0x7f })
	for end := garbage; end > max(0, garbage-maxGarbage); end-- {
		if short, err := cleanName(asked[:end]); err == nil && isThere(short) {
			return short, nil
		}
	}
	return name, err
}

// labelOf returns what a log may contain of the name of a file that was asked for and
// is not there: not its folders, one of which could be the chain token.
func labelOf(name string) string {
	const most = 100 // bytes
	folder, base := path.Split(strings.ReplaceAll(name, `\`, "/"))
	if len(base) > most {
		base = base[:most] + "…"
	}
	if strings.Trim(folder, "/") != "" {
		base = "…/" + base
	}
	return base
}

// open opens a file by its name as cleanName returns it, and returns its size in
// bytes. A name that leads out of the folder, a link that does (but for one into
// the Nix store), and what is not a regular file are not there: fs.ErrNotExist.
func (d *loaderDir) open(name string) (*os.File, int64, error) {
	if d.root == nil || !filepath.IsLocal(name) {
		return nil, 0, fs.ErrNotExist
	}
	file, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a pipe would block
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		file, err = d.openStored(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fs.ErrNotExist // without the name: see labelOf
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// openStored opens what a link leads to in the Nix store.
func (d *loaderDir) openStored(name string) (*os.File, error) {
	target, err := filepath.EvalSymlinks(filepath.Join(d.root.Name(), name))
	if err != nil || !strings.HasPrefix(target, d.store) {
		return nil, fs.ErrNotExist
	}
	return os.Open(target)
}

// has reports whether there is a file of this name.
func (d *loaderDir) has(name string) bool {
	file, _, err := d.open(name)
	if err != nil {
		return false
	}
	return file.Close() == nil
}
