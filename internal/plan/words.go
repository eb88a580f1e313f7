package plan

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// splitWords splits a text into words and removes quotes as a POSIX shell does
// (https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html#tag_19_02).
// As in a shell, "# " begins a comment; in contrast to one, a newline only separates
// words. Nothing is expanded: what a shell would replace, or take for an operator,
// is an error unless it is quoted. A pattern such as "?dir=x" stays as it is, as in
// a shell where no file matches it.
func splitWords(text string) ([]string, error) {
	words := []string{}
	parser := syntax.NewParser(syntax.Variant(syntax.LangPOSIX))
	for word, err := range parser.WordsSeq(strings.NewReader(text)) {
		if err != nil {
			return nil, explain(err)
		}
		if part := expanded(word); part != nil {
			start, end := part.Pos().Offset(), part.End().Offset()
			return nil, fmt.Errorf("a shell would replace %s, which is not done here; put it in single quotes if it is meant literally", text[start:end])
		}
		words = append(words, unquoted(word))
	}
	return words, nil
}

// expanded returns the first part of a word that a shell would replace by something
// else, or nil.
func expanded(word *syntax.Word) (found syntax.Node) {
	if first, ok := word.Parts[0].(*syntax.Lit); ok && strings.HasPrefix(first.Value, "~") {
		return first
	}
	syntax.Walk(word, func(node syntax.Node) bool {
		switch node.(type) {
		case *syntax.Word, *syntax.Lit, *syntax.SglQuoted, *syntax.DblQuoted, nil:
		default:
			found = node
		}
		return found == nil
	})
	return found
}

var (
	// A backslash keeps the meaning from the character after it; within double quotes
	// from these characters only.
	escaped         = regexp.MustCompile(`(?s)\\(.)`)
	escapedInQuotes = regexp.MustCompile("\\\\([$`\"\\\\])")
)

// unquoted returns a word without its quotes.
func unquoted(word *syntax.Word) string {
	var text strings.Builder
	for _, part := range word.Parts {
		switch part := part.(type) {
		case *syntax.Lit:
			text.WriteString(escaped.ReplaceAllString(part.Value, "$1"))
		case *syntax.SglQuoted:
			text.WriteString(part.Value)
		case *syntax.DblQuoted:
			for _, inner := range part.Parts {
				if literal, ok := inner.(*syntax.Lit); ok { // the others have been refused
					text.WriteString(escapedInQuotes.ReplaceAllString(literal.Value, "$1"))
				}
			}
		}
	}
	return text.String()
}

// explain returns a parser's error without the position, and with what to do.
func explain(err error) error {
	var parse syntax.ParseError
	if !errors.As(err, &parse) {
		return err
	}
	if parse.Incomplete {
		return fmt.Errorf("it ends within a quote or an expansion (%s); close every quote", parse.Text)
	}
	return fmt.Errorf("%s; put it in quotes if it belongs to an argument", parse.Text)
}
