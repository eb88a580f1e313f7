package release

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
)

// fileUpload is the upload of a file as it was before, of which the checksum may
// become known only meanwhile.
func (u *update) fileUpload(file File, before os.FileInfo, sha256 func() (string, error)) Upload {
	return Upload{
		Name: temporaryName(file.Name, file.SHA256), Asset: file.Name, Size: file.Size, SHA256: sha256,
		Open:     func() (io.ReadCloser, error) { return openFile(file, before) },
		Progress: func(done int64) { u.content.progress(file, done) },
	}
}

func openFile(file File, before os.FileInfo) (io.ReadCloser, error) {
	content, err := os.Open(file.Path)
	if err != nil {
		return nil, err
	}
	info, err := content.Stat()
	if err == nil && info.Size() != file.Size {
		err = fmt.Errorf("%s has %d bytes now and had %d when its checksum was made: package it again", file.Path, info.Size(), file.Size)
	}
	if err == nil {
		err = same(file.Path, before, info)
	}
	if err != nil {
		return nil, errors.Join(err, content.Close())
	}
	return content, nil
}

// contentUpload is the upload of a file in memory.
func contentUpload(file File) Upload {
	sum := sumOf(file.Content)
	return Upload{
		Name: temporaryName(file.Name, sum), Asset: file.Name, Size: int64(len(file.Content)),
		SHA256:   func() (string, error) { return sum, nil },
		Open:     func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file.Content)), nil },
		Progress: func(int64) {},
	}
}

// unchanged makes sure that nothing has written to a file, or put another in its
// place.
func unchanged(path string, before os.FileInfo) error {
	now, err := os.Stat(path)
	if err != nil {
		return err
	}
	return same(path, before, now)
}

func same(path string, before, now os.FileInfo) error {
	if !os.SameFile(before, now) || now.Size() != before.Size() || !now.ModTime().Equal(before.ModTime()) {
		return fmt.Errorf("%s has been written to while it was being published: let nothing do that, and run again", path)
	}
	return nil
}

// sumOf is the SHA-256 of content in lower-case hexadecimal.
func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
