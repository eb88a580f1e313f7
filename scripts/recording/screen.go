package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A cell is one letter on the screen.
type cell struct {
	letter rune
	style  string // "bold", "prompt" or empty
}

// A screen is what a terminal shows that is high enough never to scroll. It knows
// what progress bars need, and refuses what it does not know.
type screen struct {
	columns     int
	lines       [][]cell
	row, column int
	style       string
	rest        []byte // of an output that ended within a letter or a sequence
}

// write puts a program's output on the screen.
func (s *screen) write(output []byte) error {
	output = append(s.rest, output...)
	for len(output) > 0 {
		size, err := s.step(output)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		output = output[size:]
	}
	s.rest = slices.Clone(output)
	return nil
}

// step obeys the first letter or sequence of the output, and returns how many bytes
// that has: none if more of it is still to come.
func (s *screen) step(output []byte) (size int, err error) {
	switch output[0] {
	case '\r':
		s.column = 0
		return 1, nil
	case '\n':
		s.row++
		return 1, nil
	case '\x1b':
		return s.sequence(output)
	}
	if !utf8.FullRune(output) {
		return 0, nil
	}
	letter, size := utf8.DecodeRune(output)
	if letter < ' ' {
		return 0, fmt.Errorf("the output has the control character %q, which this screen does not know", letter)
	}
	s.put(letter)
	return size, nil
}

func (s *screen) put(letter rune) {
	if s.column == s.columns {
		s.row, s.column = s.row+1, 0
	}
	for len(s.lines) <= s.row {
		s.lines = append(s.lines, nil)
	}
	line := s.lines[s.row]
	for len(line) <= s.column {
		line = append(line, cell{letter: ' '})
	}
	line[s.column] = cell{letter, s.style}
	s.lines[s.row] = line
	s.column++
}

// sequence obeys ESC [ NUMBER LETTER, the sequences of ECMA-48.
func (s *screen) sequence(output []byte) (size int, err error) {
	end := slices.IndexFunc(output[min(2, len(output)):], func(b byte) bool { return b >= '@' && b <= '~' })
	if end < 0 {
		return 0, nil
	}
	text := string(output[:end+3])
	unknown := fmt.Errorf("the output has the sequence %q, which this screen does not know", text)
	if !strings.HasPrefix(text, "\x1b[") {
		return 0, unknown
	}
	number, verb := text[2:len(text)-1], text[len(text)-1]
	switch {
	case verb == 'A':
		up, err := strconv.Atoi(cmp.Or(number, "1"))
		if err != nil || up > s.row {
			return 0, unknown
		}
		s.row -= up
	case verb == 'J' && number == "": // to the end of the screen
		s.erase()
		s.lines = s.lines[:min(len(s.lines), s.row+1)]
	case verb == 'K' && number == "": // to the end of the line
		s.erase()
	case verb == 'm' && (number == "" || number == "0"):
		s.style = ""
	case verb == 'm' && number == "1":
		s.style = "bold"
	case verb == 'm' && number == "1;32":
		s.style = "prompt"
	default:
		return 0, unknown
	}
	return len(text), nil
}

func (s *screen) erase() {
	if s.row < len(s.lines) {
		s.lines[s.row] = s.lines[s.row][:min(len(s.lines[s.row]), s.column)]
	}
}
