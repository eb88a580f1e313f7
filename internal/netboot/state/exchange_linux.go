package state

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// exchange swaps two names in one step (renameat2(2)).
func exchange(a, b string) error {
	err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("this file system cannot swap two folders in one step (%w): keep the state folder on ext4, xfs, btrfs, f2fs or tmpfs", err)
	}
	return err
}
