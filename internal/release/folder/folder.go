// Package folder keeps releases in a plain folder (file:// addresses): a
// sub-folder a release, with the assets as files. What begins with a dot in it is
// not for readers: the descriptions of releases, drafts, locks, and files that
// are being written.
//
// A rename of the operating system is what makes each step whole, and what is
// renamed is on the disk before the next step.
package folder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"every.channel/runner-images/internal/disk"
	"every.channel/runner-images/internal/release"
)

// folder is the backend of a folder.
type folder struct {
	root string
	log  func(message string)
}

var _ release.Backend = (*folder)(nil)

// Open returns the store of the releases in the folder at a file:// address. Log,
// if not nil, is given a sentence about what is waited for.
func Open(address string, log func(message string)) (*release.Store, error) {
	parsed, err := url.Parse(address)
	if err != nil || parsed.Scheme != "file" || parsed.Host != "" || !filepath.IsAbs(parsed.Path) {
		return nil, fmt.Errorf("forge address %q: use https://HOST, http://HOST or file:///FOLDER", address)
	}
	if err := disk.CheckFolder(parsed.Path); err != nil {
		return nil, err
	}
	if log == nil {
		log = func(string) {}
	}
	return &release.Store{Backend: &folder{filepath.Clean(parsed.Path), log}, Log: log}, nil
}

const descriptionName = ".release.json"

// description is a release without its assets, as a file beside them.
type description struct {
	Tag        string    `json:"tag"`
	Commit     string    `json:"commit,omitempty"`
	Title      string    `json:"title"`
	Notes      string    `json:"notes"`
	Prerelease bool      `json:"prerelease"`
	Created    time.Time `json:"created"`
}

// path is the sub-folder of a tag's release.
func (f *folder) path(tag string) string { return filepath.Join(f.root, release.FolderName(tag)) }

func (f *folder) hidden(tag, what string) string {
	return filepath.Join(f.root, "."+release.FolderName(tag)+"."+what)
}

func fileURL(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }

func (f *folder) notFound(operation, path, advice string) error {
	return &release.Error{Operation: operation, URL: fileURL(path), Err: release.ErrNotFound, Advice: advice}
}

// Release returns the release of a tag. Nobody sees a draft.
func (f *folder) Release(_ context.Context, tag string) (release.Release, error) {
	return f.releaseAt(f.path(tag), tag)
}

func (f *folder) releaseAt(path, tag string) (release.Release, error) {
	about, err := readDescription(path)
	if errors.Is(err, fs.ErrNotExist) || tag == "" || strings.HasPrefix(tag, ".") {
		return release.Release{}, f.notFound("find the release "+tag, path, "check the tag and the folder")
	}
	if err != nil {
		return release.Release{}, fmt.Errorf("release %s: %w", tag, err)
	}
	if about.Tag != tag { // a copy of another one, truly signed perhaps, must not pass for it
		return release.Release{}, f.notFound("find the release "+tag, path, fmt.Sprintf("by its description this folder is the release %s; give that tag, or publish %s anew", about.Tag, tag))
	}
	return read(path, about)
}

// read returns the release in a folder. Uploads are among its assets.
func read(path string, about description) (release.Release, error) {
	found := release.Release{
		Tag: about.Tag, Title: about.Title, Notes: about.Notes,
		Prerelease: about.Prerelease, Created: about.Created, URL: fileURL(path),
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return release.Release{}, fmt.Errorf("release %s: %w", about.Tag, err)
	}
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, uploadPrefix) {
			name = strings.TrimPrefix(name, ".")
		}
		if isHalfWritten(name) {
			found.Unfinished = true
		}
		if strings.HasPrefix(name, ".") || !entry.Type().IsRegular() {
			continue
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // another run has renamed it meanwhile
		}
		if err != nil {
			return release.Release{}, fmt.Errorf("release %s: %w", about.Tag, err)
		}
		file := filepath.Join(path, entry.Name())
		found.Assets = append(found.Assets, release.Asset{Name: name, Size: info.Size(), URL: fileURL(file)})
	}
	return found, nil
}

// isHalfWritten recognises the hidden files that the disk package makes whole ones
// from.
func isHalfWritten(name string) bool {
	return strings.HasPrefix(name, "."+uploadPrefix) || strings.HasPrefix(name, "."+descriptionName)
}

func (f *folder) Latest(_ context.Context, prefix string) (release.Release, error) {
	entries, err := os.ReadDir(f.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return release.Release{}, err
	}
	var newest description
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		about, err := readDescription(filepath.Join(f.root, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue // not a release
		}
		if err != nil { // which need not be of interest
			f.log(fmt.Sprintf("passed over a release: %v", err))
			continue
		}
		if strings.HasPrefix(about.Tag, prefix) && !about.Prerelease && about.Created.After(newest.Created) {
			newest = about
		}
	}
	if newest.Tag == "" {
		return release.Release{}, f.notFound(fmt.Sprintf("find the newest release with a tag that begins with %q", prefix), f.root,
			"publish one, or check the folder")
	}
	return read(f.path(newest.Tag), newest)
}

func (f *folder) Open(_ context.Context, asset release.Asset, offset int64) (io.ReadCloser, error) {
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

// Begin returns the verbs of one publication.
func (f *folder) Begin(tag string) (release.Transaction, error) {
	return &transaction{folder: f, tag: tag}, nil
}

func readDescription(path string) (about description, err error) {
	text, err := os.ReadFile(filepath.Join(path, descriptionName))
	if err != nil {
		return description{}, err
	}
	if err = json.Unmarshal(text, &about); err == nil && about.Tag == "" {
		err = errors.New("it has no tag")
	}
	if err != nil {
		return description{}, fmt.Errorf("%s cannot be read: %w; remove the folder %s and publish this release again", filepath.Join(path, descriptionName), err, path)
	}
	return about, nil
}

func writeDescription(ctx context.Context, path string, about description) error {
	text, err := json.MarshalIndent(about, "", "  ")
	if err != nil {
		return err
	}
	_, err = disk.WriteFile(ctx, filepath.Join(path, descriptionName), append(text, '\n'))
	return err
}
