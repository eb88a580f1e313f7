package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

// A Proof is what Verify has proved of a release.
type Proof struct {
	// Serial returns the place of a bundle with this SHA-256 in the order of all that
	// the publisher has published, or 0 if it has none. Signed reports whether the
	// publisher has said so; else it is when the bundle was built.
	Serial func(sum string) (serial int64, signed bool)

	// Published is when the publisher has last changed the release; zero if unknown.
	Published time.Time
}

// Verify checks a release before it is believed. It is given the tag, the content of
// its SHA256SUMS.txt, and how to get further files of it such as a signature.
type Verify func(tag string, sums []byte, file func(name string) ([]byte, error)) (Proof, error)

// goBack is the advice to whoever wants an older release.
const goBack = "to go back to it on purpose, add --allow-downgrade"

// admit refuses bundles that are older than the newest that was current: an old
// release, truly signed, may be served again as the latest.
func (s Stager) admit(tag string, sums map[machine.Architecture]string, proof Proof) error {
	if s.Verify == nil || s.AllowDowngrade {
		return nil
	}
	mark, _, err := s.mark()
	if err != nil {
		return err
	}
	current, err := s.currentTag()
	if err != nil {
		return err
	}
	for _, architecture := range slices.Sorted(maps.Keys(sums)) {
		newest, marked := mark.Bundles[architecture]
		if !marked || newest.SHA256 == sums[architecture] {
			continue
		}
		is := "was"
		if newest.Tag == current {
			is = "is"
		}
		serial, signed := proof.Serial(sums[architecture])
		switch {
		case newest.Signed && (!signed || serial == 0):
			return fmt.Errorf("its bundle for %s has no serial that is signed, so it may be older than %s, which %s current; %s", architecture, newest.Tag, is, goBack)
		case serial == 0:
			return fmt.Errorf("no signed provenance says when it was built, so it may be older than %s, which %s current; %s", newest.Tag, is, goBack)
		case serial >= newest.Serial:
		case newest.Signed:
			return fmt.Errorf("its bundle for %s was published before that of %s, which %s current (its serial is %d, and that one's %d): it may be an old release that is served again; %s",
				architecture, newest.Tag, is, serial, newest.Serial, goBack)
		default:
			return fmt.Errorf("it was built on %s, before %s, which %s current and was built on %s: it may be an old release that is served again; %s",
				dateOf(serial), newest.Tag, is, dateOf(newest.Serial), goBack)
		}
	}
	return nil
}

// dateOf is the time of a serial that is one.
func dateOf(serial int64) string { return time.Unix(serial, 0).UTC().Format(time.RFC3339) }

// mark returns the high-water mark, and whether it is in the state folder. If it is
// not there, as in a folder of version 0.1, it is that of the releases that are and
// were current.
func (s Stager) mark() (mark state.Mark, stored bool, err error) {
	mark = state.Mark{Bundles: map[machine.Architecture]state.MarkedBundle{}}
	if s.Dir == nil {
		return mark, false, nil
	}
	there, err := s.Dir.Mark()
	if err == nil {
		return there, true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return mark, false, err
	}
	for _, linked := range []func() (*state.Snapshot, error){s.Dir.OpenCurrent, s.Dir.OpenPrevious} {
		if err := s.markStaged(mark, linked); err != nil {
			return mark, false, err
		}
	}
	return mark, false, nil
}

// markStaged raises the mark to a staged release, if that was verified when it was
// staged.
func (s Stager) markStaged(mark state.Mark, open func() (*state.Snapshot, error)) (err error) {
	staged, err := open()
	if errors.Is(err, state.ErrNotStaged) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, staged.Close()) }()
	proof, err := s.proveStaged(staged, s.VerifyStaged)
	switch {
	case err == nil:
		raise(&mark, staged.Release, proof)
		return nil
	case errors.Is(err, ErrUnproved) || s.AllowDowngrade:
		return nil
	default:
		return fmt.Errorf("%s was verified when it was staged, and cannot be any more, so nothing tells whether another release is older: %w; list its key again (with valid-before, if it has ended), or add --allow-downgrade once to take what comes as the newest",
			staged.Release.Tag, err)
	}
}

