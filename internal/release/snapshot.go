package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"

	"every.channel/runner-images/internal/checksum"
)

// A Snapshot is a release as Update finds it.
type Snapshot struct {
	// Release is as readers see it; without a tag if it is not there yet.
	Release Release

	// Listed is the lines of its SHA256SUMS.txt.
	Listed checksum.Sums

	update *update
	now    state
}

// Others is the lines of SHA256SUMS.txt that a publication of files would keep: of
// other assets, which are there.
func (s Snapshot) Others(files []File) checksum.Sums {
	others := s.now.stay()
	for _, file := range files {
		delete(others, file.Name)
	}
	return others
}

// Has reports whether SHA256SUMS.txt lists the file, and the asset is there. It
// finds the file's checksum if that is missing and needed.
func (s Snapshot) Has(ctx context.Context, file *File) (bool, error) {
	*file = file.known()
	if err := s.update.resolve(ctx, s.now, file); err != nil {
		return false, err
	}
	return s.now.listed(*file), nil
}

// Contents returns the content of a small asset, and after it what a run that
// died has left of its replacement. It is empty if there is neither.
func (s Snapshot) Contents(ctx context.Context, name string) (contents [][]byte, err error) {
	assets := slices.Clone(s.now.byName[name])
	slices.Reverse(assets)
	for _, asset := range s.now.Assets {
		if isUploadOf(name, asset.Name) && asset.Size <= smallSize { // it may be anybody's
			assets = append(assets, asset)
		}
	}
	for _, asset := range assets {
		content, err := s.update.readKnown(ctx, asset)
		if err != nil {
			return nil, err
		}
		contents = append(contents, content)
	}
	return contents, nil
}

// A seenFile is what is known of a file on this machine.
type seenFile struct {
	info   os.FileInfo // of what its checksum was made
	sha256 string
}

// fileKey is one file of a release: one on this machine may be several.
type fileKey struct{ name, path string }

func (f File) key() fileKey { return fileKey{f.Name, f.Path} }

// state is a release as the backend has it at one moment.
type state struct {
	Release
	byName map[string][]Asset // from old to new
	sums   checksum.Sums      // of the newest SHA256SUMS.txt
}

// read adds the newest SHA256SUMS.txt to a release. Where there are two, a run
// died between renaming the new and deleting the old one.
func (u *update) read(ctx context.Context, release Release) (state, error) {
	now := state{Release: release, byName: group(release.Assets)}
	lists := now.byName[checksum.FileName]
	if len(lists) == 0 {
		return now, nil
	}
	text, err := u.readKnown(ctx, lists[len(lists)-1])
	if err != nil {
		return state{}, err
	}
	sums, err := checksum.Parse(bytes.NewReader(text))
	if err != nil {
		return state{}, fmt.Errorf("%w; the release %s has it: repair or delete this asset", err, u.tag)
	}
	now.sums = sums
	return now, nil
}

func (u *update) open(ctx context.Context, asset Asset) (io.ReadCloser, error) {
	return ReadOn(ctx, func(offset int64) (io.ReadCloser, error) { return u.Open(ctx, asset, offset) })
}

// readKnown reads a small asset once.
func (u *update) readKnown(ctx context.Context, asset Asset) ([]byte, error) {
	if content, known := u.small[asset.ID]; known && asset.ID != "" {
		return content, nil
	}
	body, err := u.open(ctx, asset)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	content, err := ReadSmall(asset.Name, body)
	if err == nil {
		u.small[asset.ID] = content
	}
	return content, err
}

// readBack returns the SHA-256 of what is stored.
func (u *update) readBack(ctx context.Context, asset Asset) (string, error) {
	body, err := u.open(ctx, asset)
	if err != nil {
		return "", err
	}
	defer body.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, body)
	return hex.EncodeToString(hash.Sum(nil)), err
}

// resolve finds a file's checksum if that is missing and the release may have the
// file. Of the others it is found while they are uploaded.
func (u *update) resolve(ctx context.Context, now state, file *File) error {
	if file.Path == "" {
		return nil
	}
	seen := u.files[file.key()]
	if seen == nil {
		seen = &seenFile{sha256: file.SHA256}
		u.files[file.key()] = seen
	}
	if file.SHA256 == "" {
		file.SHA256 = seen.sha256
	}
	mayBe := slices.ContainsFunc(now.Assets, func(a Asset) bool {
		return a.Size == file.Size && (a.Name == file.Name || isUploadOf(file.Name, a.Name))
	})
	if seen.info != nil || file.SHA256 == "" && !mayBe {
		return nil
	}
	info := file.Info
	if info == nil {
		var err error
		if info, err = os.Stat(file.Path); err != nil {
			return fmt.Errorf("publish %s: %w", file.Name, err)
		}
	}
	if file.SHA256 == "" {
		u.content.status("hash %s, to compare it with the release's", file.Name)
		if err := hash(ctx, file); err != nil {
			return err
		}
	}
	seen.info, seen.sha256 = info, file.SHA256
	return nil
}

// hash finds the checksum of a file that came without.
func hash(ctx context.Context, file *File) error {
	sum, size, err := checksum.File(ctx, file.Path)
	if err == nil && size != file.Size {
		err = fmt.Errorf("%s has %d bytes now and had %d before: let nothing write to it meanwhile", file.Path, size, file.Size)
	}
	file.SHA256 = sum
	return err
}

// listed reports whether the one asset of this name is this file, by SHA256SUMS.txt
// and its size.
func (s state) listed(file File) bool {
	assets := s.byName[file.Name]
	return len(assets) == 1 && assets[0].Size == file.Size && file.SHA256 != "" && s.sums[file.Name] == file.SHA256
}

// stay is the lines of SHA256SUMS.txt that are true of an asset.
func (s state) stay() checksum.Sums {
	sums := checksum.Sums{}
	for name, sum := range s.sums {
		if len(s.byName[name]) == 1 {
			sums[name] = sum
		}
	}
	return sums
}
