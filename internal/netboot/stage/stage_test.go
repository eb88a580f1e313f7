package stage_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/stage"
	"every.channel/runner-images/internal/netboot/state"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/folder"
)

// site is a boot server and the folder of releases that it stages from.
type site struct {
	t       *testing.T
	store   *release.Store
	folder  string // of the releases
	dir     *state.Dir
	told    []string
	changes func(*stage.Stager)
}

func newSite(t *testing.T) *site {
	t.Helper()
	releases := t.TempDir()
	store, err := folder.Open("file://"+releases, nil)
	require.NoError(t, err)
	return &site{t: t, store: store, folder: releases, dir: newDir(t)}
}

func newDir(t *testing.T) *state.Dir {
	t.Helper()
	dir, err := state.Create(filepath.Join(t.TempDir(), "state"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, dir.Close()) })
	return dir
}

func (s *site) stager() stage.Stager {
	stager := stage.Stager{Dir: s.dir, Store: s.store, Notify: func(sentence string) { s.told = append(s.told, sentence) }}
	if s.changes != nil {
		s.changes(&stager)
	}
	return stager
}

// publish makes a release of bundles for these architectures, and of an ISO.
func (s *site) publish(tag string, architectures ...machine.Architecture) {
	s.t.Helper()
	publish(s.t, s.store, tag, release.Content{}, bundles(s.t, tag, architectures...)...)
}

func publish(t *testing.T, store *release.Store, tag string, content release.Content, files ...release.File) {
	t.Helper()
	content.Commit = "main"
	content.Files = append(files, newFile(t, "ec-runner-x86_64-iso.iso", []byte("an ISO")))
	content.Notes = func([]release.File) string { return "notes" }
	_, err := store.Update(t.Context(), tag, func(context.Context, release.Snapshot) (release.Content, error) { return content, nil })
	require.NoError(t, err)
}

func bundles(t *testing.T, tag string, architectures ...machine.Architecture) []release.File {
	t.Helper()
	if len(architectures) == 0 {
		architectures = []machine.Architecture{machine.X86_64}
	}
	var files []release.File
	for _, architecture := range architectures {
		files = append(files, bundle(t, architecture, tag, contents(tag, architecture)))
	}
	return files
}

func bundleName(architecture machine.Architecture, tag string) string {
	return fmt.Sprintf("ec-runner-%s-netboot-%s.tar.gz", architecture, strings.ReplaceAll(tag, "/", "-"))
}

// contents are the files of a bundle. The initrd does not compress.
func contents(tag string, architecture machine.Architecture) map[string][]byte {
	seed := [32]byte{}
	copy(seed[:], tag+string(architecture))
	initrd := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8(seed).Read(initrd)
	return map[string][]byte{
		state.Kernel: []byte("kernel of " + tag + " for " + string(architecture)),
		state.Initrd: initrd,
		state.Script: []byte("#!ipxe\nkernel kernel initrd=initrd\ninitrd initrd\nboot\n"),
	}
}

func bundle(t *testing.T, architecture machine.Architecture, tag string, contents map[string][]byte) release.File {
	t.Helper()
	var files []artifact.Member
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		files = append(files, artifact.Member{Name: name, Content: contents[name]})
	}
	var packed bytes.Buffer
	require.NoError(t, artifact.WriteBundle(t.Context(), &packed, files, time.Unix(1e9, 0), nil))
	return newFile(t, bundleName(architecture, tag), packed.Bytes())
}

func newFile(t *testing.T, name string, content []byte) release.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	sum, size, err := checksum.File(t.Context(), path)
	require.NoError(t, err)
	return release.File{Name: name, Path: path, Size: size, SHA256: sum}
}

// requireCurrent checks what is served down to its bytes.
func requireCurrent(t *testing.T, dir *state.Dir, tag string, architectures ...machine.Architecture) {
	t.Helper()
	snapshot, err := dir.OpenCurrent()
	require.NoError(t, err)
	defer snapshot.Close()
	require.Equal(t, tag, snapshot.Release.Tag)
	if len(architectures) == 0 {
		architectures = []machine.Architecture{machine.X86_64}
	}
	require.ElementsMatch(t, architectures, slices.Collect(maps.Keys(snapshot.Release.Bundles)))
	for _, architecture := range architectures {
		for name, want := range contents(tag, architecture) {
			file, err := snapshot.Open(architecture, name)
			require.NoError(t, err)
			got, err := io.ReadAll(file)
			require.NoError(t, errors.Join(err, file.Close()))
			require.True(t, bytes.Equal(want, got), "%s %s is not what was published", architecture, name)
		}
	}
}