// ErrUnproved says that a release was staged without what proves it.
var ErrUnproved = errors.New("staged without a signature")

// proveStaged has a staged release verified by what was staged with it.
func (s Stager) proveStaged(staged *state.Snapshot, verify Verify) (Proof, error) {
	tag := staged.Release.Tag
	content, err := staged.Proof(checksum.FileName)
	if errors.Is(err, fs.ErrNotExist) {
		return Proof{}, fmt.Errorf("release %s was staged without %s: stage it again with --refresh: %w", tag, checksum.FileName, ErrUnproved)
	}
	if err != nil {
		return Proof{}, err
	}
	proof, err := verify(tag, content, staged.Proof)
	if err != nil {
		return Proof{}, fmt.Errorf("the staged release %s: %w", tag, err)
	}
	sums, err := checksum.Parse(bytes.NewReader(content))
	if err != nil {
		return Proof{}, err
	}
	for _, bundle := range staged.Release.Bundles {
		if sums[bundle.Asset] != bundle.SHA256 {
			return Proof{}, fmt.Errorf("release %s was staged with another %s than its %s lists: stage it again with --refresh: %w", tag, bundle.Asset, checksum.FileName, ErrUnproved)
		}
	}
	return proof, nil
}

// raise raises the mark to a release where that is newer, and reports whether it was.
func raise(mark *state.Mark, to state.Release, proof Proof) (raised bool) {
	for architecture, bundle := range to.Bundles {
		before := mark.Bundles[architecture]
		serial, signed := proof.Serial(bundle.SHA256)
		newer := serial > before.Serial
		if !newer && (serial != before.Serial || serial == 0 || !signed || before.Signed) {
			continue
		}
		mark.Bundles[architecture] = state.MarkedBundle{Serial: serial, Signed: signed || before.Signed, Tag: to.Tag, SHA256: bundle.SHA256}
		raised = true
	}
	if proof.Published.After(mark.Published) {
		mark.Published, raised = proof.Published, true
	}
	return raised
}

// remember raises the high-water mark to what is current from now on.
func (s Stager) remember(ctx context.Context, current state.Release, proof Proof) error {
	if s.Verify == nil {
		return nil
	}
	mark, stored, err := s.mark()
	if err != nil {
		return err
	}
	raised := raise(&mark, current, proof)
	if !raised && (stored || len(mark.Bundles) == 0) {
		return nil
	}
	return s.Dir.SetMark(ctx, mark)
}

// fresh refuses a latest release whose proof is too old: the server may hide newer
// ones.
func (s Stager) fresh(proof Proof) error {
	if s.MaxAge == 0 {
		return nil
	}
	newest, err := s.newestProof(proof)
	if err != nil {
		return err
	}
	age := time.Since(newest)
	switch {
	case newest.IsZero():
		return fmt.Errorf("nothing that is signed says when it was published, and --max-age asks for that")
	case age > s.MaxAge:
		return fmt.Errorf("its newest proof is from %s, which is %s ago and more than --max-age %s: the server may hide what is newer, or nothing was published since; publish a release, or look at another copy of the releases",
			newest.UTC().Format(time.RFC3339), age.Round(time.Second), s.MaxAge)
	}
	return nil
}

// newestProof returns when the publisher has last changed a release, as far as this
// boot server has ever seen; zero if that is unknown.
func (s Stager) newestProof(proof Proof) (time.Time, error) {
	mark, _, err := s.mark()
	if err != nil {
		return time.Time{}, err
	}
	if proof.Published.After(mark.Published) {
		return proof.Published, nil
	}
	return mark.Published, nil
}
