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

	// Built is when the newest of the listed files was built, by the clock of the
	// machine that built it; zero if no signed statement has a time.
	Built time.Time

	// Notes are which statements are not used, and why, a sentence each.
	Notes []string
}

// Prove checks that the content of SHA256SUMS.txt is signed for the tag by an
// allowed signer, and collects the signed provenance of the files that it lists. file
// returns the content of a further file of the release, or an error that wraps
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
	content, err := file(trust.ProvenanceFileName)
	if err != nil && !isMissing(err) {
		return Proof{}, err
	}
	proof := Proof{Signer: signer}
	proof.Builds, proof.Notes = buildsOf(tag, listed, trust.ParseProvenance(content), func(line trust.Attestation) error {
		_, err := line.Verify(ctx, tag, signers, now)
		return err
	})
	for _, build := range proof.Builds {
		if build.Run.Finished.After(proof.Built) {
			proof.Built = build.Run.Finished
		}
	}
	return proof, nil
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
