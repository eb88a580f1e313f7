package checksum_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
)

const (
	emptySum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	helloSum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
)

func TestBytesIsWhatSha256sumChecks(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "b c.iso"), []byte("hello"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.tar.gz"), nil, 0o600))
	sums := checksum.Sums{}
	for _, name := range []string{"b c.iso", "a.tar.gz"} {
		sum, _, err := checksum.File(t.Context(), filepath.Join(dir, name))
		require.NoError(t, err)
		sums[name] = sum
	}
	assert.Equal(t, checksum.Sums{"a.tar.gz": emptySum, "b c.iso": helloSum}, sums)
	assert.Equal(t, emptySum+"  a.tar.gz\n"+helloSum+"  b c.iso\n", string(sums.Bytes()))

	require.NoError(t, os.WriteFile(filepath.Join(dir, checksum.FileName), sums.Bytes(), 0o600))
	check := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", checksum.FileName)
	check.Dir = dir
	out, err := check.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func TestParse(t *testing.T) {
	got, err := checksum.Parse(strings.NewReader(emptySum + "  text.iso\r\n\n" + strings.ToUpper(helloSum) + " *binary.iso\n"))
	require.NoError(t, err)
	assert.Equal(t, checksum.Sums{"text.iso": emptySum, "binary.iso": helloSum}, got)

	for input, want := range map[string]string{
		"hello\n":                               "want a SHA-256",
		emptySum + "  a\n" + helloSum + " b\n":  "want a SHA-256",
		emptySum + " ":                          "want a SHA-256",
		"SHA256 (a) " + emptySum:                "want SHA256 (NAME)",
		"SHA256 a = " + emptySum:                "want SHA256 (NAME)",
		"SHA512 (a) = " + emptySum:              "has no SHA-256",
		"\\" + emptySum + `  a\tb`:              "escapes",
		"\\" + emptySum + `  a\nb`:              "plain file name",
		"# a comment\nno comment":               "line 2",
		"g" + emptySum[1:] + "  name\n":         "not hexadecimal",
		emptySum + "  ../etc/passwd\n":          "plain file name",
		emptySum + "  ..\n":                     "plain file name",
		emptySum + "  a\x1b[2J\n":               "plain file name",
		emptySum + "  a\u202eosi.gz\n":          "nobody can see",
		emptySum + "  a\u200b.iso\n":            "nobody can see",
		emptySum + "  a\xff.iso\n":              "nobody can see",
		emptySum + "  a\n" + helloSum + "  a\n": "two different sums",
	} {
		_, err := checksum.Parse(strings.NewReader(input))
		assert.ErrorContains(t, err, want, "input %q", input)
	}
}

func TestFileErrors(t *testing.T) {
	_, _, err := checksum.File(t.Context(), filepath.Join(t.TempDir(), "absent"))
	assert.ErrorIs(t, err, os.ErrNotExist)

	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte("hello"), 0o600))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = checksum.File(cancelled, path)
	assert.ErrorIs(t, err, context.Canceled)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(emptySum + "  a\n" + helloSum + " *b c.iso\r\n"))
	f.Add([]byte(strings.ToUpper(helloSum) + "  x\n\n" + helloSum + "  x"))
	f.Add([]byte("\\" + emptySum + "  back\\\\slash\n"))
	f.Add([]byte("\ufeffSHA256 (./a) = " + emptySum + "\r\n# comment\nSHA256(b)= " + helloSum))
	f.Add([]byte(emptySum + " a\n\t" + helloSum + "  b\n\\SHA256 (c) = " + emptySum))
	f.Fuzz(func(t *testing.T, input []byte) {
		sums, err := checksum.Parse(bytes.NewReader(input))
		if err != nil {
			return
		}
		for name := range sums {
			assert.Equal(t, name, filepath.Base(name))
		}
		again, err := checksum.Parse(bytes.NewReader(sums.Bytes()))
		require.NoError(t, err)
		assert.Equal(t, sums, again)
	})
}

