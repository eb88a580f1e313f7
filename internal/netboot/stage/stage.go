// Package stage brings a release's netboot bundles into the boot server's state
// folder: downloaded or from a tarball, verified, unpacked, renamed into place when
// complete, and then switched to in one step. Whatever fails, or whenever the
// process is killed, the server serves what it served before.
//
// An interrupted download is kept in the state folder's downloads/ under its expected
// checksum, and is resumed.
package stage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
	"every.channel/runner-images/internal/release"
)

// A Stager stages into one state folder. Its methods wait for another stager of
// the same folder, but for Check, which changes nothing.
type Stager struct {
	// Dir is the state folder. For Check it may be nil: there is none yet.
	Dir *state.Dir

	// Store has the releases; Tarball and Rollback need none.
	Store *release.Store

	// Keep is how many releases stay staged; the current one, the previous one,
	// those of rings and those that machines are reading from stay in any case.
	// 0 means DefaultKeep.
	Keep int

	// RingsFile is the path of the file of rings, whose releases stay staged; empty: the
	// state folder's.
	RingsFile string

	// StayOnCurrent stages without switching: for a release that a ring tries.
	StayOnCurrent bool

	// Refresh looks at the store even if the release of the wanted tag is staged,
	// for one whose assets have changed.
	Refresh bool

	// Verify, if set, is called before anything is believed that a release says. What
	// was staged before is verified again before it is switched to. Its errors are
	// returned as they are.
	Verify Verify

	// VerifyStaged is Verify for what was current before: keys that have ended since
	// count. Its error wraps ErrUnproved for a release that was staged without a
	// signature.
	VerifyStaged Verify

	// AllowDowngrade takes bundles that are older than what was current before.
	AllowDowngrade bool

	// MaxAge is how old the newest proof of the latest release may be; 0 for any age.
	MaxAge time.Duration

	// Notify, if set, is called with what is being done, a sentence at a time.
	Notify func(sentence string)

	// Progress, if set, is called with how many bytes of an asset are downloaded, by
	// another goroutine than the stager's, one call at a time.
	Progress func(name string, done, total int64)
}

// DefaultKeep is how many releases stay staged where Keep is 0.
const DefaultKeep = 3

// An Outcome is what has changed.
type Outcome struct {
	Release  state.Release   // what was asked for
	Staged   bool            // it was not staged before, or not as it is now
	Switched bool            // it was not current before
	Before   string          // the tag that was current before, if there was one
	Pruned   []state.Release // what has been removed
}

// Release stages the release of a tag, or the latest one for an empty tag, and
// switches to it. The release of a tag that is staged is switched to without the
// store. A release that has been staged as it is in the store is left alone.
func (s Stager) Release(ctx context.Context, tag string) (Outcome, error) {
	return s.locked(ctx, func() (Outcome, error) {
		if tag != "" && !s.Refresh {
			outcome, err := s.switchToStaged(ctx, tag)
			if err == nil {
				return s.pruned(outcome), nil
			}
			if !errors.Is(err, state.ErrNotStaged) {
				return outcome, err
			}
		}
		candidate, err := s.look(ctx, tag)
		if err != nil {
			return Outcome{}, err
		}
		return s.stage(ctx, candidate)
	})
}

// look returns what the store has for the boot server, if that may be staged.
func (s Stager) look(ctx context.Context, tag string) (candidate, error) {
	release, err := s.find(ctx, tag)
	if err != nil {
		return candidate{}, err
	}
	found, err := s.candidate(ctx, release)
	if err == nil {
		found, err = s.arrangedAsStaged(found)
	}
	if err == nil {
		err = s.admit(release.Tag, found.bundleSums(), found.proof)
	}
	if err == nil && tag == "" {
		err = s.fresh(found.proof)
	}
	if err != nil {
		return candidate{}, fmt.Errorf("release %s: %w", release.Tag, err)
	}
	return found, nil
}

