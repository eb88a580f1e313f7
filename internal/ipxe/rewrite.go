// Package ipxe reads the iPXE scripts of netboot bundles (https://ipxe.org/scripting),
// rewrites them to the names that files have in a bundle and to where a boot server
// has them, and makes the scripts that lead iPXE to the boot server.
package ipxe

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

// The names of the files in a bundle.
const (
	KernelName = "kernel"
	InitrdName = "initrd"
	ScriptName = "netboot.ipxe"
)

// RewriteScript returns the script with the names of a bundle's files: names maps
// what a file is called beside the script ("bzImage", "initrd.zst") to
// KernelName, InitrdName or ScriptName. The bundle's own names need not be in it.
//
// Three places change, and no other byte: the file that a command such as kernel
// or initrd loads, `initrd=` among a kernel's arguments, and a name that the
// script gives to an image with --name if it is a file's. A path or an address
// before a name is taken away, also one with settings in it (`${base}/bzImage`),
// so that the script loads the files from where it was loaded itself.
//
// It is an error, which cites the line, if the script refers to a file that is
// not in the bundle; only boot, chain and imgexec may lead to an address
// elsewhere. So are a script that does not begin with `#!ipxe`, and one that does
// not load both the kernel and the initrd. A script that has been rewritten stays
// the same when it is rewritten again, with nil for names too.
func RewriteScript(script []byte, names map[string]string) ([]byte, error) {
	if !isScript(script) {
		return nil, errors.New("not an iPXE script: want #!ipxe and a new line at its beginning")
	}
	r := rewriter{script: script, names: map[string]string{}, images: map[string]bool{}, loaded: map[string]bool{}}
	for _, name := range []string{KernelName, InitrdName, ScriptName} {
		r.names[name] = name
	}
	maps.Copy(r.names, names)

	parsed := commands(script)
	for _, c := range parsed {
		r.noteImages(c)
	}
	for _, c := range parsed {
		if err := r.command(c); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{KernelName, InitrdName} {
		if !r.loaded[name] {
			return nil, fmt.Errorf("the script does not load the %s: want a line such as `%s %s`", name, name, r.example(name))
		}
	}
	return r.rewritten(), nil
}

func isScript(script []byte) bool {
	for _, magic := range []string{"#!ipxe", "#!gpxe"} {
		if after, ok := bytes.CutPrefix(script, []byte(magic)); ok {
			return len(after) > 0 && bytes.IndexByte([]byte(" \t\n\v\f\r"), after[0]) >= 0 && !bytes.Contains(after, []byte{0})
		}
	}
	return false
}

type rewriter struct {
	script []byte
	names  map[string]string
	images map[string]bool // names that the script itself gives to images
	loaded map[string]bool // files of the bundle that the script refers to
	edits  []edit
}

type edit struct {
	begin, end int
	text       string
}

// noteImages notes the names that a command gives to images, because another
// may refer to them before that line.
func (r *rewriter) noteImages(c command) {
	if len(c) == 0 {
		return
	}
	options, _ := syntaxes[c[0].text].parse(c)
	for _, o := range options {
		if o.name == nameOption {
			r.images[o.value.text] = true
		}
	}
}

func (r *rewriter) command(c command) error {
	if len(c) == 0 {
		return nil
	}
	switch c[0].text {
	case "set": // perhaps a kernel's arguments, or a part of them
		for _, w := range c[1:] {
			if name, ok := r.names[fileName(initrdArgument(w).text)]; ok {
				r.replace(initrdArgument(w), name)
			}
		}
		return nil
	case "imgfree", "imgstat":
		for _, w := range c[1:] {
			if name, ok := r.names[w.text]; ok {
				r.replace(w, name)
			}
		}
		return nil
	}
	s, ok := syntaxes[c[0].text]
	if !ok {
		return nil
	}
	options, words := s.parse(c)
	for _, o := range options {
		switch o.name {
		case nameOption:
			if name, ok := r.names[o.value.text]; ok {
				r.replace(o.value, name)
			}
		case pictureOption:
			if err := r.file(c, o.value, s); err != nil {
				return err
			}
		}
	}
	files := words[:min(s.files, len(words))]
	for _, w := range files {
		if err := r.file(c, w, s); err != nil {
			return err
		}
	}
	if !s.arguments {
		return nil
	}
	for _, w := range words[len(files):] {
		if err := r.argument(w); err != nil {
			return err
		}
	}
	return nil
}

// file rewrites a word that is a file's name, path or address, or the name of an
// image.
func (r *rewriter) file(c command, w word, s syntax) error {
	elsewhere := strings.Contains(w.text, "://") || strings.Contains(w.text, "${")
	name, ok := r.names[fileName(w.text)]
	switch {
	case ok && s.leaves && elsewhere && name == ScriptName: // another server's script, not this one
		return nil
	case ok:
		r.replace(w, name)
		r.loaded[name] = true
		return nil
	case !s.downloads && r.images[w.text]:
		return nil
	case s.leaves && elsewhere:
		return nil
	case strings.Contains(w.text, "${"):
		return r.fail(c, w, "iPXE alone knows which file %s is; write its name", w.text)
	default:
		return r.fail(c, w, "%s is not in the bundle, which has %s", w.text, r.have())
	}
}

// argument rewrites `initrd=`, which names an image that has been loaded.
func (r *rewriter) argument(w word) error {
	value := initrdArgument(w)
	name, ok := r.names[fileName(value.text)]
	switch {
	case ok:
		r.replace(value, name)
		return nil
	case value.text == "", r.images[fileName(value.text)], strings.EqualFold(value.text, "initrd.magic"):
		return nil
	default:
		return r.fail(command{w}, value, "%s is not in the bundle, which has %s", value.text, r.have())
	}
}

// initrdArgument returns the value of an initrd= argument, or an empty word.
func initrdArgument(w word) word {
	const prefix = "initrd="
	if !strings.HasPrefix(w.text, prefix) {
		return word{}
	}
	return w.cut(len(prefix))
}

// fileName returns the last part of a path or an address. A setting before it
// stands for a folder: `${base}/bzImage`, and `${cwduri}bzImage` too.
func fileName(reference string) string {
	if i := strings.IndexAny(reference, "?#"); i >= 0 {
		reference = reference[:i]
	}
	reference = reference[strings.LastIndexAny(reference, `/\`)+1:]
	for strings.HasPrefix(reference, "${") {
		_, after, closed := strings.Cut(reference, "}")
		if !closed {
			break
		}
		reference = after
	}
	if plain, err := url.PathUnescape(reference); err == nil {
		return plain
	}
	return reference
}

func (r *rewriter) replace(w word, name string) {
	if w.text != name {
		r.edits = append(r.edits, edit{w.at[0], w.at[len(w.at)-1] + 1, name})
	}
}

func (r *rewriter) rewritten() []byte {
	var b bytes.Buffer
	from := 0
	for _, e := range slices.SortedFunc(slices.Values(r.edits), func(a, b edit) int { return cmp.Compare(a.begin, b.begin) }) {
		b.Write(r.script[from:e.begin])
		b.WriteString(e.text)
		from = e.end
	}
	b.Write(r.script[from:])
	return b.Bytes()
}

func (r *rewriter) fail(c command, w word, format string, args ...any) error {
	line := 1 + bytes.Count(r.script[:w.at[0]], []byte("\n"))
	var words []string
	for _, w := range c {
		words = append(words, w.text)
	}
	message := fmt.Sprintf("line %d, `%s`: %s", line, strings.Join(words, " "), fmt.Sprintf(format, args...))
	return errors.New(strings.Map(printable, message))
}

// printable keeps what a script contains from controlling a terminal.
func printable(c rune) rune {
	if unicode.IsPrint(c) {
		return c
	}
	return unicode.ReplacementChar
}

// have lists what the bundle has, by the names beside the script.
func (r *rewriter) have() string {
	var have []string
	for _, name := range slices.Sorted(maps.Keys(r.names)) {
		if r.names[name] != name {
			name += " (as " + r.names[name] + ")"
		}
		have = append(have, name)
	}
	return strings.Join(have, ", ")
}

// example returns what the file is called beside the script.
func (r *rewriter) example(name string) string {
	for _, beside := range slices.Sorted(maps.Keys(r.names)) {
		if r.names[beside] == name && beside != name {
			return beside
		}
	}
	return name
}