func TestFileWithProgress(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "image.iso")
	require.NoError(t, os.WriteFile(path, make([]byte, 5<<20+1), 0o600))
	var reported []int64
	_, size, err := checksum.FileWithProgress(t.Context(), path, func(done int64) { reported = append(reported, done) })
	require.NoError(t, err)
	assert.Greater(t, len(reported), 2)
	assert.IsIncreasing(t, reported)
	assert.Equal(t, size, reported[len(reported)-1])
}

// TestParseIsWhatSha256sumAccepts gives both the same lists: what the one accepts, the
// other reads, with the same names.
func TestParseIsWhatSha256sumAccepts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a", "b", " b", "b)", "*b", "#c", "a ", "SHA256"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("hello"), 0o600))
	}
	plain := func(between, name string) string { return helloSum + between + name + "\n" }
	for list, names := range map[string][]string{ // nil: refused by both
		plain("  ", "a"):                                    {"a"},
		plain(" *", "a"):                                    {"a"},
		plain(" ", "a"):                                     {"a"},
		plain("\t", "a"):                                    {"a"},
		plain("\t ", "a"):                                   {"a"},
		plain("   ", "b"):                                   {" b"},
		plain(" **", "b"):                                   {"*b"},
		plain("  ", "./a"):                                  {"a"},
		plain(" *", "././a"):                                {"a"},
		plain("  ", ".//a"):                                 {"a"},
		plain("  ", "a "):                                   {"a "},
		plain("  ", "SHA256"):                               {"SHA256"},
		plain("  ", "a") + plain(" *", "b"):                 {"a", "b"},
		plain(" ", "a") + plain("  ", "b"):                  {"a", " b"},
		plain(" ", "a") + plain(" *", "b"):                  {"a", "*b"},
		plain("  ", "a") + plain(" ", "b"):                  nil,
		"  \t" + plain("  ", "a"):                           {"a"},
		strings.ToUpper(helloSum) + "  a\n":                 {"a"},
		helloSum + "  a":                                    {"a"},
		helloSum + "  a\r\n":                                {"a"},
		"# comment\n#\n" + plain("  ", "#c"):                {"#c"},
		" # no comment\n":                                   nil,
		"SHA256 (a) = " + helloSum + "\n":                   {"a"},
		"SHA256 (./a) = " + helloSum + "\n":                 {"a"},
		"SHA256 (a) = " + helloSum + "\r\n":                 {"a"},
		"SHA256(a)= " + helloSum + "\n":                     {"a"},
		"SHA256 (a)\t=\t " + helloSum + "\n":                {"a"},
		"  SHA256 (a)=" + helloSum + "\n":                   {"a"},
		"SHA256  (a) = " + helloSum + "\n":                  nil,
		"SHA256 (b)) = " + helloSum + "\n":                  {"b)"},
		"SHA256 (a) = " + helloSum + "0\n":                  nil,
		"SHA256 (a) = " + helloSum + " \n":                  nil,
		"SHA256 (a) = " + helloSum[:63] + "\n":              nil,
		"SHA256 (a) = " + helloSum[:63] + "g\n":             nil,
		"SHA512 (a) = " + helloSum + "\n":                   nil,
		"sha256 (a) = " + helloSum + "\n":                   nil,
		"\\" + plain("  ", "a"):                             {"a"},
		"\\SHA256 (a) = " + helloSum + "\n":                 {"a"},
		" \\" + plain("  ", "a"):                            {"a"},
		"\\" + plain("  ", `a\`):                            nil,
		"\\" + plain("  ", `a\t`):                           nil,
		"SHA256 (a) = " + helloSum + "\n" + plain(" ", "b"): {"a", "b"},
		helloSum + "\n":                                     nil,
		helloSum + " \n":                                    nil,
		helloSum[:63] + "  a\n":                             nil,
		helloSum + "0  a\n":                                 nil,
		"no sum\n":                                          nil,
	} {
		sums, err := checksum.Parse(strings.NewReader(list))
		check := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", "-")
		check.Dir, check.Stdin = dir, strings.NewReader(list)
		out, refused := check.CombinedOutput()
		if names == nil {
			require.Error(t, err, "%q", list)
			assert.Error(t, refused, "%q: %s", list, out)
			continue
		}
		require.NoError(t, err, "%q", list)
		assert.NoError(t, refused, "%q: %s", list, out)
		want := checksum.Sums{}
		for _, name := range names {
			want[name] = helloSum
		}
		assert.Equal(t, want, sums, "%q", list)
		assert.Equal(t, len(names), strings.Count(string(out), ": OK\n"), "%q: %s", list, out)
	}
	// What sha256sum --tag and others print, of these files; and what it does not take.
	for _, tool := range [][]string{{"sha256sum", "a", "b"}, {"sha256sum", "--tag", "a", "b"}, {"sha256sum", "--binary", "a", "b"}, {"sha256sum", "./a", "./b"}} {
		list := exec.CommandContext(t.Context(), tool[0], tool[1:]...)
		list.Dir = dir
		out, err := list.Output()
		require.NoError(t, err)
		for _, written := range []string{string(out), "\ufeff" + string(out), strings.ReplaceAll(string(out), "\n", "\r\n"), "\n" + string(out) + "\n"} {
			sums, err := checksum.Parse(strings.NewReader(written))
			require.NoError(t, err, "%q", written)
			assert.Equal(t, checksum.Sums{"a": helloSum, "b": helloSum}, sums, "%q", written)
		}
	}
}

// Lists as release pages have them, of which sha256sum would say that some lines are
// improperly formatted.
func TestParseOtherLists(t *testing.T) {
	t.Parallel()
	const (
		md5    = "MD5 (a.iso) = 5d41402abc4b2a76b9719d911017c592\n"
		sha512 = "SHA512 (a.iso) = 9b71d224bd62f3785d96d46ad3ea3d73319bfbc2890caadae2dff72519673ca72323c3d99ba5c11d7c7acc6e14b8c5da0c4663475c2e5c3adef46f73bcdec043\n"
		blake  = "BLAKE2b-256(a.iso)= 324dcf027dd4a30a932c441f365a25e86b173defa4b8e58948253471b81b72cf\n"
	)
	signed := func(text string) string {
		return "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n" + text + "-----BEGIN PGP SIGNATURE-----\nVersion: GnuPG v2\n\niQIzBAEBCAAdFiEE\n=abcd\n-----END PGP SIGNATURE-----\n"
	}
	line := helloSum + "  a.iso\n"
	for _, list := range []string{
		"SHA2-256(a.iso)= " + helloSum + "\n",
		"SHA2-256 (a.iso) = " + helloSum + "\n",
		md5 + sha512 + "SHA256 (a.iso) = " + helloSum + "\n" + blake,
		"\\" + md5 + line,
		signed(line),
		signed("# of the release\n- " + line),
		strings.ReplaceAll(signed(line), "\n", "\r\n"),
		"\ufeff" + signed(line),
	} {
		sums, err := checksum.Parse(strings.NewReader(list))
		require.NoError(t, err, list)
		assert.Equal(t, checksum.Sums{"a.iso": helloSum}, sums, list)
	}
	for list, want := range map[string]string{
		md5 + sha512:                             "SHA256SUMS.txt has no SHA-256, only sums of other algorithms",
		"- " + line:                              "line 1",
		"-----BEGIN PGP SIGNATURE-----\n" + line: "line 1",
		line + strings.Repeat("x", 70000):        "SHA256SUMS.txt line 2 is longer than any file's name",
		strings.ToUpper(helloSum) + " (x) = 1\n" + line + helloSum[1:]: "line 3",
	} {
		_, err := checksum.Parse(strings.NewReader(list))
		require.ErrorContains(t, err, want, "%.200q", list)
	}
}
