// Package state is the boot server's folder on disk: the releases that have
// been staged, which of them is served, and which machines boot another one.
// Staging writes it, serving reads it, and they may be different processes.
//
//	releases/TAG/release.json                      what it is: see Release
//	releases/TAG/SHA256SUMS.txt                    and what else proves it: see Snapshot.Proof
//	releases/TAG/x86_64/{kernel,initrd,netboot.ipxe}
//	releases/TAG/aarch64/{kernel,initrd,netboot.ipxe}
//	current                                        a symlink to releases/TAG
//	previous                                       likewise, what a rollback returns to
//	rings.yaml                                     optional: see Rings
//	high-water-mark.json                           what nothing older is taken than: see Mark
//	machines.json, machines.json.lock              the server's table of machines, unless
//	                                               it has another place
//
// A folder's name is the tag as release.FolderName writes it, without a slash. No tag
// begins with a dot, so that names with a dot are free for what is being staged
// (releases/.incoming-…) or removed (releases/.removing-…), for the lock file and for
// downloads.
//
// A reader sees a complete release or none, since a release is renamed into place
// when it is complete, and it sees the old or the new release as current, since a
// switch is one rename. A release that is open (Snapshot) is not pruned. Writers
// take the lock (Lock).
package state

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"every.channel/runner-images/internal/disk"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/release"
)

// ErrNotStaged means that a release is not in the state folder, or that there is
// no current or previous one. Test for it with errors.Is.
var ErrNotStaged = errors.New("not staged")

// The names of the files of a bundle.
const (
	Kernel = "kernel"
	Initrd = "initrd"
	Script = "netboot.ipxe"
)

// FileNames returns the names of the files that each bundle consists of.
func FileNames() []string { return []string{Kernel, Initrd, Script} }

// A Release is the content of release.json.
type Release struct {
	Tag     string                          `json:"tag"`
	Staged  time.Time                       `json:"staged"`
	Source  string                          `json:"source"` // the address of the release, or the tarball's path
	Bundles map[machine.Architecture]Bundle `json:"bundles"`

	// PassedOver are files of the release that may be bundles by their names and were
	// not taken, with their SHA-256, so that they are not downloaded again.
	PassedOver map[string]string `json:"passed_over,omitempty"`
}

// A Bundle is a release's files for one architecture.
type Bundle struct {
	Asset  string          `json:"asset"`  // the tarball's name
	SHA256 string          `json:"sha256"` // of the tarball, in lower-case hexadecimal
	Files  map[string]File `json:"files"`  // by FileNames
}

// A File is one file of a bundle as it was when it was staged.
type File struct {
	SHA256 string `json:"sha256"` // lower-case hexadecimal
	Size   int64  `json:"size"`   // bytes
}

const (
	releasesFolder = "releases"
	releaseFile    = "release.json"
	currentLink    = "current"
	previousLink   = "previous"
	lockFile       = ".lock"
	incomingPrefix = ".incoming-"
	removingPrefix = ".removing-"
)

// A Dir is an open state folder. Its methods may be called from several
// goroutines at once.
type Dir struct {
	root *os.Root
}

// Open opens a state folder, which must be there. A folder in which nothing has
// been staged yet is fine.
func Open(dir string) (*Dir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the state folder: %w", err)
	}
	return &Dir{root}, nil
}

// Create makes a state folder if it is not there, and opens it.
func Create(dir string) (*Dir, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	d, err := Open(dir)
	if err != nil {
		return nil, err
	}
	if err := d.root.MkdirAll(releasesFolder, 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("make the state folder: %w", err), d.Close())
	}
	return d, nil
}

// Close closes the folder. Snapshots and files stay open.
func (d *Dir) Close() error { return d.root.Close() }

// Path returns the path that the folder was opened with.
func (d *Dir) Path() string { return d.root.Name() }

// Current returns the release that machines boot which are in no ring,
// or an error that wraps ErrNotStaged.
func (d *Dir) Current() (Release, error) { return d.linked(currentLink) }

// Previous returns the release that was current before, or an error that wraps
// ErrNotStaged.
func (d *Dir) Previous() (Release, error) { return d.linked(previousLink) }

// Release returns the staged release of a tag, or an error that wraps ErrNotStaged.
func (d *Dir) Release(tag string) (Release, error) {
	name, err := folderName(tag)
	if err != nil {
		return Release{}, err
	}
	release, err := d.read(path.Join(releasesFolder, name))
	if errors.Is(err, fs.ErrNotExist) {
		return Release{}, fmt.Errorf("release %s: %w", tag, ErrNotStaged)
	}
	return release, err
}

// Releases returns all staged releases, the last staged first. Folders without a
// release.json are passed over. For each one that cannot be read there is an
// error, and the others are returned all the same.
func (d *Dir) Releases() ([]Release, error) {
	entries, err := fs.ReadDir(d.root.FS(), releasesFolder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var releases []Release
	var broken []error
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") || !entry.IsDir() {
			continue
		}
		release, err := d.read(path.Join(releasesFolder, entry.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			broken = append(broken, err)
		default:
			releases = append(releases, release)
		}
	}
	slices.SortFunc(releases, func(a, b Release) int {
		return cmp.Or(b.Staged.Compare(a.Staged), strings.Compare(a.Tag, b.Tag))
	})
	return releases, errors.Join(broken...)
}

// Rings reads a file of rings, or the state folder's rings.yaml for an empty path,
// which need not be there: then there are no rings.
func (d *Dir) Rings(path string) (Rings, error) {
	if path != "" {
		file, err := os.Open(path)
		return readRings(file, err)
	}
	file, err := d.root.Open(RingsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Rings{}, nil
	}
	return readRings(file, err)
}

