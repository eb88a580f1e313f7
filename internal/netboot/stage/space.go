package stage

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"every.channel/runner-images/internal/size"
)

// A bundle unpacks to at most mostUnpacked times its size and smallUnpacked bytes. gzip
// and a sparse tar can say of a few bytes that they are gigabytes; a kernel and an initrd
// compress to a half, and without compression of their own to a tenth.
const (
	mostUnpacked  = 100
	smallUnpacked = 64 << 20
)

// spareSpace is how many bytes of the disk stay free for others.
const spareSpace = 16 << 20

// plausible returns an error if a bundle of packed bytes cannot be unpacked bytes large.
func plausible(packed, unpacked int64) error {
	if most := packed*mostUnpacked + smallUnpacked; unpacked > most {
		return fmt.Errorf("it would be %s unpacked, and has %s: no kernel and initrd compress like that", size.Text(unpacked), size.Text(packed))
	}
	return nil
}

// hasSpace returns an error that wraps syscall.ENOSPC if a folder's disk has no space for
// so many bytes more.
func hasSpace(folder string, bytes int64) error {
	var disk unix.Statfs_t
	if err := unix.Statfs(folder, &disk); err != nil {
		return &os.PathError{Op: "statfs", Path: folder, Err: err}
	}
	free := int64(disk.Bavail) * int64(disk.Bsize)
	spare := min(spareSpace, int64(disk.Blocks)*int64(disk.Bsize)/100)
	if bytes > free-spare {
		return fmt.Errorf("%s more are needed in %s, and %s are free: %w; keep fewer releases with --keep, or free some space",
			size.Text(bytes), folder, size.Text(free), syscall.ENOSPC)
	}
	return nil
}
