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

func TestAddresses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"x: git+https://me:secret@forge.example/x#iso, and HTTPS://secret@two.example": "x: git+https://***@forge.example/x#iso, and HTTPS://***@two.example",
		`{"a":"https://me:s@e@one.example/x","b":"https://secret@two.example"}`:        `{"a":"https://***@one.example/x","b":"https://***@two.example"}`,
		`{"a":"https://one.example/x?access_token=secret","b":"c@d.example"}`:          `{"a":"https://one.example/x?access_token=***","b":"c@d.example"}`,
		"https://forge.example/x signed by release@every.channel":                      "https://forge.example/x signed by release@every.channel",
		"git+ssh://git@forge.example/x ssh://me:secret@forge.example":                  "git+ssh://git@forge.example/x ssh://***@forge.example",
		"https://forge.example/x/src/a@b":                                              "https://forge.example/x/src/a@b",
		"the option access-tokens is there":                                            "the option access-tokens is there",
		"https://s.example/x.tgz?X-Amz-Signature=secret 404":                           "https://s.example/x.tgz?X-Amz-Signature=*** 404",
		"s3://images?region=eu&secret-key=/secret and more":                            "s3://images?region=eu&secret-key=*** and more",
	} {
		assert.Equal(t, want, redact.Addresses(text))
	}
}
