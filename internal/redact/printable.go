package redact

import (
	"regexp"
	"strings"
	"unicode"
)

// escapes are a terminal's control sequences (ECMA-48): CSI with its parameters, and
// the strings that end in BEL or ST, such as a title or a link.
var escapes = regexp.MustCompile(`(?s)(\x1b\[|\x{9b})[0-?]*[ -/]*[@-~]|(\x1b[\]PX^_]|[\x{9d}\x{90}\x{98}\x{9e}\x{9f}]).*?(\x07|\x1b\\|\x{9c})`)

// Printable returns a text of someone else's, such as a server's, as it may be shown:
// without what a terminal or a log obeys rather than shows. Of the control characters
// only tab and newline stay. Characters that turn the direction of text, or end a line
// for some readers only, go too.
func Printable(text string) string {
	text = escapes.ReplaceAllLiteralString(strings.ToValidUTF8(text, "\uFFFD"), "")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return r
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r), r == '\u2028', r == '\u2029':
			return -1
		}
		return r
	}, text)
}

// Addresses returns a text, such as a line of a log, without the users, passwords and
// secret parameters of the addresses in it. Text is for what should be an address: it
// also hides what cannot be one.
func Addresses(text string) string {
	text = userInText.ReplaceAllStringFunc(text, func(found string) string {
		scheme, user, _ := strings.Cut(found, "://")
		web := strings.HasSuffix(strings.ToLower(scheme), "http") || strings.HasSuffix(strings.ToLower(scheme), "https")
		if !web && !strings.Contains(user, ":") {
			return found // ssh://git@ needs it
		}
		return scheme + "://" + hidden + "@"
	})
	return parameterInText.ReplaceAllString(text, "${1}"+hidden)
}

var (
	userInText      = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#"'<>]*@`)
	parameterInText = regexp.MustCompile(`(?i)([?&][^=&\s#"'<>]*(?:` + secretNames + `)[^=&\s#"'<>]*=)[^&\s#"'<>]+`)
)
