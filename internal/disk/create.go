package disk

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/renameio/v2"
)

// writebackSize is how many bytes are written before the kernel is asked to
// begin bringing them to the disk. Without it the whole file would wait for the
// fsync at the end, which then takes a third of the time of a large file.
const writebackSize = 16 << 20

// Create makes the file at path, with mode 0644, from the bytes that write gives
// to its writer, and returns their SHA-256 in lower-case hexadecimal and their
// number. It replaces a file that is there.
//
// The file gets its name when its content is whole and on the disk. Until then it
// is a hidden file in the same folder, which is removed if anything fails or the
// context ends: then the writer returns the context's error, and so does Create.
// The writer must not be used after write has returned.
func Create(ctx context.Context, path string, write func(io.Writer) error) (sum string, size int64, err error) {
	where := renameio.WithTempDir(filepath.Dir(path))
	return create(ctx, path, path, where, writing(write), (*renameio.PendingFile).CloseAtomicallyReplace)
}

// CreateIn is Create for a file in a root, which no link leads out of.
func CreateIn(ctx context.Context, root *os.Root, name string, write func(io.Writer) error) (sum string, size int64, err error) {
	return createIn(ctx, root, name, writing(write))
}

// CreateUnsyncedIn is CreateIn for a file that nobody needs after a loss of power: then
// it may have its name and not all of its content.
func CreateUnsyncedIn(ctx context.Context, root *os.Root, name string, write func(io.Writer) error) (sum string, size int64, err error) {
	fill := func(w *hashedFile) error { w.unsynced = -1; return write(w) }
	return create(ctx, filepath.Join(root.Name(), name), name, renameio.WithRoot(root), fill, func(file *renameio.PendingFile) error {
		if err := file.File.Close(); err != nil {
			return err
		}
		return root.Rename(filepath.Base(file.Name()), name)
	})
}

// CopyIn makes a file in a root as CreateIn does, from source, which is at its start. The
// two share their blocks on the disk where the file system can (ioctl_ficlone(2): btrfs,
// xfs). Progress is given the number of bytes that have been read.
func CopyIn(ctx context.Context, root *os.Root, name string, source *os.File, progress func(done int64)) (sum string, size int64, err error) {
	return createIn(ctx, root, name, func(w *hashedFile) error {
		var into io.Writer = w
		if clone(w.file, source) == nil {
			source, into = w.file, hashedClone{w}
		}
		return copyBlocks(into, source, progress)
	})
}

// LinkIn makes a name in a root a symbolic link to a path, in place of a file or a link
// that has it. The path may lead out of the root.
func LinkIn(root *os.Root, name, path string) error {
	hidden := "." + name + "." + rand.Text()
	if err := root.Symlink(path, hidden); err != nil {
		return err
	}
	if err := root.Rename(hidden, name); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", filepath.Join(root.Name(), name), visible(err, hidden)), root.Remove(hidden))
	}
	return nil
}

// WriteFile makes the file at path from content, as Create does.
func WriteFile(ctx context.Context, path string, content []byte) (sum string, err error) {
	sum, _, err = Create(ctx, path, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
	return sum, err
}

func createIn(ctx context.Context, root *os.Root, name string, fill func(*hashedFile) error) (sum string, size int64, err error) {
	return create(ctx, filepath.Join(root.Name(), name), name, renameio.WithRoot(root), fill, (*renameio.PendingFile).CloseAtomicallyReplace)
}

func writing(write func(io.Writer) error) func(*hashedFile) error {
	return func(w *hashedFile) error { return write(w) }
}

// create fills a hidden file, and has finish give it its name.
func create(ctx context.Context, shown, name string, where renameio.Option, fill func(*hashedFile) error, finish func(*renameio.PendingFile) error) (sum string, size int64, err error) {
	file, err := renameio.NewPendingFile(name, where, renameio.WithStaticPermissions(0o644))
	if err != nil {
		return "", 0, fmt.Errorf("write %s: %w", shown, err)
	}
	defer func() {
		if err != nil {
			_ = file.Cleanup()
			err = fmt.Errorf("write %s: %w", shown, visible(err, file.Name()))
		}
	}()
	w := newHashedFile(ctx, file.File)
	err = fill(w)
	sum, size = w.finish()
	if err != nil {
		return "", 0, err
	}
	if err := ctx.Err(); err != nil {
		return "", 0, err
	}
	return sum, size, finish(file)
}

// copyBlocks copies all of source.
func copyBlocks(w io.Writer, source io.Reader, progress func(done int64)) error {
	var done int64
	for block := make([]byte, 1<<20); ; {
		n, err := source.Read(block)
		if n > 0 {
			if _, err := w.Write(block[:n]); err != nil {
				return err
			}
			done += int64(n)
			progress(done)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// visible takes the name of the hidden file from an error: it means nothing to a
// reader, who is given the name of the file itself.
func visible(err error, hidden string) error {
	var (
		onFile   *fs.PathError
		onRename *os.LinkError
	)
	switch {
	case errors.As(err, &onFile) && onFile.Path == hidden:
		return onFile.Err
	case errors.As(err, &onRename) && filepath.Base(onRename.Old) == filepath.Base(hidden):
		if errors.Is(onRename.Err, fs.ErrExist) || errors.Is(onRename.Err, syscall.EISDIR) {
			return fmt.Errorf("a folder has that name, and no file takes its place: move it away (%w)", onRename.Err)
		}
		return onRename.Err
	}
	return err
}

// hashedFile hashes in a goroutine of its own while it writes to the file. The hash works
// on copies, and may be some blocks behind: the two take about as long as each other, but
// not for each block.
type hashedFile struct {
	ctx      context.Context
	file     *os.File
	hash     hash.Hash
	blocks   chan []byte   // to be hashed
	free     chan []byte   // were hashed
	hashed   chan struct{} // closed after the last one
	size     int64
	unsynced int64 // of size, how much has been written since the last writeback; negative for no writeback
}

func newHashedFile(ctx context.Context, file *os.File) *hashedFile {
	const behind = 4 // blocks
	w := &hashedFile{
		ctx: ctx, file: file, hash: sha256.New(),
		blocks: make(chan []byte, behind), free: make(chan []byte, behind), hashed: make(chan struct{}),
	}
	for range behind {
		w.free <- nil // made when it is needed
	}
	go func() {
		defer close(w.hashed)
		for block := range w.blocks {
			w.hash.Write(block)
			w.free <- block
		}
	}()
	return w
}

func (w *hashedFile) Write(block []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	w.blocks <- append((<-w.free)[:0], block...)
	n, err := w.file.Write(block)
	w.size += int64(n)
	if w.unsynced >= 0 {
		w.unsynced += int64(n)
	}
	if w.unsynced >= writebackSize {
		beginWriteback(w.file, w.size-w.unsynced, w.unsynced)
		w.unsynced = 0
	}
	return n, err
}

// hashedClone hashes a file that has its content already.
type hashedClone struct{ *hashedFile }

func (w hashedClone) Write(block []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	w.blocks <- append((<-w.free)[:0], block...)
	w.size += int64(len(block))
	return len(block), nil
}

func (w *hashedFile) finish() (sum string, size int64) {
	close(w.blocks)
	<-w.hashed
	return hex.EncodeToString(w.hash.Sum(nil)), w.size
}
