package release_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/release"
)

func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// file is a file in memory.
func file(name, content string) release.File {
	return release.File{Name: name, Content: []byte(content)}
}

func notes(assets []release.File) string {
	var lines []string
	for _, asset := range assets {
		lines = append(lines, asset.Name+" "+asset.SHA256)
	}
	return strings.Join(lines, "\n")
}

func sign(sums []byte) (map[string][]byte, error) {
	return map[string][]byte{checksum.FileName + ".sig": append([]byte("signed\n"), sums...)}, nil
}

func contentOf(files ...release.File) release.Content {
	return release.Content{Files: files, Notes: notes, Sign: sign}
}

// update composes the same, whatever is there.
func update(t *testing.T, m *memory, content release.Content) (release.Published, error) {
	t.Helper()
	return m.store().Update(t.Context(), "v1", func(context.Context, release.Snapshot) (release.Content, error) {
		return content, nil
	})
}

// requireRelease checks a published release down to its bytes.
func requireRelease(t *testing.T, m *memory, files ...release.File) {
	t.Helper()
	found, err := m.store().Release(t.Context(), "v1")
	require.NoError(t, err)
	assert.False(t, found.Draft)
	sums := checksum.Sums{}
	for _, file := range files {
		sums[file.Name] = sumOf(file.Content)
	}
	want := map[string]string{checksum.FileName: string(sums.Bytes()), checksum.FileName + ".sig": "signed\n" + string(sums.Bytes())}
	for _, file := range files {
		want[file.Name] = string(file.Content)
	}
	got := map[string]string{}
	for _, asset := range found.Assets {
		content, err := m.store().ReadSmall(t.Context(), found, asset.Name)
		require.NoError(t, err)
		got[asset.Name] = string(content)
	}
	assert.Equal(t, want, got)
	assert.Len(t, m.found.Assets, len(want), "uploads and old assets are gone: %v", m.found.Assets)
}

func TestUpdateMakesARelease(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	a, b := file("a.iso", "a"), file("b.iso", "b")
	published, err := update(t, m, contentOf(a, b))
	require.NoError(t, err)
	assert.Equal(t, []string{"a.iso", "b.iso"}, published.Uploaded)
	requireRelease(t, m, a, b)
	assert.Equal(t, []string{
		"create", "lease", "upload a.iso", "upload b.iso", "rename a.iso", "rename b.iso",
		"upload SHA256SUMS.txt", "upload SHA256SUMS.txt.sig", "rename SHA256SUMS.txt", "rename SHA256SUMS.txt.sig", "edit",
	}, m.verbs)

	m.verbs = nil
	published, err = update(t, m, contentOf(b, a))
	require.NoError(t, err)
	assert.Equal(t, []string{"b.iso", "a.iso"}, published.Unchanged)
	assert.Empty(t, m.verbs, "nothing is written, not even a lease taken")

	other := file("a.iso", "x") // of the same size
	published, err = update(t, m, contentOf(other))
	require.NoError(t, err)
	assert.Equal(t, []string{"a.iso"}, published.Replaced)
	requireRelease(t, m, other, b)
	assert.Equal(t, []string{
		"lease", "upload a.iso",
		"upload SHA256SUMS.txt", "upload SHA256SUMS.txt.sig", "rename SHA256SUMS.txt", "rename SHA256SUMS.txt.sig",
		"remove SHA256SUMS.txt", "remove SHA256SUMS.txt.sig", "rename a.iso", "remove a.iso",
		"upload SHA256SUMS.txt", "upload SHA256SUMS.txt.sig", "rename SHA256SUMS.txt", "rename SHA256SUMS.txt.sig",
		"remove SHA256SUMS.txt", "remove SHA256SUMS.txt.sig", "edit",
	}, m.verbs)

	keep := contentOf(a)
	keep.KeepOld = true
	m.verbs = nil
	_, err = update(t, m, keep)
	require.ErrorContains(t, err, "the release has an asset of this name with other bytes")
	assert.Equal(t, []string{"lease"}, m.verbs)
	requireRelease(t, m, other, b)
}

