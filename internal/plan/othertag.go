package plan

import (
	"path"
	"regexp"
	"strings"

	"every.channel/runner-images/internal/artifact"
)

// tagInName finds the tags that runs choose, at the end of what a file is called:
// boot-v and a number, or boot- and a commit.
var tagInName = regexp.MustCompile(`-(boot-(?:v[0-9][A-Za-z0-9._+-]*|[0-9a-f]{7,40}))$`)

var digits = regexp.MustCompile(`[0-9]+`)

// OtherTag returns the tag in the name of a release's file, if that ends in another tag
// than this: one of the same form, or one that runs choose.
func OtherTag(name, tag string) (other string, ok bool) {
	for extension := path.Ext(name); isExtension(extension); extension = path.Ext(name) {
		name = strings.TrimSuffix(name, extension)
	}
	if strings.HasSuffix(name, artifact.FileName("", tag, "")) {
		return "", false
	}
	own := strings.TrimPrefix(artifact.FileName("", tag, ""), "-")
	sameForm := regexp.MustCompile("-(" + digits.ReplaceAllLiteralString(regexp.QuoteMeta(own), "[0-9]+") + ")$")
	for _, form := range []*regexp.Regexp{sameForm, tagInName} {
		if found := form.FindStringSubmatch(name); found != nil {
			return found[1], true
		}
	}
	return "", false
}

// isExtension reports whether a file's name ends in this: the last part of a version,
// such as .28, is none.
func isExtension(text string) bool {
	switch text {
	case ".tar", ".gz", ".iso", ".img", ".zst", ".xz", ".sig", ".jsonl", ".txt", ".raw", ".qcow2", ".sha256":
		return true
	}
	return false
}
