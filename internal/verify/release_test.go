package verify_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	releases "every.channel/runner-images/internal/release"
	folders "every.channel/runner-images/internal/release/folder"
	"every.channel/runner-images/internal/trust"
	"every.channel/runner-images/internal/verify"
)

// publish publishes the files as a release in a folder store.
func (f folder) publish(t *testing.T, key *trust.Key) (*releases.Store, releases.Release) {
	t.Helper()
	store, err := folders.Open("file://"+t.TempDir(), nil)
	require.NoError(t, err)
	var content releases.Content
	for name, path := range f.write(t, nil) {
		sum, size, err := checksum.File(t.Context(), path)
		require.NoError(t, err)
		content.Files = append(content.Files, releases.File{Name: name, Path: path, Size: size, SHA256: sum})
	}
	if key != nil {
		content.Sign = func(sums []byte) (map[string][]byte, error) {
			armored, err := key.Sign(tag, sums)
			return map[string][]byte{trust.SignatureFileName: armored}, err
		}
	}
	_, err = store.Update(t.Context(), tag, func(context.Context, releases.Snapshot) (releases.Content, error) { return content, nil })
	require.NoError(t, err)
	release, err := store.Release(t.Context(), tag)
	require.NoError(t, err)
	return store, release
}

func TestAPublishedRelease(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	files := release(t)
	store, published := files.attested(t, key, tag, flake("1111", "sha256-1")).publish(t, key)
	report := run(t, verify.Request{
		Source: verify.InRelease(store, published), Signers: key.Allowed(),
		Metadata: flake("1111", "sha256-1"), Rebuild: builds(t, files),
	})
	require.NoError(t, report.Err())
	assert.Equal(t, map[string]verify.Verdict{
		bundle: verify.Same, iso: verify.Same, sd: verify.Same, trust.ProvenanceFileName: verify.NotCompared,
	}, verdicts(report))

	twice := func(name string) verify.Source {
		i := slices.IndexFunc(published.Assets, func(a releases.Asset) bool { return a.Name == name })
		again := published
		again.Assets = append(slices.Clone(published.Assets), published.Assets[i])
		return verify.InRelease(store, again)
	}
	report = run(t, verify.Request{Source: twice(iso)})
	require.ErrorIs(t, report.Err(), verify.ErrDifferent)
	assert.Contains(t, assetOf(t, report, iso).Reason, "2 files of this name")
	_, err := verify.Verify(t.Context(), complete(verify.Request{Source: twice(checksum.FileName)}))
	require.ErrorContains(t, err, "more than one SHA256SUMS.txt")
}

// breaking is a backend whose connections end early.
type breaking struct {
	releases.Backend
	after int64 // bytes
}

var errBroken = errors.New("connection reset by peer")

