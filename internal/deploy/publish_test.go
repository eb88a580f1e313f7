package deploy

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/folder"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/trust"
)

// late is a backend where something else happens before the first lease.
type late struct {
	release.Backend
	before func()
}

func (l *late) Begin(tag string) (release.Transaction, error) {
	transaction, err := l.Backend.Begin(tag)
	return &lateTransaction{transaction, l}, err
}

type lateTransaction struct {
	release.Transaction
	*late
}

func (l *lateTransaction) Open(ctx context.Context, asset release.Asset, offset int64) (io.ReadCloser, error) {
	return l.Transaction.Open(ctx, asset, offset)
}

func (l *lateTransaction) Lease(ctx context.Context) (context.Context, release.Lease, error) {
	if before := l.before; before != nil {
		l.before = nil
		before()
	}
	return l.Transaction.Lease(ctx)
}

// Two runs attach an image and its provenance each, at once: neither line is lost.
func TestProvenanceOfRunsAtOnce(t *testing.T) {
	t.Parallel()
	for _, there := range []bool{false, true} {
		store, err := folder.Open("file://"+t.TempDir(), nil)
		require.NoError(t, err)
		r := report.New(report.Options{Out: io.Discard, Log: io.Discard, Getenv: func(string) string { return "" }})
		attach := func(store *release.Store, name string) {
			files := fileWithProvenance(t, name)
			assert.NoError(t, Attach(t.Context(), r, store, plan.Plan{ReleaseTag: "boot-v1"}, files, nil, nil, false))
		}
		want := []string{"x.iso", "y.iso"}
		if there {
			attach(store, "w.iso")
			want = append(want, "w.iso")
		}
		attach(&release.Store{Backend: &late{Backend: store.Backend, before: func() { attach(store, "y.iso") }}}, "x.iso")

		found, err := store.Release(t.Context(), "boot-v1")
		require.NoError(t, err)
		content, err := store.ReadSmall(t.Context(), found, trust.ProvenanceFileName)
		require.NoError(t, err)
		var got []string
		for _, line := range trust.ParseProvenance(content) {
			for name := range line.Build.Subjects {
				got = append(got, name)
			}
		}
		assert.ElementsMatch(t, want, got)
	}
}

// Files that are not as listed are told together, and nothing stays of their uploads.
func TestAttachWhatIsNotAsListed(t *testing.T) {
	t.Parallel()
	folderOfReleases := t.TempDir()
	store, err := folder.Open("file://"+folderOfReleases, nil)
	require.NoError(t, err)
	r := report.New(report.Options{Out: io.Discard, Log: io.Discard, Getenv: func(string) string { return "" }})
	files := []release.File{small(t, "x.iso", "x"), small(t, "y.iso", "y"), small(t, "z.iso", "z")}
	sum, _, err := checksum.File(t.Context(), files[0].Path)
	require.NoError(t, err)
	listed := checksum.Sums{"x.iso": sum, "y.iso": sum, "z.iso": sum}
	attach := func() error {
		return Attach(t.Context(), r, store, plan.Plan{ReleaseTag: "boot-v1"}, files, listed, nil, false)
	}
	err = attach()
	var wrong plan.InputErrors
	require.ErrorAs(t, err, &wrong)
	require.Len(t, wrong, 2)
	assert.Equal(t, files[1].Path, wrong[0].Value)
	assert.Equal(t, files[2].Path, wrong[1].Value)
	_, err = store.Release(t.Context(), "boot-v1")
	require.ErrorIs(t, err, release.ErrNotFound)
	folders, err := filepath.Glob(filepath.Join(folderOfReleases, ".*draft"))
	require.NoError(t, err)
	assert.Empty(t, folders)

	listed["y.iso"], _, err = checksum.File(t.Context(), files[1].Path)
	require.NoError(t, err)
	listed["z.iso"], _, err = checksum.File(t.Context(), files[2].Path)
	require.NoError(t, err)
	require.NoError(t, attach())
	published, err := store.Release(t.Context(), "boot-v1")
	require.NoError(t, err)
	assert.Len(t, published.Assets, 4)
}

// fileWithProvenance writes a file and the provenance that a run makes of it.
func fileWithProvenance(t *testing.T, name string) []release.File {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte(name), 100), 0o600))
	sum, size, err := checksum.File(t.Context(), path)
	require.NoError(t, err)
	line, err := trust.Attest(t.Context(), trust.Build{
		Tag: "boot-v1", Subjects: checksum.Sums{name: sum}, Images: []trust.Image{{Name: name, Asset: name}},
	}, nil)
	require.NoError(t, err)
	content, err := trust.MergeProvenance(t.Context(), nil, line, nil)
	require.NoError(t, err)
	attested := release.File{Name: trust.ProvenanceFileName, Path: filepath.Join(dir, trust.ProvenanceFileName), Size: int64(len(content))}
	require.NoError(t, os.WriteFile(attested.Path, content, 0o600))
	return []release.File{{Name: name, Path: path, Size: size, SHA256: sum}, attested}
}
