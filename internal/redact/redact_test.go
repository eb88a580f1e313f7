package redact_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/redact"
)

func TestText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                                                   "",
		"boot-v2026.02.28":                                                   "boot-v2026.02.28",
		"someone@every.channel":                                              "someone@every.channel",
		"https://forge.example/x":                                            "https://forge.example/x",
		"https://forge.example:3000/x":                                       "https://forge.example:3000/x",
		"https://me:secret@forge.example":                                    "https://***@forge.example",
		"https://secret@forge.example/x":                                     "https://***@forge.example/x",
		"https://me:a secret@forge.example":                                  "https://***@forge.example",
		"https://me:1 secret@forge.example":                                  "https://***@forge.example",
		"https://me:a/secret@forge.example":                                  "https://***@forge.example",
		"https://me:1/secret@forge.example":                                  "https://***@forge.example",
		"https://me:1?secret@forge.example":                                  "https://***@forge.example",
		"https://me:secr@et@forge.example":                                   "https://***@forge.example",
		"https://secr/et@forge.example/x":                                    "https://***@forge.example/x",
		"ftp://me:secret@forge.example":                                      "ftp://***@forge.example",
		"s3://key:secret@bucket":                                             "s3://***@bucket",
		"s3://images?region=eu":                                              "s3://images?region=eu",
		"s3://images?region=eu&secret-key=/secret":                           "s3://images?region=eu&secret-key=***",
		"https://forge.example/x?access_token=secret#iso":                    "https://forge.example/x?access_token=***#iso",
		"git+ssh://git@forge.example/x":                                      "git+ssh://git@forge.example/x",
		"git+ssh://git:secret@forge.example/x":                               "git+ssh://***@forge.example/x",
		"git+https://me:secret@forge.example/x#netboot":                      "git+https://***@forge.example/x#netboot",
		"git+https://forge.example/x?ref=a@b&rev=5b2f":                       "git+https://forge.example/x?ref=a@b&rev=5b2f",
		"a https://me:secret@one.example b\nhttps://me:secret@two.example c": "a https://***@one.example b\nhttps://***@two.example c",
		"the:iso git+https://me:secret@forge.example/x#iso":                  "the:iso git+https://***@forge.example/x#iso",
		"--store https://me:secret@cache.example 'a":                         "--store https://***@cache.example 'a",
		"--option access-tokens forge.example=secret":                        "***",
		"--option extra-Access-Tokens forge.example=secret":                  "***",
	} {
		assert.Equal(t, want, redact.Text(text), text)
	}
}

func TestRecorded(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://me:secret@forge.example/x?rev=5b2f": "https://forge.example/x?rev=5b2f",
		"git+ssh://git@forge.example/x":              "git+ssh://git@forge.example/x",
		"git+ssh://git:secret@forge.example/x":       "git+ssh://forge.example/x",
		"https://me:a secret@forge.example":          "https://forge.example",
		"--option access-tokens x=secret":            "***",
	} {
		assert.Equal(t, want, redact.Recorded(text), text)
	}
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"https://forge.example/a/b":                             "https://forge.example/a/b",
		"https://user:secret@127.0.0.1:1/cache?secret-key=/x":   "https://127.0.0.1:1/cache",
		"https://storage.example/x?X-Amz-Signature=secret#frag": "https://storage.example/x",
		"ssh-ng://git@host":                                     "ssh-ng://host",
		"file:///srv/cache":                                     "file:///srv/cache",
		"daemon":                                                "daemon",
		"me:secret@forge.example":                               "***",
		"key:secret@bucket":                                     "***",
		"https://me:a secret@forge.example":                     "***",
		"https://me:%zz@forge.example":                          "***",
	} {
		assert.Equal(t, want, redact.Address(address), address)
	}
}

func TestURL(t *testing.T) {
	t.Parallel()
	address, err := url.Parse("https://me:secret@forge.example/a%2Fb/c?token=secret#x")
	require.NoError(t, err)
	assert.Equal(t, "https://forge.example/a/b/c", redact.URL(address))
	assert.Equal(t, "***", redact.URL(&url.URL{Scheme: "mailto", Opaque: "me:secret@forge.example"}))
}
