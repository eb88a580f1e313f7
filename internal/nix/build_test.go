package nix_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/nix"
)

func TestBuildMakesAllImagesInOneGo(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	request := b.request(netbootX86, netbootARM, isoX86, sdImageARM, netbootX86)
	request.Images[4].Name = "the-same-again"
	request.LinkDir = filepath.Join(t.TempDir(), "not", "there", "yet")

	results, err := b.Build(t.Context(), request)
	require.NoError(t, err)
	require.Len(t, results, 5)
	holds := []string{"bzImage", "Image", "iso/nixos-*-x86_64-linux.iso", "sd-image/nixos-*-aarch64-linux.img.zst", "bzImage"}
	for i, result := range results {
		assert.Equal(t, request.Images[i], result.Image)
		assert.Equal(t, ".drv", filepath.Ext(result.Derivation))
		assert.Equal(t, filepath.Join(request.LinkDir, result.Name), result.Link)
		target, err := os.Readlink(result.Link)
		require.NoError(t, err)
		assert.Equal(t, result.Output, target)
		found, err := filepath.Glob(filepath.Join(result.Link, holds[i]))
		require.NoError(t, err)
		require.Len(t, found, 1, "%s in %s", holds[i], result.Link)
		_, err = os.Stat(found[0])
		require.NoError(t, err)
	}
	assert.Equal(t, results[0].Output, results[4].Output)
	entries, err := os.ReadDir(request.LinkDir)
	require.NoError(t, err)
	assert.Len(t, entries, 5, "nothing but the links is left")

	// Every derivation started and ended once, and was counted.
	assert.Len(t, b.of(nix.Started), 12)
	assert.Len(t, b.of(nix.Ended), 12)
	last := b.events[len(b.events)-1].Progress
	assert.InDelta(t, 12, last.Built, 1) // Nix 2.34 counts one twice
	assert.InDelta(t, 12, last.ToBuild, 1)
	assert.LessOrEqual(t, last.Built, last.ToBuild)
	assert.Empty(t, last.Building)
	started := b.of(nix.Started)[0]
	assert.Equal(t, started.Derivation, started.Progress.Building[0].Derivation)
	assert.False(t, started.Progress.Building[0].Since.IsZero())
	assert.Contains(t, started.Progress.String(), "building "+nix.Name(started.Derivation)+", 0 of ")
	assert.Equal(t, request.Images[0].Installable, b.of(nix.Evaluating)[0].Text)

	// There is nothing left to do the second time.
	b.forget()
	again, err := b.Build(t.Context(), request)
	require.NoError(t, err)
	assert.Equal(t, results, again)
	assert.Empty(t, b.of(nix.Started))

	// The links are GC roots.
	require.NoError(t, os.Remove(results[2].Link))
	b.run(t, "store", "gc")
	assert.DirExists(t, results[0].Output)
	assert.FileExists(t, filepath.Join(results[0].Output, "initrd"))
	assert.NoDirExists(t, results[2].Output)
}

func TestBuildPassesArgumentsOn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	outer := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outer, "flake.nix"),
		[]byte(`{ inputs.images.url = "path:/nowhere"; outputs = { self, images }: { inherit (images) nixosConfigurations; }; }`), 0o600))

	request := b.request(isoX86)
	request.Dir = outer
	request.Args = []string{"--override-input", "images", "path:" + b.flake, "--no-write-lock-file"}
	results, err := b.Build(t.Context(), request)
	require.NoError(t, err)
	assert.DirExists(t, results[0].Output)

	b.Args, request.Args = request.Args, nil
	_, err = b.Build(t.Context(), request)
	require.NoError(t, err)

	request.Args = []string{"path:" + b.flake + "#nixosConfigurations." + netbootX86 + ".config.system.build.netboot"}
	_, err = b.Build(t.Context(), request)
	require.ErrorContains(t, err, "nix evaluates 2 installables where there are 1 images: leave installables out")
}