// snapshot is all that is in the state folder, except for downloads and the lock.
func snapshot(t *testing.T, dir *state.Dir) map[string]string {
	t.Helper()
	found := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir.Path(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir.Path(), path)
		if err != nil {
			return err
		}
		switch {
		case name == "downloads" || name == ".lock":
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case entry.Type() == fs.ModeSymlink:
			found[name], err = os.Readlink(path)
		case entry.Type().IsRegular():
			info, statErr := entry.Info()
			if statErr != nil {
				return statErr
			}
			found[name], _, err = checksum.File(t.Context(), path)
			found[name] += " " + info.ModTime().String()
		default:
			found[name] = entry.Type().String()
		}
		return err
	}))
	return found
}

func TestLatestIsStagedAndSwitchedTo(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, err := s.stager().Release(t.Context(), "")
	require.ErrorIs(t, err, release.ErrNotFound)

	s.publish("boot-v1")
	outcome, err := s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	assert.True(t, outcome.Staged && outcome.Switched)
	assert.Empty(t, outcome.Before)
	requireCurrent(t, s.dir, "boot-v1")

	s.publish("boot-v2")
	s.publish("docs-v3")
	publish(t, s.store, "boot-v4", release.Content{Prerelease: true}, bundles(t, "boot-v4")...)
	outcome, err = s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	assert.Equal(t, "boot-v1", outcome.Before)
	requireCurrent(t, s.dir, "boot-v2")
	assert.Contains(t, outcome.Release.Source, "boot-v2")

	// Once more: nothing changes, not even a time.
	before := snapshot(t, s.dir)
	outcome, err = s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	assert.Equal(t, stage.Outcome{Release: outcome.Release, Before: "boot-v2"}, outcome)
	assert.Equal(t, before, snapshot(t, s.dir))

	// A prerelease is there for those who ask for it.
	_, err = s.stager().Release(t.Context(), "boot-v4")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v4")
}

func TestWhatIsStagedNeedsNoStore(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, tag := range []string{"boot-v1", "boot-v2"} {
		s.publish(tag)
		_, err := s.stager().Release(t.Context(), tag)
		require.NoError(t, err)
	}
	s.store = nil
	outcome, err := s.stager().Release(t.Context(), "boot-v1")
	require.NoError(t, err)
	assert.True(t, outcome.Switched)
	assert.False(t, outcome.Staged)
	requireCurrent(t, s.dir, "boot-v1")

	outcome, err = s.stager().Rollback(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "boot-v1", outcome.Before)
	requireCurrent(t, s.dir, "boot-v2")

	_, err = s.stager().Release(t.Context(), "boot-v3")
	require.ErrorIs(t, err, state.ErrNotStaged)
	require.ErrorContains(t, err, "release boot-v3")
	_, err = s.stager().Release(t.Context(), "")
	require.ErrorContains(t, err, "--forge-url")
}

func TestRollbackNeedsAPreviousRelease(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	_, err := s.stager().Rollback(t.Context())
	require.ErrorIs(t, err, state.ErrNotStaged)
	s.publish("boot-v1")
	_, err = s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	_, err = s.stager().Rollback(t.Context())
	require.ErrorIs(t, err, state.ErrNotStaged)
	requireCurrent(t, s.dir, "boot-v1")
}

func TestOldReleasesGo(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	rings := filepath.Join(t.TempDir(), "rings.yaml")
	require.NoError(t, os.WriteFile(rings, []byte("rings:\n- {name: bench, release_tag: boot-v1}\n"), 0o600))
	s.changes = func(stager *stage.Stager) { stager.Keep, stager.RingsFile = 2, rings }
	var removed []string
	for _, tag := range []string{"boot-v1", "boot-v2", "boot-v3", "boot-v4"} {
		s.publish(tag)
		outcome, err := s.stager().Release(t.Context(), "")
		require.NoError(t, err)
		for _, release := range outcome.Pruned {
			removed = append(removed, release.Tag)
		}
	}
	assert.Equal(t, []string{"boot-v2"}, removed)
	for _, tag := range []string{"boot-v1", "boot-v3", "boot-v4"} {
		_, err := s.dir.Release(tag)
		require.NoError(t, err)
	}
	entries, err := os.ReadDir(filepath.Join(s.dir.Path(), "downloads"))
	require.NoError(t, err)
	assert.Empty(t, entries)

	// With rings that cannot be read, nothing is removed and the stage succeeds.
	require.NoError(t, os.WriteFile(rings, []byte("rings:\n- x\n"), 0o600))
	s.publish("boot-v5")
	outcome, err := s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	assert.Empty(t, outcome.Pruned)
	assert.Contains(t, strings.Join(s.told, "\n"), "rings.yaml: line 2")
}

