package artifact

import (
	"os"
	"testing"
)

// What the tests of this package look at.
type Kind = kind

const (
	Netboot = netbootKind
	ISO     = isoKind
	SDImage = sdImageKind
	File    = fileKind
)

// Recognise has files from anywhere.
func Recognise(path string) (contents, error) { return recognise(path, sources{"/"}) }

// Opener returns what opens files in sources.
func Opener(t *testing.T, paths ...string) func(path string) (*os.File, error) {
	t.Helper()
	s, err := newSources(paths)
	if err != nil {
		t.Fatal(err)
	}
	return s.open
}
