package verify

import (
	"strings"

	"github.com/google/shlex"
)

// TagParameter is the parameter on the kernel's command line that names the
// release which the machine was booted from. A name with a dot in it is left
// alone by the kernel and by init.
const TagParameter = "runner-images.release_tag"

// BootedTag returns the tag in a kernel command line as /proc/cmdline has it, or
// "" if it names none. The last one counts, as with other parameters.
func BootedTag(commandLine string) string {
	words, err := shlex.Split(commandLine)
	if err != nil {
		words = strings.Fields(commandLine)
	}
	tag := ""
	for _, word := range words {
		if value, ok := strings.CutPrefix(word, TagParameter+"="); ok {
			tag = value
		}
	}
	return tag
}
