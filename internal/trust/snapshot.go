package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"every.channel/runner-images/internal/checksum"
)

// SnapshotFileName is the name of the asset that holds a release's snapshot.
const SnapshotFileName = "snapshot.intoto.jsonl"

// snapshotType is the type of the statement in the asset; docs/VERIFY.md tells.
const snapshotType = "https://every.channel/runner-images/snapshot/v1"

// lastSerial is the greatest serial: a JSON number is exact up to there.
const lastSerial = 1<<53 - 1

// A Snapshot orders what a publisher has published. It is made at each publication
// that changes a release, and has the role of TUF's snapshot and timestamp
// (https://theupdateframework.github.io/specification/latest/).
type Snapshot struct {
	Tag       string
	Published time.Time // by the publisher's clock, in whole seconds
	Files     map[string]Version
}

// A Version is one file's place in the order of all that the publisher's key signs.
type Version struct {
	SHA256 string

	// Serial is greater for a file that was published later, in whatever release.
	// It is given to the bytes when they are first published under the tag, and
	// stays when the release is changed around them.
	Serial int64
}

// Serial returns the serial of a file with these bytes, or 0 if the snapshot has none.
func (s Snapshot) Serial(sum string) int64 {
	var serial int64
	for _, version := range s.Files {
		if version.SHA256 == sum {
			serial = max(serial, version.Serial)
		}
	}
	return serial
}

// Newest returns the greatest serial.
func (s Snapshot) Newest() int64 {
	var serial int64
	for _, version := range s.Files {
		serial = max(serial, version.Serial)
	}
	return serial
}

// ParseSnapshot reads the content of a tag's snapshot. It does not check who signed
// it: the caller has found its checksum in a signed list, or calls Key.Snapshot.
func ParseSnapshot(tag string, content []byte) (Snapshot, error) {
	_, snapshot, err := parseSnapshot(tag, content)
	if err != nil {
		return Snapshot{}, fmt.Errorf("%s: %w", SnapshotFileName, err)
	}
	return snapshot, nil
}

func parseSnapshot(tag string, content []byte) (*dsse.Envelope, Snapshot, error) {
	envelope := &dsse.Envelope{}
	if err := json.Unmarshal(content, envelope); err != nil {
		return nil, Snapshot{}, fmt.Errorf("not an envelope: %w", err)
	}
	payload, err := envelope.DecodeB64Payload()
	if err != nil || envelope.PayloadType != payloadType {
		return nil, Snapshot{}, errors.New("the envelope has no in-toto statement")
	}
	statement := &intoto.Statement{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, statement); err != nil {
		return nil, Snapshot{}, fmt.Errorf("not an in-toto statement: %w", err)
	}
	if err := statement.Validate(); err != nil {
		return nil, Snapshot{}, fmt.Errorf("not a valid in-toto statement: %w", err)
	}
	if statement.GetPredicateType() != snapshotType {
		return nil, Snapshot{}, fmt.Errorf("another kind of statement: predicate %q", statement.GetPredicateType())
	}
	snapshot, err := snapshotOf(statement)
	if err == nil && snapshot.Tag != tag {
		err = fmt.Errorf("%w: the snapshot is of %q and not of %q", ErrWrongTag, snapshot.Tag, tag)
	}
	return envelope, snapshot, err
}

func snapshotOf(statement *intoto.Statement) (Snapshot, error) {
	fields := statement.GetPredicate().AsMap()
	published, err := time.Parse(time.RFC3339, text(fields, "published"))
	if err != nil {
		return Snapshot{}, fmt.Errorf("the time of its publication is not one: %w", err)
	}
	serials, _ := fields["serials"].(map[string]any)
	s := Snapshot{Tag: text(fields, "release_tag"), Published: published, Files: map[string]Version{}}
	for _, subject := range statement.GetSubject() {
		serial, ok := serials[subject.GetName()].(float64)
		if !ok || serial < 1 || serial > lastSerial || serial != float64(int64(serial)) {
			return Snapshot{}, fmt.Errorf("the serial of %q is not a whole number from 1 to %d", subject.GetName(), int64(lastSerial))
		}
		s.Files[subject.GetName()] = Version{SHA256: subject.GetDigest()["sha256"], Serial: int64(serial)}
	}
	return s, nil
}

// Snapshot returns a tag's snapshot from its content, if this key has signed it. It
// needs no list: a run that died may have left one without this line.
func (k Key) Snapshot(ctx context.Context, tag string, content []byte) (Snapshot, error) {
	envelope, snapshot, err := parseSnapshot(tag, content)
	if err == nil {
		_, err = verifyEnvelope(ctx, envelope, tag, k.Allowed(), time.Now())
	}
	if err != nil {
		return Snapshot{}, fmt.Errorf("%s: %w", SnapshotFileName, err)
	}
	return snapshot, nil
}

