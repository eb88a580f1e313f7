package state_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

func create(t *testing.T) *state.Dir {
	t.Helper()
	dir, err := state.Create(filepath.Join(t.TempDir(), "netboot"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, dir.Close()) })
	return dir
}

// add stages a release whose files say which release they are of.
func add(t *testing.T, dir *state.Dir, tag string, architectures ...machine.Architecture) state.Release {
	t.Helper()
	return addContent(t, dir, tag, tag, architectures...)
}

func addContent(t *testing.T, dir *state.Dir, tag, content string, architectures ...machine.Architecture) state.Release {
	t.Helper()
	incoming, err := dir.Incoming(tag, "https://forge.example/releases/tag/"+tag)
	require.NoError(t, err)
	defer func() { assert.NoError(t, incoming.Discard()) }()
	if len(architectures) == 0 {
		architectures = []machine.Architecture{machine.X86_64}
	}
	for _, architecture := range architectures {
		require.NoError(t, incoming.Bundle(architecture, "ec-runner-"+string(architecture)+"-netboot.tar.gz", strings.Repeat("a", 64)))
		for _, name := range state.FileNames() {
			text := content + " " + string(architecture) + " " + name
			require.NoError(t, incoming.Write(t.Context(), architecture, name, strings.NewReader(text)))
		}
	}
	release, err := incoming.Commit()
	require.NoError(t, err)
	return release
}

func tags(t *testing.T, dir *state.Dir) []string {
	t.Helper()
	releases, err := dir.Releases()
	require.NoError(t, err)
	var tags []string
	for _, release := range releases {
		tags = append(tags, release.Tag)
	}
	slices.Sort(tags)
	return tags
}

func read(t *testing.T, snapshot *state.Snapshot, architecture machine.Architecture, name string) string {
	t.Helper()
	file, err := snapshot.Open(architecture, name)
	require.NoError(t, err)
	defer file.Close()
	content, err := io.ReadAll(file)
	require.NoError(t, err)
	return string(content)
}

