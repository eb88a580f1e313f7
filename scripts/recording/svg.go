package main

import (
	"bytes"
	"fmt"
	"html"
	"strings"
	"time"
)

// Sizes in pixels. Each line is stretched to its columns, whatever font the reader has.
const (
	letterWidth = 7.2
	lineHeight  = 17
	margin      = 16
)

const head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]d %[2]d" width="%[1]d" height="%[2]d" role="img" aria-labelledby="title description">
<title id="title">%[3]s</title>
<desc id="description">%[4]s</desc>
<style>
text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d8dee6; white-space: pre }
.bold { font-weight: 700 }
.prompt { font-weight: 700; fill: #5fd08a }
@media (prefers-reduced-motion: no-preference) {
`

// svg returns the film as an animated picture.
func (f film) svg(title string) []byte {
	width := int(float64(f.columns)*letterWidth) + 2*margin
	height := f.rows*lineHeight + 2*margin
	var out bytes.Buffer
	fmt.Fprintf(&out, head, width, height, html.EscapeString(title), html.EscapeString(f.last()))
	classes := map[[2]time.Duration]string{}
	for _, s := range f.shown {
		at := [2]time.Duration{s.from, s.to}
		if classes[at] != "" {
			continue
		}
		class := fmt.Sprintf("t%d", len(classes))
		classes[at] = class
		end := ""
		if s.to > 0 {
			end = f.percent(s.to) + "{visibility:hidden}"
		}
		fmt.Fprintf(&out, ".%[1]s{animation:%[1]s %.2[2]fs step-end infinite}@keyframes %[1]s{0%%{visibility:hidden}%[3]s{visibility:visible}%[4]s}\n",
			class, f.length.Seconds(), f.percent(s.from), end)
	}
	fmt.Fprintf(&out, "}\n</style>\n<rect width=\"%d\" height=\"%d\" rx=\"10\" fill=\"#14181d\" stroke=\"#39414c\"/>\n", width, height)
	for _, s := range f.shown {
		hidden := ""
		if s.to > 0 {
			hidden = ` visibility="hidden"` // where nothing moves
		}
		fmt.Fprintf(&out, "<text class=\"%s\"%s x=\"%d\" y=\"%d\" textLength=\"%.1f\">%s</text>\n", classes[[2]time.Duration{s.from, s.to}], hidden,
			margin, margin+s.row*lineHeight+12, float64(len(s.line))*letterWidth, spans(s.line))
	}
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// last is what the terminal shows in the end, for those who do not see it.
func (f film) last() string {
	lines := make([]string, f.rows)
	for _, s := range f.shown {
		if s.to > 0 {
			continue
		}
		for _, c := range s.line {
			lines[s.row] += string(c.letter)
		}
	}
	return strings.Join(lines, "\n")
}

func (f film) percent(at time.Duration) string {
	return fmt.Sprintf("%.2f%%", 100*at.Seconds()/f.length.Seconds())
}

// spans is a line's text, with the styles of its parts.
func spans(line []cell) string {
	var out strings.Builder
	for len(line) > 0 {
		style, text := line[0].style, ""
		for len(line) > 0 && line[0].style == style {
			text += string(line[0].letter)
			line = line[1:]
		}
		if text = html.EscapeString(text); style != "" {
			text = fmt.Sprintf("<tspan class=%q>%s</tspan>", style, text)
		}
		out.WriteString(text)
	}
	return out.String()
}