// A run dies before its first verb, its second, and so on; what it leaves keeps the
// promise to readers, and the next run completes it.
func TestUpdateAfterADeadRun(t *testing.T) {
	t.Parallel()
	a, b, c := file("a.iso", "a"), file("b.iso", "b"), file("c.iso", "c")
	newA, newD := file("a.iso", "x"), file("d.iso", "d")
	for i := range 4 {
		replacing, ahead := i/2 == 1, i%2 == 1
		publish := func(m *memory) error {
			if ahead {
				_, err := updateAhead(t.Context(), m, contentOf(newA, newD))
				return err
			}
			_, err := update(t, m, contentOf(newA, newD))
			return err
		}
		for n := 1; ; n++ {
			m := newMemory(t)
			whole := []release.File{newA, newD}
			if replacing {
				_, err := update(t, m, contentOf(a, b, c))
				require.NoError(t, err)
				whole = append(whole, b, c)
			}
			m.before = dieAt(n) // before what it would take back, too
			err := publish(m)
			if err == nil {
				require.Greater(t, n, 11)
				break
			}
			require.ErrorIs(t, err, errDied)
			m.before, m.verbs = nil, nil
			left := map[string]bool{}
			if m.found != nil {
				for _, asset := range m.found.Assets {
					left[string(m.bytes[asset.ID])] = true
				}
			}
			require.NoError(t, publish(m), "died before verb %d", n)
			requireRelease(t, m, whole...)
			for _, file := range []release.File{newA, newD} {
				assert.Equal(t, !left[string(file.Content)], slices.Contains(m.verbs, "upload "+file.Name),
					"died before verb %d: what was uploaded is not uploaded again", n)
			}
		}
	}
}

// What cannot be composed without the lease may be another run's half-way work.
func TestComposeDecidesUnderTheLease(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	refused := errors.New("refused")
	_, err := m.store().Update(t.Context(), "v1", func(context.Context, release.Snapshot) (release.Content, error) {
		return release.Content{}, refused
	})
	require.ErrorIs(t, err, refused)
	assert.Empty(t, m.verbs, "there is nothing that could change")

	a, b := file("a.iso", "a"), file("b.iso", "b")
	_, err = update(t, m, contentOf(a))
	require.NoError(t, err)
	looks := 0
	_, err = m.store().Update(t.Context(), "v1", func(_ context.Context, there release.Snapshot) (release.Content, error) {
		if looks++; looks == 1 {
			return release.Content{}, refused
		}
		assert.Contains(t, there.Listed, "a.iso")
		return contentOf(b), nil
	})
	require.NoError(t, err)
	assert.Equal(t, 3, looks, "without the lease, with it, and at the end")
	requireRelease(t, m, a, b)

	m.verbs = nil
	_, err = m.store().Update(t.Context(), "v1", func(context.Context, release.Snapshot) (release.Content, error) {
		return release.Content{}, refused
	})
	require.ErrorIs(t, err, refused)
	assert.Equal(t, []string{"lease"}, m.verbs)
}

// An asset that another run replaces between the look at the release and its
// download is looked for again, under the lease.
func TestAssetReplacedWhileItIsComposedFrom(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	lines := file("lines.jsonl", "first\n")
	_, err := update(t, m, contentOf(lines))
	require.NoError(t, err)
	looks := 0
	_, err = m.store().Update(t.Context(), "v1", func(ctx context.Context, there release.Snapshot) (release.Content, error) {
		if looks++; looks == 1 {
			_, err := update(t, m, contentOf(file("lines.jsonl", "first\nsecond\n"))) // by another run
			require.NoError(t, err)
		}
		contents, err := there.Contents(ctx, "lines.jsonl")
		if err != nil {
			require.ErrorIs(t, err, release.ErrNotFound)
			require.Equal(t, 1, looks)
			return release.Content{}, err
		}
		added := string(contents[0])
		if !strings.Contains(added, "third") {
			added += "third\n"
		}
		return contentOf(file("lines.jsonl", added)), nil
	})
	require.NoError(t, err)
	requireRelease(t, m, file("lines.jsonl", "first\nsecond\nthird\n"))
}

