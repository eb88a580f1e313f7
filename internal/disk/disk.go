// Package disk writes files that are whole under their final names, brings what
// was renamed to the disk, and locks files, for every store that is kept in
// folders.
//
// Whole files are github.com/google/renameio's; this package adds their checksum,
// early writeback and the context. Locks are the operating system's
// (flock(2)): they end with the process, and are taken on files that are already
// open, folders among them, so that a caller can be sure of what it has locked.
// (github.com/gofrs/flock locks by path alone, and does not repeat what a signal
// interrupts.)
package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// SyncFolder brings the names in a folder to the disk (fsync(2)). Without it a
// loss of power could undo a rename, or keep a later one without an earlier one.
// A file system that cannot do that for folders is no error.
func SyncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	err = folder.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil
	}
	return errors.Join(err, folder.Close())
}

// Lock locks an open file for this process alone. It waits for another's lock to
// end until the context does; waiting, if set, is called once when there is a
// wait. Closing the file ends the lock.
func Lock(ctx context.Context, file *os.File, waiting func()) error {
	const pause = 100 * time.Millisecond
	for first := true; ; first = false {
		locked, err := TryLock(file)
		if locked || err != nil {
			return err
		}
		if first && waiting != nil {
			waiting()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the lock of %s: %w", file.Name(), context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// TryLock is Lock without a wait. It reports whether it has locked the file.
func TryLock(file *os.File) (bool, error) {
	err := flock(file, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// LockShared locks an open file against Lock and TryLock, beside others that do
// the same. It waits for a process that has locked the file for itself alone.
func LockShared(file *os.File) error {
	return flock(file, syscall.LOCK_SH)
}

func flock(file *os.File, how int) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var locked error
	err = raw.Control(func(descriptor uintptr) {
		for {
			// A signal, such as the Go runtime sends itself, interrupts the call.
			if locked = syscall.Flock(int(descriptor), how); !errors.Is(locked, syscall.EINTR) {
				return
			}
		}
	})
	if err = errors.Join(err, locked); err != nil {
		return fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	return nil
}
