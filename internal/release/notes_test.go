package release

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestNotes(t *testing.T) {
	t.Parallel()
	const begin, end = "<!-- runner-images -->", "<!-- /runner-images -->"
	for _, test := range []struct{ notes, want string }{
		{"", begin + "\nblock\n" + end + "\n"},
		{" \n", begin + "\nblock\n" + end + "\n"},
		{"hello", "hello\n\n" + begin + "\nblock\n" + end + "\n"},
		{"hello\n\n\n", "hello\n\n" + begin + "\nblock\n" + end + "\n"},
		{begin + "\nold\n" + end, begin + "\nblock\n" + end},
		{"a" + begin + "\r\nold\r\n" + end + "b\r\nc", "a" + begin + "\nblock\n" + end + "b\r\nc"},
		{"stray " + begin + " text", "stray " + begin + " text\n\n" + begin + "\nblock\n" + end + "\n"},
		{end + " text", end + " text\n\n" + begin + "\nblock\n" + end + "\n"},
		{begin + " text " + begin + "\nold\n" + end, begin + " text " + begin + "\nblock\n" + end},
	} {
		got := mergeNotes(test.notes, "block\n")
		assert.Equal(t, test.want, got, "%q", test.notes)
		assert.Equal(t, got, mergeNotes(got, "block"), "again: %q", test.notes)
		assert.True(t, hasNotes(got, "block"))
		assert.True(t, hasNotes(strings.ReplaceAll(got, "\n", "\r\n"), "block"), "as a form writes it: %q", got)
		assert.False(t, hasNotes(got, "another"))
		assert.False(t, hasNotes(test.notes, "block"))
	}
}