// Fewer releases are kept from the next stage on, whatever else that changes, and
// those that go make room for what comes.
func TestKeepFewer(t *testing.T) {
	t.Parallel()
	stageAll := func(t *testing.T) *site {
		s := newSite(t)
		for _, tag := range []string{"boot-v1", "boot-v2", "boot-v3", "boot-v4"} {
			s.publish(tag)
			s.changes = func(stager *stage.Stager) { stager.Keep = 4 }
			_, err := s.stager().Release(t.Context(), "")
			require.NoError(t, err)
		}
		s.changes = func(stager *stage.Stager) { stager.Keep = 1 }
		return s
	}
	want := []string{"boot-v2", "boot-v1"} // boot-v3 is the previous one
	for name, tag := range map[string]string{"the latest is current": "", "a tag that is staged": "boot-v4"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := stageAll(t)
			require.NoError(t, os.Mkdir(filepath.Join(s.dir.Path(), "releases", ".incoming-killed"), 0o755))
			partial := filepath.Join(s.dir.Path(), "downloads", "of-another-release.partial")
			require.NoError(t, os.WriteFile(partial, nil, 0o600))
			outcome, err := s.stager().Release(t.Context(), tag)
			require.NoError(t, err)
			assert.Equal(t, want, tagsOf(outcome.Pruned))
			assert.NoDirExists(t, filepath.Join(s.dir.Path(), "releases", ".incoming-killed"))
			assert.FileExists(t, partial, "it goes on where it broke off")
			requireCurrent(t, s.dir, "boot-v4")
		})
	}
	t.Run("what is asked for stays", func(t *testing.T) {
		t.Parallel()
		s := stageAll(t)
		for _, refresh := range []bool{false, true} {
			s.changes = func(stager *stage.Stager) {
				stager.Keep, stager.StayOnCurrent, stager.Refresh = 1, true, refresh
			}
			outcome, err := s.stager().Release(t.Context(), "boot-v1")
			require.NoError(t, err)
			assert.False(t, outcome.Staged)
			_, err = s.dir.Release("boot-v1")
			require.NoError(t, err)
		}
		_, err := s.dir.Release("boot-v2")
		require.ErrorIs(t, err, state.ErrNotStaged)
	})
	t.Run("before the download", func(t *testing.T) {
		t.Parallel()
		s := stageAll(t)
		s.publish("boot-v5")
		asset := filepath.Join(s.folder, "boot-v5", bundleName(machine.X86_64, "boot-v5"))
		require.NoError(t, os.Truncate(asset, 100))
		_, err := s.stager().Release(t.Context(), "")
		require.Error(t, err)
		requireCurrent(t, s.dir, "boot-v4")
		staged, err := s.dir.Releases()
		require.NoError(t, err)
		assert.Equal(t, []string{"boot-v4", "boot-v3"}, tagsOf(staged))
	})
}

func tagsOf(releases []state.Release) []string {
	var tags []string
	for _, release := range releases {
		tags = append(tags, release.Tag)
	}
	return tags
}

func TestStagedForARing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.publish("boot-v1")
	_, err := s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	s.publish("boot-v2")
	s.changes = func(stager *stage.Stager) { stager.StayOnCurrent = true }
	outcome, err := s.stager().Release(t.Context(), "boot-v2")
	require.NoError(t, err)
	assert.True(t, outcome.Staged)
	assert.False(t, outcome.Switched)
	requireCurrent(t, s.dir, "boot-v1")
	_, err = s.dir.Release("boot-v2")
	require.NoError(t, err)
}

