package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"every.channel/runner-images/internal/disk"
	"every.channel/runner-images/internal/netboot/machine"
)

// The table of machines is kept in a file, so that who booted what and when is known after
// a restart, and a machine that boots meanwhile is the same one. The counters are not:
// Prometheus knows how to go on when they begin at 0.

// saveEvery is how often the table is written, if it has changed.
const saveEvery = time.Minute

// mostSaved is how many bytes of a saved table are read: more than maxMachines have, with
// maxFetches each.
const mostSaved = 128 << 20

// savedFormat begins every saved table, so that a file of another kind is told from it.
const savedFormat = `{"format":"netboot machines 1",`

type savedTable struct {
	Format   string         `json:"format"`
	Machines []savedMachine `json:"machines"`
}

type savedMachine struct {
	MAC       string           `json:"mac,omitempty"`
	Address   netip.Addr       `json:"address,omitzero"`
	Firmware  machine.Firmware `json:"firmware,omitzero"`
	Seen      time.Time        `json:"seen"`
	Boot      Boot             `json:"boot,omitzero"`
	Stage     Stage            `json:"stage"`
	Began     time.Time        `json:"began,omitzero"`
	Fetched   []Fetch          `json:"fetched,omitempty"`
	Elsewhere bool             `json:"elsewhere,omitempty"`
	Again     int              `json:"again,omitempty"`
	Refused   string           `json:"refused,omitempty"`
	LastBoot  time.Time        `json:"last_boot,omitzero"`
	Last      Boot             `json:"last,omitzero"`
	Known     bool             `json:"known,omitempty"`
}

// Restore takes the machines over that Keep has written to the file at path. That there is
// no file is no error. An error means that none were taken over.
func (j *Journal) Restore(path string) error {
	file, err := openSaved(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, mostSaved+1))
	if err != nil {
		return err
	}
	records, err := parseSaved(content)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range records {
		j.table.restore(r)
	}
	return nil
}

// openSaved opens a saved table to read it. A device or a pipe is none: to read it could
// take forever, and a table in its place would be the end of, say, /dev/null.
func openSaved(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is a folder or a device, and no file", path)
	}
	return os.Open(path)
}

// errForeign means that a file is not a saved table, or of a newer version of this program.
var errForeign = errors.New("is no table of machines of this version")

func parseSaved(content []byte) ([]*record, error) {
	switch {
	case len(content) == 0:
		return nil, nil
	case !bytes.HasPrefix(content, []byte(savedFormat)):
		return nil, errForeign
	case len(content) > mostSaved:
		return nil, fmt.Errorf("is larger than %d bytes", mostSaved)
	}
	if err := json.Unmarshal(content, &struct{}{}); err != nil {
		return nil, err
	}
	// One machine at a time: all that fit into such a file would take gigabytes.
	decoder := json.NewDecoder(bytes.NewReader(content))
	var before [5]json.Token // { "format" "netboot machines 1" "machines" [
	for i := range before {
		before[i], _ = decoder.Token() // the file is whole
	}
	if before[3] != "machines" || before[4] != json.Delim('[') && before[4] != nil {
		return nil, errForeign
	}
	var records []*record
	for before[4] != nil && decoder.More() && len(records) < maxMachines {
		r, err := parseMachine(decoder)
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	return records, nil
}

// mostOfMachine is how many bytes of a saved machine are read: more than one has, with
// maxFetches.
const mostOfMachine = 256 << 10

func parseMachine(decoder *json.Decoder) (*record, error) {
	var text json.RawMessage
	if err := decoder.Decode(&text); err != nil {
		return nil, err
	}
	if len(text) > mostOfMachine {
		return nil, fmt.Errorf("has a machine of more than %d bytes", mostOfMachine)
	}
	var m savedMachine
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, err
	}
	return m.record()
}

