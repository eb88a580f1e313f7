package release_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/release"
)

func TestCheckTag(t *testing.T) {
	t.Parallel()
	for _, tag := range []string{"boot-v2026.02.28", "boot/v1", "boot-v1+100%#ü&x=1", strings.Repeat("x", 200)} {
		require.NoError(t, release.CheckTag(tag))
	}
	for tag, want := range map[string]string{
		"":                       "an empty tag",
		"boot v1":                "spaces in a tag",
		"boot\tv1":               "control characters in a tag",
		"boot~1":                 `"~" in a tag`,
		`boot\v1`:                `"\\" in a tag`,
		"a..b":                   `".." in a tag`,
		"a@{b":                   `"@{" in a tag`,
		"a//b":                   `"//" in a tag`,
		"-a":                     `a leading "-"`,
		"/a":                     `a leading "/"`,
		"a/":                     `a trailing "/"`,
		"a.":                     `a trailing "."`,
		"HEAD":                   `the name "HEAD"`,
		"a/.b":                   `a component with a leading "."`,
		"boot-v1\u200b":          "characters that nobody can see",
		"boot-\u202e1v":          "characters that nobody can see",
		"boot-v1\u00a0":          "characters that nobody can see",
		"boot-\xff":              "characters that nobody can see",
		"a.lock/b":               `a component that ends with ".lock"`,
		strings.Repeat("x", 201): "longer than 200 bytes",
		strings.Repeat("ü", 40):  "longer than 200 bytes",
	} {
		err := release.CheckTag(tag)
		require.ErrorContains(t, err, want, tag)
		assert.ErrorContains(t, err, "use for example boot-v2026.02.28")
	}
}

func TestFolderName(t *testing.T) {
	t.Parallel()
	for tag, want := range map[string]string{"boot-v2026.02.28": "boot-v2026.02.28", "boot/v1": "boot%2Fv1", "100%": "100%25"} {
		assert.Equal(t, want, release.FolderName(tag))
	}
}
