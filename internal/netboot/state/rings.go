package state

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.yaml.in/yaml/v3"

	"every.channel/runner-images/internal/netboot/machine"
)

// RingsFile is the name of the file with the rings in the state folder.
const RingsFile = "rings.yaml"

// Rings are groups of machines that boot another release than the current one.
//
//	rings:
//	  - name: canary
//	    release_tag: boot-v2026.03
//	    macs:
//	      - 00:11:22:33:44:55
//	      - 00-11-22-AA-BB-CC
type Rings struct {
	Rings []Ring
	byMAC map[machine.MAC]int
}

// A Ring is a group of machines that boot one release.
type Ring struct {
	Name string
	Tag  string // of a staged release
	MACs []machine.MAC
}

// For returns the ring that a machine is in.
func (r Rings) For(mac machine.MAC) (Ring, bool) {
	index, ok := r.byMAC[mac]
	if !ok {
		return Ring{}, false
	}
	return r.Rings[index], true
}

// ParseRings reads a file of rings. A key that it does not know, a ring without a
// name or release_tag, a name used twice, what is not a MAC, and a MAC that stands
// twice are errors that cite the line.
func ParseRings(r io.Reader) (Rings, error) {
	rings := Rings{byMAC: map[machine.MAC]int{}}
	var file ringsFile
	document := yaml.NewDecoder(r)
	err := document.Decode(&file)
	if errors.Is(err, io.EOF) { // empty, or comments only
		return rings, nil
	}
	if err != nil {
		return Rings{}, err
	}
	var more yaml.Node
	if err := document.Decode(&more); err == nil {
		return Rings{}, fmt.Errorf("line %d: another document begins here; put all rings into one list", more.Line)
	} else if !errors.Is(err, io.EOF) {
		return Rings{}, err
	}
	for index, entry := range file.Rings {
		if _, err := folderName(entry.Tag.value); err != nil {
			return Rings{}, fmt.Errorf("line %d: %w", cmp.Or(entry.Tag.line, entry.line), err)
		}
		if entry.Name == "" {
			return Rings{}, fmt.Errorf("line %d: this ring has no name", entry.line)
		}
		if slices.ContainsFunc(rings.Rings, func(other Ring) bool { return other.Name == entry.Name }) {
			return Rings{}, fmt.Errorf("line %d: there are two rings with the name %s", entry.line, entry.Name)
		}
		ring := Ring{Name: entry.Name, Tag: entry.Tag.value}
		for _, written := range entry.MACs {
			mac, err := machine.ParseMAC(written.value)
			if err != nil {
				return Rings{}, fmt.Errorf("line %d: %w", written.line, err)
			}
			if other, ok := rings.byMAC[mac]; ok {
				return Rings{}, fmt.Errorf("line %d: %s stands twice: in ring %s and in ring %s", written.line, mac, file.Rings[other].Name, ring.Name)
			}
			rings.byMAC[mac] = index
			ring.MACs = append(ring.MACs, mac)
		}
		rings.Rings = append(rings.Rings, ring)
	}
	return rings, nil
}

type ringsFile struct {
	Rings []ringEntry `yaml:"rings"`
}

type ringEntry struct {
	Name string   `yaml:"name"`
	Tag  scalar   `yaml:"release_tag"`
	MACs []scalar `yaml:"macs"`
	line int
}

// A scalar is a value just as it was written: 11:22:33:44:55:66 could be a number.
type scalar struct {
	value string
	line  int
}

func (f *ringsFile) UnmarshalYAML(node *yaml.Node) error {
	if err := onlyKeys(node, "rings"); err != nil {
		return err
	}
	if err := wantList(node, "rings", `- {name: canary, release_tag: boot-v2026.03.01, macs: ["00:11:22:33:44:55"]}`); err != nil {
		return err
	}
	type plain ringsFile
	return node.Decode((*plain)(f))
}

func (e *ringEntry) UnmarshalYAML(node *yaml.Node) error {
	if err := onlyKeys(node, "name", "release_tag", "macs"); err != nil {
		return err
	}
	if err := wantList(node, "macs", `- "00:11:22:33:44:55"`); err != nil {
		return err
	}
	type plain ringEntry
	e.line = node.Line
	return node.Decode((*plain)(e))
}

func (s *scalar) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: want one word here, not a list or a mapping", node.Line)
	}
	s.value, s.line = node.Value, node.Line
	return nil
}

func onlyKeys(node *yaml.Node, known ...string) error {
	if node.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want the keys %q here", node.Line, known)
	}
	for i := 0; i < len(node.Content); i += 2 {
		if key := node.Content[i]; !slices.Contains(known, key.Value) {
			return fmt.Errorf("line %d: unknown key %q; known are %q", key.Line, key.Value, known)
		}
	}
	return nil
}

// wantList returns an error if the key's value is there and not a list, or a list with
// empty entries: yaml's own error speaks of Go's types.
func wantList(node *yaml.Node, key, example string) error {
	for i := 0; i+1 < len(node.Content); i += 2 {
		value := node.Content[i+1]
		single := value.Kind == yaml.MappingNode || value.Kind == yaml.ScalarNode && value.ShortTag() != "!!null"
		if node.Content[i].Value == key && single {
			return fmt.Errorf("line %d: %s wants a list, with entries like: %s", value.Line, key, example)
		}
		for _, entry := range value.Content { // which yaml would leave out
			if node.Content[i].Value == key && entry.ShortTag() == "!!null" {
				return fmt.Errorf("line %d: %s has an empty entry; remove it, or write one like: %s", entry.Line, key, example)
			}
		}
	}
	return nil
}
