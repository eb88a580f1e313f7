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
	"every.channel/runner-images/internal/forge"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/trust"
)

// late is a store where something else happens before the first publication.
type late struct {
	forge.Store
	before func()
}

func (l *late) Publish(ctx context.Context, p forge.Publication) (forge.Published, error) {
	if before := l.before; before != nil {
		l.before = nil
		before()
	}
	return l.Store.Publish(ctx, p)
}

// Two runs attach an image and its provenance each, at once: neither line is lost.
func TestProvenanceOfRunsAtOnce(t *testing.T) {
	t.Parallel()
	for _, there := range []bool{false, true} {
		store, err := forge.Open(forge.Config{URL: "file://" + t.TempDir()})
		require.NoError(t, err)
		r := report.New(report.Options{Out: io.Discard, Log: io.Discard, Getenv: func(string) string { return "" }})
		attach := func(store forge.Store, name string) {
			files := fileWithProvenance(t, name)
			assert.NoError(t, Attach(t.Context(), r, store, plan.Plan{ReleaseTag: "boot-v1"}, files, nil))
		}
		want := []string{"x.iso", "y.iso"}
		if there {
			attach(store, "w.iso")
			want = append(want, "w.iso")
		}
		attach(&late{Store: store, before: func() { attach(store, "y.iso") }}, "x.iso")

		content, err := readAsset(t.Context(), store, "boot-v1", trust.ProvenanceFileName)
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

// An asset that another run replaces between the look at the release and its
// download is looked for again; one whose bytes are gone is an error.
func TestReadAssetThatIsBeingReplaced(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	store, err := forge.Open(forge.Config{URL: "file://" + folder})
	require.NoError(t, err)
	files := fileWithProvenance(t, "x.iso")
	_, err = store.Publish(t.Context(), forge.Publication{Tag: "boot-v1", Files: files})
	require.NoError(t, err)
	path := filepath.Join(folder, "boot-v1", trust.ProvenanceFileName)
	want, err := os.ReadFile(path)
	require.NoError(t, err)

	gone := &lateOpen{
		Store: store, before: func() { assert.NoError(t, os.Rename(path, path+".old")) },
		after: func() { assert.NoError(t, os.Rename(path+".old", path)) },
	}
	got, err := readAsset(t.Context(), gone, "boot-v1", trust.ProvenanceFileName)
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got))

	gone.before, gone.after = func() { _ = os.Remove(path) }, func() { assert.NoError(t, os.WriteFile(path, want, 0o600)) }
	gone.always = true
	_, err = readAsset(t.Context(), gone, "boot-v1", trust.ProvenanceFileName)
	require.ErrorIs(t, err, forge.ErrNotFound)
}

// lateOpen is a store where something happens around the first download, or all.
type lateOpen struct {
	forge.Store
	before, after func()
	always, done  bool
}

func (l *lateOpen) Open(ctx context.Context, asset forge.Asset, offset int64) (io.ReadCloser, error) {
	if l.done && !l.always {
		return l.Store.Open(ctx, asset, offset)
	}
	l.done = true
	l.before()
	defer l.after()
	return l.Store.Open(ctx, asset, offset)
}

// fileWithProvenance writes a file and the provenance that a run makes of it.
func fileWithProvenance(t *testing.T, name string) []forge.File {
	t.Helper()
	folder := t.TempDir()
	path := filepath.Join(folder, name)
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte(name), 100), 0o600))
	sum, size, err := checksum.File(t.Context(), path)
	require.NoError(t, err)
	line, err := trust.Attest(t.Context(), trust.Build{
		Tag: "boot-v1", Subjects: checksum.Sums{name: sum}, Images: []trust.Image{{Name: name, Asset: name}},
	}, nil)
	require.NoError(t, err)
	attested, err := writeProvenance(t.Context(), folder, nil, []trust.Attestation{line}, nil)
	require.NoError(t, err)
	return []forge.File{{Name: name, Path: path, Size: size, SHA256: sum}, attested}
}