// Tarball stages a netboot bundle from a file, as a bundle of the release of the
// tag, and switches to it. An empty tag means the one in the file's name. Bundles
// of that release for other architectures stay. If there is a SHA256SUMS.txt
// beside it, it must list the file and its checksum.
func (s Stager) Tarball(ctx context.Context, path, tag string) (Outcome, error) {
	return s.locked(ctx, func() (Outcome, error) {
		candidate, err := s.tarballCandidate(ctx, path, tag)
		if err != nil {
			return Outcome{}, err
		}
		candidate, err = s.arrangedAsStaged(candidate)
		if err == nil {
			err = s.admit(candidate.tag, candidate.bundleSums(), candidate.proof)
		}
		if err != nil {
			return Outcome{}, fmt.Errorf("tarball %q: %w", path, err)
		}
		return s.stage(ctx, candidate)
	})
}

// Rollback switches to the release that was current before.
func (s Stager) Rollback(ctx context.Context) (Outcome, error) {
	return s.locked(ctx, func() (Outcome, error) {
		before, err := s.currentTag()
		if err != nil {
			return Outcome{}, err
		}
		previous, err := s.Dir.Previous()
		if errors.Is(err, state.ErrNotStaged) {
			return Outcome{}, fmt.Errorf("roll back: %w; nothing was current before; to go to another release, give --release-tag and, if it is not staged, --forge-url", err)
		}
		if err != nil {
			return Outcome{}, fmt.Errorf("roll back: %w", err)
		}
		proof, err := s.verifyStaged(previous.Tag)
		if err != nil {
			return Outcome{}, err
		}
		s.AllowDowngrade = true // it is asked for
		if err := s.remember(ctx, previous, proof); err != nil {
			return Outcome{}, err
		}
		if previous, err = s.Dir.Rollback(); err != nil {
			return Outcome{}, err
		}
		return Outcome{Release: previous, Switched: true, Before: before}, nil
	})
}

// A Comparison is what is served beside what could be.
type Comparison struct {
	Current string // the tag of the current release, if there is one
	Wanted  string // the tag of the release that Release would switch to
	Same    bool   // Release would change nothing

	// Published is when the publisher has last changed a release, as far as this boot
	// server has ever seen; zero if nothing that is signed says so.
	Published time.Time
}

// Check returns what Release would do with the same tag, looking at the store even
// for a tag that is staged. It changes nothing and does not wait for the lock.
func (s Stager) Check(ctx context.Context, tag string) (Comparison, error) {
	candidate, err := s.look(ctx, tag)
	if err != nil {
		return Comparison{}, err
	}
	current, err := s.currentTag()
	if err != nil {
		return Comparison{}, err
	}
	staged, err := s.staged(candidate.tag)
	if err != nil {
		return Comparison{}, err
	}
	compared := Comparison{
		Current: current, Wanted: candidate.tag,
		Same: current == candidate.tag && candidate.isStagedAs(staged),
	}
	if s.Verify != nil {
		compared.Published, err = s.newestProof(candidate.proof)
	}
	return compared, err
}

// locked calls do with the state folder locked.
func (s Stager) locked(ctx context.Context, do func() (Outcome, error)) (Outcome, error) {
	unlock, err := s.Dir.Lock(ctx, func() { s.notify("waiting for another stage in %s to end", s.Dir.Path()) })
	if err != nil {
		return Outcome{}, err
	}
	defer unlock()
	return do()
}

// A candidate is a release, or a part of one, that can be staged.
type candidate struct {
	tag, source string
	found       []bundle // what may be its bundles, by their names
	arrangement
	evidence

	// complete means that found is all that the release has; otherwise bundles that are
	// staged for other architectures stay.
	complete bool
}

// evidence is why a release is believed.
type evidence struct {
	sums  checksum.Sums     // of SHA256SUMS.txt, if there is one
	files map[string][]byte // to be kept with the release
	proof Proof
}

type bundle struct {
	asset, sum string
	open       func(ctx context.Context) (*os.File, error) // verified
}

// bundleSums returns the checksums of the bundles.
func (c candidate) bundleSums() map[machine.Architecture]string {
	sums := map[machine.Architecture]string{}
	for architecture, bundle := range c.bundles {
		sums[architecture] = bundle.sum
	}
	return sums
}