func TestBothArchitectures(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.publish("boot-v1", machine.X86_64)
	_, err := s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	kernel := filepath.Join(s.dir.Path(), "releases", "boot-v1", "x86_64", "kernel")
	before, err := os.Stat(kernel)
	require.NoError(t, err)

	// Images built by hand are attached to the release later on.
	s.publish("boot-v1", machine.AArch64)
	comparison, err := s.stager().Check(t.Context(), "")
	require.NoError(t, err)
	assert.Equal(t, stage.Comparison{Current: "boot-v1", Wanted: "boot-v1"}, comparison)
	outcome, err := s.stager().Release(t.Context(), "boot-v1")
	require.NoError(t, err)
	assert.False(t, outcome.Staged, "a release that is staged is not looked for")
	outcome, err = s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	assert.True(t, outcome.Staged)
	assert.False(t, outcome.Switched)
	requireCurrent(t, s.dir, "boot-v1", machine.X86_64, machine.AArch64)
	after, err := os.Stat(kernel)
	require.NoError(t, err)
	assert.True(t, os.SameFile(before, after), "what has not changed is not downloaded again")

	s.publish("boot-v2", machine.AArch64)
	_, err = s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v2", machine.AArch64)
}

func TestTheFleetsImageAmongOthers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := bundle(t, machine.X86_64, "boot-v1", contents("boot-v0", machine.X86_64))
	other.Name = "kiosk-x86_64-netboot-boot-v1.tar.gz"
	publish(t, s.store, "boot-v1", release.Content{}, append(bundles(t, "boot-v1"), other)...)
	_, err := s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v1")

	publish(t, s.store, "boot-v0", release.Content{}, other)
	_, err = s.stager().Release(t.Context(), "boot-v0")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v0")
}

func TestTagsWithASlash(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.publish("boot-fleet/v1")
	_, err := s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-fleet/v1")
}

func TestCheck(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.publish("boot-v1")
	check := func(tag string) stage.Comparison {
		before := snapshot(t, s.dir)
		comparison, err := s.stager().Check(t.Context(), tag)
		require.NoError(t, err)
		assert.Equal(t, before, snapshot(t, s.dir))
		return comparison
	}
	assert.Equal(t, stage.Comparison{Wanted: "boot-v1"}, check(""))
	_, err := s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	assert.Equal(t, stage.Comparison{Current: "boot-v1", Wanted: "boot-v1", Same: true}, check(""))
	s.publish("boot-v2")
	assert.Equal(t, stage.Comparison{Current: "boot-v1", Wanted: "boot-v2"}, check(""))
	assert.Equal(t, stage.Comparison{Current: "boot-v1", Wanted: "boot-v1", Same: true}, check("boot-v1"))
	_, err = s.stager().Check(t.Context(), "boot-v3")
	require.ErrorIs(t, err, release.ErrNotFound)
}

