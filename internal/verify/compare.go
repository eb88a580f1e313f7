package verify

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/transfer"
)

// A Difference is one way in which a published and a rebuilt file differ.
type Difference struct {
	// File is the name of a file in the bundle, or the asset's own name.
	File string `json:"file"`
	// PublishedSize and RebuiltSize are in bytes; -1 where the file is missing.
	PublishedSize int64 `json:"published_size"`
	RebuiltSize   int64 `json:"rebuilt_size"`
	// Offset is the position of the first differing byte, counted from 0; -1
	// where the bytes are the same or one file is missing.
	Offset int64  `json:"offset"`
	Reason string `json:"reason"` // in words
}

// comparison is the result of one pass over a published and a rebuilt file.
type comparison struct {
	publishedSum  string // SHA-256, lower-case hexadecimal
	publishedSize int64
	rebuiltSize   int64
	offset        int64 // of the first differing byte, -1 if there is none
}

// same reports whether both had the same bytes.
func (c comparison) same() bool { return c.offset < 0 }

const blockSize = 1 << 20

// compare reads both to their ends. rebuilt may be nil: then the published file
// is only hashed.
func compare(ctx context.Context, published, rebuilt io.Reader) (comparison, error) {
	c := comparison{offset: -1}
	hash := sha256.New()
	here, there := make([]byte, blockSize), make([]byte, blockSize)
	for {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		n, publishedEnd, err := readFull(published, here)
		if err != nil {
			return c, err
		}
		hash.Write(here[:n])
		if rebuilt != nil {
			m, _, err := readFull(rebuilt, there)
			if err != nil {
				return c, fmt.Errorf("read the rebuilt file: %w", err)
			}
			if c.same() {
				c.offset = firstDifference(here[:n], there[:m], c.publishedSize)
			}
			c.rebuiltSize += int64(m)
		}
		c.publishedSize += int64(n)
		if publishedEnd {
			break
		}
	}
	if rebuilt != nil {
		rest, err := io.Copy(io.Discard, rebuilt)
		if err != nil {
			return c, fmt.Errorf("read the rebuilt file: %w", err)
		}
		c.rebuiltSize += rest
		if c.same() && rest > 0 {
			c.offset = c.publishedSize
		}
	}
	c.publishedSum = hex.EncodeToString(hash.Sum(nil))
	return c, nil
}

// readFull fills the buffer unless the file ends before. It is not io.ReadFull, which
// returns the same error for the end of a file and for a truncated download.
func readFull(r io.Reader, buffer []byte) (n int, end bool, err error) {
	for n < len(buffer) && err == nil {
		var m int
		m, err = r.Read(buffer[n:])
		n += m
	}
	if err == io.EOF { // not errors.Is: a download that was cut short may wrap it
		return n, true, nil
	}
	return n, false, err
}

// firstDifference returns the offset of the first byte that differs, for blocks
// that begin at start; where one is the beginning of the other, that is the end
// of the shorter one. It is -1 if they are the same.
func firstDifference(a, b []byte, start int64) int64 {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return start + int64(i)
		}
	}
	return start + int64(min(len(a), len(b)))
}