// isStagedAs reports whether a staged release, which may be the zero one, is the same
// as the candidate.
func (c candidate) isStagedAs(release state.Release) bool {
	if len(c.unknown) > 0 {
		return false
	}
	for architecture, bundle := range c.bundles {
		if release.Bundles[architecture].SHA256 != bundle.sum {
			return false
		}
	}
	return !c.complete || len(c.bundles) == len(release.Bundles)
}

// stage stages a candidate, and switches to it. Releases that need not stay are
// removed before that, for their space, and after it.
func (s Stager) stage(ctx context.Context, c candidate) (Outcome, error) {
	before, _ := s.prune(c.tag) // an error is reported at the end
	staged, err := s.staged(c.tag)
	if err != nil {
		return Outcome{}, err
	}
	changed := !c.isStagedAs(staged)
	if !changed {
		// A release that was staged before its signature mattered is staged again with it.
		_, err := s.verifyStaged(c.tag)
		changed = err != nil
	}
	if changed {
		if err := s.stageAnew(ctx, c, staged); err != nil {
			return Outcome{}, err
		}
	}
	outcome, err := s.switchTo(ctx, c.tag, c.proof, changed)
	if err != nil {
		return Outcome{}, err
	}
	outcome.Pruned = before
	if changed || outcome.Switched {
		s.notRemoved(s.clearDownloads(nil))
	}
	return s.pruned(outcome), nil
}

// stageAnew looks into the bundles of a candidate, and unpacks them.
func (s Stager) stageAnew(ctx context.Context, c candidate, staged state.Release) (err error) {
	if err := s.clearDownloads(c.found); err != nil {
		return err
	}
	files := openFiles{}
	defer func() { err = errors.Join(err, files.close()) }()
	if c, err = s.lookInside(ctx, c, staged, files); err != nil {
		return err
	}
	return s.unpack(ctx, c, staged, files)
}

// unpack stages a candidate beside the current release.
func (s Stager) unpack(ctx context.Context, c candidate, staged state.Release, files openFiles) (err error) {
	incoming, err := s.Dir.Incoming(c.tag, c.source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, incoming.Discard()) }()
	for _, name := range slices.Sorted(maps.Keys(c.files)) {
		if err := incoming.Proof(name, c.files[name]); err != nil {
			return err
		}
	}
	incoming.PassOver(c.passedOver)
	for _, architecture := range machine.Architectures() {
		bundle, ok := c.bundles[architecture]
		there, isStaged := staged.Bundles[architecture]
		switch {
		case ok && there.SHA256 == bundle.sum:
			err = incoming.Keep(architecture, bundle.asset)
		case ok:
			err = s.unpackBundle(ctx, incoming, architecture, bundle, files[bundle.asset])
		case isStaged && !c.complete:
			if s.Verify != nil {
				err = matches(c.sums, there.Asset, there.SHA256)
			}
			if err == nil {
				err = incoming.Keep(architecture, there.Asset)
			}
		}
		if err != nil {
			return err
		}
	}
	_, err = incoming.Commit()
	return err
}

func (s Stager) unpackBundle(ctx context.Context, incoming *state.Incoming, architecture machine.Architecture, bundle bundle, file *os.File) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := incoming.Bundle(architecture, bundle.asset, bundle.sum); err != nil {
		return err
	}
	packed, err := file.Stat()
	if err != nil {
		return err
	}
	s.notify("unpacking %s", bundle.asset)
	unpacked, total := sha256.New(), int64(0)
	err = artifact.WalkBundle(ctx, io.TeeReader(file, unpacked), limits, func(entry artifact.Entry, content io.Reader) error {
		if !slices.Contains(state.FileNames(), entry.Name) {
			return fmt.Errorf("it has a file %q; a netboot bundle has only %s", entry.Name, strings.Join(state.FileNames(), ", "))
		}
		if entry.Name == state.Script && entry.Size > maxScript {
			return fmt.Errorf("its %s has %d bytes, more than the %d that a script may have", entry.Name, entry.Size, maxScript)
		}
		total += entry.Size
		if err := errors.Join(plausible(packed.Size(), total), hasSpace(s.Dir.Path(), entry.Size)); err != nil {
			return fmt.Errorf("%s: %w", entry.Name, err)
		}
		return incoming.Write(ctx, architecture, entry.Name, content)
	})
	if err != nil {
		return fmt.Errorf("unpack %s: %w", bundle.asset, err)
	}
	// The file may have been written to since its checksum was computed.
	if hex.EncodeToString(unpacked.Sum(nil)) != bundle.sum {
		return fmt.Errorf("unpack %s: it has changed meanwhile: stage it again when nobody writes to it", bundle.asset)
	}
	return nil
}

