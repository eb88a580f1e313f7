// Diagram draws the diagrams of the documentation, as SVG, from text:
//
//	go run ./scripts/diagram docs/pictures/*.yaml
//
// Beside each file NAME.yaml it writes NAME.svg. The same text gives the same bytes.
// The text has rows of boxes on a grid, frames around some of them, and arrows:
//
//	title: what the diagram shows
//	description: the same in words, for those who do not see it
//	rows:
//	  - - {name: plan, about: [what is built, and the tag]}
//	    - ~                         # an empty place
//	    - {name: build, about: [nix build, for all images]}
//	frames:
//	  - {title: runner-images deploy, boxes: [plan, build]}
//	arrows:
//	  - plan > build > package      # to the side or down, never up
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./scripts/diagram FILE.yaml…")
		os.Exit(2)
	}
	for _, path := range os.Args[1:] {
		if err := draw(path); err != nil {
			fmt.Fprintf(os.Stderr, "diagram: %s: %v\n", path, err)
			os.Exit(1)
		}
	}
}

func draw(path string) error {
	source, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	d, err := parse(source)
	if err != nil {
		return err
	}
	return os.WriteFile(strings.TrimSuffix(path, ".yaml")+".svg", d.svg(), 0o644)
}

// A diagram is the text's, with its boxes in their places.
type diagram struct {
	Title       string
	Description string
	Rows        [][]*box
	Frames      []frame
	Arrows      []string

	boxes  map[string]*box
	height int
}

type box struct {
	Name  string
	About []string // lines of small text
	Place bool     // where something is kept, in place of something that happens

	row, x, y, height int
	rowTop            int    // where its row begins, with frames
	frame             string // the title of the frame around it, if there is one
}

type frame struct {
	Title string
	Boxes []string
}

// top is where a box begins with its frame.
func (b *box) top() int {
	if b.frame == "" {
		return b.y
	}
	return b.y - padding/2 - titleLine
}

// Sizes in pixels at the size at which the page shows the diagram.
const (
	margin    = 16
	boxWidth  = 156
	columnGap = 30
	padding   = 11 // between a frame and its boxes
	titleLine = 21 // of a frame, above its boxes
	rowGap    = 36 // between frames, where arrows go down
	nameLine  = 20
	aboutLine = 16

	longestName  = 17 // letters that fit into a box
	longestAbout = 23
)

// parse reads a diagram and finds the places of its boxes.
func parse(source []byte) (diagram, error) {
	var d diagram
	decoder := yaml.NewDecoder(bytes.NewReader(source))
	decoder.KnownFields(true)
	if err := decoder.Decode(&d); err != nil {
		return d, err
	}
	if d.Title == "" || d.Description == "" {
		return d, errors.New("it needs a title and a description")
	}
	d.boxes = map[string]*box{}
	for number, row := range d.Rows {
		for column, b := range row {
			if b == nil {
				continue
			}
			if err := d.add(b); err != nil {
				return d, err
			}
			b.row, b.x = number, margin+padding+column*(boxWidth+columnGap)
		}
	}
	if err := d.check(); err != nil {
		return d, err
	}
	y := margin
	for _, row := range d.Rows {
		d.height = place(row, y) + margin
		y = d.height - margin + rowGap
	}
	return d, nil
}

// place finds the heights of a row's boxes, from y downwards, and returns where it ends.
func place(row []*box, y int) int {
	top, height, below := 0, 0, 0
	for _, b := range row {
		if b == nil {
			continue
		}
		top, height = max(top, b.y-b.top()), max(height, 2*padding+nameLine+aboutLine*len(b.About))
		if b.frame != "" {
			below = padding
		}
	}
	for _, b := range row {
		if b != nil {
			b.rowTop, b.y, b.height = y, y+top, height
		}
	}
	return y + top + height + below
}

// add adds a box under its name, if its words fit into it.
func (d diagram) add(b *box) error {
	if d.boxes[b.Name] != nil {
		return fmt.Errorf("there are two boxes with the name %q", b.Name)
	}
	d.boxes[b.Name] = b
	if len([]rune(b.Name)) > longestName {
		return fmt.Errorf("the name %q has more than %d letters and does not fit into its box", b.Name, longestName)
	}
	for _, line := range b.About {
		if len([]rune(line)) > longestAbout {
			return fmt.Errorf("box %q: the line %q has more than %d letters; break it", b.Name, line, longestAbout)
		}
	}
	return nil
}

// check makes sure that frames and arrows are about boxes.
func (d diagram) check() error {
	for _, f := range d.Frames {
		for _, name := range f.Boxes {
			if d.boxes[name] == nil {
				return fmt.Errorf("there is no box %q, which is in the frame %q", name, f.Title)
			}
			d.boxes[name].frame = f.Title
		}
	}
	for _, path := range d.Arrows {
		for name := range strings.SplitSeq(path, ">") {
			if name = strings.TrimSpace(name); d.boxes[name] == nil {
				return fmt.Errorf("there is no box %q, which is in the arrows %q", name, path)
			}
		}
	}
	for _, path := range d.Arrows {
		for _, step := range d.steps(path) {
			if step[0].row > step[1].row {
				return fmt.Errorf("the arrow from %q to %q would go up", step[0].Name, step[1].Name)
			}
		}
	}
	return nil
}

// steps returns the pairs of boxes between which a path's arrows are.
func (d diagram) steps(path string) (steps [][2]*box) {
	var before *box
	for name := range strings.SplitSeq(path, ">") {
		next := d.boxes[strings.TrimSpace(name)]
		if before != nil {
			steps = append(steps, [2]*box{before, next})
		}
		before = next
	}
	return steps
}
