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
		"https://forge.example/?key=secret":                                  "https://forge.example/?key=***",
		"https://s.example/x?X-Amz-Credential=secret&Signature=secret":       "https://s.example/x?X-Amz-Credential=***&Signature=***",
		"https://s.example/x.tgz?se=2026&sig=secret#iso":                     "https://s.example/x.tgz?se=2026&sig=***#iso",
		"me:secret@forge.example:x":                                          "***@forge.example:x",
		"https:/me:secret@forge.example/x":                                   "https:/***@forge.example/x",
		"//me:secret@forge.example/x":                                        "//***@forge.example/x",
		"iso me:secret@forge.example/x#iso":                                  "iso ***@forge.example/x#iso",
		"me:secr@et@forge.example:x":                                         "***@forge.example:x",
		"https:/:secret@forge.example/x":                                     "https:/***@forge.example/x",
		"git@forge.example:x":                                                "git@forge.example:x",
		"git@[2001:db8::1]:x":                                                "git@[2001:db8::1]:x",
		"https://forge.example/x?ref=a:b@c":                                  "https://forge.example/x?ref=a:b@c",
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

		"": "", ".": ".", "/srv/flake": "/srv/flake", "../flake#iso": "../flake#iso", "nixpkgs": "nixpkgs",
		".#nixosConfigurations.x.config.system.build.isoImage": ".#nixosConfigurations.x.config.system.build.isoImage",
		`.#a."b c"`:       "***", // a space in it makes it two words
		`.#a."b.c"^out`:   `.#a."b.c"^out`,
		"path:/srv/flake": "path:/srv/flake",
		"github:NixOS/nixpkgs/b18a4b905f8d028dc4476412e6d6891728695379":              "github:NixOS/nixpkgs/b18a4b905f8d028dc4476412e6d6891728695379",
		"github:owner/repo?host=forge.example&token=secret":                          "github:owner/repo?host=forge.example",
		"git+https://forge.example/x?dir=images&ref=refs/tags/v1&rev=5b2f#netboot":   "git+https://forge.example/x?dir=images&ref=refs/tags/v1&rev=5b2f#netboot",
		"git+https://forge.example/x?rev=5b2f&private_token=secret":                  "git+https://forge.example/x?rev=5b2f",
		"https://forge.example/x.tar.gz?access_token=secret#iso":                     "https://forge.example/x.tar.gz#iso",
		"https://forge.example/x.tar.gz?narHash=sha256-AB%2Bc%3D&key=secret":         "https://forge.example/x.tar.gz?narHash=sha256-AB%2Bc%3D",
		"https://s.example/b/x.tgz?X-Amz-Credential=secret&X-Amz-Signature=secret":   "https://s.example/b/x.tgz",
		"https://s.example/b/x.tgz?se=2026&sig=secret":                               "https://s.example/b/x.tgz",
		"https://s.example/b/x.tgz?GoogleAccessId=a&Expires=1&Signature=secret":      "https://s.example/b/x.tgz",
		"https://s.example/b/x.tgz?secret":                                           "https://s.example/b/x.tgz",
		"https://s.example/b/x.tgz?rev=https://me:secret@s.example":                  "https://s.example/b/x.tgz?rev=https://s.example",
		"HTTPS://secret@forge.example/x":                                             "https://forge.example/x",
		"git+HTTPS://secret@forge.example/x":                                         "git+https://forge.example/x",
		"git+ssh://secret@forge.example/x":                                           "git+ssh://forge.example/x",
		"ssh-ng://secret@cache.example":                                              "ssh-ng://cache.example",
		"secret@forge.example:x":                                                     "***",
		"s3://images?region=eu&endpoint=https://secret@s.example&secret-key=/secret": "s3://images?region=eu",
		"https://forge.example/x#secret@y":                                           "https://y", // it may be a user with a # in it
		"https://me:%zz@forge.example":                                               "https://forge.example",
		"https://forge.example/%zz":                                                  "***",
	} {
		assert.Equal(t, want, redact.Recorded(text), text)
	}
}

func TestRecordedWords(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "iso git+https://forge.example/x#iso\n\nsd  .#sd\n",
		redact.RecordedWords("iso git+https://secret@forge.example/x?token=secret#iso\n\nsd  .#sd\n"))
}

func TestRecordedArguments(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":         "",
		"-L -v -k": "-L -v -k",
		"--impure --option substitute false --max-jobs 2":                      "--impure --option substitute false --max-jobs 2",
		"--option 'sandbox' \"false\"":                                         "--option sandbox false",
		"--argstr password secret":                                             "*** *** ***",
		"--arg x '\"secret\"' -L":                                              "*** *** *** -L",
		"--option access-tokens forge.example=secret":                          "*** *** ***",
		"--option netrc-file /secret --fallback":                               "*** *** *** --fallback",
		"--access-tokens forge.example=secret":                                 "*** ***",
		"--builders 'ssh://secret@builder x86_64-linux /secret'":               "*** *** *** ***",
		"--override-input nixpkgs git+https://secret@forge.example/x?rev=5b2f": "--override-input nixpkgs git+https://forge.example/x?rev=5b2f",
		"--override-input nixpkgs":                                             "*** ***",
		"--max-jobs https://secret@x":                                          "*** ***",
		"--option cores":                                                       "*** ***",
		"--secret":                                                             "***",
		"--store s3://cache?secret-key=secret":                                 "*** ***",
		"--argstr --impure secret":                                             "*** --impure ***",
	} {
		got := redact.RecordedArguments(text)
		assert.Equal(t, want, got, text)
		assert.NotContains(t, got, "secret")
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