func TestAddedReleaseIsWhatWasWritten(t *testing.T) {
	t.Parallel()
	dir := create(t)
	const tag = "fleet/boot-50%"
	added := add(t, dir, tag, machine.Architectures()...)
	got, err := dir.Release(tag)
	require.NoError(t, err)
	assert.Equal(t, added, got)
	assert.Equal(t, "https://forge.example/releases/tag/"+tag, got.Source)
	text := tag + " aarch64 initrd"
	sum := sha256.Sum256([]byte(text))
	assert.Equal(t, state.File{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(text))}, got.Bundles[machine.AArch64].Files[state.Initrd])

	assert.FileExists(t, filepath.Join(dir.Path(), "releases", "fleet%2Fboot-50%25", "x86_64", "kernel"))
	snapshot, err := dir.OpenRelease(tag)
	require.NoError(t, err)
	defer snapshot.Close()
	assert.Equal(t, tag+" x86_64 netboot.ipxe", read(t, snapshot, machine.X86_64, state.Script))
	_, err = snapshot.Open(machine.X86_64, "../release.json")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = snapshot.Open("riscv64", state.Kernel)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestNothingStagedYet(t *testing.T) {
	t.Parallel()
	dir, err := state.Open(t.TempDir())
	require.NoError(t, err)
	defer dir.Close()
	assert.Empty(t, tags(t, dir))
	_, err = dir.Current()
	require.ErrorIs(t, err, state.ErrNotStaged)
	_, err = dir.Release("boot-v1")
	require.ErrorIs(t, err, state.ErrNotStaged)
	_, err = dir.OpenCurrent()
	require.ErrorIs(t, err, state.ErrNotStaged)
	_, err = dir.OpenRelease("boot-v1")
	require.ErrorIs(t, err, state.ErrNotStaged)
	_, err = dir.Rollback()
	require.ErrorIs(t, err, state.ErrNotStaged)
	_, err = dir.Switch("boot-v1")
	require.ErrorIs(t, err, state.ErrNotStaged)

	_, err = state.Open(filepath.Join(t.TempDir(), "absent"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestSwitchAndRollback(t *testing.T) {
	t.Parallel()
	dir := create(t)
	add(t, dir, "boot-v1")
	add(t, dir, "boot-v2")
	current := func() string {
		release, err := dir.Current()
		require.NoError(t, err)
		return release.Tag
	}

	changed, err := dir.Switch("boot-v1")
	require.NoError(t, err)
	assert.True(t, changed)
	assert.Equal(t, "boot-v1", current())
	_, err = dir.Rollback()
	require.ErrorIs(t, err, state.ErrNotStaged)

	changed, err = dir.Switch("boot-v1")
	require.NoError(t, err)
	assert.False(t, changed)

	_, err = dir.Switch("boot-v2")
	require.NoError(t, err)
	link, err := os.Readlink(filepath.Join(dir.Path(), "current"))
	require.NoError(t, err)
	assert.Equal(t, "releases/boot-v2", link)

	back, err := dir.Rollback()
	require.NoError(t, err)
	assert.Equal(t, "boot-v1", back.Tag)
	assert.Equal(t, "boot-v1", current())
	_, err = dir.Rollback()
	require.NoError(t, err)
	assert.Equal(t, "boot-v2", current())
}

func TestAReaderKeepsWhatItHolds(t *testing.T) {
	t.Parallel()
	dir := create(t)
	add(t, dir, "boot-v1")
	_, err := dir.Switch("boot-v1")
	require.NoError(t, err)
	snapshot, err := dir.OpenCurrent()
	require.NoError(t, err)
	for _, tag := range []string{"boot-v2", "boot-v3"} {
		add(t, dir, tag)
		_, err = dir.Switch(tag)
		require.NoError(t, err)
	}

	removed, err := dir.Prune(0, state.Rings{})
	require.NoError(t, err)
	assert.Empty(t, removed)
	assert.Equal(t, "boot-v1 x86_64 initrd", read(t, snapshot, machine.X86_64, state.Initrd))

	file, err := snapshot.Open(machine.X86_64, state.Kernel)
	require.NoError(t, err)
	defer file.Close()
	require.NoError(t, snapshot.Close())
	require.NoError(t, snapshot.Close())
	removed, err = dir.Prune(0, state.Rings{})
	require.NoError(t, err)
	require.Len(t, removed, 1)
	assert.Equal(t, "boot-v1", removed[0].Tag)
	assert.Equal(t, []string{"boot-v2", "boot-v3"}, tags(t, dir))
	content, err := io.ReadAll(file)
	require.NoError(t, err)
	assert.Equal(t, "boot-v1 x86_64 kernel", string(content))
}

func TestPruneKeepsWhatIsNeeded(t *testing.T) {
	t.Parallel()
	dir := create(t)
	for _, tag := range []string{"boot-a", "boot-b", "boot-c", "boot-d", "boot-e"} {
		add(t, dir, tag)
	}
	for _, tag := range []string{"boot-a", "boot-b"} {
		_, err := dir.Switch(tag)
		require.NoError(t, err)
	}
	rings, err := state.ParseRings(strings.NewReader("rings:\n- {name: canary, release_tag: boot-c}\n"))
	require.NoError(t, err)
	removed, err := dir.Prune(1, rings)
	require.NoError(t, err)
	require.Len(t, removed, 1)
	assert.Equal(t, "boot-d", removed[0].Tag)
	_, err = dir.Prune(0, rings)
	require.NoError(t, err)
	assert.Equal(t, []string{"boot-a", "boot-b", "boot-c"}, tags(t, dir))
}

func TestAReleaseOfTheSameTagTakesThePlace(t *testing.T) {
	t.Parallel()
	dir := create(t)
	addContent(t, dir, "boot-v1", "old")
	_, err := dir.Switch("boot-v1")
	require.NoError(t, err)
	snapshot, err := dir.OpenCurrent()
	require.NoError(t, err)
	defer snapshot.Close()
	addContent(t, dir, "boot-v1", "new")
	addContent(t, dir, "boot-v1", "newer")
	assert.Equal(t, "old x86_64 kernel", read(t, snapshot, machine.X86_64, state.Kernel))
	now, err := dir.OpenCurrent()
	require.NoError(t, err)
	defer now.Close()
	assert.Equal(t, "newer x86_64 kernel", read(t, now, machine.X86_64, state.Kernel))

	require.NoError(t, snapshot.Close())
	_, err = dir.Prune(1, state.Rings{})
	require.NoError(t, err)
	entries, err := os.ReadDir(filepath.Join(dir.Path(), "releases"))
	require.NoError(t, err)
	assert.Len(t, entries, 1, "nothing is left of the replaced releases")
}

func TestKeepTakesABundleOver(t *testing.T) {
	t.Parallel()
	dir := create(t)
	before := add(t, dir, "boot-v1")
	incoming, err := dir.Incoming("boot-v1", "again")
	require.NoError(t, err)
	require.NoError(t, incoming.Keep(machine.X86_64, before.Bundles[machine.X86_64].Asset))
	require.ErrorIs(t, incoming.Keep(machine.AArch64, "x"), state.ErrNotStaged)
	release, err := incoming.Commit()
	require.NoError(t, err)
	require.NoError(t, incoming.Discard())
	assert.Equal(t, before.Bundles, release.Bundles)
	snapshot, err := dir.OpenRelease("boot-v1")
	require.NoError(t, err)
	defer snapshot.Close()
	assert.Equal(t, "again", snapshot.Release.Source)
	assert.Equal(t, "boot-v1 x86_64 kernel", read(t, snapshot, machine.X86_64, state.Kernel))
}

func TestIncomingIsWholeOrNotThere(t *testing.T) {
	t.Parallel()
	dir := create(t)
	incoming, err := dir.Incoming("boot-v1", "somewhere")
	require.NoError(t, err)
	_, err = incoming.Commit()
	require.ErrorContains(t, err, "no bundle")
	require.ErrorContains(t, incoming.Bundle("riscv64", "x.tar.gz", ""), "riscv64")
	require.NoError(t, incoming.Bundle(machine.AArch64, "ec-runner.tar.gz", ""))
	require.NoError(t, incoming.Write(t.Context(), machine.AArch64, state.Kernel, strings.NewReader("")))
	require.ErrorContains(t, incoming.Write(t.Context(), machine.AArch64, "motd", strings.NewReader("")), "motd")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, incoming.Write(cancelled, machine.AArch64, state.Initrd, strings.NewReader("x")), context.Canceled)
	_, err = incoming.Commit()
	require.ErrorContains(t, err, "ec-runner.tar.gz has no initrd")
	assert.Empty(t, tags(t, dir))

	// A writer that died leaves its folder; the next one clears it away.
	_, err = dir.Incoming("boot-v2", "somewhere")
	require.NoError(t, err)
	entries, err := os.ReadDir(filepath.Join(dir.Path(), "releases"))
	require.NoError(t, err)
	assert.Len(t, entries, 1)
}

func TestBrokenReleasesAreNamed(t *testing.T) {
	t.Parallel()
	dir := create(t)
	add(t, dir, "boot-v1")
	require.NoError(t, os.MkdirAll(filepath.Join(dir.Path(), "releases", "lost+found"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(dir.Path(), "releases", "boot-v2"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir.Path(), "releases", "boot-v2", "release.json"), []byte("{"), 0o600))
	releases, err := dir.Releases()
	require.ErrorContains(t, err, filepath.Join("releases", "boot-v2"))
	require.Len(t, releases, 1)
	assert.Equal(t, "boot-v1", releases[0].Tag)

	// A link to what somebody has removed by hand is reported, and not followed forever.
	_, err = dir.Switch("boot-v1")
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(filepath.Join(dir.Path(), "releases", "boot-v1")))
	_, err = dir.Current()
	require.ErrorIs(t, err, state.ErrNotStaged)
	require.ErrorContains(t, err, "releases/boot-v1")
}

func TestTagsThatCannotBeAFolder(t *testing.T) {
	t.Parallel()
	dir := create(t)
	for _, tag := range []string{"", ".", "..", ".incoming-x", "boot v1", "boot\nv1", "boot\x7f", strings.Repeat("a", 201), strings.Repeat("%", 67)} {
		_, err := dir.Incoming(tag, "")
		require.ErrorContains(t, err, "release tag", "tag %q", tag)
		_, err = dir.Release(tag)
		require.Error(t, err, "tag %q", tag)
	}
}

func TestProofs(t *testing.T) {
	t.Parallel()
	dir := create(t)
	incoming, err := dir.Incoming("boot-v1", "somewhere")
	require.NoError(t, err)
	require.NoError(t, incoming.Proof("SHA256SUMS.txt", []byte("sums")))
	for _, name := range []string{"", ".", "..", "../x", "a/b", ".x", "release.json", "x86_64"} {
		require.Error(t, incoming.Proof(name, nil), "name %q", name)
	}
	require.NoError(t, incoming.Bundle(machine.X86_64, "x.tar.gz", ""))
	for _, name := range state.FileNames() {
		require.NoError(t, incoming.Write(t.Context(), machine.X86_64, name, strings.NewReader("")))
	}
	_, err = incoming.Commit()
	require.NoError(t, err)
	snapshot, err := dir.OpenRelease("boot-v1")
	require.NoError(t, err)
	defer snapshot.Close()
	proof, err := snapshot.Proof("SHA256SUMS.txt")
	require.NoError(t, err)
	assert.Equal(t, "sums", string(proof))
	_, err = snapshot.Proof("SHA256SUMS.txt.sig")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = snapshot.Proof("x86_64/kernel")
	require.Error(t, err)
}

func TestOneWriterAtATime(t *testing.T) {
	t.Parallel()
	dir := create(t)
	unlock, err := dir.Lock(t.Context(), nil)
	require.NoError(t, err)
	cancelled, cancel := context.WithCancel(t.Context())
	_, err = dir.Lock(cancelled, cancel)
	require.ErrorIs(t, err, context.Canceled)

	second, err := dir.Lock(t.Context(), unlock)
	require.NoError(t, err)
	second()
}

// Readers that follow current while a writer stages, switches and prunes must
// always get one whole release.
func TestReadersBesideAWriter(t *testing.T) {
	t.Parallel()
	dir := create(t)
	add(t, dir, "boot-a")
	_, err := dir.Switch("boot-a")
	require.NoError(t, err)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := readCurrent(dir); !assert.NoError(t, err) {
					return
				}
			}
		})
	}
	for range 5 {
		for _, tag := range []string{"boot-b", "boot-c", "boot-a", "boot-a"} {
			add(t, dir, tag)
			_, err := dir.Switch(tag)
			require.NoError(t, err)
			_, err = dir.Prune(0, state.Rings{})
			require.NoError(t, err)
		}
	}
	close(done)
	readers.Wait()
}

func readCurrent(dir *state.Dir) error {
	snapshot, err := dir.OpenCurrent()
	if err != nil {
		return err
	}
	defer snapshot.Close()
	for name, want := range snapshot.Release.Bundles[machine.X86_64].Files {
		file, err := snapshot.Open(machine.X86_64, name)
		if err != nil {
			return err
		}
		content, err := io.ReadAll(file)
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != want.SHA256 {
			return errors.New(snapshot.Release.Tag + " has other bytes in " + name)
		}
	}
	return nil
}
