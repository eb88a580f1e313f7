package ipxe

import (
	"bytes"
	"strings"
)

// A command is a command of a script with its words, the first of which is its
// name.
type command []word

// A word is a run of characters without white space. iPXE knows no quotes.
type word struct {
	text string
	at   []int // where each byte of text is in the script
}

func (w word) cut(from int) word { return word{w.text[from:], w.at[from:]} }

// commands splits a script as iPXE does (process_script in src/image/script.c,
// system in src/core/exec.c): lines end with a newline, before which a carriage
// return is passed over and a backslash joins the next line to this one. A line
// may begin with a label. "#" at the beginning of a word begins a comment; "&&",
// "||" and ";" as words stand between commands.
func commands(script []byte) []command {
	var found []command
	for from := 0; from < len(script); {
		line, next := logicalLine(script, from)
		from = next
		words := line.words()
		if len(words) > 0 && strings.HasPrefix(words[0].text, ":") {
			words = words[1:]
		}
		var current command
		for _, w := range words {
			if w.text[0] == '#' {
				break
			}
			if w.text == "&&" || w.text == "||" || w.text == ";" {
				found, current = append(found, current), nil
				continue
			}
			current = append(current, w)
		}
		found = append(found, current)
	}
	return found
}

// logicalLine returns the line at from, joined with those that continue it, and
// where the next one begins.
func logicalLine(script []byte, from int) (line word, next int) {
	var text strings.Builder
	for from < len(script) {
		length := bytes.IndexByte(script[from:], '\n')
		if length < 0 {
			length = len(script) - from
		}
		physical := bytes.TrimSuffix(script[from:from+length], []byte("\r"))
		content, continued := bytes.CutSuffix(physical, []byte(`\`))
		text.Write(content)
		for i := range content {
			line.at = append(line.at, from+i)
		}
		from += length + 1
		if !continued {
			break
		}
	}
	line.text = text.String()
	return line, min(from, len(script))
}

func (w word) words() []word {
	var words []word
	begin := -1
	for i := range len(w.text) + 1 {
		space := i == len(w.text) || strings.IndexByte(" \t\n\v\f\r", w.text[i]) >= 0
		switch {
		case !space && begin < 0:
			begin = i
		case space && begin >= 0:
			words = append(words, word{w.text[begin:i], w.at[begin:i]})
			begin = -1
		}
	}
	return words
}

// A syntax is how iPXE reads a command's words: which options take a value,
// and how many words after the options are a file or the name of an image.
type syntax struct {
	long      map[string]string // long options that take a value, and their short form
	files     int
	downloads bool // the file is always fetched, even if an image of that name is there
	leaves    bool // may leave the bundle: chain to an address elsewhere
	arguments bool // the words after the files are a kernel's arguments
}

var (
	imageOptions = map[string]string{nameOption: "n", timeoutOption: "t"}
	fetch        = syntax{long: imageOptions, files: 1, downloads: true, arguments: true}
	choose       = syntax{long: imageOptions, files: 1, arguments: true}
	execute      = syntax{long: imageOptions, files: 1, leaves: true, arguments: true}
	verify       = syntax{long: map[string]string{"name": "n", "timeout": "t", "signer": "s"}, files: 2}
)

// syntaxes has iPXE's commands that refer to files (src/hci/commands/).
var syntaxes = map[string]syntax{
	"imgfetch": fetch, "module": fetch, "initrd": fetch,
	"imgselect": choose, "imgload": choose, "kernel": choose, "imgargs": choose,
	"imgexec": execute, "boot": execute, "chain": execute,
	"imgverify": verify, "imgdecrypt": verify, "imgset": verify,
	"imgextract": {long: imageOptions, files: 1},
	"shim":       {long: map[string]string{"timeout": "t"}, files: 1},
	"fdt":        {long: map[string]string{"timeout": "t"}, files: 1, downloads: true},
	"console": {long: map[string]string{
		"x": "x", "y": "y", "left": "l", "right": "r", "top": "t", "bottom": "b", "depth": "d", pictureOption: "p",
	}},
}

const (
	nameOption    = "name"
	timeoutOption = "timeout"
	pictureOption = "picture"
)

// An option is an option with a value that a command has.
type option struct {
	name  string // in its long form
	value word
}

// parse divides a command's words as getopt_long of iPXE does, which ends the
// options at the first word that is none.
func (s syntax) parse(c command) (options []option, rest []word) {
	words := c[1:]
	for len(words) > 0 && strings.HasPrefix(words[0].text, "-") {
		w := words[0]
		words = words[1:]
		if w.text == "--" {
			break
		}
		name, value, takesValue := s.option(w)
		if !takesValue {
			continue
		}
		if value.text == "" {
			if len(words) == 0 || strings.HasPrefix(words[0].text, "-") {
				continue // iPXE stops here with an error of its own
			}
			value, words = words[0], words[1:]
		}
		options = append(options, option{name, value})
	}
	return options, words
}

// option returns the option in a word that takes a value, if there is one, and
// the value if it is in the same word.
func (s syntax) option(w word) (name string, value word, takesValue bool) {
	if strings.HasPrefix(w.text, "--") {
		name, _, inline := strings.Cut(w.text[2:], "=")
		_, takesValue = s.long[name]
		if inline {
			value = w.cut(len("--") + len(name) + len("="))
		}
		return name, value, takesValue
	}
	for i := 1; i < len(w.text); i++ {
		for name, short := range s.long {
			if w.text[i] == short[0] {
				return name, w.cut(i + 1), true
			}
		}
	}
	return "", word{}, false
}
