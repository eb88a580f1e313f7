package ipxe

import (
	"bytes"
	"fmt"
	"time"
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
// of the addresses that leads to a boot.
func Autoexec(addresses ...string) []byte {
	return append([]byte(header+"dhcp || dhcp || exit 1\n"), chainTo(addresses)...)
}

// Chain returns the script for an iPXE that has its network already.
func Chain(addresses ...string) []byte {
	return append([]byte(header), chainTo(addresses)...)
}

// chainTo tries the addresses one after the other, and all of them once more after a
// while, when a boot server that restarts is back. What has failed may be the script at an
// address or a file that it loads. After that the firmware goes on to its next boot device.
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

// Identify puts a script before a release's by which iPXE asks for the script at the
// first address again, which may be relative, and describes the machine; if that does not
// lead to a boot, at the others, as Chain does. A client that does not run it has the
// release's script as it was.
func Identify(script []byte, addresses ...string) []byte {
	return append(Chain(addresses...), script...)
}

// LimitSilence returns a script whose downloads of a kernel and of an initrd fail when
// nothing has come for a while, so that iPXE can try another address. Without it iPXE
// waits for the rest of a file forever. No other byte changes. The option is in the iPXE of
// 2019 and in newer ones.
func LimitSilence(script []byte, limit time.Duration) []byte {
	r := rewriter{script: script}
	for _, c := range commands(script) {
		if len(c) == 0 || (c[0].text != "kernel" && !syntaxes[c[0].text].downloads) {
			continue
		}
		options, words := syntaxes[c[0].text].parse(c)
		hasLimit := false
		for _, o := range options {
			hasLimit = hasLimit || o.name == timeoutOption
		}
		if len(words) > 0 && !hasLimit {
			r.replace(c[0], fmt.Sprintf("%s --%s %d", c[0].text, timeoutOption, limit.Milliseconds()))
		}
	}
	return r.rewritten()
}
