package verify

import (
	"strings"
	"unicode"

	"every.channel/runner-images/internal/ipxe"
)

// BootedTag returns the tag in a kernel command line as /proc/cmdline has it, or
// "" if it names none. The last one counts, as with other parameters.
func BootedTag(commandLine string) string {
	tag := ""
	for _, parameter := range parameters(commandLine) {
		if value, ok := strings.CutPrefix(parameter, ipxe.TagParameter+"="); ok {
			tag = unquoted(value)
		}
	}
	return tag
}

// parameters splits a kernel command line as Linux does (next_arg in
// lib/cmdline.c): at white space outside of double quotes, which may be around all
// of a parameter or around its value, and have no escapes.
func parameters(commandLine string) []string {
	quoted := false
	found := strings.FieldsFunc(commandLine, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && unicode.IsSpace(r)
	})
	for i, parameter := range found {
		found[i] = unquoted(parameter)
	}
	return found
}

func unquoted(text string) string {
	if inner, ok := strings.CutPrefix(text, `"`); ok {
		return strings.TrimSuffix(inner, `"`)
	}
	return text
}
