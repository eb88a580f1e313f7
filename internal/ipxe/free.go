package ipxe

import "slices"

// FreeImages returns a script that begins by freeing all images that iPXE has
// loaded before it. iPXE hands every image to the kernel, in front of the initrd
// and whatever the script says of initrds, so that one left over keeps the machine
// from booting, or replaces files of the initrd. No other byte changes. The
// running script is no image to iPXE until it ends, nor are those that led to it.
func FreeImages(script []byte) []byte {
	_, second := logicalLine(script, 0)
	return slices.Concat(script[:second], []byte("imgfree\n"), script[second:])
}
