package deploy

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/folder"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/trust"
)

func newKey(t *testing.T) *trust.Key {
	t.Helper()
	text, err := os.ReadFile(lab.SSHKey(t))
	require.NoError(t, err)
	key, err := trust.ParseKey(string(text))
	require.NoError(t, err)
	return &key
}

// publisher publishes files in a folder of releases.
type publisher struct {
	folder string
	store  *release.Store
	log    *bytes.Buffer
	report *report.Report
}

func newPublisher(t *testing.T) publisher {
	t.Helper()
	p := publisher{folder: t.TempDir(), log: &bytes.Buffer{}}
	var err error
	p.store, err = folder.Open("file://"+p.folder, nil)
	require.NoError(t, err)
	p.report = report.New(report.Options{Out: io.Discard, Log: p.log, Getenv: func(string) string { return "" }})
	return p
}

func (p publisher) attach(t *testing.T, tag string, key *trust.Key, files ...release.File) {
	t.Helper()
	require.NoError(t, Attach(t.Context(), p.report, p.store, plan.Plan{ReleaseTag: tag}, files, nil, key, false))
}

func (p publisher) read(t *testing.T, tag, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(p.folder, tag, name))
	require.NoError(t, err)
	return content
}

// plant puts content into a release, with its line in SHA256SUMS.txt, as whoever can
// write to the forge may do.
func (p publisher) plant(t *testing.T, tag, name string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(p.folder, tag, name), content, 0o600))
	sums, err := checksum.Parse(bytes.NewReader(p.read(t, tag, checksum.FileName)))
	require.NoError(t, err)
	sums[name] = trust.SumOf(content)
	require.NoError(t, os.WriteFile(filepath.Join(p.folder, tag, checksum.FileName), sums.Bytes(), 0o600))
}

// lines returns the assets that the provenance of a release tells of, a line each.
func (p publisher) lines(t *testing.T, tag string) (assets []string) {
	t.Helper()
	for _, line := range trust.ParseProvenance(p.read(t, tag, trust.ProvenanceFileName)) {
		assets = append(assets, line.Build.Images[0].Asset)
	}
	return assets
}

func provenanceOf(t *testing.T, tag, asset string, key *trust.Key) []byte {
	t.Helper()
	attested, err := trust.Attest(t.Context(), trust.Build{
		Tag: tag, Subjects: checksum.Sums{asset: strings.Repeat("ab", 32)}, Images: []trust.Image{{Name: asset, Asset: asset}},
	}, key)
	require.NoError(t, err)
	content, err := trust.MergeProvenance(t.Context(), nil, attested, key)
	require.NoError(t, err)
	return content
}

func small(t *testing.T, name, content string) release.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return release.File{Name: name, Path: path, Size: int64(len(content))}
}

// A publication with the key signs the lines of provenance that are published with it,
// those that the key has signed, and those that stood in a list that it has signed.
func TestOnlyProvenanceThatIsVouchedForStays(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	const otherTools = `{"payloadType":"application/vnd.other","payload":"","signatures":[]}`
	for name, c := range map[string]struct {
		planted []byte
		key     *trust.Key
		want    []string
		left    string
	}{
		"unsigned":                   {provenanceOf(t, "boot-v1", "planted", nil), key, []string{"x.iso", "y.iso"}, "left 1 line of provenance.intoto.jsonl out"},
		"by another key":             {provenanceOf(t, "boot-v1", "planted", other), key, []string{"x.iso", "y.iso"}, "left 1 line"},
		"for another tag":            {provenanceOf(t, "boot-v0", "planted", key), key, []string{"x.iso", "y.iso"}, "left 1 line"},
		"of another tool":            {[]byte(otherTools + "\n"), key, []string{"x.iso", "y.iso"}, "left 1 line"},
		"signed":                     {provenanceOf(t, "boot-v1", "planted", key), key, []string{"x.iso", "planted", "y.iso"}, ""},
		"nobody asks for signatures": {provenanceOf(t, "boot-v1", "planted", nil), nil, []string{"x.iso", "planted", "y.iso"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPublisher(t)
			attached := func(asset string) []release.File {
				return []release.File{small(t, asset, asset), small(t, trust.ProvenanceFileName, string(provenanceOf(t, "boot-v1", asset, c.key)))}
			}
			p.attach(t, "boot-v1", c.key, attached("x.iso")...)
			p.plant(t, "boot-v1", trust.ProvenanceFileName, append(p.read(t, "boot-v1", trust.ProvenanceFileName), c.planted...))
			// All other files are published again: nothing else is there to vouch for.
			p.attach(t, "boot-v1", c.key, append(attached("y.iso"), small(t, "x.iso", "x.iso"))...)
			assert.Equal(t, c.want, p.lines(t, "boot-v1"))
			assert.NotContains(t, string(p.read(t, "boot-v1", trust.ProvenanceFileName)), "vnd.other")
			if c.left == "" {
				assert.NotContains(t, p.log.String(), "left ")
			} else {
				assert.Contains(t, p.log.String(), c.left)
			}
		})
	}
	t.Run("an unsigned line that the publisher has listed", func(t *testing.T) {
		t.Parallel()
		p := newPublisher(t)
		own := string(provenanceOf(t, "boot-v1", "x.iso", nil)) + otherTools + "\n"
		p.attach(t, "boot-v1", key, small(t, "x.iso", "x"), small(t, trust.ProvenanceFileName, own))
		p.attach(t, "boot-v1", key, small(t, "y.iso", "y"), small(t, trust.ProvenanceFileName, string(provenanceOf(t, "boot-v1", "y.iso", key))))
		assert.Equal(t, []string{"x.iso", "y.iso"}, p.lines(t, "boot-v1"))
		assert.Contains(t, string(p.read(t, "boot-v1", trust.ProvenanceFileName)), otherTools)
	})
}

