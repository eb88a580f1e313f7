package ipxe

import (
	"bytes"
	"fmt"
)

// The parameters of an address by which iPXE describes the machine that it runs on.
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

// header begins every script: the line by which iPXE recognises one, and what
// FreeImages is for.
const header = "#!ipxe\n" + freeImages

// Autoexec returns the script that iPXE loads from beside itself when it has no
// script inside: it sets up the network, then continues with the script at the first
// of the addresses that answers.
func Autoexec(addresses ...string) []byte {
	return append([]byte(header+"dhcp || dhcp || exit 1\n"), chainTo(addresses)...)
}

// Chain returns the script for an iPXE that has its network already.
func Chain(addresses ...string) []byte {
	return append([]byte(header), chainTo(addresses)...)
}

// chainTo tries the addresses one after the other, and all of them once more after a
// while, when a boot server that restarts is back. After that the firmware goes on to
// its next boot device.
func chainTo(addresses []string) []byte {
	var script bytes.Buffer
	for _, wait := range []string{"echo Trying again in 5 seconds\nsleep 5\n" + freeImages, ""} {
		for _, address := range addresses {
			fmt.Fprintf(&script, "chain --autofree %s ||\n", address+identity)
		}
		script.WriteString(wait)
	}
	script.WriteString("echo The boot server does not answer\nsleep 5\nexit 1\n")
	return script.Bytes()
}

// Identify puts a line before a release's script by which iPXE asks for the script
// called name again, and describes the machine. A client that does not run that line
// has the script as it was.
func Identify(name string, script []byte) []byte {
	again := fmt.Sprintf("%schain --replace --autofree %s ||\n", header, name+identity)
	return append([]byte(again), script...)
}
