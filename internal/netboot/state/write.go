package state

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"every.channel/runner-images/internal/disk"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/transfer"
)

// An Incoming is a release that is being staged. Readers do not see it before Commit.
// The caller must hold the lock.
type Incoming struct {
	dir     *Dir
	folder  string // releases/.incoming-…
	root    *os.Root
	release Release
}

// Incoming starts to stage a release of a tag. source is where its files come from,
// for people. What a writer that was killed has left behind is removed.
func (d *Dir) Incoming(tag, source string) (*Incoming, error) {
	name, err := folderName(tag)
	if err != nil {
		return nil, err
	}
	if err := d.sweep(); err != nil {
		return nil, err
	}
	folder := path.Join(releasesFolder, incomingPrefix+name+"-"+rand.Text())
	if err := d.root.Mkdir(folder, 0o755); err != nil {
		return nil, fmt.Errorf("stage release %s: %w", tag, err)
	}
	root, err := d.root.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	return &Incoming{dir: d, folder: folder, root: root, release: Release{
		Tag: tag, Source: source, Bundles: map[machine.Architecture]Bundle{},
	}}, nil
}

// Bundle starts the bundle for an architecture: asset is the tarball's name and
// sum its SHA-256.
func (in *Incoming) Bundle(architecture machine.Architecture, asset, sum string) error {
	if !slices.Contains(machine.Architectures(), architecture) {
		return fmt.Errorf("%s: no boot server knows the architecture %q; known are %q", asset, architecture, machine.Architectures())
	}
	in.release.Bundles[architecture] = Bundle{Asset: asset, SHA256: sum, Files: map[string]File{}}
	if err := in.root.Mkdir(string(architecture), 0o755); err != nil {
		return fmt.Errorf("stage release %s: %w", in.release.Tag, err)
	}
	return nil
}

// PassOver records files of the release that are not taken: see Release.
func (in *Incoming) PassOver(sums map[string]string) { in.release.PassedOver = sums }

// Write writes a file of a bundle, by one of FileNames, once. The file is on the
// disk when it returns.
func (in *Incoming) Write(ctx context.Context, architecture machine.Architecture, name string, content io.Reader) error {
	bundle, ok := in.release.Bundles[architecture]
	if !ok || !slices.Contains(FileNames(), name) {
		return fmt.Errorf("a bundle has no file %s/%s", architecture, name)
	}
	if _, written := bundle.Files[name]; written {
		return fmt.Errorf("%s has %s twice", bundle.Asset, name)
	}
	sum, size, err := disk.CreateIn(ctx, in.root, path.Join(string(architecture), name), func(w io.Writer) error {
		return transfer.ReadAhead(transfer.WithContext(ctx, content), nil, func(content io.Reader) error {
			_, err := io.Copy(w, content)
			return err
		})
	})
	if err != nil {
		return err
	}
	bundle.Files[name] = File{SHA256: sum, Size: size}
	return nil
}

// Proof adds a small file to the release by which its bundles can be verified later:
// see Snapshot.Proof.
func (in *Incoming) Proof(name string, content []byte) error {
	if err := checkProof(name); err != nil {
		return err
	}
	return in.writeFile(name, content)
}

