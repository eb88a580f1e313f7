// Package chain writes the iPXE scripts (https://ipxe.org/scripting) that lead a
// machine from the firmware's one boot file to the release that it boots.
package chain

import (
	"bytes"
	"fmt"
	"strings"

	"every.channel/runner-images/internal/netboot/state"
)

// The parts of an address's query by which iPXE says what machine it runs on.
const (
	QueryMAC          = "mac"
	QueryArchitecture = "arch"
	QueryPlatform     = "platform"
)

// identity has iPXE fill in the card that it booted from, what processor it was
// built for, and whether it runs on BIOS ("pcbios") or UEFI ("efi"). See
// https://ipxe.org/cfg. The MAC address comes with hyphens: in an address without
// a host, iPXE takes what is before a colon for the protocol.
const identity = "?" + QueryMAC + "=${netX/mac:hexhyp}&" + QueryArchitecture + "=${buildarch}&" + QueryPlatform + "=${platform}"

// magic is by what iPXE knows a script, whatever its name.
const magic = "#!ipxe\n"

// Autoexec returns the script that iPXE loads from beside itself when it is
// started without one: it sets up the network, then goes on with the script at
// the first of the addresses that answers.
func Autoexec(addresses ...string) []byte {
	return append([]byte(magic+"dhcp || dhcp || exit 1\n"), chainTo(addresses)...)
}

// Second returns the script for an iPXE that asks for what it is itself: it has
// its network already.
func Second(addresses ...string) []byte {
	return append([]byte(magic), chainTo(addresses)...)
}

// chainTo tries the addresses in turn, and all of them once more after a while:
// a boot server that restarts is back by then. After that the firmware goes on
// to its next boot device.
func chainTo(addresses []string) []byte {
	var script bytes.Buffer
	for _, wait := range []string{"echo Trying again in 5 seconds\nsleep 5\n", ""} {
		for _, address := range addresses {
			fmt.Fprintf(&script, "chain --autofree %s ||\n", address+identity)
		}
		script.WriteString(wait)
	}
	script.WriteString("echo The boot server does not answer\nsleep 5\nexit 1\n")
	return script.Bytes()
}

// AskAgain puts a line before a release's script by which iPXE asks for the
// script called name again, and says what machine it is. Whoever does not run
// that line has the script as it was.
func AskAgain(name string, script []byte) []byte {
	again := fmt.Sprintf("%schain --replace --autofree %s ||\n", magic, name+identity)
	return append([]byte(again), script...)
}

// Architecture returns the architecture of the release for a machine with an
// iPXE that was built for the processor buildarch (https://ipxe.org/cfg/buildarch).
// On BIOS that is i386 on all machines; a release there is x86_64. No word at all
// means x86_64.
func Architecture(buildarch string) (state.Architecture, error) {
	switch buildarch {
	case "", "i386", "x86_64":
		return state.X86_64, nil
	case "arm64", "aarch64":
		return state.AArch64, nil
	}
	return "", fmt.Errorf("there are no releases for %q; want x86_64 or arm64", buildarch)
}

// Bind returns a release's script with its relative names of the kernel and the
// initrd led into folder, which must end in a slash: so the machine gets both from
// the same release. All else stays as it is. The last part of an address is the
// name that an image has in iPXE, so initrd=initrd on the kernel's command line
// stays right.
func Bind(script []byte, folder string) []byte {
	var bound bytes.Buffer
	for line := range bytes.Lines(script) {
		start, end := relativeName(string(line))
		bound.Write(line[:start])
		if start < end {
			bound.WriteString(folder)
			bound.Write(bytes.TrimPrefix(line[start:end], []byte("./")))
		}
		bound.Write(line[end:])
	}
	return bound.Bytes()
}

// relativeName returns where in a line the name of the kernel or the initrd
// stands as the address of a command that loads an image (https://ipxe.org/cmd),
// or two equal places.
func relativeName(line string) (start, end int) {
	words := positions(line)
	if len(words) == 0 {
		return 0, 0
	}
	switch line[words[0].start:words[0].end] {
	case "kernel", "initrd", "module", "imgfetch":
	default:
		return 0, 0
	}
	for i := 1; i < len(words); i++ {
		word := line[words[i].start:words[i].end]
		switch {
		case word == "--name" || word == "-n" || word == "--timeout" || word == "-t":
			i++ // and its value
		case strings.HasPrefix(word, "-"):
		case strings.TrimPrefix(word, "./") == state.Kernel, strings.TrimPrefix(word, "./") == state.Initrd:
			return words[i].start, words[i].end
		default:
			return 0, 0
		}
	}
	return 0, 0
}

type position struct{ start, end int }

// positions returns where the words of a line are.
func positions(line string) []position {
	var words []position
	for end := 0; ; {
		rest := strings.TrimLeft(line[end:], " \t\r\n")
		if rest == "" {
			return words
		}
		start := len(line) - len(rest)
		end = len(line)
		if length := strings.IndexAny(rest, " \t\r\n"); length >= 0 {
			end = start + length
		}
		words = append(words, position{start, end})
	}
}