func readRings(file *os.File, err error) (Rings, error) {
	if err != nil {
		return Rings{}, err
	}
	defer file.Close()
	rings, err := ParseRings(file)
	if err != nil {
		return Rings{}, fmt.Errorf("%s: %w", file.Name(), err)
	}
	return rings, nil
}

func (d *Dir) linked(link string) (Release, error) {
	snapshot, err := d.openLinked(link)
	if err != nil {
		return Release{}, err
	}
	return snapshot.Release, snapshot.Close()
}

func (d *Dir) read(folder string) (Release, error) {
	snapshot, err := d.open(folder)
	if err != nil {
		return Release{}, err
	}
	return snapshot.Release, snapshot.Close()
}

// A Snapshot is a staged release that is open: it can be read until it is closed,
// whatever is switched or pruned meanwhile.
type Snapshot struct {
	Release Release
	root    *os.Root
	lock    *os.File // the folder, with a shared lock that pruning respects
}

// OpenCurrent opens the current release, or returns an error that wraps ErrNotStaged.
func (d *Dir) OpenCurrent() (*Snapshot, error) { return d.openLinked(currentLink) }

// OpenPrevious opens the previous release, or returns an error that wraps ErrNotStaged.
func (d *Dir) OpenPrevious() (*Snapshot, error) { return d.openLinked(previousLink) }

// OpenRelease opens the release of a tag, or returns an error that wraps ErrNotStaged.
func (d *Dir) OpenRelease(tag string) (*Snapshot, error) {
	name, err := folderName(tag)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotStaged, err)
	}
	snapshot, err := d.open(path.Join(releasesFolder, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("release %s: %w", tag, ErrNotStaged)
	}
	return snapshot, err
}

// openLinked opens the release that a link leads to. Another process may switch the
// link and prune the release before it is open: then the link is read again.
func (d *Dir) openLinked(link string) (*Snapshot, error) {
	before := ""
	for {
		target, err := d.root.Readlink(link)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("no %s release: %w", link, ErrNotStaged)
		}
		if err != nil {
			return nil, err
		}
		snapshot, err := d.open(target)
		if !errors.Is(err, fs.ErrNotExist) {
			return snapshot, err
		}
		if target == before {
			return nil, fmt.Errorf("%s leads to %s, which is %w", link, target, ErrNotStaged)
		}
		before = target
	}
}

// open opens the release in a folder. It may be replaced or pruned before it is
// locked: then the release that has the name by now is opened, if there is one.
func (d *Dir) open(folder string) (*Snapshot, error) {
	for {
		snapshot, err := d.lockShared(folder)
		if err != nil {
			return nil, err
		}
		there, err := d.stillAt(folder, snapshot.lock)
		if there && err == nil {
			snapshot.Release, err = readRelease(snapshot.root)
		}
		if there && err == nil {
			return snapshot, nil
		}
		if err := errors.Join(err, snapshot.Close()); err != nil {
			return nil, err
		}
	}
}

// lockShared opens a folder and locks it against pruning and replacing.
func (d *Dir) lockShared(folder string) (*Snapshot, error) {
	root, err := d.root.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	lock, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	snapshot := &Snapshot{root: root, lock: lock}
	if err := disk.LockShared(lock); err != nil {
		return nil, errors.Join(err, snapshot.Close())
	}
	return snapshot, nil
}

// stillAt reports whether what is open is what has the name now.
func (d *Dir) stillAt(folder string, open *os.File) (bool, error) {
	is, err := open.Stat()
	if err != nil {
		return false, err
	}
	named, err := d.root.Stat(folder)
	return err == nil && os.SameFile(is, named), err
}

func readRelease(root *os.Root) (Release, error) {
	content, err := root.ReadFile(releaseFile)
	if err != nil {
		return Release{}, err
	}
	var release Release
	if err := json.Unmarshal(content, &release); err != nil {
		return Release{}, fmt.Errorf("%s: %w; remove %s and stage that release again",
			filepath.Join(root.Name(), releaseFile), err, root.Name())
	}
	return release, nil
}

// Open opens a file of the bundle for an architecture, by one of FileNames. The
// file stays readable when the snapshot is closed. An error wraps fs.ErrNotExist if
// the release has no such bundle or file.
func (s *Snapshot) Open(architecture machine.Architecture, name string) (*os.File, error) {
	if _, ok := s.Release.Bundles[architecture].Files[name]; !ok {
		return nil, fmt.Errorf("release %s has no %s/%s: %w", s.Release.Tag, architecture, name, fs.ErrNotExist)
	}
	return s.root.Open(path.Join(string(architecture), name))
}

// Proof returns a small file that came with the release, such as its
// SHA256SUMS.txt or the signature of that, or an error that wraps fs.ErrNotExist.
func (s *Snapshot) Proof(name string) ([]byte, error) {
	if err := checkProof(name); err != nil {
		return nil, err
	}
	return s.root.ReadFile(name)
}

// Close lets the release be pruned. It may be called twice.
func (s *Snapshot) Close() error {
	err := s.root.Close()
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
		s.lock = nil
	}
	return err
}

// Lock locks the folder for one writer at a time. It waits for another writer until
// the context ends; waiting, if set, is called once when there is a wait. The lock
// ends with the process.
func (d *Dir) Lock(ctx context.Context, waiting func()) (unlock func(), err error) {
	file, err := d.root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("the state folder %s cannot be written to: %w", d.root.Name(), err)
	}
	if err := disk.Lock(ctx, file, waiting); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { file.Close() }, nil
}

// folderName returns the name of a tag's folder, or an error for a tag that no
// release can have.
func folderName(tag string) (string, error) {
	if err := release.CheckTag(tag); err != nil {
		return "", fmt.Errorf("release tag %q: %w", tag, err)
	}
	return release.FolderName(tag), nil
}