// Another hand that never stops is given up after a bounded number of times.
func TestReleaseThatKeepsChanging(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	a := file("a.iso", "a")
	_, err := update(t, m, contentOf(a))
	require.NoError(t, err)
	m.before = func(verb string) error {
		if verb == "find" {
			m.found.Notes = "by hand" // again, after each publication
		}
		return nil
	}
	composed := 0
	_, err = m.store().Update(t.Context(), "v1", func(context.Context, release.Snapshot) (release.Content, error) {
		composed++
		return contentOf(a), nil
	})
	require.ErrorContains(t, err, "publish v1: the release keeps changing during publication; let nothing else edit it, and run again")
	assert.Equal(t, 6, composed, "without the lease, before each of four attempts, and after them")
}

func TestUpdateWithALostLease(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	m.lost = errors.New("another run has taken over")
	_, err := update(t, m, contentOf(file("a.iso", "a")))
	require.ErrorIs(t, err, m.lost)
	assert.Equal(t, []string{"create", "lease", "upload a.iso"}, m.verbs)
	assert.Empty(t, m.lease, "the lease has ended")
}

// Mistakes are found before anything is written.
func TestUpdateRefusesMistakes(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	_, err := m.store().Update(t.Context(), "boot v1", nil)
	require.EqualError(t, err, `release_tag "boot v1": git does not allow spaces in a tag; use for example boot-v2026.02.28`)
	for want, content := range map[string]release.Content{
		"publish v1: no files given":              {},
		`asset "a": two files have this name`:     contentOf(file("a", "1"), file("a", "2")),
		`asset "uploading-x": names that begin w`: contentOf(file("uploading-x", "1")),
	} {
		_, err := update(t, m, content)
		require.ErrorContains(t, err, want)
		assert.Empty(t, m.verbs, want)
	}
}

// An upload that a dead run has left is believed by its name, or read back.
func TestVerifyUploadsOfADeadRun(t *testing.T) {
	t.Parallel()
	a, b := file("a.iso", "a"), file("b.iso", "b")
	for _, c := range []struct {
		verify   release.VerifyUploads
		left     string
		uploaded bool
	}{
		{release.VerifySize, "a", false},
		{release.VerifySHA256, "a", false},
		{release.VerifySHA256, "?", true},
	} {
		m := newMemory(t)
		_, err := update(t, m, contentOf(b))
		require.NoError(t, err)
		m.add("uploading-"+sumOf([]byte("a"))[:16]+"-a.iso", []byte(c.left))
		m.verbs = nil
		store := m.store()
		store.VerifyUploads = c.verify
		_, err = store.Update(t.Context(), "v1", func(context.Context, release.Snapshot) (release.Content, error) { return contentOf(a), nil })
		require.NoError(t, err)
		assert.Equal(t, c.uploaded, slices.Contains(m.verbs, "upload a.iso"), "%s, %q", c.verify, c.left)
		requireRelease(t, m, a, b)
	}
}

// An asset that was exchanged behind the list for one of the same size counts as
// unchanged by its size, and not if it is read back.
func TestVerifyUploadsOfWhatWasThere(t *testing.T) {
	t.Parallel()
	a, b := file("a.iso", "good"), file("b.iso", "b")
	path := filepath.Join(t.TempDir(), "a.iso")
	require.NoError(t, os.WriteFile(path, a.Content, 0o600))
	large := release.File{Name: a.Name, Path: path, Size: int64(len(a.Content)), SHA256: sumOf(a.Content)}
	for _, c := range []struct {
		verify   release.VerifyUploads
		there    string
		keepOld  bool
		replaced []string
		uploads  int
	}{
		{release.VerifySize, "evil", false, nil, 0},
		{release.VerifySHA256, "good", false, nil, 0},
		{release.VerifySHA256, "evil", false, []string{"a.iso"}, 1},
		{release.VerifySHA256, "evil", true, nil, 0},
	} {
		m := newMemory(t)
		_, err := update(t, m, contentOf(large, b))
		require.NoError(t, err)
		for _, asset := range m.found.Assets {
			if asset.Name == "a.iso" {
				m.bytes[asset.ID] = []byte(c.there)
			}
		}
		m.verbs, m.spoiled = nil, true
		store := m.store()
		store.VerifyUploads = c.verify
		content := contentOf(large, b)
		content.KeepOld = c.keepOld
		published, err := store.Update(t.Context(), "v1", func(context.Context, release.Snapshot) (release.Content, error) { return content, nil })
		if c.keepOld {
			require.ErrorContains(t, err, "the release has an asset of this name with other bytes")
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, c.replaced, published.Replaced)
		uploads := slices.DeleteFunc(m.verbs, func(verb string) bool { return !strings.HasPrefix(verb, "upload") })
		assert.Len(t, uploads, c.uploads)
		if len(c.replaced) > 0 {
			requireRelease(t, m, a, b)
		}
	}
}

