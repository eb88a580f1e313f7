package nix

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"every.channel/runner-images/internal/size"
)

// DefaultMinFree is the free space, in bytes, below which a build does not
// begin: 4 GiB, an estimate of what a netboot bundle and an ISO of a small system
// take together with their inputs.
const DefaultMinFree = 4 << 30

// A DiskError means that there is too little free space on a disk.
type DiskError struct {
	Path    string // what lies on the disk
	IsStore bool   // it is Nix's store
	Free    int64  // bytes
	Wanted  int64  // bytes
}

func (e *DiskError) Error() string {
	advice := "make room there, or choose a folder on another disk"
	if e.IsStore {
		advice = "nix-collect-garbage frees what nothing needs any more"
	}
	return fmt.Sprintf("there is too little room to build: %s has %s free and %s are wanted; %s",
		e.Path, size.Text(e.Free), size.Text(e.Wanted), advice)
}

// checkDisk looks at the disks of the store, if there is something to build, and
// of the links, where what is made of the outputs goes too.
func checkDisk(targets []target, request Request) error {
	wanted := request.MinFree
	if wanted == 0 {
		wanted = DefaultMinFree
	}
	for _, t := range targets {
		if _, err := os.Lstat(t.output); err == nil {
			continue
		}
		if _, err := CheckDisk(filepath.Dir(t.output), true, wanted); err != nil {
			return err
		}
		break
	}
	if request.LinkDir == "" {
		return nil
	}
	_, err := CheckDisk(request.LinkDir, false, wanted)
	return err
}

// CheckDisk returns the bytes that this user may still write to the disk that a path
// is on, or will be: Nix's store, or a folder. Less than wanted is a *DiskError.
func CheckDisk(path string, isStore bool, wanted int64) (free int64, err error) {
	free, err = freeSpace(path)
	if err != nil {
		return 0, fmt.Errorf("free space of %s: %w", path, err)
	}
	if free < wanted {
		return free, &DiskError{Path: path, IsStore: isStore, Free: free, Wanted: wanted}
	}
	return free, nil
}

// freeSpace returns the bytes that this user may still write to the disk that
// a path is on, or will be: it need not be there yet.
func freeSpace(path string) (int64, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return 0, err
	}
	for {
		var disk unix.Statfs_t
		err := unix.Statfs(path, &disk)
		if err == nil {
			return int64(disk.Bavail) * int64(disk.Bsize), nil
		}
		if !errors.Is(err, os.ErrNotExist) || path == filepath.Dir(path) {
			return 0, err
		}
		path = filepath.Dir(path)
	}
}