func (b breaking) Open(ctx context.Context, asset releases.Asset, offset int64) (io.ReadCloser, error) {
	content, err := b.Backend.Open(ctx, asset, offset)
	if err != nil {
		return nil, err
	}
	cut := io.MultiReader(io.LimitReader(content, b.after), iotest.ErrReader(errBroken))
	if asset.Size-offset <= b.after && b.after > 0 {
		return content, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{cut, content}, nil
}

func TestDownloadsGoOnWhereTheyBroke(t *testing.T) {
	t.Parallel()
	store, published := release(t).publish(t, nil)
	report := run(t, verify.Request{Source: verify.InRelease(&releases.Store{Backend: breaking{store.Backend, 300_000}}, published)})
	require.NoError(t, report.Err())

	_, err := verify.Verify(t.Context(), complete(verify.Request{Source: verify.InRelease(&releases.Store{Backend: breaking{store.Backend, 0}}, published)}))
	require.ErrorIs(t, err, errBroken)
}

func TestProve(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	early := time.Date(2026, 2, 28, 12, 0, 0, 0, time.UTC)
	line := func(by *trust.Key, finished time.Time, subjects checksum.Sums) string {
		build := trust.Build{Tag: tag, Subjects: subjects, Run: trust.Run{Finished: finished}}
		attestation, err := trust.Attest(t.Context(), build, by)
		require.NoError(t, err)
		content, err := trust.MergeProvenance(t.Context(), nil, attestation, by)
		require.NoError(t, err)
		return string(content)
	}
	sums := release(t).sums(t)
	stale := checksum.Sums{iso: strings.Repeat("ab", 32)}
	later := early.Add(time.Hour)
	snapshot := func(published time.Time, files checksum.Sums) string {
		content, err := trust.Publication{Tag: tag, New: files, Now: published}.Snapshot(t.Context(), *key)
		require.NoError(t, err)
		return string(content)
	}
	for name, c := range map[string]struct {
		provenance, snapshot string
		want                 time.Time // the bundle's serial
		signed               bool
	}{
		"none":                      {"", "", time.Unix(0, 0), false},
		"one":                       {line(key, early, sums), "", early, false},
		"a later part":              {line(key, early, sums) + line(key, later, checksum.Sums{sd: sums[sd]}), "", early, false},
		"built twice":               {line(key, later, sums) + line(key, early, checksum.Sums{bundle: sums[bundle]}), "", early, false},
		"of files that are gone":    {line(key, early, sums) + line(key, later, stale), "", early, false},
		"later, signed by another":  {line(key, early, sums) + line(newKey(t), later, sums), "", early, false},
		"later, and signed by none": {line(key, early, sums) + line(nil, later, sums), "", early, false},
		"a snapshot":                {line(key, early, sums), snapshot(later, sums), later, true},
		"a snapshot of others":      {line(key, early, sums), snapshot(later, stale), time.Unix(0, 0), true},
	} {
		files := release(t)
		if c.provenance != "" {
			files = files.with(trust.ProvenanceFileName, c.provenance)
		}
		if c.snapshot != "" {
			files = files.with(trust.SnapshotFileName, c.snapshot)
		}
		proof, err := prove(t, files.listed(t).signed(t, key, tag), key)
		require.NoError(t, err, name)
		serial, signed := proof.Serial(sums[bundle])
		assert.Equal(t, c.want.Unix(), serial, name)
		assert.Equal(t, c.signed, signed, name)
		assert.Empty(t, proof.Mixed)
		assert.Equal(t, key.Fingerprint(), proof.Signer.Fingerprint)
	}
}

func prove(t *testing.T, files folder, key *trust.Key) (verify.Proof, error) {
	t.Helper()
	source := files.source(t)
	file := func(name string) ([]byte, error) {
		content, err := source.Open(t.Context(), name)
		if err != nil {
			return nil, err
		}
		defer content.Close()
		return io.ReadAll(content)
	}
	return verify.Prove(t.Context(), tag, []byte(files[checksum.FileName]), file, key.Allowed(), time.Now())
}

// What proves something counts with the bytes that the signed list has, although it
// is signed itself: of two publications of one tag nothing is mixed.
func TestProofsOfAnotherPublicationCountForNothing(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	publication := func(flake trust.Flake, published time.Time) folder {
		files := release(t).attested(t, key, tag, flake)
		content, err := trust.Publication{Tag: tag, New: release(t).sums(t), Now: published}.Snapshot(t.Context(), *key)
		require.NoError(t, err)
		return files.with(trust.SnapshotFileName, string(content)).listed(t).signed(t, key, tag)
	}
	day1 := publication(flake("1111", "sha256-1"), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC))
	day2 := publication(flake("2222", "sha256-2"), time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC))
	for _, name := range []string{trust.ProvenanceFileName, trust.SnapshotFileName} {
		mixed := day1.with(name, day2[name])
		proof, err := prove(t, mixed, key)
		require.NoError(t, err)
		assert.Equal(t, []string{name}, proof.Mixed)
		assert.Equal(t, name == trust.ProvenanceFileName, len(proof.Builds) == 0)
		assert.Equal(t, name == trust.SnapshotFileName, proof.Snapshot == nil)

		for _, signers := range []trust.AllowedSigners{nil, key.Allowed()} {
			report := run(t, verify.Request{Source: whole{mixed.source(t)}, Signers: signers})
			require.ErrorIs(t, report.Err(), verify.ErrDifferent)
			assert.Equal(t, verify.Different, assetOf(t, report, name).Verdict)
			for _, origin := range report.Origins {
				assert.NotEqual(t, "2222", origin.Commit)
			}
		}
	}
	unlisted := day1.without(trust.ProvenanceFileName).without(trust.SnapshotFileName).without(checksum.FileName).without(trust.SignatureFileName).listed(t).signed(t, key, tag)
	unlisted = unlisted.with(trust.ProvenanceFileName, day1[trust.ProvenanceFileName]).with(trust.SnapshotFileName, day1[trust.SnapshotFileName])
	proof, err := prove(t, unlisted, key)
	require.NoError(t, err)
	assert.Empty(t, proof.Builds)
	assert.Nil(t, proof.Snapshot)
	assert.Empty(t, proof.Mixed)

	report := run(t, verify.Request{Source: whole{day2.source(t)}, Signers: key.Allowed()})
	require.NoError(t, report.Err())
	assert.Equal(t, "2026-03-02T00:00:00Z", report.Published)
	assert.Contains(t, report.Text(), "published on 2026-03-02T00:00:00Z, by the clock of the signer\n")

	// One that is listed and of another tag is an error: the signer has listed it.
	other, err := trust.Publication{Tag: "boot-v1", New: release(t).sums(t), Now: time.Now()}.Snapshot(t.Context(), *key)
	require.NoError(t, err)
	_, err = prove(t, release(t).with(trust.SnapshotFileName, string(other)).listed(t).signed(t, key, tag), key)
	require.ErrorIs(t, err, trust.ErrWrongTag)
}

// With signers a file that nobody listed is not "nothing to compare" but wrong.
func TestAnUnlistedFileBesideSignedOnes(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	files := release(t).listed(t).signed(t, key, tag)
	var dir string
	files.without(sd).with(strings.TrimSuffix(iso, ".iso")+"_fixed.iso", files[iso]).with("allowed_signers", "as given").with(".hidden", "").write(t, &dir)
	request := verify.Request{Source: verify.InFolder(dir, filepath.Join(dir, "allowed_signers")), Signers: key.Allowed()}
	report := run(t, request)
	require.ErrorIs(t, report.Err(), verify.ErrDifferent)
	assert.Equal(t, map[string]verify.Verdict{
		bundle: verify.Same, iso: verify.Same, sd: verify.NotCompared, ".hidden": verify.NotCompared,
		strings.TrimSuffix(iso, ".iso") + "_fixed.iso": verify.Different,
	}, verdicts(report))
	assert.Contains(t, report.Text(), "not listed in SHA256SUMS.txt, so nobody has signed it; move it out of the folder if it is not of the release")

	require.NoError(t, os.Remove(filepath.Join(dir, strings.TrimSuffix(iso, ".iso")+"_fixed.iso")))
	require.NoError(t, run(t, request).Err())
}

func TestAFolderThatIsNotThere(t *testing.T) {
	t.Parallel()
	absent := filepath.Join(t.TempDir(), "absent")
	_, err := verify.Verify(t.Context(), complete(verify.Request{Source: verify.InFolder(absent, "")}))
	require.ErrorContains(t, err, absent)
}
