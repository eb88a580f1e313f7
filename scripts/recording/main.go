// Recording makes an animated SVG of what script(1) has recorded at a terminal:
//
//	script --log-out OUTPUT --log-timing TIMING --command COMMAND
//	go run ./scripts/recording TITLE COLUMNS OUTPUT TIMING >RECORDING.svg
//
// It is animated by CSS alone, so that a page can show it as an image. Where nothing
// moves, as readers may ask their systems, it is the last picture.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: go run ./scripts/recording TITLE COLUMNS OUTPUT TIMING >RECORDING.svg")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, "recording:", err)
		os.Exit(1)
	}
}

func run(title, columns, outputPath, timingPath string) error {
	width, err := strconv.Atoi(columns)
	if err != nil {
		return err
	}
	output, err := os.ReadFile(outputPath)
	if err != nil {
		return err
	}
	timing, err := os.ReadFile(timingPath)
	if err != nil {
		return err
	}
	film, err := replay(output, bytes.NewReader(timing), width)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(film.svg(title))
	return err
}

// A film is the lines that were on a terminal, and when.
type film struct {
	columns int
	rows    int
	shown   []shown
	length  time.Duration
}

// shown is a line that was in a row of the terminal for some time.
type shown struct {
	row      int
	line     []cell
	from, to time.Duration // to is zero if it stayed
}

const (
	// together is the longest time between two outputs that are one to the eye: a bar
	// is erased and drawn again.
	together = 40 * time.Millisecond

	// longest is how long nothing may happen; longer waits are cut.
	longest = 2 * time.Second

	// atEnd is how long the last picture stays.
	atEnd = 6 * time.Second
)

// replay reads what script has recorded: after its own first line, the output, whose
// pieces the timing lists, a delay in seconds and a number of bytes each.
func replay(output []byte, timing io.Reader, columns int) (film, error) {
	_, output, found := bytes.Cut(output, []byte("\n"))
	if !found {
		return film{}, errors.New("the output has no first line of script's")
	}
	f, s := film{columns: columns}, screen{columns: columns}
	var now time.Duration
	for lines := bufio.NewScanner(timing); lines.Scan(); {
		var seconds float64
		var size int
		if _, err := fmt.Sscan(lines.Text(), &seconds, &size); err != nil || size > len(output) {
			return film{}, fmt.Errorf("the timing has the line %q, which is not of this output", lines.Text())
		}
		delay := min(time.Duration(seconds*float64(time.Second)), longest)
		if delay > together {
			f.add(s.lines, now)
		}
		now += delay
		if err := s.write(output[:size]); err != nil {
			return film{}, err
		}
		output = output[size:]
	}
	f.add(s.lines, now)
	f.length = now + atEnd
	return f, nil
}

// add ends the lines that the screen has not any more, and begins those that are new.
func (f *film) add(lines [][]cell, now time.Duration) {
	for i := range f.shown {
		s := &f.shown[i]
		if s.to == 0 && (s.row >= len(lines) || !slices.Equal(s.line, lines[s.row])) {
			s.to = now
		}
	}
	f.rows = max(f.rows, len(lines))
	for row, line := range lines {
		there := slices.ContainsFunc(f.shown, func(s shown) bool { return s.row == row && s.to == 0 })
		if !there && len(line) > 0 {
			f.shown = append(f.shown, shown{row: row, line: slices.Clone(line), from: now})
		}
	}
}
