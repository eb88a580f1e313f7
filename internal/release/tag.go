package release

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// TagPrefix begins the tags of boot images. Boot servers look for the latest release
// among these only.
const TagPrefix = "boot-"

// CheckTag returns an error for a tag that git would refuse, by the rules of
// git-check-ref-format(1), and of git-tag(1) for names on its command line, or
// that is too long for a folder's name. The error does not repeat the tag.
func CheckTag(tag string) error {
	const longest = 200 // bytes; a file name has up to 255, and some are longer for a while
	const example = "use for example boot-v2026.02.28"
	if tag == "" {
		return errors.New("git does not allow an empty tag; " + example)
	}
	if why := refusedByGit(tag); why != "" {
		return fmt.Errorf("git does not allow %s in a tag; %s", why, example)
	}
	if !utf8.ValidString(tag) || strings.ContainsFunc(tag, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return errors.New("it has characters that nobody can see; " + example)
	}
	if len(FolderName(tag)) > longest {
		return fmt.Errorf("it is longer than %d bytes, which is too long for a file's name; %s", longest, example)
	}
	return nil
}

// FolderName is a tag as the name of a folder. A tag may have slashes, and never
// begins with a dot.
func FolderName(tag string) string { return url.PathEscape(tag) }

// refusedByGit names what git would not take in a tag.
func refusedByGit(tag string) string {
	for _, c := range tag {
		switch {
		case c == ' ':
			return "spaces"
		case c < ' ' || c == 0x7f:
			return "control characters"
		case strings.ContainsRune(`~^:?*[\`, c):
			return fmt.Sprintf("%q", string(c))
		}
	}
	for _, sequence := range []string{"..", "@{", "//"} {
		if strings.Contains(tag, sequence) {
			return fmt.Sprintf("%q", sequence)
		}
	}
	switch {
	case strings.HasPrefix(tag, "-"):
		return `a leading "-"`
	case strings.HasPrefix(tag, "/"):
		return `a leading "/"`
	case strings.HasSuffix(tag, "/"):
		return `a trailing "/"`
	case strings.HasSuffix(tag, "."):
		return `a trailing "."`
	case tag == "HEAD":
		return `the name "HEAD"`
	}
	for component := range strings.SplitSeq(tag, "/") {
		if strings.HasPrefix(component, ".") {
			return `a component with a leading "."`
		}
		if strings.HasSuffix(component, ".lock") {
			return `a component that ends with ".lock"`
		}
	}
	return ""
}