// limits let through more than iPXE can boot, and keep a hostile bundle from
// filling the disk.
var limits = artifact.Limits{Files: len(state.FileNames()), FileSize: 4 << 30, TotalSize: 5 << 30}

// maxScript is how many bytes a script may have. The boot server has it in memory
// for each machine that asks for it.
const maxScript = 1 << 20

// switchToStaged verifies a release that was staged before, and switches to it.
func (s Stager) switchToStaged(ctx context.Context, tag string) (Outcome, error) {
	staged, err := s.Dir.Release(tag)
	if err != nil {
		return Outcome{}, err
	}
	proof, err := s.verifyStaged(tag)
	if err != nil {
		return Outcome{}, err
	}
	sums := map[machine.Architecture]string{}
	for architecture, bundle := range staged.Bundles {
		sums[architecture] = bundle.SHA256
	}
	if err := s.admit(tag, sums, proof); err != nil {
		return Outcome{}, fmt.Errorf("the staged release %s: %w", tag, err)
	}
	return s.switchTo(ctx, tag, proof, false)
}

// switchTo makes a staged release current unless it shall only be staged, and
// remembers what is current then.
func (s Stager) switchTo(ctx context.Context, tag string, proof Proof, justStaged bool) (Outcome, error) {
	before, err := s.currentTag()
	if err != nil {
		return Outcome{}, err
	}
	release, err := s.Dir.Release(tag)
	if err != nil {
		return Outcome{}, err
	}
	outcome := Outcome{Release: release, Staged: justStaged, Before: before}
	if !s.StayOnCurrent || before == tag {
		if err := s.remember(ctx, release, proof); err != nil {
			return outcome, err
		}
	}
	if !s.StayOnCurrent {
		outcome.Switched, err = s.Dir.Switch(tag)
	}
	return outcome, err
}

// pruned prunes, and returns the outcome with what has been removed.
func (s Stager) pruned(outcome Outcome) Outcome {
	removed, err := s.prune(outcome.Release.Tag)
	s.notRemoved(err)
	outcome.Pruned = append(outcome.Pruned, removed...)
	return outcome
}

// prune removes the releases that no longer have to stay, other than that of the
// tag, and what a stage that was killed has left behind.
func (s Stager) prune(tag string) ([]state.Release, error) {
	keep := s.Keep
	if keep == 0 {
		keep = DefaultKeep
	}
	rings, err := s.Dir.Rings(s.RingsFile)
	if err != nil {
		return nil, err
	}
	rings.Rings = append(rings.Rings, state.Ring{Tag: tag}) // it stays as one that a ring needs
	return s.Dir.Prune(keep, rings)
}

// notRemoved reports why something that is no longer needed is still there, which
// does not make the stage fail.
func (s Stager) notRemoved(err error) {
	if err != nil {
		s.notify("not everything that is no longer needed was removed: %v", err)
	}
}

// verifyStaged has a staged release verified by what was staged with it.
func (s Stager) verifyStaged(tag string) (proof Proof, err error) {
	if s.Verify == nil {
		return Proof{}, nil
	}
	staged, err := s.Dir.OpenRelease(tag)
	if err != nil {
		return Proof{}, err
	}
	defer func() { err = errors.Join(err, staged.Close()) }()
	return s.proveStaged(staged, s.Verify)
}

// currentTag returns the current release's tag, if there is one.
func (s Stager) currentTag() (string, error) {
	if s.Dir == nil {
		return "", nil
	}
	release, err := s.Dir.Current()
	if errors.Is(err, state.ErrNotStaged) {
		return "", nil
	}
	return release.Tag, err
}