// writeFile writes a small file, for which no caller waits.
func (in *Incoming) writeFile(name string, content []byte) error {
	_, _, err := disk.CreateIn(context.Background(), in.root, name, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	return err
}

// checkProof accepts names that nothing else in a release's folder has.
func checkProof(name string) error {
	if name != path.Base(name) || strings.HasPrefix(name, ".") || name == releaseFile || slices.Contains(machine.Architectures(), machine.Architecture(name)) {
		return fmt.Errorf("%q cannot be the name of a file beside a bundle", name)
	}
	return nil
}

// Keep takes the bundle for an architecture over from the staged release of the
// same tag, without copying it. The asset is what the release calls it now.
func (in *Incoming) Keep(architecture machine.Architecture, asset string) error {
	name, err := folderName(in.release.Tag)
	if err != nil {
		return err
	}
	staged, err := in.dir.Release(in.release.Tag)
	if err != nil {
		return err
	}
	bundle, ok := staged.Bundles[architecture]
	if !ok {
		return fmt.Errorf("release %s for %s: %w", staged.Tag, architecture, ErrNotStaged)
	}
	bundle.Asset = asset
	if err := in.Bundle(architecture, bundle.Asset, bundle.SHA256); err != nil {
		return err
	}
	for file := range bundle.Files {
		inBundle := path.Join(string(architecture), file)
		if err := in.dir.root.Link(path.Join(releasesFolder, name, inBundle), path.Join(in.folder, inBundle)); err != nil {
			return fmt.Errorf("stage release %s: %w", in.release.Tag, err)
		}
	}
	in.release.Bundles[architecture] = bundle
	return nil
}

// Commit puts the release in its place when all of it is on the disk. If a release of
// that tag was staged already, the new one replaces it in one step, and snapshots of
// the old one stay. There must be a bundle, and each must have all its files.
func (in *Incoming) Commit() (Release, error) {
	if len(in.release.Bundles) == 0 {
		return Release{}, fmt.Errorf("release %s has no bundle", in.release.Tag)
	}
	for architecture, bundle := range in.release.Bundles {
		for _, name := range FileNames() {
			if _, ok := bundle.Files[name]; !ok {
				return Release{}, fmt.Errorf("%s has no %s", bundle.Asset, name)
			}
		}
		if err := disk.SyncFolder(filepath.Join(in.root.Name(), string(architecture))); err != nil {
			return Release{}, err
		}
	}
	in.release.Staged = time.Now().UTC().Truncate(time.Microsecond)
	content, err := json.MarshalIndent(in.release, "", "  ")
	if err != nil {
		return Release{}, err
	}
	if err := in.writeFile(releaseFile, append(content, '\n')); err != nil {
		return Release{}, err
	}
	if err := disk.SyncFolder(in.root.Name()); err != nil {
		return Release{}, err
	}
	if err := in.place(); err != nil {
		return Release{}, fmt.Errorf("put release %s in its place: %w", in.release.Tag, err)
	}
	return in.release, disk.SyncFolder(filepath.Join(in.dir.Path(), releasesFolder))
}

func (in *Incoming) place() error {
	name, err := folderName(in.release.Tag)
	if err != nil {
		return err
	}
	final := path.Join(releasesFolder, name)
	if _, err := in.dir.root.Lstat(final); errors.Is(err, fs.ErrNotExist) {
		return in.dir.root.Rename(in.folder, final)
	}
	return disk.Exchange(filepath.Join(in.dir.Path(), in.folder), filepath.Join(in.dir.Path(), final))
}

// Discard removes what was not committed. After Commit it does nothing.
func (in *Incoming) Discard() error {
	return errors.Join(in.root.Close(), in.dir.remove(path.Base(in.folder)))
}

// Switch makes the staged release of a tag current, in one step, and the one that
// was current previous. It reports whether that changed anything. An error wraps
// ErrNotStaged if the release is not there. The caller must hold the lock.
func (d *Dir) Switch(tag string) (changed bool, err error) {
	if _, err := d.Release(tag); err != nil {
		return false, err
	}
	name, err := folderName(tag)
	if err != nil {
		return false, err
	}
	target := path.Join(releasesFolder, name)
	before, err := d.root.Readlink(currentLink)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if before == target {
		return false, nil
	}
	previous, err := d.root.Readlink(previousLink)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	// Two links cannot change in one step. If this process dies between them,
	// both lead to one release: for a new release the one that is still current,
	// and the switch has to be done again; for a rollback the one rolled back to.
	steps := []func() error{
		func() error { return d.link(previousLink, before) },
		func() error { return d.link(currentLink, target) },
	}
	if before == "" {
		steps = steps[1:]
	}
	if previous == target {
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return false, fmt.Errorf("switch to release %s: %w", tag, err)
		}
	}
	return true, nil
}

