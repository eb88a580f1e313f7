package redact_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"every.channel/runner-images/internal/redact"
)

func TestPrintable(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "",
		"größer, 日本語, 👩‍💻\tand\nmore":       "größer, 日本語, 👩‍💻\tand\nmore",
		"\x1b[31;1mred\x1b[0m":              "red",
		"\x1b[2J\x1b[Hhome":                 "home",
		"\x1b]0;title\x07text":              "text",
		"\x1b]8;;https://evil\x1b\\a link":  "a link",
		"\x1bPq device \x1b\\text":          "text",
		"\u009b31mred":                      "red",
		"\x9b31mred":                        "\uFFFD31mred",
		"over\rwritten\r\nnext":             "overwritten\nnext",
		"a\x00b\x07c\x08d\x7fe\u0085f":      "abcdef",
		"not ended \x1b[":                   "not ended [",
		"boot\u202e1v-toob\u202c":           "boot1v-toob",
		"one\u2028::error::two\u2029three":  "one::error::twothree",
		"\x1b\x1b[31m[31mnested\x1b[0m":     "[31mnested",
		"\x1b]0;not ended, and the rest":    "]0;not ended, and the rest",
		"\xff\xfe":                          "\uFFFD",
		strings.Repeat("\x1b[1m", 3) + "ok": "ok",
	} {
		assert.Equal(t, want, redact.Printable(text), "%q", text)
	}
}