// What a planted list vouches for is not signed, whatever else is published.
func TestPlantedFilesAreNotSigned(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	p := newPublisher(t)
	p.attach(t, "boot-v1", key, small(t, "x.iso", "x"))
	p.plant(t, "boot-v1", "evil.iso", []byte("evil"))
	err := Attach(t.Context(), p.report, p.store, plan.Plan{ReleaseTag: "boot-v1"}, []release.File{small(t, "x.iso", "x")}, nil, key, false)
	require.ErrorContains(t, err, `has files that are not signed with this key, and a new signature would vouch for them: ["evil.iso"]`)
}

func (p publisher) snapshot(t *testing.T, tag string, key *trust.Key) trust.Snapshot {
	t.Helper()
	snapshot, err := key.Snapshot(t.Context(), tag, p.read(t, tag, trust.SnapshotFileName))
	require.NoError(t, err)
	return snapshot
}

// New bytes come after those of the newest release of the key, also if this machine's
// clock is behind; those of another key, or of nobody, tell nothing.
func TestSerialsGoOnFromTheNewestRelease(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	later := time.Now().AddDate(10, 0, 0)
	for name, c := range map[string]struct {
		by     *trust.Key
		garble bool
		goesOn bool
	}{
		"own":         {key, false, true},
		"another key": {other, false, false},
		"garbled":     {key, true, false},
	} {
		p := newPublisher(t)
		ahead, err := trust.Publication{Tag: "boot-v1", New: checksum.Sums{"x.iso": trust.SumOf([]byte("x"))}, Now: later}.Snapshot(t.Context(), *c.by)
		require.NoError(t, err)
		if c.garble {
			ahead = []byte("{")
		}
		_, err = p.store.Update(t.Context(), "boot-v1", func(context.Context, release.Snapshot) (release.Content, error) {
			return release.Content{Files: []release.File{{Name: trust.SnapshotFileName, Content: ahead}}}, nil
		})
		require.NoError(t, err)
		p.attach(t, "boot-v2", key, small(t, "y.iso", "y"))
		serial := p.snapshot(t, "boot-v2", key).Files["y.iso"].Serial
		if c.goesOn {
			assert.Equal(t, later.Unix()+1, serial, name)
		} else {
			assert.Less(t, serial, later.Unix(), name)
		}
	}
}

// The serial and the snapshot stay as they are while nothing is published anew.
func TestPublishingAgainKeepsTheSnapshot(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	p := newPublisher(t)
	x, y := small(t, "x.iso", "x"), small(t, "y.iso", "y")
	p.attach(t, "boot-v1", key, x, y)
	before := p.read(t, "boot-v1", trust.SnapshotFileName)
	for _, files := range [][]release.File{{x, y}, {x}, {y}} {
		p.attach(t, "boot-v1", key, files...)
		assert.Equal(t, string(before), string(p.read(t, "boot-v1", trust.SnapshotFileName)))
	}
	first := p.snapshot(t, "boot-v1", key)
	p.attach(t, "boot-v1", key, small(t, "x.iso", "other"))
	next := p.snapshot(t, "boot-v1", key)
	assert.Equal(t, first.Files["y.iso"], next.Files["y.iso"])
	assert.Greater(t, next.Files["x.iso"].Serial, first.Files["x.iso"].Serial)

	// Without a key there is none, and a release that is signed keeps its own.
	p.attach(t, "boot-v2", nil, x)
	assert.NoFileExists(t, filepath.Join(p.folder, "boot-v2", trust.SnapshotFileName))
	p.attach(t, "boot-v1", nil, y)
	assert.Equal(t, next, p.snapshot(t, "boot-v1", key))
}
