package artifact_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/lab"
)

// peKernel is the beginning of a kernel with an EFI stub.
func peKernel(machine uint16) []byte {
	header := make([]byte, 0x400)
	copy(header, "MZ")
	binary.LittleEndian.PutUint32(header[0x3c:], 0x80)
	copy(header[0x80:], "PE\x00\x00")
	binary.LittleEndian.PutUint16(header[0x84:], machine)
	return header
}

func with(header []byte, offset int, text string) []byte {
	copy(header[offset:], text)
	return header
}

func TestKernelArchitecture(t *testing.T) {
	t.Parallel()
	for name, kernel := range map[string]struct {
		header []byte
		want   string
	}{
		"bzImage with an EFI stub":      {with(peKernel(0x8664), 0x202, "HdrS"), "x86_64"},
		"32-bit EFI stub":               {with(peKernel(0x14c), 0x202, "HdrS"), "x86_64"},
		"bzImage without an EFI stub":   {with(make([]byte, 0x400), 0x202, "HdrS"), "x86_64"},
		"ARM64 Image with an EFI stub":  {with(peKernel(0xaa64), 0x38, "ARM\x64"), "aarch64"},
		"compressed EFI image (zboot)":  {peKernel(0xaa64), "aarch64"},
		"ARM64 Image without EFI stub":  {with(make([]byte, 64), 0x38, "ARM\x64"), "aarch64"},
		"text":                          {[]byte("kernel of boot-v1"), ""},
		"empty":                         {nil, ""},
		"MZ alone":                      {[]byte("MZ"), ""},
		"a PE header outside":           {with(make([]byte, 0x40), 0, "MZ"), ""},
		"a PE header at the very end":   {append(with(with(make([]byte, 0x40), 0, "MZ"), 0x3c, "\x40"), "PE\x00\x00"...), ""},
		"a PE header beyond 4 GiB":      {with(with(make([]byte, 0x40), 0, "MZ"), 0x3c, "\xff\xff\xff\xff"), ""},
		"gzip that is cut off at once":  {[]byte("\x1f\x8b\x08"), ""},
		"gzip that is damaged":          {[]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xff\xff\xff"), ""},
		"ARM64 Image packed with gzip":  {packed(t, with(make([]byte, 1<<20), 0x38, "ARM\x64")), "aarch64"},
		"packed and only the beginning": {packed(t, with(noise(1<<20), 0x38, "ARM\x64"))[:artifact.KernelHeaderSize], "aarch64"},
	} {
		got, err := artifact.KernelArchitecture(kernel.header)
		require.NoError(t, err, name)
		assert.Equal(t, kernel.want, got, name)
	}
	_, err := artifact.KernelArchitecture(peKernel(0x5064)) // RISC-V
	require.ErrorContains(t, err, "0x5064")
}

// Debian's kernel, a bzImage with an EFI stub, as it is and as some boot it: packed.
func TestArchitectureOfARealKernel(t *testing.T) {
	t.Parallel()
	kernel, err := os.ReadFile(filepath.Join(lab.BootPrograms(t), "vmlinuz"))
	require.NoError(t, err)
	withoutEFI := bytes.Clone(kernel)
	copy(withoutEFI, "\x00\x00")
	for name, content := range map[string][]byte{"as it is": kernel, "without its EFI stub": withoutEFI, "packed": packed(t, kernel[:1<<20])} {
		architecture, err := artifact.KernelArchitecture(content[:artifact.KernelHeaderSize])
		require.NoError(t, err, name)
		assert.Equal(t, "x86_64", architecture, name)
	}
}

func packed(t *testing.T, content []byte) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return packed.Bytes()
}

// noise does not compress.
func noise(n int) []byte {
	content := make([]byte, n)
	state := uint32(1)
	for i := range content {
		state = state*1664525 + 1013904223
		content[i] = byte(state >> 24)
	}
	return content
}
