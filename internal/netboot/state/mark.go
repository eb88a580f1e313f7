package state

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"every.channel/runner-images/internal/disk"
	"every.channel/runner-images/internal/netboot/machine"
)

// A Mark is the high-water mark of a boot server: the newest that was current and
// that was proved. It outlives the releases that it is about, and the keys that
// signed them, and nothing lowers it.
type Mark struct {
	// Bundles are the newest ones. There is none for an architecture of which nothing
	// was proved.
	Bundles map[machine.Architecture]MarkedBundle `json:"bundles"`

	// Published is the time of the newest proof: when the publisher has last changed
	// a release, by the publisher's clock. It is zero if that is not known.
	Published time.Time `json:"published,omitzero"`
}

// A MarkedBundle is the newest bundle for an architecture.
type MarkedBundle struct {
	Serial int64  `json:"serial"` // its place in the order of all that was published, at least 1
	Signed bool   `json:"signed"` // the serial is a snapshot's; else it is when the bundle was built
	Tag    string `json:"release_tag"`
	SHA256 string `json:"sha256"` // of the tarball, in lower-case hexadecimal
}

const markFile = "high-water-mark.json"

// Mark returns the high-water mark, or an error that wraps fs.ErrNotExist if there
// is none yet. A mark that cannot be read is an error that says what to do.
func (d *Dir) Mark() (Mark, error) {
	content, err := d.root.ReadFile(markFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Mark{}, fmt.Errorf("no high-water mark: %w", fs.ErrNotExist)
	}
	if err == nil {
		var mark Mark
		if mark, err = parseMark(content); err == nil {
			return mark, nil
		}
	}
	path := filepath.Join(d.Path(), markFile)
	return Mark{}, fmt.Errorf("%s cannot be read (%w), so nothing tells whether a release is older than what was current before; restore the file, or remove it to go on from what is current now", path, err)
}

func parseMark(content []byte) (Mark, error) {
	var mark Mark
	decoder := json.NewDecoder(bytes.NewReader(content))
	if err := decoder.Decode(&mark); err != nil {
		return Mark{}, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Mark{}, errors.New("something comes after its end")
	}
	if mark.Bundles == nil {
		return Mark{}, errors.New("it has no bundles")
	}
	for architecture, bundle := range mark.Bundles {
		if bundle.Serial < 1 {
			return Mark{}, fmt.Errorf("its bundle for %s has no serial", architecture)
		}
	}
	return mark, nil
}

// SetMark replaces the high-water mark, in one step. The caller must hold the lock,
// and must not lower it.
func (d *Dir) SetMark(ctx context.Context, mark Mark) error {
	if err := d.writeJSON(ctx, markFile, mark); err != nil {
		return err
	}
	return disk.SyncFolder(d.Path())
}

// writeJSON replaces a file of the state, in one step.
func (d *Dir) writeJSON(ctx context.Context, name string, value any) error {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	_, _, err = disk.CreateIn(ctx, d.root, name, func(w io.Writer) error {
		_, err := w.Write(append(content, '\n'))
		return err
	})
	return err
}