// sign returns the content of the snapshot's asset: a DSSE envelope around an
// in-toto statement, on one line.
func (s Snapshot) sign(ctx context.Context, key Key) ([]byte, error) {
	statement := &intoto.Statement{Type: intoto.StatementTypeUri, PredicateType: snapshotType}
	serials := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		version := s.Files[name]
		serials[name] = version.Serial
		statement.Subject = append(statement.Subject, &intoto.ResourceDescriptor{
			Name: name, Digest: map[string]string{"sha256": version.SHA256},
		})
	}
	var err error
	statement.Predicate, err = structpb.NewStruct(map[string]any{
		"release_tag": s.Tag, "published": s.Published.UTC().Format(time.RFC3339), "serials": serials,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", SnapshotFileName, err)
	}
	if err := statement.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", SnapshotFileName, err)
	}
	payload, err := marshal(statement)
	if err != nil {
		return nil, err
	}
	envelope, err := seal(ctx, payload, s.Tag, &key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", SnapshotFileName, err)
	}
	line, err := json.Marshal(envelope)
	return append(line, '\n'), err
}

// A Publication is what a new snapshot is made from.
type Publication struct {
	Tag string

	// New are the files that are published, and Kept those that the release has
	// beside them.
	New, Kept checksum.Sums

	// Signed are the snapshots of this release that the key has signed, and Builds
	// the statements about it that the key has signed.
	Signed []SignedSnapshot
	Builds []Build

	// After, if set, returns a serial of another release that new bytes come after.
	// It is called if there are new bytes.
	After func() (int64, error)
	Now   time.Time
}

// A SignedSnapshot is a snapshot with its content as it was published.
type SignedSnapshot struct {
	Snapshot
	Content []byte
}

// Snapshot returns the content of the release's snapshot after a publication, or nil
// if no file has a serial.
//
// Bytes that a snapshot has keep their serial. So do those that were published
// before there were snapshots, by version 0.1: it is the time of the build, in
// seconds since 1970, as a signed statement has it. Other bytes that are published
// come after all that is known, and their serial is the time, if that is later.
// Other bytes that are kept have none: whoever serves the release may have brought
// back a list from a time when they had none. If nothing has changed, the content
// is that of before.
func (p Publication) Snapshot(ctx context.Context, key Key) ([]byte, error) {
	next := Snapshot{Tag: p.Tag, Published: p.Now.UTC().Truncate(time.Second), Files: map[string]Version{}}
	for _, sums := range []checksum.Sums{p.Kept, p.New} {
		for name, sum := range sums {
			if known := p.serial(sum); known > 0 {
				next.Files[name] = Version{sum, known}
			}
		}
	}
	var serial int64
	for name, sum := range p.New {
		if next.Files[name].SHA256 == sum {
			continue
		}
		if serial == 0 {
			var err error
			if serial, err = p.next(); err != nil {
				return nil, err
			}
		}
		next.Files[name] = Version{sum, serial}
	}
	if len(next.Files) == 0 {
		return nil, nil
	}
	for _, signed := range p.Signed {
		if maps.Equal(signed.Files, next.Files) {
			return signed.Content, nil
		}
	}
	return next.sign(ctx, key)
}

// serial returns the serial that bytes have already, or 0.
func (p Publication) serial(sum string) int64 {
	var serial int64
	for _, signed := range p.Signed {
		serial = max(serial, signed.Serial(sum))
	}
	if serial > 0 {
		return serial
	}
	return BuiltSerial(sum, p.Builds)
}

// next returns the serial of new bytes.
func (p Publication) next() (int64, error) {
	var newest int64
	if p.After != nil {
		var err error
		if newest, err = p.After(); err != nil {
			return 0, err
		}
	}
	for _, signed := range p.Signed {
		newest = max(newest, signed.Newest())
	}
	for _, build := range p.Builds {
		newest = max(newest, build.serial())
	}
	if newest >= lastSerial {
		return 0, fmt.Errorf("%s: no serial is left after %d", SnapshotFileName, newest)
	}
	return max(newest+1, min(p.Now.Unix(), lastSerial)), nil
}

// serial is that of files which were published before there were snapshots.
func (b Build) serial() int64 {
	return max(0, min(lastSerial, b.Run.Finished.Unix()))
}

// BuiltSerial returns the serial of bytes that were published before there were
// snapshots: when the first of these builds made them, in seconds since 1970, or 0
// if none tells.
func BuiltSerial(sum string, builds []Build) int64 {
	var first int64
	for _, build := range builds {
		serial := build.serial()
		for _, made := range build.Subjects {
			if made == sum && serial > 0 && (first == 0 || serial < first) {
				first = serial
			}
		}
	}
	return first
}

// SumOf returns the SHA-256 of a small file's content as a list of checksums has it.
func SumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
