package artifact

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The architectures that a boot server knows, as Nix and uname(1) write them.
const (
	x86_64  = "x86_64"
	aarch64 = "aarch64"
)

// ErrOtherKernel means that a kernel is for machines that a boot server does not know.
var ErrOtherKernel = errors.New("the kernel is neither for x86_64 nor for aarch64")

// KernelHeaderSize is how many bytes of a kernel KernelArchitecture wants. A shorter kernel is
// given whole.
const KernelHeaderSize = 64 << 10

// The machine types of PE files (Microsoft's "PE Format", section "Machine Types").
const (
	peI386    = 0x014c
	peX86_64  = 0x8664
	peAArch64 = 0xaa64
)

// KernelArchitecture returns the architecture of the machines that a Linux kernel is for
// ("x86_64", "aarch64"), by its beginning: the machine type of a PE file (a kernel that UEFI starts), the header of
// a bzImage (the kernel's Documentation/arch/x86/boot.rst) or of an ARM64 Image
// (Documentation/arch/arm64/booting.rst), each perhaps compressed by gzip. It is empty if
// the beginning does not say. The error for one for
// other machines wraps ErrOtherKernel.
func KernelArchitecture(header []byte) (string, error) {
	if compressed, err := gzip.NewReader(bytes.NewReader(header)); err == nil {
		unpacked, err := io.ReadAll(io.LimitReader(compressed, KernelHeaderSize))
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) { // it is only the beginning
			return "", nil
		}
		header = unpacked
	}
	if machine, ok := peMachine(header); ok {
		switch machine {
		case peX86_64, peI386: // on BIOS, a machine for x86_64 starts both
			return x86_64, nil
		case peAArch64:
			return aarch64, nil
		}
		return "", fmt.Errorf("%w: it is for machines of the PE type 0x%04x", ErrOtherKernel, machine)
	}
	switch {
	case hasAt(header, 0x202, "HdrS"):
		return x86_64, nil
	case hasAt(header, 0x38, "ARM\x64"):
		return aarch64, nil
	}
	return "", nil
}

// peMachine returns the machine type of a PE file.
func peMachine(header []byte) (uint16, bool) {
	const offsetAt = 0x3c // of the PE header
	if !hasAt(header, 0, "MZ") || len(header) < offsetAt+4 {
		return 0, false
	}
	offset := uint64(binary.LittleEndian.Uint32(header[offsetAt:]))
	const signature = "PE\x00\x00"
	if !hasAt(header, offset, signature) || offset+6 > uint64(len(header)) {
		return 0, false
	}
	return binary.LittleEndian.Uint16(header[offset+4:]), true
}

func hasAt(content []byte, offset uint64, text string) bool {
	return offset <= uint64(len(content)) && bytes.HasPrefix(content[offset:], []byte(text))
}
