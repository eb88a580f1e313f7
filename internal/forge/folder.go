package forge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/count"
	"every.channel/runner-images/internal/disk"
)

// folder is a store in a plain folder: a sub-folder a release, with the assets
// as files. What begins with a dot in it is not for readers: what a release
// says of itself, drafts, locks, and files that are being written.
type folder struct {
	root   string
	config Config
}

var _ Store = (*folder)(nil)

const descriptionName = ".release.json"

// description is what a release says of itself.
type description struct {
	Tag        string    `json:"tag"`
	Commit     string    `json:"commit,omitempty"`
	Title      string    `json:"title"`
	Notes      string    `json:"notes"`
	Prerelease bool      `json:"prerelease"`
	Created    time.Time `json:"created"`
}

// path is the sub-folder of a tag's release. A tag may have slashes, and never
// begins with a dot (git-check-ref-format).
func (f *folder) path(tag string) string { return filepath.Join(f.root, url.PathEscape(tag)) }

func (f *folder) hidden(tag, what string) string {
	return filepath.Join(f.root, "."+url.PathEscape(tag)+"."+what)
}

func fileURL(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }

func (f *folder) notFound(operation, path, advice string) error {
	return &Error{Operation: operation, URL: fileURL(path), Err: ErrNotFound, Advice: advice}
}

func (f *folder) Release(_ context.Context, tag string) (Release, error) {
	path := f.path(tag)
	about, err := readDescription(path)
	if errors.Is(err, fs.ErrNotExist) || tag == "" || strings.HasPrefix(tag, ".") {
		return Release{}, f.notFound("find the release "+tag, path, "check the tag and the folder")
	}
	if err != nil {
		return Release{}, fmt.Errorf("release %s: %w", tag, err)
	}
	if about.Tag != tag { // a copy of another one, truly signed perhaps, must not pass for it
		return Release{}, f.notFound("find the release "+tag, path, fmt.Sprintf("by its description this folder is the release %s; give that tag, or publish %s anew", about.Tag, tag))
	}
	return releaseAt(path, about)
}

func releaseAt(path string, about description) (Release, error) {
	release := Release{
		Tag: about.Tag, Title: about.Title, Notes: about.Notes,
		Prerelease: about.Prerelease, Created: about.Created, URL: fileURL(path),
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return Release{}, fmt.Errorf("release %s: %w", about.Tag, err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") || !entry.Type().IsRegular() {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			return Release{}, fmt.Errorf("release %s: %w", about.Tag, err)
		}
		file := filepath.Join(path, entry.Name())
		release.Assets = append(release.Assets, Asset{Name: entry.Name(), Size: info.Size(), URL: fileURL(file)})
	}
	return release, nil
}

func (f *folder) Latest(_ context.Context, prefix string) (Release, error) {
	entries, err := os.ReadDir(f.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Release{}, err
	}
	var newest description
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		about, err := readDescription(filepath.Join(f.root, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // not a release
		}
		if err != nil {
			return Release{}, fmt.Errorf("release %s: %w", entry.Name(), err)
		}
		if strings.HasPrefix(about.Tag, prefix) && !about.Prerelease && about.Created.After(newest.Created) {
			newest = about
		}
	}
	if newest.Tag == "" {
		return Release{}, f.notFound(fmt.Sprintf("find the newest release with a tag that begins with %q", prefix), f.root,
			"publish one, or check the folder")
	}
	return releaseAt(f.path(newest.Tag), newest)
}

