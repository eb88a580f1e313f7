// Package checksum reads and writes SHA256SUMS.txt, the list of checksums that
// every release carries, in the format of `sha256sum` of GNU coreutils, so that
// `sha256sum -c SHA256SUMS.txt` in a folder of downloaded assets checks them.
package checksum

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"every.channel/runner-images/internal/transfer"
)

// FileName is the name of the checksum file in an output folder and in a release.
const FileName = "SHA256SUMS.txt"

// Sums holds the SHA-256 of files as 64 lower-case hexadecimal digits, by the
// file's base name.
type Sums map[string]string

// Bytes returns the sums as `sha256sum` prints them, a line a file,
// sorted by name and each ended by a newline.
func (s Sums) Bytes() []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "%s  %s\n", s[name], name)
	}
	return b.Bytes()
}

// File returns the SHA-256 of the file at path in lower-case hexadecimal, and
// its size in bytes. It stops early with the context's error.
func File(ctx context.Context, path string) (sum string, size int64, err error) {
	return FileWithProgress(ctx, path, func(int64) {})
}

// FileWithProgress is File, and calls progress with the number of bytes hashed so
// far.
func FileWithProgress(ctx context.Context, path string, progress func(done int64)) (sum string, size int64, err error) {
	file, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	hash := sha256.New()
	size, err = io.CopyBuffer(hash, transfer.WithProgress(transfer.WithContext(ctx, file), progress), make([]byte, blockSize))
	if err != nil {
		return "", 0, fmt.Errorf("hash %s: %w", path, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), size, nil
}

// blockSize is how many bytes are hashed at once: few enough to be in a core's cache
// when they are.
const blockSize = 256 << 10
