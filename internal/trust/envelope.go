package trust

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"golang.org/x/crypto/ssh"

	"every.channel/runner-images/internal/checksum"
)

// payloadType is the type of an envelope with an in-toto statement.
const payloadType = "application/vnd.in-toto+json"

// An Attestation is one line of the file: a build, and who signed the line.
type Attestation struct {
	Build    Build
	line     []byte
	envelope *dsse.Envelope
}

// Attest makes a line of the build, signed with the key if there is one.
func Attest(ctx context.Context, b Build, key *Key) (Attestation, error) {
	statement, err := b.Statement()
	if err != nil {
		return Attestation{}, err
	}
	envelope, err := seal(ctx, statement, b.Tag, key)
	if err != nil {
		return Attestation{}, fmt.Errorf("sign the provenance: %w", err)
	}
	line, err := json.Marshal(envelope)
	if err != nil {
		return Attestation{}, err
	}
	// The statement is read back so that the Build is what a reader will see,
	// without the passwords that it left out.
	written, err := parse(statement)
	return Attestation{Build: written, line: line, envelope: envelope}, err
}

func seal(ctx context.Context, statement []byte, tag string, key *Key) (*dsse.Envelope, error) {
	if key == nil {
		return &dsse.Envelope{
			PayloadType: payloadType,
			Payload:     base64.StdEncoding.EncodeToString(statement),
			Signatures:  []dsse.Signature{},
		}, nil
	}
	signers := []dsse.Signer{tagSigner{*key, tag}}
	if key.signer.PublicKey().Type() == ssh.KeyAlgoED25519 {
		signers = append(signers, bareSigner{*key})
	}
	signer, err := dsse.NewEnvelopeSigner(signers...)
	if err != nil {
		return nil, err
	}
	return signer.SignPayload(ctx, payloadType, statement)
}

// tagSigner signs envelopes for one tag.
type tagSigner struct {
	key Key
	tag string
}

var _ dsse.Signer = tagSigner{}

func (s tagSigner) Sign(_ context.Context, data []byte) ([]byte, error) {
	return s.key.Sign(s.tag, data)
}

func (s tagSigner) KeyID() (string, error) { return s.key.Fingerprint(), nil }

// bareSigner signs envelopes as other tools check them, cosign for example: with
// the bare ed25519 signature, which has no namespace and so is for no tag.
type bareSigner struct{ key Key }

var _ dsse.Signer = bareSigner{}

func (s bareSigner) Sign(_ context.Context, data []byte) ([]byte, error) {
	signed, err := s.key.signer.Sign(nil, data) // ed25519 needs no randomness
	if err != nil {
		return nil, err
	}
	return signed.Blob, nil
}

// KeyID is empty: libraries name keys in different ways and pass over a signature
// that has another name than theirs.
func (s bareSigner) KeyID() (string, error) { return "", nil }

// Verify checks the line's signature for the release of tag, and that the
// statement is about this tag, and returns who signed it. The error wraps
// ErrUnsigned, ErrWrongTag or ErrNotAllowed where that is
// what is wrong.
func (a Attestation) Verify(ctx context.Context, tag string, allowed AllowedSigners, at time.Time) (Signer, error) {
	signer, err := verifyEnvelope(ctx, a.envelope, tag, allowed, at)
	if err == nil && a.Build.Tag != tag {
		err = fmt.Errorf("%w: the statement is about %q and not %q", ErrWrongTag, a.Build.Tag, tag)
	}
	if err != nil {
		return Signer{}, fmt.Errorf("%s: %w", ProvenanceFileName, err)
	}
	return signer, nil
}

// verifyEnvelope checks an envelope's signature for the tag. The bare signature
// beside it counts for nothing here: it is for no tag.
func verifyEnvelope(ctx context.Context, envelope *dsse.Envelope, tag string, allowed AllowedSigners, at time.Time) (Signer, error) {
	if len(envelope.Signatures) == 0 {
		return Signer{}, ErrUnsigned
	}
	check := &tagVerifier{tag: tag, allowed: allowed, at: at}
	verifier, err := dsse.NewEnvelopeVerifier(check)
	if err != nil {
		return Signer{}, err
	}
	if _, err := verifier.Verify(ctx, envelope); err != nil {
		// The library reports only that nothing was accepted; the reason is here.
		return Signer{}, cmp.Or(errors.Join(check.refused...), fmt.Errorf("%w for a tag: it has no signature as ssh-keygen -Y sign writes it", ErrUnsigned))
	}
	return check.signer, nil
}

