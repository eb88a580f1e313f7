package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type piece struct {
	delay  float64 // seconds
	output string
}

// recorded is what script makes of pieces of output.
func recorded(pieces ...piece) (output, timing string) {
	output = "Script started on …\n"
	for _, p := range pieces {
		output += p.output
		timing += fmt.Sprintf("%f %d\n", p.delay, len(p.output))
	}
	return output, timing
}

// A bar is erased and drawn again, in one piece of output or in several.
func TestReplay(t *testing.T) {
	t.Parallel()
	output, timing := recorded(
		piece{0.5, "$ \x1b[1mmake <it>\x1b[0m\r\nba"}, piece{1, "r 1"}, piece{0.01, "\r\n\x1b["}, piece{0.001, "1A\x1b[J"},
		piece{0.01, "bar 2\r\n"}, piece{60, "\x1b[1A\x1b[Jdone\r\n"})
	f, err := replay([]byte(output), strings.NewReader(timing), 80)
	require.NoError(t, err)
	var got []string
	for _, s := range f.shown {
		var text string
		for _, c := range s.line {
			text += string(c.letter)
		}
		got = append(got, text+" "+s.from.Truncate(time.Second/10).String()+" "+s.to.Truncate(time.Second/10).String())
	}
	assert.Equal(t, []string{"$ make <it> 500ms 0s", "ba 500ms 1.5s", "bar 2 1.5s 3.5s", "done 3.5s 0s"}, got)
	assert.Equal(t, "$ make <it>\ndone", f.last())
	assert.Equal(t, 9*time.Second+521*time.Millisecond, f.length, "a wait of a minute is cut")

	picture := string(f.svg("A & B"))
	assert.Contains(t, picture, "<title id=\"title\">A &amp; B</title>")
	assert.Contains(t, picture, `>$ <tspan class="bold">make &lt;it&gt;</tspan></text>`)
	assert.Contains(t, picture, `visibility="hidden" x="16" y="45" textLength="36.0">bar 2</text>`)
	require.NoError(t, xml.Unmarshal([]byte(picture), new(struct{})))
}

// What the screen does not know would be shown wrongly.
func TestReplayRefuses(t *testing.T) {
	t.Parallel()
	for output, want := range map[string]string{
		"\x1b[2J":      `sequence "\x1b[2J"`,
		"\x1b[1A":      `sequence "\x1b[1A"`, // above the screen
		"\x1b[31mred":  `sequence "\x1b[31m"`,
		"\x1b]0;title": "sequence",
		"\abell":       `control character '\a'`,
	} {
		output, timing := recorded(piece{0, output})
		_, err := replay([]byte(output), strings.NewReader(timing), 80)
		assert.ErrorContains(t, err, want, output)
	}
	_, err := replay([]byte("no first line"), strings.NewReader(""), 80)
	assert.ErrorContains(t, err, "first line")
	_, err = replay([]byte("Script\nx"), strings.NewReader("0 2\n"), 80)
	assert.ErrorContains(t, err, "not of this output")
}

func TestScreenWraps(t *testing.T) {
	t.Parallel()
	s := screen{columns: 3}
	require.NoError(t, s.write([]byte("abcd\r\n\xe2\xa0")))
	require.NoError(t, s.write([]byte("\x99e\rf\x1b[K")))
	require.Len(t, s.lines, 3)
	assert.Equal(t, []cell{{letter: 'd'}}, s.lines[1])
	assert.Equal(t, []cell{{letter: 'f'}}, s.lines[2])
}

// The recording in the documentation is one of a whole run, in a folder that is on no
// machine in particular.
func TestRecordingOfTheDocumentation(t *testing.T) {
	t.Parallel()
	picture, err := os.ReadFile("../../docs/pictures/deploy.svg")
	require.NoError(t, err)
	assert.Less(t, len(picture), 200_000)
	var svg struct {
		Desc string   `xml:"desc"`
		Text []string `xml:"text"`
	}
	require.NoError(t, xml.Unmarshal(picture, &svg))
	assert.Contains(t, svg.Desc, "$ runner-images deploy --forge-url file:///srv/releases")
	assert.Contains(t, svg.Desc, "provenance.intoto.jsonl: OK")
	assert.NotEmpty(t, svg.Text)
	for _, line := range svg.Text {
		assert.Equal(t, strings.Count(line, "file:/"), strings.Count(line, "file:///srv/"), line)
	}
}
