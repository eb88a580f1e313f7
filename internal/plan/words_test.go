package plan

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSplitWords compares with what the real sh makes of the same text, in a folder
// without files.
func TestSplitWords(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "  \t ", "a", "a b", " a\tb ", "--max-jobs 0",
		`--builders 'ssh://builder aarch64-linux' --option x "a b"`,
		`''`, `""`, `a '' b`, `a""b`, `a'b c'd`, `"a'b" 'c"d'`, `'a'\''b'`,
		// Backslashes outside of quotes, and in both kinds of them.
		`x\y`, `"x\y"`, `'x\y'`, `a\ b`, `"a\"b"`, `"a\\b"`, `'a\\b'`, `\\`, `"\$HOME"`, `\$HOME`, "\"\\`id\\`\"", `"\'"`, `\'`, `\"`, `"\n"`, `\~`, `\#a`,
		// A backslash before a newline joins lines.
		"a \\\n b", "a\\\nb", "\"a\\\nb\"", "'a\\\nb'", "\\\na", "a\\\n", "--option x \\\n  y \\\n  --impure",
		"'a\nb'", "\"a\nb\"",
		// Comments, and what is none.
		"a # b 'c", "# a", "a#b", `a "# b"`, "nixpkgs#hello", ".#x --impure # why",
		// Dollars that begin no expansion.
		"'$HOME' '$(id)' '`id`'", "$", "a$ b", "a$", `"$"`, `"a$"`, "$,", `"$ "`, `a$/b`, `"$%"`,
		// Patterns and braces.
		"*", "a*", "?", "git+https://forge.example/x?dir=y", "[ab]", "[", "{a,b}", "{1..3}", "a=b", "a=b c", "!", "!a", "if", "then a", "{", "}", "a~", "a=~", "'~'", `"~"`, "%", "@", "^", "-", "--",
		"größe 日本語", `{"a":\ 1}`,
		`--arg x '{ a = 1; }'`, `--argstr name "it's"`, `--option extra-substituters "https://a.example https://b.example"`,
		`--builders '@/etc/nix/machines ; ssh://a x86_64-linux - 4'`,
		`a\`, `'a'\`,
	} {
		got, err := splitWords(text)
		if !assert.NoError(t, err, "%q", text) {
			continue
		}
		assert.Equal(t, shellWords(t, text), got, "%q", text)
	}
}

// shellWords returns the words that the real sh makes of a text. Its positional
// parameters are the words; set -- takes reserved words as they are.
func shellWords(t *testing.T, text string) []string {
	t.Helper()
	sh := exec.CommandContext(t.Context(), "sh", "-c", "eval \"set -- $1\"\nfor word; do printf '%s\\0' \"$word\"; done", "sh", text)
	sh.Dir = t.TempDir()
	out, err := sh.Output()
	require.NoError(t, err, "%q", text)
	if len(out) == 0 {
		return []string{}
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// A YAML block has lines. In a shell they would be commands; here they are more
// words.
func TestSplitWordsOfSeveralLines(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"--option x y\n--impure\n", "\n--option x y\n\n  --impure", "--option x y \\\n--impure\n", "--option x y # why\n# and this\n--impure", "--option x y\r\n--impure\r\n",
	} {
		got, err := splitWords(text)
		require.NoError(t, err, "%q", text)
		assert.Equal(t, []string{"--option", "x", "y", "--impure"}, got, "%q", text)
	}
}

func TestSplitWordsRefuses(t *testing.T) {
	t.Parallel()
	const replaced = "a shell would replace %, which is not done here; put it in single quotes if it is meant literally"
	for text, want := range map[string]string{
		"$HOME":            strings.Replace(replaced, "%", "$HOME", 1),
		"a/${HOME}/b":      strings.Replace(replaced, "%", "${HOME}", 1),
		`"$HOME/x"`:        strings.Replace(replaced, "%", "$HOME", 1),
		"$1":               strings.Replace(replaced, "%", "$1", 1),
		"$$":               strings.Replace(replaced, "%", "$$", 1),
		"--cores $(nproc)": strings.Replace(replaced, "%", "$(nproc)", 1),
		"`nproc`":          strings.Replace(replaced, "%", "`nproc`", 1),
		`"a $(id) b"`:      strings.Replace(replaced, "%", "$(id)", 1),
		"$((1 + 2))":       strings.Replace(replaced, "%", "$((1 + 2))", 1),
		"~":                strings.Replace(replaced, "%", "~", 1),
		"~/flake":          strings.Replace(replaced, "%", "~/flake", 1),
		"~me/flake":        strings.Replace(replaced, "%", "~me/flake", 1),
		"a; b":             "`;` is not a valid word; put it in quotes if it belongs to an argument",
		"a && b":           "`&&` is not a valid word",
		"x?a=b&c=d":        "`&` is not a valid word",
		"a | b":            "`|` is not a valid word",
		"a > b":            "`>` is not a valid word",
		"a 2>b":            "`>` is not a valid word",
		"a < b":            "`<` is not a valid word",
		"a <<b":            "`<<` is not a valid word",
		"(a)":              "`(` is not a valid word",
		"a)":               "`)` is not a valid word",
		"'a":               "close every quote",
		`"a`:               "close every quote",
		`a "b c`:           "close every quote",
		"$(a":              "close every quote",
		"${a":              "close every quote",
		"`a":               "close every quote",
	} {
		words, err := splitWords(text)
		assert.ErrorContains(t, err, want, "%q", text)
		assert.Nil(t, words, "%q", text)
	}
}
