package verify_test

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
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
	stale := checksum.Sums{iso: sums[bundle]}
	for name, c := range map[string]struct {
		provenance string
		want       time.Time
	}{
		"none":                      {"", time.Time{}},
		"one":                       {line(key, early, sums), early},
		"a later part":              {line(key, early, sums) + line(key, early.Add(time.Hour), checksum.Sums{sd: sums[sd]}), early.Add(time.Hour)},
		"of files that are gone":    {line(key, early, sums) + line(key, early.Add(time.Hour), stale), early},
		"later, signed by another":  {line(key, early, sums) + line(newKey(t), early.Add(time.Hour), sums), early},
		"later, and signed by none": {line(key, early, sums) + line(nil, early.Add(time.Hour), sums), early},
	} {
		files := release(t)
		if c.provenance != "" {
			files = files.with(trust.ProvenanceFileName, c.provenance)
		}
		store, published := files.publish(t, key)
		source := verify.InRelease(store, published)
		file := func(name string) ([]byte, error) {
			content, err := source.Open(t.Context(), name)
			if err != nil {
				return nil, err
			}
			defer content.Close()
			return io.ReadAll(content)
		}
		listed, err := file(checksum.FileName)
		require.NoError(t, err)
		proof, err := verify.Prove(t.Context(), tag, listed, file, key.Allowed(), time.Now())
		require.NoError(t, err, name)
		assert.Equal(t, c.want, proof.Built, name)
		assert.Equal(t, key.Fingerprint(), proof.Signer.Fingerprint)
	}
}

func TestAFolderThatIsNotThere(t *testing.T) {
	t.Parallel()
	absent := filepath.Join(t.TempDir(), "absent")
	_, err := verify.Verify(t.Context(), complete(verify.Request{Source: verify.InFolder(absent)}))
	require.ErrorContains(t, err, absent)
}
