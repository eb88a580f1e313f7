package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/trust"
)

// signWith returns what signs a publication's SHA256SUMS.txt; nil without a key.
func signWith(key *trust.Key, tag string) func(sums []byte) (map[string][]byte, error) {
	if key == nil {
		return nil
	}
	return func(sums []byte) (map[string][]byte, error) {
		armored, err := key.Sign(tag, sums)
		return map[string][]byte{trust.SignatureFileName: armored}, err
	}
}

// proved is what a release has that a publication may build upon.
type proved struct {
	lists, signatures [][]byte // of SHA256SUMS.txt, with what a run that died has left

	provenance []byte // nil: none
	left       int    // lines of provenance that the key does not vouch for
	builds     []trust.Build
	snapshots  []trust.SignedSnapshot
}

// prove finds what the key vouches for already. Without a key nobody vouches for
// anything, and what is there stays.
func prove(ctx context.Context, there release.Snapshot, key *trust.Key, tag string) (proved, error) {
	var p proved
	provenance, err := there.Contents(ctx, trust.ProvenanceFileName)
	if err != nil {
		return p, err
	}
	if len(provenance) > 0 && hasAsset(there.Release, trust.ProvenanceFileName) {
		p.provenance = provenance[0]
	}
	if key == nil {
		return p, nil
	}
	if p.lists, err = there.Contents(ctx, checksum.FileName); err != nil {
		return p, err
	}
	if p.signatures, err = there.Contents(ctx, trust.SignatureFileName); err != nil {
		return p, err
	}
	if p.provenance != nil {
		p.provenance, p.left = key.KeepProvenance(ctx, tag, p.provenance, key.SignedLists(tag, p.lists, p.signatures))
		p.builds = key.Builds(ctx, tag, p.provenance)
	}
	snapshots, err := there.Contents(ctx, trust.SnapshotFileName)
	if err != nil {
		return p, err
	}
	for _, content := range snapshots {
		if snapshot, err := key.Snapshot(ctx, tag, content); err == nil { // else it tells nothing
			p.snapshots = append(p.snapshots, trust.SignedSnapshot{Snapshot: snapshot, Content: content})
		}
	}
	return p, nil
}

// withSnapshot adds the release's snapshot to the files of a publication.
func (p *publication) withSnapshot(ctx context.Context, there release.Snapshot, known proved, files []release.File) ([]release.File, error) {
	next := trust.Publication{
		Tag: p.plan.ReleaseTag, Signed: known.snapshots, Builds: known.builds,
		New: checksum.Sums{}, Kept: there.Others(files), Now: time.Now(),
		After: func() (int64, error) { return newestElsewhere(ctx, p.store, *p.key) },
	}
	for _, file := range files {
		next.New[file.Name] = file.SHA256
	}
	for _, sums := range []checksum.Sums{next.New, next.Kept} {
		delete(sums, trust.ProvenanceFileName)
		delete(sums, trust.SnapshotFileName)
	}
	content, err := next.Snapshot(ctx, *p.key)
	if err != nil || content == nil {
		return files, err
	}
	return append(slices.Clone(files), release.File{Name: trust.SnapshotFileName, Content: content}), nil
}

// newestElsewhere returns the greatest serial of the newest release, if the key has
// signed that, or 0. New bytes come after it, whatever the clock here says.
func newestElsewhere(ctx context.Context, store *release.Store, key trust.Key) (int64, error) {
	newest, err := store.Latest(ctx, "")
	if errors.Is(err, release.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	content, err := store.ReadSmall(ctx, newest, trust.SnapshotFileName)
	if errors.Is(err, release.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	snapshot, err := key.Snapshot(ctx, newest.Tag, content)
	if err != nil {
		return 0, nil // somebody else's says nothing of what this key has published
	}
	return snapshot.Newest(), nil
}

// checkTrust makes sure that those who look for the release's signature can trust
// it after the publication of these files, too.
func checkTrust(ctx context.Context, there release.Snapshot, known proved, key *trust.Key, tag string, files []release.File) error {
	if key == nil {
		return checkStays(ctx, there, tag, files)
	}
	return key.MaySign(tag, there.Others(files), known.lists, known.signatures)
}

// checkStays makes sure that a publication without the key changes nothing of a
// release that is signed: those who look for the signature would refuse all of it.
func checkStays(ctx context.Context, there release.Snapshot, tag string, files []release.File) error {
	if !isSigned(there.Release) {
		return nil
	}
	stays := there.Others(files)
	for i := range files {
		same, err := there.Has(ctx, &files[i])
		if err != nil {
			return err
		}
		if !same {
			return fmt.Errorf("the release %s is signed, and with another %s its signature would not hold any more; give %s, or delete %s from the release first",
				tag, files[i].Name, plan.SigningKey, trust.SignatureFileName)
		}
		stays[files[i].Name] = files[i].SHA256
	}
	for _, name := range slices.Sorted(maps.Keys(there.Listed)) {
		if _, same := stays[name]; !same {
			return fmt.Errorf("the release %s is signed, and without %s, which is gone, its signature would not hold any more; publish that again, give %s, or delete %s from the release first",
				tag, name, plan.SigningKey, trust.SignatureFileName)
		}
	}
	return nil
}

// isSigned reports whether a release has a signature.
func isSigned(r release.Release) bool { return hasAsset(r, trust.SignatureFileName) }

func hasAsset(r release.Release, name string) bool {
	return slices.ContainsFunc(r.Assets, func(a release.Asset) bool { return a.Name == name })
}
