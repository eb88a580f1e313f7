// Package chain writes the iPXE scripts (https://ipxe.org/scripting) that lead a
// machine from the firmware's one boot file to the release that it boots.
package chain

import (
	"bytes"
	"fmt"

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

// start is the start of every script: the line by which iPXE recognises one, and
// the release of all images that are loaded. iPXE hands every image that it has
// loaded to the kernel, in front of the initrd: an autoexec.ipxe that it found
// beside itself, or the kernel of a try that failed.
const start = "#!ipxe\nimgfree\n"

// Autoexec returns the script that iPXE loads from beside itself when it is
// started without one: it sets up the network, then goes on with the script at
// the first of the addresses that answers.
func Autoexec(addresses ...string) []byte {
	return append([]byte(start+"dhcp || dhcp || exit 1\n"), chainTo(addresses)...)
}

// Second returns the script for an iPXE that asks for what it is itself: it has
// its network already.
func Second(addresses ...string) []byte {
	return append([]byte(start), chainTo(addresses)...)
}

// chainTo tries the addresses in turn, and all of them once more after a while:
// a boot server that restarts is back by then. After that the firmware goes on
// to its next boot device.
func chainTo(addresses []string) []byte {
	var script bytes.Buffer
	for _, wait := range []string{"echo Trying again in 5 seconds\nsleep 5\nimgfree\n", ""} {
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
	again := fmt.Sprintf("%schain --replace --autofree %s ||\n", start, name+identity)
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
