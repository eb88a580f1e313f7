package artifact

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"

	"every.channel/runner-images/internal/transfer"
)

// Limits bound what WalkBundle accepts. The zero value means DefaultLimits.
type Limits struct {
	Files     int   // number of files
	FileSize  int64 // bytes of each of them
	TotalSize int64 // bytes of all of them together
}

// DefaultLimits are more than iPXE can boot.
var DefaultLimits = Limits{Files: 16, FileSize: 4 << 30, TotalSize: 8 << 30}

// framing is the number of bytes of a bundle's tar that may be other than file
// contents: headers, and the zeros at its end (GNU tar pads to 10 KiB, or more
// with -b).
const framing = 1 << 20

// An Entry is a file in a bundle.
type Entry struct {
	Name string // without a folder
	Size int64  // bytes
}

// WalkBundle reads a bundle from r and calls visit for each file in it, in order.
// visit need not read all of the content; content that it reads to io.EOF is
// complete. r is read ahead of visit, by another goroutine, which ends before WalkBundle
// does; to its end, if there is no error. Memory is constant, about 3 MiB.
//
// Nothing in r is trusted. It is an error if an entry is not a regular file (a link,
// a folder, a device), if a name is not plain or occurs twice, if a limit is
// exceeded, if the file is truncated or damaged, and if data follows the end of the
// bundle. The names and the folder entry of `tar -C FOLDER .` ("./kernel", "./") are
// accepted, and sparse files. Damage that only the gzip checksum shows is found at the end, so the
// caller must not use anything of the bundle before WalkBundle returns nil. Errors of
// visit and of the context are returned unchanged.
func WalkBundle(ctx context.Context, r io.Reader, limits Limits, visit func(entry Entry, content io.Reader) error) error {
	return transfer.ReadAhead(r, nil, func(r io.Reader) error {
		return walk(ctx, r, limits, visit)
	})
}

func walk(ctx context.Context, r io.Reader, limits Limits, visit func(entry Entry, content io.Reader) error) error {
	if limits == (Limits{}) {
		limits = DefaultLimits
	}
	decompressor, err := gzip.NewReader(r)
	if err != nil {
		return broken(ctx, err)
	}
	limited := &limitedReader{transfer.WithContext(ctx, decompressor), limits.TotalSize + framing}
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
		if !isFile(header.Typeflag) {
			return fmt.Errorf("bundle: %q is not a regular file but %s", header.Name, described(header.Typeflag))
		}
		if err := checkName(entry.Name); err != nil {
			return err
		}
		if seen[entry.Name] {
			return fmt.Errorf("bundle: %q occurs twice", entry.Name)
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

// isFile reports whether an entry is a regular file. A sparse one (tar --sparse), whose
// holes package tar fills with zeros, is; so is a contiguous one of old systems.
func isFile(flag byte) bool {
	return flag == tar.TypeReg || flag == tar.TypeGNUSparse || flag == tar.TypeCont
}

// described says what an entry is that is not a regular file.
func described(flag byte) string {
	switch flag {
	case tar.TypeLink:
		return "a hard link"
	case tar.TypeSymlink:
		return "a symbolic link"
	case tar.TypeDir:
		return "a folder"
	case tar.TypeChar, tar.TypeBlock:
		return "a device"
	case tar.TypeFifo:
		return "a pipe"
	}
	return fmt.Sprintf("an entry of type %q", flag)
}

// atEnd reads what follows the end of the tar: zeros, and the gzip checksum.
func atEnd(ctx context.Context, r io.Reader) error {
	buffer := make([]byte, 32<<10)
	for {
		n, err := r.Read(buffer)
		for _, b := range buffer[:n] {
			if b != 0 {
				return errors.New("bundle: data follows its end")
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

// contentReader returns the errors of a file's content as WalkBundle returns its own.
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

// limitedReader fails where io.LimitReader would return io.EOF.
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
		return 0, errors.New("it unpacks to more than the limit")
	}
	return n, err
}
