package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/trust"
)

// A Proof is what is signed of a release.
type Proof struct {
	Signer trust.Signer // of SHA256SUMS.txt

	// Builds are the statements about the release that an allowed signer signed,
	// so far as they made any of the listed files.
	Builds []trust.Build

	// Listed is what SHA256SUMS.txt lists.
	Listed checksum.Sums

	// Snapshot orders the files, and says when they were published; nil if the release
	// has none, as those of version 0.1.
	Snapshot *trust.Snapshot

	// Mixed are the names of those of the files that prove something which have other
	// bytes than SHA256SUMS.txt lists: they are of another publication, and count for
	// nothing.
	Mixed []string

	// Notes are which statements are not used, and why, a sentence each.
	Notes []string
}

// Prove checks that the content of SHA256SUMS.txt is signed for the tag by an
// allowed signer, and collects the signed provenance and the snapshot of the files
// that it lists. These count with the bytes that it lists only. file returns the content of a further file of the release, or an error that wraps
// release.ErrNotFound or fs.ErrNotExist.
//
// The error wraps trust.ErrUnsigned, ErrWrongTag or ErrNotAllowed where that
// is the reason. Provenance that is missing, or that no allowed signer signed, is not
// an error: the signed list identifies the bytes.
func Prove(ctx context.Context, tag string, sums []byte, file func(name string) ([]byte, error), signers trust.AllowedSigners, now time.Time) (Proof, error) {
	armored, err := file(trust.SignatureFileName)
	if isMissing(err) {
		return Proof{}, fmt.Errorf("%w: there is no %s", trust.ErrUnsigned, trust.SignatureFileName)
	}
	if err != nil {
		return Proof{}, err
	}
	signer, err := signers.Verify(tag, sums, armored, now)
	if err != nil {
		return Proof{}, fmt.Errorf("%s: %w", trust.SignatureFileName, err)
	}
	listed, err := checksum.Parse(bytes.NewReader(sums))
	if err != nil {
		return Proof{}, err
	}
	proof := Proof{Signer: signer, Listed: listed}
	content, err := proof.read(trust.ProvenanceFileName, file)
	if err != nil {
		return Proof{}, err
	}
	var notes []string
	proof.Builds, notes = buildsOf(tag, listed, trust.ParseProvenance(content), func(line trust.Attestation) error {
		_, err := line.Verify(ctx, tag, signers, now)
		return err
	})
	proof.Notes = append(proof.Notes, notes...)
	content, err = proof.read(trust.SnapshotFileName, file)
	if err != nil || content == nil {
		return proof, err
	}
	snapshot, err := trust.ParseSnapshot(tag, content)
	if err != nil {
		return Proof{}, err
	}
	proof.Snapshot = &snapshot
	return proof, nil
}

// Published returns when the release was last published with a change, or, of one
// without a snapshot, when the newest of its files was built; zero if nothing that is
// signed says so.
func (p Proof) Published() time.Time {
	if p.Snapshot != nil {
		return p.Snapshot.Published
	}
	var newest time.Time
	for _, build := range p.Builds {
		if build.Run.Finished.After(newest) {
			newest = build.Run.Finished
		}
	}
	return newest
}

// read returns a file that proves something, or nil if it is not there or not the
// one that is listed.
func (p *Proof) read(name string, file func(name string) ([]byte, error)) ([]byte, error) {
	content, err := file(name)
	switch {
	case isMissing(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	listed, ok := p.Listed[name]
	switch {
	case !ok:
		p.Notes = append(p.Notes, name+" is not listed in "+checksum.FileName+", and is not used")
		return nil, nil
	case listed != trust.SumOf(content):
		p.Mixed = append(p.Mixed, name)
		p.Notes = append(p.Notes, name+" is not the one that "+checksum.FileName+" lists, and is not used")
		return nil, nil
	}
	return content, nil
}

// Serial returns the place of a file with these bytes in the order of all that was
// published, or 0 if it has none. Signed reports whether that is the snapshot's;
// else it is when the file was built.
func (p Proof) Serial(sum string) (serial int64, signed bool) {
	if p.Snapshot != nil {
		return p.Snapshot.Serial(sum), true
	}
	return trust.BuiltSerial(sum, p.Builds), false
}

func isMissing(err error) bool {
	return errors.Is(err, release.ErrNotFound) || errors.Is(err, fs.ErrNotExist)
}

// buildsOf returns the builds that are about the tag, made any of the listed files
// (nil if there is no list), and pass the check, and notes about the others.
func buildsOf(tag string, listed checksum.Sums, lines []trust.Attestation, check func(trust.Attestation) error) (builds []trust.Build, notes []string) {
	for _, line := range lines {
		if line.Build.Tag != tag {
			notes = append(notes, fmt.Sprintf("a statement in %s is about the release %s and is not used", trust.ProvenanceFileName, oneLine(line.Build.Tag)))
			continue
		}
		if err := check(line); err != nil {
			notes = append(notes, fmt.Sprintf("a statement is not used: %v", err))
			continue
		}
		if listed != nil && !madeAny(line.Build, listed) {
			notes = append(notes, fmt.Sprintf("a statement in %s is about other files than %s lists and is not used", trust.ProvenanceFileName, checksum.FileName))
			continue
		}
		builds = append(builds, line.Build)
	}
	return builds, notes
}

// madeAny reports whether the build made one of the listed files as it is listed.
func madeAny(build trust.Build, listed checksum.Sums) bool {
	for name, sum := range build.Subjects {
		if listed[name] == sum {
			return true
		}
	}
	return false
}
