package main

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The diagrams of the documentation are those that their text gives, and can be read
// without being seen.
func TestDiagramsOfTheDocumentation(t *testing.T) {
	t.Parallel()
	texts, err := filepath.Glob("../../docs/pictures/*.yaml")
	require.NoError(t, err)
	assert.NotEmpty(t, texts)
	for _, path := range texts {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		drawn, err := parse(text)
		require.NoError(t, err, path)
		picture, err := os.ReadFile(strings.TrimSuffix(path, ".yaml") + ".svg")
		require.NoError(t, err)
		assert.Equal(t, string(drawn.svg()), string(picture), "%s is not what its text gives: run scripts/update-pictures diagrams", path)

		var svg struct {
			Title string   `xml:"title"`
			Desc  string   `xml:"desc"`
			Text  []string `xml:"text"`
		}
		require.NoError(t, xml.Unmarshal(picture, &svg), path)
		assert.Equal(t, drawn.Title, svg.Title)
		assert.Equal(t, drawn.Description, svg.Desc)
		for name := range drawn.boxes {
			assert.Contains(t, svg.Text, name)
		}
	}
}

func TestWrongDiagrams(t *testing.T) {
	t.Parallel()
	const head = "title: a\ndescription: b\n"
	for text, want := range map[string]string{
		"rows: []": "needs a title",
		head + "rows: [[{name: a}], [{name: a}]]\n":                       `two boxes with the name "a"`,
		head + "rows: [[{name: a, colour: red}]]\n":                       "colour",
		head + "rows: [[{name: a}]]\narrows: [a > b]\n":                   `no box "b", which is in the arrows "a > b"`,
		head + "rows: [[{name: a}]]\nframes: [{title: f, boxes: [c]}]\n":  `no box "c", which is in the frame "f"`,
		head + "rows: [[{name: a}], [{name: b}]]\narrows: [b > a]\n":      "would go up",
		head + "rows: [[{name: eighteen letters 1}]]\n":                   "does not fit",
		head + "rows: [[{name: a, about: [twenty-four letters here]}]]\n": "break it",
	} {
		_, err := parse([]byte(text))
		assert.ErrorContains(t, err, want, text)
	}
}