func (f *folder) Open(_ context.Context, asset Asset, offset int64) (io.ReadCloser, error) {
	address, err := url.Parse(asset.URL)
	if err != nil || address.Scheme != "file" {
		return nil, fmt.Errorf("download %s: %q is not the address of a file", asset.Name, asset.URL)
	}
	if relative, err := filepath.Rel(f.root, address.Path); err != nil || !filepath.IsLocal(relative) {
		return nil, fmt.Errorf("download %s: %s is not in %s", asset.Name, address.Path, f.root)
	}
	file, err := os.Open(address.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, f.notFound("download "+asset.Name, address.Path, "check the asset's name")
	}
	if err != nil {
		return nil, err
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// Publish keeps the order of the package's documentation; a rename of the
// operating system is what makes each step whole.
func (f *folder) Publish(ctx context.Context, p Publication) (Published, error) {
	if err := p.check(); err != nil {
		return Published{}, err
	}
	if err := os.MkdirAll(f.root, 0o755); err != nil {
		return Published{}, err
	}
	p.Files = slices.Clone(p.Files) // missing checksums are filled in
	unlock, err := f.lock(ctx, p.Tag)
	if err != nil {
		return Published{}, err
	}
	defer unlock()

	path, draft := f.path(p.Tag), false
	about, err := readDescription(path)
	if errors.Is(err, fs.ErrNotExist) {
		path, draft = f.hidden(p.Tag, "draft"), true
		about, err = f.draft(ctx, p, path)
	}
	if err != nil {
		return Published{}, fmt.Errorf("release %s: %w", p.Tag, err)
	}
	result, about, err := f.fill(ctx, p, path, about)
	if err != nil {
		return Published{}, err
	}
	if draft {
		if err := errors.Join(os.Rename(path, f.path(p.Tag)), disk.SyncFolder(f.root)); err != nil {
			return Published{}, err
		}
	}
	result.Release, err = releaseAt(f.path(p.Tag), about)
	return result, err
}

// draft makes the folder of a release that nobody sees yet, or finds the one of
// a run that died.
func (f *folder) draft(ctx context.Context, p Publication, path string) (description, error) {
	title := p.Title
	if title == "" {
		title = p.Tag
	}
	about := description{
		Tag: p.Tag, Commit: p.Commit, Title: title, Prerelease: p.Prerelease, Created: time.Now().UTC().Round(0),
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return description{}, err
	}
	return about, writeDescription(ctx, path, about)
}

// lock makes one run at a time publish a tag. The operating system ends it with
// the process.
func (f *folder) lock(ctx context.Context, tag string) (unlock func(), err error) {
	file, err := os.OpenFile(f.hidden(tag, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = disk.Lock(ctx, file, func() { f.config.Log("another run is publishing this release; waiting for it to end") })
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return func() { _ = file.Close() }, nil
}

// fill brings the files of a release to what they should be.
func (f *folder) fill(ctx context.Context, p Publication, path string, about description) (Published, description, error) {
	var result Published
	sums, err := readSums(path)
	if err != nil {
		return result, about, err
	}
	lines := maps.Clone(sums) // that stay true meanwhile
	var changed []*File
	for i := range p.Files {
		file := &p.Files[i]
		p.status("compare %s with the release's", file.Name)
		same, there, err := sameFile(ctx, path, file, sums)
		if err != nil {
			return result, about, err
		}
		if !same {
			if err := checkFollows(ctx, path, *file, there, sums); err != nil {
				return result, about, err
			}
		}
		switch {
		case same:
			result.Unchanged = append(result.Unchanged, file.Name)
			continue
		case there && f.config.Replace == ReplaceNever:
			return result, about, &Error{
				Operation: "publish", Asset: file.Name, URL: fileURL(path),
				Err:    errors.New("the release has an asset of this name with other bytes"),
				Advice: "use another tag, or allow to replace it",
			}
		case there:
			result.Replaced = append(result.Replaced, file.Name)
		default:
			result.Uploaded = append(result.Uploaded, file.Name)
		}
		changed = append(changed, file)
		delete(lines, file.Name)
	}

	if err := dropGone(path, lines); err != nil {
		return result, about, err
	}
	if p.Check != nil {
		release, err := releaseAt(path, about)
		if err != nil {
			return result, about, err
		}
		if err := p.Check(ctx, Before{Release: release, Listed: sums, Kept: lines, Versions: versionsIn(path)}); err != nil {
			return result, about, err
		}
	}
	for _, file := range changed {
		p.status("copy %s", file.Name)
		if err := copyFile(ctx, p, path, file); err != nil {
			return result, about, fmt.Errorf("publish %s: %w", file.Name, err)
		}
	}
	if len(lines) < len(sums) {
		// What is left is signed, too, for a run that has to go on from there.
		if err := f.publishLists(ctx, p, path, lines); err != nil {
			return result, about, err
		}
		if err := disk.SyncFolder(path); err != nil {
			return result, about, err
		}
	}
	for _, file := range changed {
		if err := os.Rename(staging(path, file.Name), filepath.Join(path, file.Name)); err != nil {
			return result, about, err
		}
	}
	if len(changed) > 0 {
		if err := disk.SyncFolder(path); err != nil {
			return result, about, err
		}
	}
	for _, file := range p.Files {
		lines[file.Name] = file.SHA256
	}
	if result.Files, err = listFiles(path, p, lines); err != nil {
		return result, about, err
	}
	if err := f.publishLists(ctx, p, path, lines); err != nil {
		return result, about, err
	}
	about.Prerelease = about.Prerelease || p.Prerelease
	if p.Notes != nil {
		release, err := releaseAt(path, about)
		if err != nil {
			return result, about, err
		}
		if block := p.Notes(release, result.Files); !hasNotes(about.Notes, block) {
			about.Notes = mergeNotes(about.Notes, block)
		}
	}
	return result, about, errors.Join(writeDescription(ctx, path, about), removeLeftOvers(path), disk.SyncFolder(path))
}

// sameFile tells whether the release has these bytes: by its checksums, or by
// its own where there is no line for it.
func sameFile(ctx context.Context, path string, file *File, sums checksum.Sums) (same, there bool, err error) {
	info, err := os.Stat(filepath.Join(path, file.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	if err != nil || info.Size() != file.Size {
		return false, true, err
	}
	if err := hash(ctx, file); err != nil {
		return false, true, err
	}
	if sum, ok := sums[file.Name]; ok {
		return sum == file.SHA256, true, nil
	}
	sum, _, err := checksum.File(ctx, filepath.Join(path, file.Name))
	return sum == file.SHA256, true, err
}

// checkFollows makes sure that a file was made from the one that it replaces.
func checkFollows(ctx context.Context, path string, file File, there bool, sums checksum.Sums) (err error) {
	if file.Follows == "" {
		return nil
	}
	current := FollowsNone
	if there {
		if current = sums[file.Name]; current == "" {
			if current, _, err = checksum.File(ctx, filepath.Join(path, file.Name)); err != nil {
				return err
			}
		}
	}
	if current != file.Follows {
		return &Error{Operation: "publish", Asset: file.Name, URL: fileURL(path), Err: ErrChanged}
	}
	return nil
}

// dropGone drops the lines of files that are gone.
func dropGone(path string, lines checksum.Sums) error {
	for name := range lines {
		_, err := os.Stat(filepath.Join(path, name))
		if errors.Is(err, fs.ErrNotExist) {
			delete(lines, name)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// listFiles adds the sizes to the checksums of what is there.
func listFiles(path string, p Publication, sums checksum.Sums) ([]File, error) {
	var files []File
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		if i := slices.IndexFunc(p.Files, func(f File) bool { return f.Name == name }); i >= 0 {
			files = append(files, p.Files[i])
			continue
		}
		info, err := os.Stat(filepath.Join(path, name))
		if err != nil {
			return nil, err
		}
		files = append(files, File{Name: name, Size: info.Size(), SHA256: sums[name]})
	}
	return files, nil
}

// publishLists replaces SHA256SUMS.txt and what signs it. All are written before
// the first is renamed: a run that dies between the two leaves the other.
func (f *folder) publishLists(ctx context.Context, p Publication, path string, sums checksum.Sums) error {
	lists, err := p.lists(sums)
	if err != nil {
		return err
	}
	changed, err := replaceSmall(ctx, path, lists...)
	if err != nil || !slices.Contains(changed, checksum.FileName) {
		return err
	}
	about, err := filepath.Glob(filepath.Join(escapeGlob(path), checksum.FileName+".*"))
	for _, file := range about {
		f.config.noteSignature(filepath.Base(file), lists)
	}
	return err
}

func readSums(path string) (checksum.Sums, error) {
	text, err := os.ReadFile(filepath.Join(path, checksum.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return checksum.Sums{}, nil
	}
	if err != nil {
		return nil, err
	}
	sums, err := checksum.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%w; repair or delete %s", err, filepath.Join(path, checksum.FileName))
	}
	return sums, nil
}

// versionsIn is Before.Versions of a release's folder.
func versionsIn(path string) func(ctx context.Context, name string) ([][]byte, error) {
	return func(_ context.Context, name string) (contents [][]byte, err error) {
		for _, file := range []string{filepath.Join(path, name), staging(path, name)} {
			content, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			contents = append(contents, content)
		}
		return contents, nil
	}
}

func staging(path, name string) string { return filepath.Join(path, "."+temporaryPrefix+name) }

// copyFile copies a file beside its asset, and checks it on the way.
func copyFile(ctx context.Context, p Publication, path string, file *File) error {
	source, err := openFile(*file)
	if err != nil {
		return err
	}
	defer source.Close()
	content := count.Reader(source, func(done int64) { p.progress(*file, done) })
	sum, _, err := disk.Create(ctx, staging(path, file.Name), func(w io.Writer) error {
		_, err := io.CopyBuffer(w, content, make([]byte, 1<<20))
		return err
	})
	if err != nil {
		return err
	}
	if file.SHA256 == "" {
		file.SHA256 = sum
	}
	if sum != file.SHA256 {
		return fmt.Errorf("%s has the SHA-256 %s now and had %s: package it again", file.Path, sum, file.SHA256)
	}
	return nil
}

func readDescription(path string) (about description, err error) {
	text, err := os.ReadFile(filepath.Join(path, descriptionName))
	if err != nil {
		return description{}, err
	}
	if err := json.Unmarshal(text, &about); err != nil {
		return description{}, fmt.Errorf("%s: %w", filepath.Join(path, descriptionName), err)
	}
	return about, nil
}

func writeDescription(ctx context.Context, path string, about description) error {
	text, err := json.MarshalIndent(about, "", "  ")
	if err != nil {
		return err
	}
	_, err = replaceSmall(ctx, path, smallFile{descriptionName, append(text, '\n')})
	return err
}

// replaceSmall replaces small files, each in one step, and returns the names of
// those that had another content.
func replaceSmall(ctx context.Context, path string, files ...smallFile) (changed []string, err error) {
	for _, file := range files {
		if there, err := os.ReadFile(filepath.Join(path, file.name)); err == nil && bytes.Equal(there, file.content) {
			continue
		}
		if _, err := disk.WriteFile(ctx, staging(path, file.name), file.content); err != nil {
			return nil, err
		}
		changed = append(changed, file.name)
	}
	for _, name := range changed {
		if err := os.Rename(staging(path, name), filepath.Join(path, name)); err != nil {
			return nil, err
		}
	}
	return changed, nil
}

// removeLeftOvers deletes what runs that died were writing: staged files, and the
// hidden files that disk.Create makes them from.
func removeLeftOvers(path string) error {
	left, err := filepath.Glob(filepath.Join(escapeGlob(path), ".*"+temporaryPrefix+"*"))
	for _, file := range left {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

// escapeGlob makes a path stand for itself in a pattern.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