func (m savedMachine) record() (*record, error) {
	r := &record{Machine: Machine{
		Address: m.Address, Firmware: m.Firmware, Seen: m.Seen, Boot: m.Boot, Stage: m.Stage, Began: m.Began,
		Elsewhere: m.Elsewhere, Again: m.Again, Refused: m.Refused, LastBoot: m.LastBoot, Last: m.Last, known: m.Known,
	}, asked: m.Seen}
	if m.MAC != "" {
		var err error
		if r.MAC, err = machine.ParseMAC(m.MAC); err != nil {
			return nil, err
		}
	}
	if m.Stage < Asked || m.Stage > Booted {
		return nil, fmt.Errorf("there is no stage %d", m.Stage)
	}
	for _, f := range m.Fetched[:min(len(m.Fetched), maxFetches)] {
		if f.Ended.IsZero() { // the server has ended meanwhile
			f.Ended = m.Seen
		}
		r.fetches = append(r.fetches, &f)
	}
	return r, nil
}

// restore adds a machine that was saved.
func (t *table) restore(r *record) {
	t.machines[r] = struct{}{}
	if r.MAC.IsValid() {
		t.byMAC[r.MAC] = r
	}
	if other := t.byAddress[r.Address]; r.Address.IsValid() && (other == nil || other.Seen.Before(r.Seen)) {
		t.byAddress[r.Address] = r
	}
}

// Keep writes the machines to the file at path: at once, from time to time, when the server
// begins to stop, since it may be killed while transfers end, and when the context ends. It
// is for Restore to be called before. A file that is something else, or that another server
// keeps, stays as it is. What cannot be written is logged, and no error: the server serves
// all the same.
func (j *Journal) Keep(ctx context.Context, stopping <-chan struct{}, path string) {
	var written uint64 // the changes that are in the file
	var own ownership
	defer own.end()
	failed := false
	save := func() {
		changes := j.changeCount()
		if changes == written {
			return
		}
		switch err := own.write(path, j.encode()); {
		case err == nil:
			written, failed = changes, false
		case !failed:
			failed = true
			j.log.Warn("the table of machines is not kept, and begins empty after a restart; give a file that can be written with --machines-file", "file", path, "error", err)
		}
	}
	save()
	ticker := time.NewTicker(saveEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			save()
		case <-stopping:
			save()
			stopping = nil // once
		case <-ctx.Done():
			save()
			return
		}
	}
}

// ownership is a lock beside a saved table: of two servers that share a state folder, each
// would else write its machines over those of the other.
type ownership struct{ lock *os.File }

func (o *ownership) take(path string) error {
	if o.lock != nil {
		return nil
	}
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	locked, err := disk.TryLock(lock)
	if err == nil && !locked {
		err = fmt.Errorf("%s is kept by another boot server that runs here", path)
	}
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	o.lock = lock
	return nil
}

func (o *ownership) end() {
	if o.lock != nil {
		_ = o.lock.Close() // it has no content
	}
}

// encode returns the machines as they are saved.
func (j *Journal) encode() []byte {
	saved := savedTable{Format: strings.TrimSuffix(strings.TrimPrefix(savedFormat, `{"format":"`), `",`)}
	for _, m := range j.Machines() {
		saved.Machines = append(saved.Machines, savedMachine{
			MAC: m.MAC.String(), Address: m.Address, Firmware: m.Firmware, Seen: m.Seen, Boot: m.Boot, Stage: m.Stage, Began: m.Began,
			Fetched: m.Fetched, Elsewhere: m.Elsewhere, Again: m.Again, Refused: m.Refused, LastBoot: m.LastBoot, Last: m.Last, Known: m.known,
		})
	}
	content, err := json.Marshal(saved)
	if err != nil {
		panic(err) // it has nothing that JSON has not
	}
	return content
}

// write writes a whole file, or leaves what is there. It is for its owner and group: who
// boots what is nobody else's business.
func (o *ownership) write(path string, content []byte) error {
	there, err := openSaved(path)
	if err == nil {
		begin, readErr := io.ReadAll(io.LimitReader(there, int64(len(savedFormat))))
		if err := errors.Join(readErr, there.Close()); err != nil {
			return err
		}
		if len(begin) > 0 && string(begin) != savedFormat {
			return fmt.Errorf("%s %w", path, errForeign)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := o.take(path); err != nil {
		return err
	}
	err = renameio.WriteFile(path, content, 0o640)
	if hidden := (*fs.PathError)(nil); errors.As(err, &hidden) {
		hidden.Path = path // not that of the file that becomes it
	}
	return err
}
