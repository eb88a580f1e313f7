package checksum

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Parse reads what `sha256sum --check` of GNU coreutils 9 accepts, as others write it:
// in the text form ("sum  name"), the binary form ("sum *name"), that of BSD's sha256 -r
// ("sum name") and the tagged forms ("SHA256 (name) = sum", as `sha256sum --tag` and
// BSD's sha256 print them, and "SHA256(name)= sum" or "SHA2-256(name)= sum" of OpenSSL), with a backslash before a
// line whose name has escapes, blanks before a line, comments (a line that begins with
// "#") and carriage returns before a newline. Beyond that it passes over empty lines and
// a byte order mark, and takes "./name" for "name". In a list that is signed as text
// (OpenPGP's clear signature) it reads what is signed, without a look at the signature. It
// passes over lines with the tag of another algorithm, but not over a whole list of them.
//
// A line of another form, a name with a folder in it, and one name with two different
// sums are errors that cite the line.
func Parse(r io.Reader) (Sums, error) {
	sums, lines := Sums{}, lineReader{}
	buffered := bufio.NewReader(r)
	if mark, _ := buffered.Peek(len(byteOrderMark)); string(mark) == byteOrderMark {
		_, _ = buffered.Discard(len(byteOrderMark)) // is in the buffer
	}
	scanner := bufio.NewScanner(buffered)
	number, others, armor := 0, 0, armor{}
	for scanner.Scan() {
		number++
		line, ok := armor.content(strings.TrimSuffix(scanner.Text(), "\r"))
		if !ok || line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if tag := anyTag.FindStringSubmatch(line); tag != nil && tag[1] != "SHA256" && tag[1] != "SHA2-256" {
			others++
			continue
		}
		sum, name, err := lines.read(line)
		if err != nil {
			return nil, fmt.Errorf("%s line %d %q: %w", FileName, number, line, err)
		}
		if known, ok := sums[name]; ok && known != sum {
			return nil, fmt.Errorf("%s line %d: %s has two different sums", FileName, number, name)
		}
		sums[name] = sum
	}
	if err := scanner.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("%s line %d is longer than any file's name", FileName, number+1)
	} else if err != nil {
		return nil, fmt.Errorf("read %s: %w", FileName, err)
	}
	if len(sums) == 0 && others > 0 {
		return nil, fmt.Errorf("%s has no SHA-256, only sums of other algorithms", FileName)
	}
	return sums, nil
}

// anyTag finds the algorithm in a line with a tag.
var anyTag = regexp.MustCompile(`^\\?([A-Z][A-Za-z0-9/-]{0,19}) ?\(.*\) ?= ?[0-9A-Za-z+/=]+$`)

// armor is where a reader is in a text with a clear signature (RFC 9580, section 7).
type armor struct{ headers, text, signature bool }

// content returns what a line has of the text that is signed, and false if it is none of
// it. Every line of a text without a signature is.
func (a *armor) content(line string) (string, bool) {
	switch {
	case line == "-----BEGIN PGP SIGNED MESSAGE-----":
		*a = armor{headers: true}
		return "", false
	case a.text && line == "-----BEGIN PGP SIGNATURE-----":
		*a = armor{signature: true}
	case a.signature && line == "-----END PGP SIGNATURE-----":
		*a = armor{}
		return "", false
	case a.headers && line == "":
		*a = armor{text: true}
	}
	if a.text {
		line = strings.TrimPrefix(line, "- ")
	}
	return line, !a.headers && !a.signature
}

// byteOrderMark is what some editors begin a UTF-8 text with.
const byteOrderMark = "\uFEFF"

// lineReader reads the lines of one list. The first line without a tag decides, as in
// coreutils, whether one blank stands between sum and name or two characters do.
type lineReader struct{ form form }

type form int

const (
	undecided form = iota
	twoCharacters
	oneBlank
)

const blanks = " \t"

func (r *lineReader) read(line string) (sum, name string, err error) {
	line = strings.TrimLeft(line, blanks)
	line, escaped := strings.CutPrefix(line, `\`)
	tagged, ok := strings.CutPrefix(line, "SHA256")
	if !ok {
		tagged, ok = strings.CutPrefix(line, "SHA2-256")
	}
	if ok {
		sum, name, err = readTagged(tagged)
	} else {
		sum, name, err = r.readPlain(line)
	}
	if err == nil && escaped {
		name, err = unescape(name)
	}
	if err != nil {
		return "", "", err
	}
	for strings.HasPrefix(name, "./") {
		name = strings.TrimLeft(name[len("./"):], "/")
	}
	if _, err := hex.DecodeString(sum); err != nil {
		return "", "", errors.New("the sum is not hexadecimal")
	}
	return strings.ToLower(sum), name, CheckName(name)
}

// digits is the length of a sum in hexadecimal.
const digits = 2 * sha256.Size

var errForm = errors.New("want a SHA-256, two spaces or a space and an asterisk, and a file name")

// readPlain reads "sum  name", "sum *name" or "sum name".
func (r *lineReader) readPlain(line string) (sum, name string, err error) {
	if len(line) < digits+2 || !strings.ContainsRune(blanks, rune(line[digits])) {
		return "", "", errForm
	}
	sum, rest := line[:digits], line[digits+1:]
	marked := len(rest) > 1 && (rest[0] == ' ' || rest[0] == '*')
	switch {
	case r.form == oneBlank:
		return sum, rest, nil
	case marked:
		r.form = twoCharacters
		return sum, rest[1:], nil
	case r.form == undecided:
		r.form = oneBlank
		return sum, rest, nil
	}
	return "", "", errForm
}

// readTagged reads what follows "SHA256" in a line with a tag.
func readTagged(line string) (sum, name string, err error) {
	line, ok := strings.CutPrefix(strings.TrimPrefix(line, " "), "(")
	end := strings.LastIndex(line, ")")
	if !ok || end < 0 {
		return "", "", errors.New("want SHA256 (NAME) = and a SHA-256")
	}
	sum, ok = strings.CutPrefix(strings.TrimLeft(line[end+1:], blanks), "=")
	if sum = strings.TrimLeft(sum, blanks); !ok || len(sum) != digits {
		return "", "", errors.New("want SHA256 (NAME) = and a SHA-256")
	}
	return sum, line[:end], nil
}

// unescape reads a name in which newlines, carriage returns and backslashes are escaped.
func unescape(name string) (string, error) {
	var plain strings.Builder
	for text := []byte(name); len(text) > 0; {
		before, after, found := bytes.Cut(text, []byte(`\`))
		plain.Write(before)
		if !found {
			break
		}
		if len(after) == 0 || !strings.ContainsRune(`nr\`, rune(after[0])) {
			return "", errors.New(`a name with escapes has \\, \n and \r only`)
		}
		plain.WriteByte(map[byte]byte{'n': '\n', 'r': '\r', '\\': '\\'}[after[0]])
		text = after[1:]
	}
	return plain.String(), nil
}

// CheckName accepts the names that a file of a release may have: plain ones, which are
// the same file in whatever folder they are put.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, `/\`) || strings.ContainsFunc(name, unicode.IsControl) {
		return errors.New("the name must be a plain file name, without a folder")
	}
	if !utf8.ValidString(name) || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return errors.New("the name must be a plain file name, without characters that nobody can see")
	}
	return nil
}