// Whatever is wrong with a release, what is served stays as it is.
func TestWrongReleasesChangeNothing(t *testing.T) {
	t.Parallel()
	const tag = "boot-v2"
	asset := bundleName(machine.X86_64, tag)
	// Writing into the folder of a release goes past the promises of its store.
	write := func(t *testing.T, s *site, name string, content []byte) {
		t.Helper()
		require.NoError(t, os.WriteFile(filepath.Join(s.folder, tag, name), content, 0o600))
	}
	repack := func(t *testing.T, s *site, content []byte) {
		t.Helper()
		file := newFile(t, asset, content)
		write(t, s, asset, content)
		write(t, s, checksum.FileName, checksum.Sums{asset: file.SHA256}.Bytes())
	}
	tarball := func(headers ...tar.Header) []byte {
		var packed bytes.Buffer
		compressor := gzip.NewWriter(&packed)
		w := tar.NewWriter(compressor)
		for _, header := range headers {
			header.Mode, header.Typeflag = 0o644, cmp.Or(header.Typeflag, tar.TypeReg)
			require.NoError(t, w.WriteHeader(&header))
			_, err := io.CopyN(w, zeros{}, header.Size)
			require.NoError(t, err)
		}
		require.NoError(t, errors.Join(w.Close(), compressor.Close()))
		return packed.Bytes()
	}
	small := func(name string) tar.Header { return tar.Header{Name: name, Size: 1} }

	for name, wrong := range map[string]struct {
		change func(t *testing.T, s *site)
		want   string
	}{
		"bytes": {func(t *testing.T, s *site) {
			content, err := os.ReadFile(filepath.Join(s.folder, tag, asset))
			require.NoError(t, err)
			content[len(content)/2] ^= 1
			write(t, s, asset, content)
		}, asset + " has the SHA-256"},
		"shorter":       {func(t *testing.T, s *site) { write(t, s, asset, []byte("short")) }, asset + " has the SHA-256"},
		"not listed":    {func(t *testing.T, s *site) { write(t, s, checksum.FileName, nil) }, "does not list " + asset},
		"sums nonsense": {func(t *testing.T, s *site) { write(t, s, checksum.FileName, []byte("nonsense\n")) }, "SHA256SUMS.txt line 1"},
		"sums too long": {func(t *testing.T, s *site) { write(t, s, checksum.FileName, make([]byte, 16<<20+1)) }, "larger than 16 MiB"},
		"no sums": {func(t *testing.T, s *site) {
			require.NoError(t, os.Remove(filepath.Join(s.folder, tag, checksum.FileName)))
		}, "it has no SHA256SUMS.txt"},
		"no bundle": {func(t *testing.T, s *site) {
			require.NoError(t, os.Remove(filepath.Join(s.folder, tag, asset)))
			write(t, s, checksum.FileName, nil)
		}, "it has no netboot bundle"},
		"a bundle that is hidden": {func(t *testing.T, s *site) {
			require.NoError(t, os.Remove(filepath.Join(s.folder, tag, asset)))
		}, "lists " + asset + ", which is not there"},
		"the fleet's own bundle is hidden": {func(t *testing.T, s *site) {
			listed, err := os.ReadFile(filepath.Join(s.folder, tag, checksum.FileName))
			require.NoError(t, err)
			write(t, s, "lab-x86_64-netboot-boot-v2.tar.gz", nil)
			write(t, s, checksum.FileName, append(listed, checksum.Sums{"lab-x86_64-netboot-boot-v2.tar.gz": strings.Repeat("ab", 32)}.Bytes()...))
			require.NoError(t, os.Remove(filepath.Join(s.folder, tag, asset)))
		}, "lists " + asset + ", which is not there"},
		"two bundles": {func(t *testing.T, s *site) {
			require.NoError(t, os.Remove(filepath.Join(s.folder, tag, asset)))
			write(t, s, checksum.FileName, nil)
			write(t, s, "a-x86_64-netboot-1.tar.gz", nil)
			write(t, s, "b-x86_64-netboot-1.tar.gz", nil)
		}, "it has 2 netboot bundles for x86_64: a-x86_64-netboot-1.tar.gz, b-x86_64-netboot-1.tar.gz"},
		"no tar":        {func(t *testing.T, s *site) { repack(t, s, []byte("no tar")) }, "unpack " + asset},
		"empty tar":     {func(t *testing.T, s *site) { repack(t, s, tarball()) }, "has no kernel"},
		"a file less":   {func(t *testing.T, s *site) { repack(t, s, tarball(small("kernel"), small("initrd"))) }, "has no netboot.ipxe"},
		"a file more":   {func(t *testing.T, s *site) { repack(t, s, tarball(small("motd"))) }, `it has a file "motd"`},
		"release.json":  {func(t *testing.T, s *site) { repack(t, s, tarball(small("release.json"))) }, `it has a file "release.json"`},
		"a file twice":  {func(t *testing.T, s *site) { repack(t, s, tarball(small("kernel"), small("kernel"))) }, "twice"},
		"a path":        {func(t *testing.T, s *site) { repack(t, s, tarball(small("../../../kernel"))) }, "unpack " + asset},
		"absolute path": {func(t *testing.T, s *site) { repack(t, s, tarball(small("/kernel"))) }, "unpack " + asset},
		"a link": {func(t *testing.T, s *site) {
			repack(t, s, tarball(tar.Header{Name: "kernel", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}))
		}, "not a regular file"},
		"a hard link": {func(t *testing.T, s *site) {
			repack(t, s, tarball(tar.Header{Name: "kernel", Typeflag: tar.TypeLink, Linkname: "../../boot-v1/x86_64/kernel"}))
		}, "not a regular file"},
		"a device": {func(t *testing.T, s *site) {
			repack(t, s, tarball(tar.Header{Name: "kernel", Typeflag: tar.TypeChar}))
		}, "not a regular file"},
		"truncated": {func(t *testing.T, s *site) {
			whole := tarball(small("initrd"), small("kernel"), small("netboot.ipxe"))
			repack(t, s, whole[:len(whole)-12])
		}, "unpack " + asset},
		"a script too long": {func(t *testing.T, s *site) {
			repack(t, s, tarball(small("kernel"), small("initrd"), tar.Header{Name: "netboot.ipxe", Size: 1<<20 + 1}))
		}, "its netboot.ipxe has 1048577 bytes"},
		"cut off, and its header lies about the size": {func(t *testing.T, s *site) {
			var packed bytes.Buffer
			compressor := gzip.NewWriter(&packed)
			w := tar.NewWriter(compressor)
			require.NoError(t, w.WriteHeader(&tar.Header{Name: "initrd", Size: 1 << 40, Mode: 0o644, Typeflag: tar.TypeReg}))
			require.NoError(t, compressor.Close())
			repack(t, s, packed.Bytes())
		}, "initrd has 1099511627776 bytes"},
		"a few bytes that claim to be gigabytes": {func(t *testing.T, s *site) {
			folder := t.TempDir()
			sparse, err := os.Create(filepath.Join(folder, "initrd"))
			require.NoError(t, err)
			require.NoError(t, errors.Join(sparse.Truncate(3<<30), sparse.Close()))
			packed, err := exec.CommandContext(t.Context(), "tar", "--sparse", "--gzip", "--create", "--directory", folder, "initrd").Output()
			require.NoError(t, err)
			repack(t, s, packed)
		}, "initrd: it would be 3.0 GiB unpacked, and has "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.publish("boot-v1")
			_, err := s.stager().Release(t.Context(), "")
			require.NoError(t, err)
			before := snapshot(t, s.dir)
			s.publish(tag)
			wrong.change(t, s)
			_, err = s.stager().Release(t.Context(), "")
			require.ErrorContains(t, err, wrong.want)
			assert.Equal(t, before, snapshot(t, s.dir))
			requireCurrent(t, s.dir, "boot-v1")
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestTarball(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.store = nil
	file := bundles(t, "boot-v1")[0]
	outcome, err := s.stager().Tarball(t.Context(), file.Path, "")
	require.NoError(t, err)
	assert.True(t, outcome.Staged && outcome.Switched)
	assert.Equal(t, file.Path, outcome.Release.Source)
	requireCurrent(t, s.dir, "boot-v1")
	assert.Contains(t, strings.Join(s.told, "\n"), "there is no SHA256SUMS.txt")
	outcome, err = s.stager().Tarball(t.Context(), file.Path, "")
	require.NoError(t, err)
	assert.False(t, outcome.Staged || outcome.Switched)

	// The same release for other machines, with its checksum.
	other := bundles(t, "boot-v1", machine.AArch64)[0]
	sums := filepath.Join(filepath.Dir(other.Path), checksum.FileName)
	require.NoError(t, os.WriteFile(sums, checksum.Sums{other.Name: file.SHA256}.Bytes(), 0o600))
	before := snapshot(t, s.dir)
	_, err = s.stager().Tarball(t.Context(), other.Path, "")
	require.ErrorContains(t, err, "damaged")
	require.NoError(t, os.WriteFile(sums, nil, 0o600))
	_, err = s.stager().Tarball(t.Context(), other.Path, "")
	require.ErrorContains(t, err, "does not list "+other.Name)
	assert.Equal(t, before, snapshot(t, s.dir))
	require.NoError(t, os.WriteFile(sums, checksum.Sums{other.Name: other.SHA256}.Bytes(), 0o600))
	_, err = s.stager().Tarball(t.Context(), other.Path, "")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v1", machine.X86_64, machine.AArch64)

	_, err = s.stager().Tarball(t.Context(), other.Path, "boot-v2")
	require.NoError(t, err)
	current, err := s.dir.Current()
	require.NoError(t, err)
	assert.Equal(t, "boot-v2", current.Tag)

	for name, want := range map[string]string{
		"ec-runner-x86_64-iso-boot-v1.iso":          "is not a netboot bundle, whose name ends in .tar.gz",
		"ec-runner-x86_64-netboot-boot-v1.zip":      "is not a netboot bundle, whose name ends in .tar.gz",
		"ec-runner-riscv64-netboot-boot-v1.tar.gz":  "does not say which machines",
		"x86_64-netboot-.tar.gz":                    "give --release-tag",
		"ec-runner-x86_64-netboot-boot-v9.tar.gz":   "no such file",
		"ec-runner-x86_64-netboot-boot v9.tar.gz":   "no such file",
		"ec-runner-x86_64-netboot-.hidden-1.tar.gz": "no such file",
	} {
		_, err := s.stager().Tarball(t.Context(), filepath.Join(t.TempDir(), name), "")
		require.ErrorContains(t, err, want)
	}
}

// A tarball that is written anew between the look at its checksum and its unpacking
// is not what was verified.
func TestTarballChanges(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.store = nil
	file, other := bundles(t, "boot-v1")[0], bundles(t, "boot-v2")[0]
	content, err := os.ReadFile(other.Path)
	require.NoError(t, err)
	s.changes = func(stager *stage.Stager) {
		stager.Notify = func(sentence string) {
			if strings.HasPrefix(sentence, "unpacking ") {
				assert.NoError(t, os.WriteFile(file.Path, content, 0o600))
			}
		}
	}
	_, err = s.stager().Tarball(t.Context(), file.Path, "")
	require.ErrorContains(t, err, "unpack "+file.Name+": it has changed meanwhile")
	_, err = s.dir.Current()
	require.ErrorIs(t, err, state.ErrNotStaged)
	releases, err := s.dir.Releases()
	require.NoError(t, err)
	assert.Empty(t, releases)
}

// A download from a folder, which is no connection that could be closed, ends with the
// context too. What is there of it is hashed by the next one, and not read again.
func TestCancelledInADownload(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.publish("boot-v1")
	ctx, cancel := context.WithCancel(t.Context())
	var first, total int64
	s.changes = func(stager *stage.Stager) {
		stager.Progress = func(_ string, done, all int64) {
			if first, total = done, all; ctx.Err() == nil {
				cancel()
			}
		}
	}
	_, err := s.stager().Release(ctx, "")
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, first, total)
	partial, err := filepath.Glob(filepath.Join(s.dir.Path(), "downloads", "*.partial"))
	require.NoError(t, err)
	require.Len(t, partial, 1)
	info, err := os.Stat(partial[0])
	require.NoError(t, err)
	assert.Equal(t, first, info.Size())
	_, err = s.dir.Current()
	require.ErrorIs(t, err, state.ErrNotStaged)

	s.changes = nil
	_, err = s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v1")
	assert.Contains(t, strings.Join(s.told, "\n"), "the remaining ")
}

// signed is a Verify that wants a file of the tag's name. It knows of no order.
func signed(tag string, _ []byte, file func(string) ([]byte, error)) (stage.Proof, error) {
	signature, err := file("SHA256SUMS.txt.sig")
	if err != nil {
		return stage.Proof{}, fmt.Errorf("unsigned: %w: %w", stage.ErrUnproved, err)
	}
	if string(signature) != tag {
		return stage.Proof{}, errors.New("signed for another tag")
	}
	return stage.Proof{Serial: func(string) (int64, bool) { return 0, false }}, nil
}

func TestVerify(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	sign := func(tag, signature string) {
		t.Helper()
		publish(t, s.store, tag, release.Content{Sign: func([]byte) (map[string][]byte, error) {
			return map[string][]byte{"SHA256SUMS.txt.sig": []byte(signature)}, nil
		}}, bundles(t, tag)...)
	}
	s.publish("boot-v1")
	_, err := s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	s.changes = func(stager *stage.Stager) { stager.Verify, stager.VerifyStaged = signed, signed }

	sign("boot-v2", "boot-v1")
	before := snapshot(t, s.dir)
	_, err = s.stager().Release(t.Context(), "")
	require.ErrorContains(t, err, "release boot-v2: signed for another tag")
	_, err = s.stager().Check(t.Context(), "")
	require.ErrorContains(t, err, "signed for another tag")
	assert.Equal(t, before, snapshot(t, s.dir))

	sign("boot-v3", "boot-v3")
	_, err = s.stager().Release(t.Context(), "")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v3")

	// What was staged before signatures mattered is not switched to, with or
	// without a store.
	_, err = s.stager().Rollback(t.Context())
	require.ErrorContains(t, err, "unsigned")
	_, err = s.stager().Release(t.Context(), "boot-v1")
	require.ErrorContains(t, err, "unsigned")
	requireCurrent(t, s.dir, "boot-v3")
	sign("boot-v1", "boot-v1")
	refresh := s.stager()
	refresh.Refresh = true
	outcome, err := refresh.Release(t.Context(), "boot-v1")
	require.NoError(t, err)
	assert.True(t, outcome.Staged)
	s.store = nil
	_, err = s.stager().Rollback(t.Context())
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v3")

	// A bundle changed on the boot server's disk, list and all.
	snapshot, err := s.dir.OpenRelease("boot-v1")
	require.NoError(t, err)
	require.NoError(t, snapshot.Close())
	description := filepath.Join(s.dir.Path(), "releases", "boot-v1", "release.json")
	content, err := os.ReadFile(description)
	require.NoError(t, err)
	sum := snapshot.Release.Bundles[machine.X86_64].SHA256
	content = bytes.ReplaceAll(content, []byte(sum), []byte(strings.Repeat("0", 64)))
	require.NoError(t, os.WriteFile(description, content, 0o600))
	_, err = s.stager().Release(t.Context(), "boot-v1")
	require.ErrorContains(t, err, "stage it again with --refresh")

	// A tarball has to be signed as well, and what it joins has to be listed.
	tarball := bundles(t, "boot-v3", machine.AArch64)[0]
	_, err = s.stager().Tarball(t.Context(), tarball.Path, "")
	require.ErrorIs(t, err, fs.ErrNotExist)
	sums := checksum.Sums{tarball.Name: tarball.SHA256}
	folder := filepath.Dir(tarball.Path)
	require.NoError(t, os.WriteFile(filepath.Join(folder, checksum.FileName), sums.Bytes(), 0o600))
	_, err = s.stager().Tarball(t.Context(), tarball.Path, "")
	require.ErrorContains(t, err, "unsigned")
	require.NoError(t, os.WriteFile(filepath.Join(folder, "SHA256SUMS.txt.sig"), []byte("boot-v3"), 0o600))
	_, err = s.stager().Tarball(t.Context(), tarball.Path, "")
	require.ErrorContains(t, err, "does not list "+bundleName(machine.X86_64, "boot-v3"))
	sums[bundleName(machine.X86_64, "boot-v3")] = bundles(t, "boot-v3")[0].SHA256
	require.NoError(t, os.WriteFile(filepath.Join(folder, checksum.FileName), sums.Bytes(), 0o600))
	_, err = s.stager().Tarball(t.Context(), tarball.Path, "")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v3", machine.X86_64, machine.AArch64)
}

// The same bytes under another name are not unpacked again, and are from then on
// what the signed list calls them.
func TestBundleOfAnotherName(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	tarball := bundles(t, "boot-v1")[0]
	_, err := s.stager().Tarball(t.Context(), tarball.Path, "")
	require.NoError(t, err)

	s.changes = func(stager *stage.Stager) { stager.Verify, stager.VerifyStaged = signed, signed }
	folder := filepath.Dir(tarball.Path)
	renamed := filepath.Join(folder, "lab-x86_64-netboot-boot-v1.tar.gz")
	require.NoError(t, os.Rename(tarball.Path, renamed))
	sums := checksum.Sums{filepath.Base(renamed): tarball.SHA256}
	require.NoError(t, os.WriteFile(filepath.Join(folder, checksum.FileName), sums.Bytes(), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "SHA256SUMS.txt.sig"), []byte("boot-v1"), 0o600))
	for _, staged := range []bool{true, false} {
		outcome, err := s.stager().Tarball(t.Context(), renamed, "")
		require.NoError(t, err)
		assert.Equal(t, staged, outcome.Staged)
		assert.Equal(t, filepath.Base(renamed), outcome.Release.Bundles[machine.X86_64].Asset)
	}
}

func TestOneStageAtATime(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.publish("boot-v1")
	unlock, err := s.dir.Lock(t.Context(), nil)
	require.NoError(t, err)
	cancelled, cancel := context.WithCancel(t.Context())
	stager := s.stager()
	stager.Notify = func(string) { cancel() }
	_, err = stager.Release(cancelled, "")
	require.ErrorIs(t, err, context.Canceled)

	stager.Notify = func(sentence string) {
		if strings.HasPrefix(sentence, "waiting") {
			unlock()
		}
	}
	_, err = stager.Release(t.Context(), "")
	require.NoError(t, err)
	requireCurrent(t, s.dir, "boot-v1")
}
