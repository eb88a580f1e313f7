// Package machine describes machines that boot: the MAC address of the network card,
// the architecture and the firmware.
package machine

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"strings"
	"unicode"
)

// A MAC is the address of an Ethernet card (EUI-48). MACs can be compared with ==.
// The zero value is no address: that of a client that did not send one.
type MAC struct {
	octets [6]byte
	valid  bool
}

// ParseMAC reads an address in the form 00:11:22:aa:bb:cc, 00-11-22-AA-BB-CC or
// 001122aabbcc, in any case.
func ParseMAC(text string) (MAC, error) {
	const length = len("00:11:22:aa:bb:cc")
	address, err := net.ParseMAC(text)
	if err == nil && len(text) == length {
		if mac, ok := MACFrom(address); ok {
			return mac, nil
		}
	}
	if raw, err := hex.DecodeString(text); err == nil {
		if mac, ok := MACFrom(raw); ok {
			return mac, nil
		}
	}
	return MAC{}, fmt.Errorf("%q is no MAC address; write it like 00:11:22:aa:bb:cc", text)
}

// ParseSentMAC reads the address of a machine as iPXE writes it in any of its forms
// (https://ipxe.org/cfg): ${mac}, ${mac:hexhyp}, ${mac:hexraw}, ${mac:base64}, and
// ${mac:uristring} as far as it is not six printable characters, which may be anything.
// White space around it, such as a carriage return at the end of a script's line, does not
// matter. There is no address, and no error, where the text is empty or the address of a
// card that is not Ethernet.
func ParseSentMAC(text string) (MAC, error) {
	mac, err := ParseMAC(strings.TrimSpace(text))
	if err == nil || text == "" {
		return mac, nil
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r > '~' || r < ' ' && !unicode.IsSpace(r) }) {
		if mac, ok := MACFrom([]byte(text)); ok {
			return mac, nil
		}
	}
	// In an address's query, a plus stands for a blank.
	if raw, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(text, " ", "+")); err == nil {
		if mac, ok := MACFrom(raw); ok {
			return mac, nil
		}
	}
	octets := strings.NewReplacer(":", "", "-", "").Replace(text)
	if raw, err := hex.DecodeString(octets); err == nil && (len(raw) == 8 || len(raw) == 20) { // EUI-64, InfiniBand
		return MAC{}, nil
	}
	if len(text) > maxShown {
		_, err = ParseMAC(text[:maxShown] + "…")
	}
	return MAC{}, err
}

// maxShown is how many bytes of what a machine sends an error shows.
const maxShown = 64

// MACFrom returns the address in a packet, and false if it is not an Ethernet one.
func MACFrom(address net.HardwareAddr) (mac MAC, ok bool) {
	if len(address) != len(mac.octets) {
		return MAC{}, false
	}
	return MAC{[6]byte(address), true}, true
}

// IsValid reports whether there is an address.
func (m MAC) IsValid() bool { return m.valid }

// String returns the address in the form 00:11:22:aa:bb:cc, or "" if there is none.
func (m MAC) String() string {
	if !m.valid {
		return ""
	}
	return net.HardwareAddr(m.octets[:]).String()
}

// Hyphenated returns the address in the form 00-11-22-aa-bb-cc, as iPXE writes
// ${mac:hexhyp}, or "" if there is none. In a relative address iPXE takes what is
// before a colon for the protocol.
func (m MAC) Hyphenated() string { return strings.ReplaceAll(m.String(), ":", "-") }

// Compare orders addresses as cmp.Compare orders numbers; no address comes first.
func (m MAC) Compare(other MAC) int {
	if m.valid != other.valid {
		if other.valid {
			return -1
		}
		return 1
	}
	return slices.Compare(m.octets[:], other.octets[:])
}

// An Architecture is a machine's, as Nix and uname(1) write it. The empty one is
// not known.
type Architecture string

// The architectures that a release may have a bundle for.
const (
	X86_64  Architecture = "x86_64"
	AArch64 Architecture = "aarch64"
)

// Architectures returns all architectures, in the order in which people expect them.
func Architectures() []Architecture { return []Architecture{X86_64, AArch64} }

// ParseBuildarch returns the architecture of the release for a machine with an
// iPXE that was built for the processor buildarch (https://ipxe.org/cfg/buildarch).
// On BIOS that is i386 on all machines; a release there is x86_64. An empty
// buildarch means x86_64.
func ParseBuildarch(buildarch string) (Architecture, error) {
	switch strings.TrimSpace(buildarch) {
	case "", "i386", "x86_64":
		return X86_64, nil
	case "arm64", "aarch64":
		return AArch64, nil
	}
	return "", fmt.Errorf("there are no releases for %q; want x86_64 or arm64", buildarch)
}

// Firmware is the firmware of a machine. The zero value is not known.
type Firmware struct {
	BIOS         bool         `json:"bios,omitempty"` // else UEFI
	HTTP         bool         `json:"http,omitempty"` // UEFI that boots from HTTP addresses
	Architecture Architecture `json:"architecture"`
}

// ParsePlatform returns the firmware that iPXE runs on, by its platform
// (https://ipxe.org/cfg/platform). The firmware of another platform, or of one that
// was not sent, is not known.
func ParsePlatform(platform string, architecture Architecture) Firmware {
	switch platform {
	case "pcbios":
		return Firmware{BIOS: true, Architecture: architecture}
	case "efi":
		return Firmware{Architecture: architecture}
	}
	return Firmware{}
}

// String returns a name for people, or "" if the firmware is not known.
func (f Firmware) String() string {
	switch {
	case f == Firmware{}:
		return ""
	case f.BIOS:
		return "BIOS"
	case f.HTTP:
		return "UEFI HTTP " + string(f.Architecture)
	}
	return "UEFI " + string(f.Architecture)
}