// A small file is compared with what is there, whatever is read back.
func TestASmallFileThatWasExchanged(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	a := file("a.jsonl", "good")
	_, err := update(t, m, contentOf(a))
	require.NoError(t, err)
	for _, asset := range m.found.Assets {
		if asset.Name == a.Name {
			m.bytes[asset.ID] = []byte("evil")
		}
	}
	m.spoiled = true
	published, err := update(t, m, contentOf(a))
	require.NoError(t, err)
	assert.Equal(t, []string{a.Name}, published.Replaced)
	requireRelease(t, m, a)
}

// A checksum that is missing is found once, beside the upload or before it.
func TestFilesWithoutChecksums(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	path := filepath.Join(t.TempDir(), "a.iso")
	require.NoError(t, os.WriteFile(path, []byte("hello"), 0o600))
	given := release.File{Name: "a.iso", Path: path, Size: 5}
	content := contentOf(given)
	published, err := update(t, m, content)
	require.NoError(t, err)
	assert.Equal(t, sumOf([]byte("hello")), published.Files[0].SHA256)
	assert.Empty(t, content.Files[0].SHA256, "the caller's own")
	requireRelease(t, m, file("a.iso", "hello"))
	published, err = update(t, m, content)
	require.NoError(t, err)
	assert.Equal(t, []string{"a.iso"}, published.Unchanged)

	given.Size = 4
	_, err = update(t, m, contentOf(given))
	require.ErrorContains(t, err, "has 5 bytes now and had 4")
	requireRelease(t, m, file("a.iso", "hello"))
}

func TestReadSmall(t *testing.T) {
	t.Parallel()
	const most = 16 << 20
	content, err := release.ReadSmall("sums", io.LimitReader(zeros{}, most))
	require.NoError(t, err)
	assert.Len(t, content, most)
	_, err = release.ReadSmall("sums", zeros{})
	require.EqualError(t, err, "sums is larger than 16 MiB; it is not what its name says")
}

// zeros is a file without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// A server may call a tag and an asset anything.
func TestNamesOfABackendAreChecked(t *testing.T) {
	t.Parallel()
	for name, found := range map[string]release.Release{
		`"../../etc/passwd"`:    {Tag: "boot-v1", Assets: []release.Asset{{Name: "kernel"}, {Name: "../../etc/passwd"}}},
		`"a\x1b[2J"`:            {Tag: "boot-v1", Assets: []release.Asset{{Name: "a\x1b[2J"}}},
		`""`:                    {Tag: "boot-v1", Assets: []release.Asset{{Name: ""}}},
		`"boot-../../x"`:        {Tag: "boot-../../x"},
		`"boot-v1\nboot-v2"`:    {Tag: "boot-v1\nboot-v2"},
		`"uploading-1-../home"`: {Tag: "boot-v1", Assets: []release.Asset{{Name: "uploading-1-../home"}}},
	} {
		m := newMemory(t)
		m.found = &found
		_, err := m.store().Release(t.Context(), found.Tag)
		require.ErrorContains(t, err, name)
		_, err = m.store().Latest(t.Context(), "boot-")
		require.ErrorContains(t, err, name)
		_, err = m.store().Update(t.Context(), found.Tag, func(context.Context, release.Snapshot) (release.Content, error) {
			t.Errorf("composed from %s", name)
			return release.Content{}, nil
		})
		require.ErrorContains(t, err, name)
		assert.Empty(t, m.verbs)
	}
}