// Rollback makes the previous release current and the current one previous.
// An error wraps ErrNotStaged if there is no previous one. The caller must hold the lock.
func (d *Dir) Rollback() (Release, error) {
	previous, err := d.Previous()
	if err != nil {
		return Release{}, fmt.Errorf("roll back: %w", err)
	}
	changed, err := d.Switch(previous.Tag)
	if err == nil && !changed {
		err = fmt.Errorf("roll back: the previous release is %s, which is current: no other is known: %w", previous.Tag, ErrNotStaged)
	}
	return previous, err
}

// link makes a symlink in the state folder lead to target in one step.
func (d *Dir) link(name, target string) error {
	aside := "." + name + "-next"
	if err := d.root.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := d.root.Symlink(target, aside); err != nil {
		return err
	}
	if err := d.root.Rename(aside, name); err != nil {
		return err
	}
	return disk.SyncFolder(d.Path())
}

// Prune removes the oldest releases until keep are left, and returns what it
// removed. The current and the previous release, those that a ring names, and
// those that are open stay whatever their age. A keep of 0 removes all others.
// The caller must hold the lock.
func (d *Dir) Prune(keep int, rings Rings) ([]Release, error) {
	wanted, err := d.wanted(rings)
	if err != nil {
		return nil, fmt.Errorf("no old release was removed: %w", err)
	}
	releases, err := d.Releases() // what could be read may go, the rest is left alone
	var removed []Release
	for i, release := range releases {
		if i < keep || wanted[release.Tag] {
			continue
		}
		gone, pruneErr := d.prune(release.Tag)
		if gone {
			removed = append(removed, release)
		}
		err = errors.Join(err, pruneErr)
	}
	return removed, errors.Join(err, d.sweep())
}

// wanted returns the tags of the releases that must not be removed.
func (d *Dir) wanted(rings Rings) (map[string]bool, error) {
	wanted := map[string]bool{}
	for _, ring := range rings.Rings {
		wanted[ring.Tag] = true
	}
	for _, linked := range []func() (Release, error){d.Current, d.Previous} {
		release, err := linked()
		if err != nil && !errors.Is(err, ErrNotStaged) {
			return nil, err
		}
		wanted[release.Tag] = true
	}
	return wanted, nil
}

// prune removes a release's folder, unless the release is open.
func (d *Dir) prune(tag string) (gone bool, err error) {
	name, err := folderName(tag)
	if err != nil {
		return false, err
	}
	aside := path.Join(releasesFolder, removingPrefix+name+"-"+rand.Text())
	free, err := d.whileFree(name, func() error {
		return d.root.Rename(path.Join(releasesFolder, name), aside)
	})
	if err != nil || !free {
		return false, err
	}
	return true, d.root.RemoveAll(aside)
}

// sweep removes what writers have left behind under releases, except for replaced
// releases that are still open.
func (d *Dir) sweep() error {
	entries, err := fs.ReadDir(d.root.FS(), releasesFolder)
	if err != nil {
		return err
	}
	var failed []error
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), incomingPrefix) || strings.HasPrefix(entry.Name(), removingPrefix) {
			failed = append(failed, d.remove(entry.Name()))
		}
	}
	return errors.Join(failed...)
}

// remove removes a folder under releases that has no release's name, unless it is
// open.
func (d *Dir) remove(name string) error {
	_, err := d.whileFree(name, func() error {
		return d.root.RemoveAll(path.Join(releasesFolder, name))
	})
	return err
}

// whileFree calls do with a folder under releases locked, if the folder is not open,
// and reports whether it did. A folder that is not there needs nothing to be done.
func (d *Dir) whileFree(name string, do func() error) (free bool, err error) {
	folder, err := d.root.Open(path.Join(releasesFolder, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer folder.Close()
	locked, err := disk.TryLock(folder)
	if err != nil || !locked {
		return false, err
	}
	return true, do()
}
