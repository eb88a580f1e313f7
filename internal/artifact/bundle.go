package artifact

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/klauspost/pgzip"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/transfer"
)

// A Member is a file to put into a bundle.
type Member struct {
	Name    string   // in the bundle, without a folder
	File    *os.File // has its content, from the start; nil if Content is it
	Content []byte
}

// These constants determine the bytes of a bundle and the memory that it takes, so
// they must not depend on the machine. Most of a bundle is an initrd that is already
// compressed: level 2 detects that as quickly as level 1 and compresses an
// uncompressed kernel better in the same time; levels 5 and above take twice as long
// for 7 % less. Eight blocks at once keep eight cores busy; hashing the result is the
// bottleneck from two on.
const (
	level     = 2
	blockSize = 1 << 20
	blocks    = 8
)

// WriteBundle writes a bundle of the files to w: a tar in the ustar format
// (POSIX.1-1988; pax where a file is larger than 8 GiB), sorted by name, owned by
// 0:0 without names, each file with mode 0644 and modified at modTime, compressed
// by gzip (RFC 1952). The same names, contents and modTime (which counts in whole
// seconds) give the same bytes. Memory is constant, about 30 MiB.
//
// progress, if not nil, is called with the number of bytes of all files that have
// been read. After an error, which may be the context's, the output is useless.
func WriteBundle(ctx context.Context, w io.Writer, files []Member, modTime time.Time, progress func(done, total int64)) error {
	files = slices.SortedFunc(slices.Values(files), func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	sources := make([]memberSource, len(files))
	var total int64
	for i, file := range files {
		if err := checkName(file.Name); err != nil {
			return err
		}
		if i > 0 && files[i-1].Name == file.Name {
			return fmt.Errorf("two files for the name %q in a bundle", file.Name)
		}
		s, err := newMemberSource(file)
		if err != nil {
			return err
		}
		sources[i] = s
		total += s.size
	}

	compressor, err := pgzip.NewWriterLevel(w, level)
	if err != nil {
		return err
	}
	if err := compressor.SetConcurrency(blockSize, blocks); err != nil {
		return err
	}
	// Its goroutines write to w until they are waited for.
	defer compressor.Reset(io.Discard)
	seconds := time.Unix(modTime.Unix(), 0)
	compressor.ModTime = seconds

	var before int64 // bytes of the files before this one
	bundle := tar.NewWriter(compressor)
	buffer := make([]byte, blockSize)
	for _, s := range sources {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: s.name, Size: s.size, Mode: 0o644, ModTime: seconds}
		if err := bundle.WriteHeader(header); err != nil {
			return fmt.Errorf("put %s into the bundle: %w", s.name, err)
		}
		content := transfer.WithContext(ctx, s)
		if progress != nil {
			content = transfer.WithProgress(content, func(read int64) { progress(before+read, total) })
		}
		if _, err := io.CopyBuffer(onlyWriter{bundle}, content, buffer); err != nil {
			return fmt.Errorf("put %s into the bundle: %w", s.name, err)
		}
		// Fails if the file is shorter than it was when it was opened.
		if err := bundle.Flush(); err != nil {
			return fmt.Errorf("put %s into the bundle: %w", s.name, err)
		}
		before += s.size
	}
	if err := bundle.Close(); err != nil {
		return err
	}
	return compressor.Close()
}

// checkName accepts the names that a file may have in a bundle.
func checkName(name string) error {
	if err := checksum.CheckName(name); err != nil {
		return fmt.Errorf("the name %q in a bundle: %w", name, err)
	}
	return nil
}

// A memberSource is where the content of a file in a bundle comes from.
type memberSource struct {
	io.Reader
	name string
	size int64
}

func newMemberSource(file Member) (memberSource, error) {
	if file.File == nil {
		return memberSource{bytes.NewReader(file.Content), file.Name, int64(len(file.Content))}, nil
	}
	info, err := file.File.Stat()
	if err != nil {
		return memberSource{}, err
	}
	if !info.Mode().IsRegular() {
		return memberSource{}, fmt.Errorf("%s is not a regular file", file.File.Name())
	}
	return memberSource{file.File, file.Name, info.Size()}, nil
}

// onlyWriter hides tar.Writer's ReadFrom, which uses a small buffer of its own.
type onlyWriter struct{ io.Writer }