// tagVerifier accepts signatures by allowed signers for one tag.
type tagVerifier struct {
	tag     string
	allowed AllowedSigners
	at      time.Time
	signer  Signer // of the accepted signature
	refused []error
}

var _ dsse.Verifier = (*tagVerifier)(nil)

func (v *tagVerifier) Verify(_ context.Context, data, sig []byte) error {
	if !bytes.HasPrefix(sig, []byte("-----BEGIN SSH SIGNATURE-----")) {
		return ErrUnsigned // of another kind, such as bareSigner's
	}
	signer, err := v.allowed.Verify(v.tag, data, sig, v.at)
	if err != nil {
		v.refused = append(v.refused, err)
		return err
	}
	v.signer = signer
	return nil
}

// KeyID is empty: any key of the list will do, and the signature tells which.
func (v *tagVerifier) KeyID() (string, error) { return "", nil }

func (v *tagVerifier) Public() crypto.PublicKey { return nil }

// ParseProvenance reads provenance.intoto.jsonl. Lines that are not about builds of this
// kind, or cannot be read, are passed over, as the in-toto bundle format asks.
func ParseProvenance(content []byte) []Attestation {
	var list []Attestation
	for line := range bytes.Lines(content) {
		if attestation, err := parseLine(bytes.TrimSpace(line)); err == nil {
			list = append(list, attestation)
		}
	}
	return list
}

// errAnotherKind is what a line is that is about something else.
var errAnotherKind = errors.New("another kind")

// CheckProvenance returns why a file cannot be published as the provenance.intoto.jsonl
// of the release of this tag. Lines about something else may be in it, too.
func CheckProvenance(content []byte, tag string) error {
	usable, number := false, 0
	for line := range bytes.Lines(content) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		attestation, err := parseLine(line)
		switch {
		case errors.Is(err, errAnotherKind):
			continue
		case err != nil:
			return fmt.Errorf("line %d is no statement that can be used: %w", number, err)
		case attestation.Build.Tag != tag:
			return fmt.Errorf("line %d is about the release %q and not about %q", number, attestation.Build.Tag, tag)
		}
		usable = true
	}
	if !usable {
		return errors.New("it has no statement about files of this kind")
	}
	return nil
}

func parseLine(line []byte) (Attestation, error) {
	envelope := &dsse.Envelope{}
	if err := json.Unmarshal(line, envelope); err != nil {
		return Attestation{}, fmt.Errorf("not an envelope: %w", err)
	}
	if envelope.PayloadType != payloadType {
		return Attestation{}, fmt.Errorf("%w of envelope: %q", errAnotherKind, envelope.PayloadType)
	}
	payload, err := envelope.DecodeB64Payload()
	if err != nil {
		return Attestation{}, fmt.Errorf("the payload is not base64: %w", err)
	}
	build, err := parse(payload)
	return Attestation{Build: build, line: line, envelope: envelope}, err
}

// MergeProvenance returns the content of provenance.intoto.jsonl after a new line, given
// the published content (which may be empty).
//
// Where a published line already speaks of every file of the new one with the
// same bytes, and is signed with the key if there is one, it stays and nothing
// changes: the files came from that earlier run. Else the new line is added, and
// published lines go whose every file the new line replaces. Lines about
// something else stay.
func MergeProvenance(ctx context.Context, published []byte, added Attestation, key *Key) ([]byte, error) {
	var lines [][]byte
	for line := range bytes.Lines(published) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		earlier, err := parseLine(line)
		switch {
		case err != nil: // about something else, and not ours to drop
		case covers(earlier.Build.Subjects, added.Build.Subjects) && earlier.madeWith(ctx, added.Build.Tag, key):
			return published, nil
		case namesWithin(earlier.Build.Subjects, added.Build.Subjects):
			continue
		}
		lines = append(lines, line)
	}
	lines = append(lines, added.line)
	return append(bytes.Join(lines, []byte("\n")), '\n'), nil
}

// covers reports whether every file of some is in all with the same sum.
func covers(all, some checksum.Sums) bool {
	for name, sum := range some {
		if all[name] != sum {
			return false
		}
	}
	return true
}

func namesWithin(names, all checksum.Sums) bool {
	for name := range names {
		if _, ok := all[name]; !ok {
			return false
		}
	}
	return true
}

// madeWith reports whether the line is about the tag and, if there is a key, signed
// with it.
func (a Attestation) madeWith(ctx context.Context, tag string, key *Key) bool {
	if key == nil {
		return a.Build.Tag == tag
	}
	_, err := a.Verify(ctx, tag, key.Allowed(), time.Now())
	return err == nil
}