// staged returns a tag's release as it is staged, or the zero release.
func (s Stager) staged(tag string) (state.Release, error) {
	if s.Dir == nil {
		return state.Release{}, nil
	}
	release, err := s.Dir.Release(tag)
	if errors.Is(err, state.ErrNotStaged) {
		return state.Release{}, nil
	}
	return release, err
}

func (s Stager) notify(format string, args ...any) {
	if s.Notify != nil {
		s.Notify(fmt.Sprintf(format, args...))
	}
}

// A TarballError says why a path names no bundle that can be staged.
type TarballError struct {
	Path string // as given
	Err  error
}

func (e *TarballError) Error() string { return fmt.Sprintf("tarball %q: %v", e.Path, e.Err) }
func (e *TarballError) Unwrap() error { return e.Err }

// tarballCandidate returns the candidate in a file.
func (s Stager) tarballCandidate(ctx context.Context, path, tag string) (candidate, error) {
	name := filepath.Base(path)
	if !strings.HasSuffix(name, ".tar.gz") {
		return candidate{}, &TarballError{path, errors.New("is not a netboot bundle, whose name ends in .tar.gz, for example ec-runner-x86_64-netboot-boot-v2026.02.28.tar.gz")}
	}
	if tag == "" {
		var ok bool
		if tag, ok = tagOf(name); !ok {
			return candidate{}, &TarballError{path, errors.New("its name does not say of which release it is: give --release-tag")}
		}
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return candidate{}, err
	}
	sum, _, err := checksum.File(ctx, path)
	if _, named := artifact.NamedArchitecture(name); err != nil && !named {
		err = fmt.Errorf("its name does not say which machines it is for, and its kernel cannot be looked at: %w", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return candidate{}, &TarballError{path, err}
	}
	if err != nil {
		return candidate{}, fmt.Errorf("tarball %q: %w", path, err)
	}
	evidence, err := s.tarballEvidence(filepath.Dir(path), name, tag, sum)
	if err != nil {
		return candidate{}, fmt.Errorf("tarball %q: %w", path, err)
	}
	return candidate{tag: tag, source: absolute, evidence: evidence, found: []bundle{
		{name, sum, func(context.Context) (*os.File, error) { return os.Open(path) }},
	}}, nil
}

// tarballEvidence checks a tarball's sum by the SHA256SUMS.txt in its folder, if
// there is one or has to be.
func (s Stager) tarballEvidence(folder, name, tag, sum string) (evidence, error) {
	content, err := os.ReadFile(filepath.Join(folder, checksum.FileName))
	if errors.Is(err, fs.ErrNotExist) && s.Verify == nil {
		s.notify("there is no %s beside %s: staging it as it is", checksum.FileName, name)
		return evidence{}, nil
	}
	if err != nil {
		return evidence{}, err
	}
	believed, err := s.verifySums(tag, content, func(file string) ([]byte, error) {
		return os.ReadFile(filepath.Join(folder, filepath.Base(file)))
	})
	if err == nil {
		err = matches(believed.sums, name, sum)
	}
	return believed, err
}

// verifySums has a SHA256SUMS.txt verified and reads it. The files that the verification
// has read are kept with it.
func (s Stager) verifySums(tag string, content []byte, file func(name string) ([]byte, error)) (evidence, error) {
	believed := evidence{files: map[string][]byte{checksum.FileName: content}}
	var err error
	if s.Verify != nil {
		believed.proof, err = s.Verify(tag, content, func(name string) ([]byte, error) {
			content, err := file(name)
			if err == nil {
				believed.files[name] = content
			}
			return content, err
		})
		if err != nil {
			return evidence{}, err
		}
	}
	believed.sums, err = checksum.Parse(bytes.NewReader(content))
	return believed, err
}

func matches(sums checksum.Sums, name, sum string) error {
	listed, ok := sums[name]
	if !ok {
		return fmt.Errorf("%s does not list %s", checksum.FileName, name)
	}
	if listed != sum {
		return fmt.Errorf("%s has the SHA-256 %s, but %s says %s: it is damaged or not the one that was published", name, sum, checksum.FileName, listed)
	}
	return nil
}