// bundleDifferences compares two bundles file by file, in one pass over the
// published one, whatever the order of the files in them.
func bundleDifferences(ctx context.Context, published io.Reader, rebuiltPath string) ([]Difference, error) {
	rebuilt, err := members(ctx, rebuiltPath)
	if err != nil {
		return nil, err
	}
	var found []Difference
	seen := map[string]bool{}
	reading, err := newBundleReader(ctx, published)
	for err == nil {
		var header *tar.Header
		header, err = reading.Next()
		if err != nil {
			break
		}
		if seen[header.Name] {
			err = fmt.Errorf("%q occurs twice", header.Name)
			break
		}
		seen[header.Name] = true
		if len(seen) > artifact.DefaultLimits.Files {
			err = fmt.Errorf("it has more than %d files", artifact.DefaultLimits.Files)
			break
		}
		counterpart, ok := rebuilt[header.Name]
		if !ok {
			found = append(found, Difference{
				File: header.Name, PublishedSize: header.Size, RebuiltSize: -1, Offset: -1,
				Reason: "only in the published bundle",
			})
			continue
		}
		var difference *Difference
		difference, err = memberDifference(ctx, header, counterpart, reading, rebuiltPath)
		if difference != nil {
			found = append(found, *difference)
		}
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if !errors.Is(err, io.EOF) {
		// What was found until here is worth more than an error.
		return append(found, Difference{
			PublishedSize: -1, RebuiltSize: -1, Offset: -1,
			Reason: fmt.Sprintf("the published bundle cannot be unpacked to its end: %v", err),
		}), nil
	}
	for name, header := range rebuilt {
		if !seen[name] {
			found = append(found, Difference{
				File: name, PublishedSize: -1, RebuiltSize: header.Size, Offset: -1,
				Reason: "only in the rebuilt bundle",
			})
		}
	}
	slices.SortStableFunc(found, func(a, b Difference) int { return strings.Compare(a.File, b.File) })
	return found, nil
}

// memberDifference compares the file that reading stands at with the one of the
// same name in the rebuilt bundle. It is nil if they are the same.
func memberDifference(ctx context.Context, published, rebuilt *tar.Header, reading io.Reader, rebuiltPath string) (*Difference, error) {
	file, closeFile, err := openMember(ctx, rebuiltPath, published.Name)
	if err != nil {
		return nil, err
	}
	defer closeFile()
	c, err := compare(ctx, reading, file)
	difference := Difference{File: published.Name, PublishedSize: published.Size, RebuiltSize: rebuilt.Size, Offset: c.offset}
	switch {
	case !c.same():
		difference.Reason = "other content"
	case err != nil:
		return nil, err
	case published.Typeflag != rebuilt.Typeflag || published.Linkname != rebuilt.Linkname:
		difference.Reason = fmt.Sprintf("of the type %q and %q", published.Typeflag, rebuilt.Typeflag)
	case published.Mode != rebuilt.Mode:
		difference.Reason = fmt.Sprintf("with the mode %#o and %#o", published.Mode, rebuilt.Mode)
	case !published.ModTime.Equal(rebuilt.ModTime):
		difference.Reason = fmt.Sprintf("with the time %s and %s", published.ModTime.UTC().Format(time.RFC3339), rebuilt.ModTime.UTC().Format(time.RFC3339))
	default:
		return nil, err
	}
	return &difference, err
}

// bundleReader reads the files in a bundle, and the bundle to its end, where the
// checksum of gzip is.
type bundleReader struct {
	*tar.Reader
	unzipped io.Reader
}

func newBundleReader(ctx context.Context, r io.Reader) (bundleReader, error) {
	unzipped, err := gzip.NewReader(bufio.NewReaderSize(transfer.WithContext(ctx, r), blockSize))
	if err != nil {
		return bundleReader{}, err
	}
	return bundleReader{tar.NewReader(unzipped), unzipped}, nil
}

// Next advances to the next file. io.EOF means that there is none and that the bundle
// is complete.
func (b bundleReader) Next() (*tar.Header, error) {
	header, err := b.Reader.Next()
	if err == io.EOF { // not errors.Is: a download that was cut short may wrap it
		if _, err := io.Copy(io.Discard, b.unzipped); err != nil {
			return nil, err
		}
	} else if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return header, err
}

// members returns the headers of a bundle on this machine by name.
func members(ctx context.Context, path string) (map[string]*tar.Header, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	headers := map[string]*tar.Header{}
	reading, err := newBundleReader(ctx, file)
	for err == nil {
		var header *tar.Header
		if header, err = reading.Next(); err == nil {
			headers[header.Name] = header
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the rebuilt bundle: %w", err)
	}
	return headers, nil
}

// openMember opens a file within a bundle on this machine.
func openMember(ctx context.Context, path, name string) (member io.Reader, closeFile func(), err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	reading, err := newBundleReader(ctx, file)
	for err == nil {
		var header *tar.Header
		if header, err = reading.Next(); err == nil && header.Name == name {
			return reading, func() { file.Close() }, nil
		}
	}
	file.Close()
	return nil, nil, fmt.Errorf("read %s in the rebuilt bundle: %w", name, err)
}
