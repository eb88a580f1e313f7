package release

import "strings"

// This project's part of a release's notes stands between these lines, which
// Markdown does not show.
const (
	notesBegin = "<!-- runner-images -->"
	notesEnd   = "<!-- /runner-images -->"
)

// mergeNotes puts block in the place of the one in notes, or at their end. The
// rest of the notes stays as it is.
func mergeNotes(notes, block string) string {
	block = notesBegin + "\n" + strings.TrimSpace(block) + "\n" + notesEnd
	before, after, found := cutBlock(notes)
	switch {
	case found:
		return before + block + after
	case strings.TrimSpace(notes) == "":
		return block + "\n"
	}
	return strings.TrimRight(notes, "\r\n") + "\n\n" + block + "\n"
}

// hasNotes reports whether notes have this very block already. Web forms write
// newlines in their own way.
func hasNotes(notes, block string) bool {
	_, _, found := cutBlock(notes)
	unix := func(text string) string { return strings.ReplaceAll(text, "\r\n", "\n") }
	return found && unix(mergeNotes(notes, block)) == unix(notes)
}

// cutBlock splits notes around the last whole block.
func cutBlock(notes string) (before, after string, found bool) {
	end := strings.LastIndex(notes, notesEnd)
	if end < 0 {
		return "", "", false
	}
	begin := strings.LastIndex(notes[:end], notesBegin)
	if begin < 0 {
		return "", "", false
	}
	return notes[:begin], notes[end+len(notesEnd):], true
}
