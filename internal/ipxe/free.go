package ipxe

import "slices"

// freeImages is the command that frees all images.
const freeImages = "imgfree\n"

// FreeImages returns a script that begins by freeing all images that iPXE has
// loaded before. iPXE passes every image to the kernel, in front of the initrd and
// whatever initrd= the script has: an image that is left over, such as an
// autoexec.ipxe that iPXE found beside itself or the kernel of a failed try, keeps the
// machine from booting, or adds files to the initrd. No other byte changes. iPXE does
// not count scripts that are running among its images.
func FreeImages(script []byte) []byte {
	_, second := logicalLine(script, 0)
	return slices.Concat(script[:second], []byte(freeImages), script[second:])
}
