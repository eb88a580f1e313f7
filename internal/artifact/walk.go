package artifact

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"

	"every.channel/runner-images/internal/interrupt"
)

// Limits are what WalkBundle takes of a bundle at most. The zero value means
// DefaultLimits.
type Limits struct {
	Files     int   // how many
	FileSize  int64 // bytes of each of them
	TotalSize int64 // bytes of all of them together
}

// DefaultLimits let through what iPXE can boot, and more than that.
var DefaultLimits = Limits{Files: 16, FileSize: 4 << 30, TotalSize: 8 << 30}

// framing is how many bytes of a bundle's tar may be other than file contents:
// headers and the zeros at its end (GNU tar pads to 10 KiB, with -b to more).
const framing = 1 << 20

// An Entry is a file in a bundle.
type Entry struct {
	Name string // without a folder
	Size int64  // bytes
}

// WalkBundle reads a bundle from r and gives each file in it, in order, to visit, which
// need not read all of the content; a content that it does read to its end is
// whole. Memory is constant.
//
// Nothing in r is trusted. An entry that is no regular file (a link, a folder, a
// device), a name that is not plain or comes a second time, more than the limits
// allow, a truncated or damaged file, and anything behind the bundle's end are
// errors. `tar -C FOLDER .` puts "./" before its names and has an entry for the
// folder itself: that much is forgiven. As in any stream, damage that the gzip
// checksum shows is found at the end, so use nothing of the bundle before Walk
// returns nil. Errors of visit and of the context are returned as they are.
func WalkBundle(ctx context.Context, r io.Reader, limits Limits, visit func(entry Entry, content io.Reader) error) error {
	if limits == (Limits{}) {
		limits = DefaultLimits
	}
	decompressor, err := gzip.NewReader(interrupt.Reader(ctx, r))
	if err != nil {
		return broken(ctx, err)
	}
	limited := &limitedReader{decompressor, limits.TotalSize + framing}
	bundle := tar.NewReader(limited)
	seen := map[string]bool{}
	var total int64
	for {
		header, err := bundle.Next()
		if err == io.EOF { // not errors.Is: a download that was cut short may wrap it
			return atEnd(ctx, limited)
		}
		if err != nil {
			return broken(ctx, err)
		}
		if header.Typeflag == tar.TypeDir && (header.Name == "./" || header.Name == ".") {
			continue
		}
		entry := Entry{Name: strings.TrimPrefix(header.Name, "./"), Size: header.Size}
		if header.Typeflag != tar.TypeReg {
			return fmt.Errorf("bundle: %q is not a regular file", header.Name)
		}
		if err := checkName(entry.Name); err != nil {
			return err
		}
		if seen[entry.Name] {
			return fmt.Errorf("bundle: %q is in it twice", entry.Name)
		}
		seen[entry.Name] = true
		total += entry.Size
		switch {
		case len(seen) > limits.Files:
			return fmt.Errorf("bundle: more than %d files", limits.Files)
		case entry.Size > limits.FileSize:
			return fmt.Errorf("bundle: %s has %d bytes, more than the %d allowed", entry.Name, entry.Size, limits.FileSize)
		case total > limits.TotalSize:
			return fmt.Errorf("bundle: more than %d bytes of files", limits.TotalSize)
		}
		if err := visit(entry, contentReader{ctx, bundle}); err != nil {
			return err
		}
	}
}

// atEnd reads what follows the tar's end: zeros, and the gzip checksum of it all.
func atEnd(ctx context.Context, r io.Reader) error {
	buffer := make([]byte, 32<<10)
	for {
		n, err := r.Read(buffer)
		for _, b := range buffer[:n] {
			if b != 0 {
				return errors.New("bundle: something follows its end")
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return broken(ctx, err)
		}
	}
}

func broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) { // before the end of the bundle
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("bundle: not a whole .tar.gz: %w", err)
}

// contentReader says of a file's content that it is broken as WalkBundle says it.
type contentReader struct {
	ctx context.Context
	io.Reader
}

func (r contentReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = broken(r.ctx, err)
	}
	return n, err
}

// limitedReader fails where io.LimitReader would pretend to be at the end.
type limitedReader struct {
	io.Reader
	left int64
}

func (r *limitedReader) Read(p []byte) (int, error) {
	if int64(len(p)) > r.left+1 {
		p = p[:r.left+1]
	}
	n, err := r.Reader.Read(p)
	if r.left -= int64(n); r.left < 0 {
		return 0, errors.New("it unpacks to more than is allowed")
	}
	return n, err
}
