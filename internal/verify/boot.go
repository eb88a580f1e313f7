package verify

import (
	"strings"

	"github.com/google/shlex"

	"every.channel/runner-images/internal/ipxe"
)

// BootedTag returns the tag in a kernel command line as /proc/cmdline has it, or
// "" if it names none. The last one counts, as with other parameters.
func BootedTag(commandLine string) string {
	words, err := shlex.Split(commandLine)
	if err != nil {
		words = strings.Fields(commandLine)
	}
	tag := ""
	for _, word := range words {
		if value, ok := strings.CutPrefix(word, ipxe.TagParameter+"="); ok {
			tag = value
		}
	}
	return tag
}