func TestBuildTakesStorePaths(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	results, err := b.Build(t.Context(), b.request(isoX86))
	require.NoError(t, err)
	request := b.request()
	request.Images = []artifact.Image{{Name: "by-hand", Installable: results[0].Output}}
	again, err := b.Build(t.Context(), request)
	require.NoError(t, err)
	assert.Equal(t, results[0].Output, again[0].Output)

	request.Images[0].Installable = filepath.Join(b.folder, "store", strings.Repeat("0", 32)+"-missing")
	_, err = b.Build(t.Context(), request)
	require.ErrorContains(t, err, "by-hand")
	require.ErrorContains(t, err, "missing")
	t.Log(err)
}

func TestBuildTellsOfWarnings(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	git(t, b.flake, "init", "--quiet")
	git(t, b.flake, "add", "flake.nix")
	request := b.request(isoX86)
	request.Images[0].Installable = strings.TrimPrefix(request.Images[0].Installable, "path:")
	_, err := b.Build(t.Context(), request)
	require.NoError(t, err)
	require.NotEmpty(t, b.of(nix.Warning))
	assert.Regexp(t, `^warning: Git tree '.*' is dirty$`, b.of(nix.Warning)[0].Text)
}

func TestRebuildFindsWhatIsNotReproducible(t *testing.T) {
	t.Parallel()
	b := newBench(t)

	same := b.request(netbootX86, isoX86)
	same.Rebuild = true
	results, err := b.Build(t.Context(), same)
	require.NoError(t, err)
	require.Len(t, results, 2)
	// The ISO, the netboot bundle, its kernel, initrd and script, and what
	// belongs to the system; the second time all but the latter.
	rebuilt := map[string]int{}
	for _, event := range b.of(nix.Started) {
		rebuilt[nix.Name(event.Derivation)]++
	}
	for _, name := range []string{"netboot", "linux-6.18.13", "initrd-linux-6.18.13", "netboot.ipxe", nix.Name(results[1].Output)} {
		assert.Equal(t, 2, rebuilt[name], name)
	}

	others := b.request("not-reproducible", "not-reproducible-netboot", isoX86)
	others.Rebuild = true
	_, err = b.Build(t.Context(), others)
	var failed *nix.BuildError
	require.ErrorAs(t, err, &failed)
	require.Len(t, failed.Failures, 2)
	assert.Equal(t, nix.NotReproducible, failed.Failures[0].Kind)
	assert.Regexp(t, `^not-reproducible was not built the same again: nixos-not-reproducible\.iso: other bytes in /.*/store/.*-nixos-not-reproducible\.iso$`,
		failed.Failures[0].Sentence())
	assert.Equal(t, []string{"not-reproducible-netboot"}, failed.Failures[1].Images)
	assert.Equal(t, nix.NotReproducible, failed.Failures[1].Kind)
	assert.True(t, failed.Failures[1].Dependency)
	assert.Equal(t, "initrd-linux-6.18.13-not-reproducible", nix.Name(failed.Failures[1].Derivation))
	assert.Equal(t, []string{isoX86}, failed.Built)
}

func TestNeedsRoom(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	request := b.request(isoX86)
	request.MinFree = 1 << 60
	_, err := b.Build(t.Context(), request)
	var tooLittle *nix.DiskError
	require.ErrorAs(t, err, &tooLittle)
	assert.Equal(t, filepath.Join(b.folder, "store"), tooLittle.Path)
	assert.Regexp(t, `^there is too little room to build: /.*/store has [0-9.]+ [KMGT]iB free and 1\.0 EiB are wanted; nix-collect-garbage frees`, err.Error())
	assert.Empty(t, b.of(nix.Started))

	request.MinFree = -1
	_, err = b.Build(t.Context(), request)
	require.NoError(t, err)

	// Once it is built, only the links' disk matters.
	request.MinFree = 1 << 60
	_, err = b.Build(t.Context(), request)
	require.NoError(t, err)
	request.LinkDir = filepath.Join(t.TempDir(), "dist")
	_, err = b.Build(t.Context(), request)
	require.ErrorAs(t, err, &tooLittle)
	assert.Equal(t, request.LinkDir, tooLittle.Path)
	assert.Regexp(t, `/dist has .* are wanted; make room there, or choose a folder on another disk$`, err.Error(), "Nix's garbage is not there")
	assert.NoDirExists(t, request.LinkDir)
}
