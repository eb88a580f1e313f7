package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// The colours are those of the status page. The background is the diagram's own, so
// that it can be read on a page that is dark where the reader's system is light.
const head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]d %[2]d" width="%[1]d" height="%[2]d" role="img" aria-labelledby="title description">
<title id="title">%[3]s</title>
<desc id="description">%[4]s</desc>
<style>
text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #57606a }
.name { font-size: 15px; font-weight: 600; fill: #1c2128 }
.command { font: 600 12.5px ui-monospace, "DejaVu Sans Mono", monospace; fill: #1f5fbf }
.back { fill: #f6f7f9 }
.frame { fill: #e9f0fa; stroke: #b6cdec }
.box { fill: #fff; stroke: #c3cad3 }
.place { stroke: #17703a; stroke-width: 2 }
.arrow { fill: none; stroke: #57606a; stroke-width: 1.6 }
.tip { fill: #57606a }
@media (prefers-color-scheme: dark) {
text, .tip { fill: #a3adba }
.name { fill: #e6e9ee }
.command { fill: #82b4ff }
.back { fill: #14181d }
.frame { fill: #18222f; stroke: #2d4364 }
.box { fill: #1d2229; stroke: #39414c }
.place { stroke: #5fd08a }
.arrow { stroke: #a3adba }
}
</style>
<rect class="back" width="%[1]d" height="%[2]d" rx="10"/>
`

// svg draws the diagram.
func (d diagram) svg() []byte {
	width := 0
	for _, b := range d.boxes {
		width = max(width, b.x+boxWidth+padding+margin)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, head, width, d.height, html.EscapeString(d.Title), html.EscapeString(d.Description))
	for _, f := range d.Frames {
		d.drawFrame(&out, f)
	}
	for _, path := range d.Arrows {
		for _, step := range d.steps(path) {
			drawArrow(&out, step[0], step[1])
		}
	}
	for _, row := range d.Rows {
		for _, b := range row {
			if b != nil {
				b.draw(&out)
			}
		}
	}
	out.WriteString("</svg>\n")
	return out.Bytes()
}

func (b *box) draw(out *bytes.Buffer) {
	class := "box"
	if b.Place {
		class += " place"
	}
	middle := b.x + boxWidth/2
	fmt.Fprintf(out, "<rect class=%q x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"6\"/>\n", class, b.x, b.y, boxWidth, b.height)
	y := b.y + padding + nameLine - 5
	fmt.Fprintf(out, "<text class=\"name\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", middle, y, html.EscapeString(b.Name))
	for _, line := range b.About {
		y += aboutLine
		fmt.Fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", middle, y+2, html.EscapeString(line))
	}
}

func (d diagram) drawFrame(out *bytes.Buffer, f frame) {
	left, top, right, bottom := math.MaxInt, math.MaxInt, 0, 0
	for _, name := range f.Boxes {
		b := d.boxes[name]
		left, right = min(left, b.x-padding), max(right, b.x+boxWidth+padding)
		top, bottom = min(top, b.top()), max(bottom, b.y+b.height+padding)
	}
	fmt.Fprintf(out, "<rect class=\"frame\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"9\"/>\n", left, top, right-left, bottom-top)
	fmt.Fprintf(out, "<text class=\"command\" x=\"%d\" y=\"%d\">%s</text>\n", left+padding, top+17, html.EscapeString(f.Title))
}

// drawArrow draws a line from one box to another, in the same row to the side, else
// down, over and down: to its frame, so that it does not cross the frame's title.
func drawArrow(out *bytes.Buffer, from, to *box) {
	var path string
	var x, y, degrees int // of the tip
	switch fromX, toX := from.x+boxWidth/2, to.x+boxWidth/2; {
	case from.row == to.row && from.x < to.x:
		x, y = to.x-2, to.y+to.height/2
		path = fmt.Sprintf("M%d %dH%d", from.x+boxWidth, y, x-5)
	case from.row == to.row:
		x, y, degrees = to.x+boxWidth+2, to.y+to.height/2, 180
		path = fmt.Sprintf("M%d %dH%d", from.x, y, x+5)
	default:
		x, y, degrees = toX, to.top()-2, 90
		turn := to.rowTop - rowGap/2 - 3
		path = fmt.Sprintf("M%d %dV%dH%dV%d", fromX, from.y+from.height, turn, toX, y-5)
	}
	fmt.Fprintf(out, "<path class=\"arrow\" d=%q/>\n", path)
	fmt.Fprintf(out, "<path class=\"tip\" d=\"M0 0l-9 -5v10z\" transform=\"translate(%d %d) rotate(%d)\"/>\n", x, y, degrees)
}
