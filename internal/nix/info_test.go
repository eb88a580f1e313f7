package nix_test

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/nix"
)

func TestFlakeMetadata(t *testing.T) {
	t.Parallel()
	b := newBench(t)

	folder, err := b.FlakeMetadata(t.Context(), b.flake, "path:.")
	require.NoError(t, err)
	assert.Equal(t, "path:"+b.flake, folder.ResolvedURL)
	assert.Regexp(t, `^sha256-[A-Za-z0-9+/]{43}=$`, folder.NARHash)
	assert.Empty(t, folder.Revision)
	assert.False(t, folder.Dirty)
	assert.Empty(t, folder.Inputs)
	assert.WithinDuration(t, time.Now(), folder.LastModified, time.Hour)

	git(t, b.flake, "init", "--quiet")
	git(t, b.flake, "add", ".")
	git(t, b.flake, "commit", "--quiet", "--message", "Begin")
	clean, err := b.FlakeMetadata(t.Context(), b.flake, ".")
	require.NoError(t, err)
	head, err := os.ReadFile(filepath.Join(b.flake, ".git", "HEAD"))
	require.NoError(t, err)
	revision, err := os.ReadFile(filepath.Join(b.flake, ".git", strings.TrimSpace(strings.TrimPrefix(string(head), "ref: "))))
	require.NoError(t, err)
	assert.Equal(t, strings.TrimSpace(string(revision)), clean.Revision)
	assert.Equal(t, "git+file://"+b.flake, clean.URL)
	assert.Contains(t, clean.LockedURL, "rev="+clean.Revision)
	assert.Equal(t, folder.NARHash, clean.NARHash, "the same files, however Nix got them")
	assert.False(t, clean.Dirty)

	require.NoError(t, os.WriteFile(filepath.Join(b.flake, "flake.nix"),
		[]byte(`{ inputs.images.url = "path:/nowhere"; outputs = _: { }; }`), 0o600))
	other := filepath.Join(t.TempDir(), "other")
	require.NoError(t, os.Mkdir(other, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(other, "flake.nix"), []byte(`{ outputs = _: { }; }`), 0o600))
	b.run(t, "flake", "lock", b.flake, "--override-input", "images", "path:"+other)
	dirty, err := b.FlakeMetadata(t.Context(), b.flake, ".")
	require.NoError(t, err)
	assert.True(t, dirty.Dirty)
	assert.Empty(t, dirty.Revision)
	require.Len(t, dirty.Inputs, 1)
	assert.Equal(t, "images", dirty.Inputs[0].Name)
	assert.Equal(t, "path:"+other, dirty.Inputs[0].URL)
	assert.Regexp(t, `^sha256-`, dirty.Inputs[0].NARHash)

	_, err = b.FlakeMetadata(t.Context(), t.TempDir(), "path:.")
	require.ErrorContains(t, err, "nix flake: ")
	require.ErrorContains(t, err, "flake.nix")
}

func TestPathInfoAndLog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	results, err := b.Build(t.Context(), b.request(isoX86, netbootX86))
	require.NoError(t, err)

	infos, err := b.Closures(t.Context(), results[1].Output, results[0].Output)
	require.NoError(t, err)
	assert.Len(t, infos, 6, "the two, what the bundle links to, and the system that its script names")
	for _, result := range results {
		info := infos[result.Output]
		assert.Equal(t, result.Output, info.Path)
		assert.Equal(t, result.Derivation, info.Deriver)
		assert.Equal(t, strings.TrimSpace(b.run(t, "hash", "path", result.Output)), info.NARHash)
		assert.Positive(t, info.NARSize)
		assert.True(t, info.BuiltHere)
	}
	assert.Len(t, infos[results[1].Output].References, 4, "kernel, initrd, script, and itself")

	missing := filepath.Join(b.folder, "store", strings.Repeat("0", 32)+"-missing")
	_, err = b.Closures(t.Context(), results[0].Output, missing)
	require.ErrorContains(t, err, missing)
	none, err := b.Closures(t.Context())
	require.NoError(t, err)
	assert.Empty(t, none)

	_, err = b.Build(t.Context(), b.request(brokenIso))
	var failed *nix.BuildError
	require.ErrorAs(t, err, &failed)
	log, err := b.Log(t.Context(), failed.Failures[0].Derivation)
	require.NoError(t, err)
	assert.Equal(t, "xorriso : FAILURE : Cannot determine attributes of source file 'isolinux.bin'\n", log)
}

func TestCopyFillsABinaryCache(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	request := b.request(netbootX86)
	results, err := b.Build(t.Context(), request)
	require.NoError(t, err)
	built, err := b.Closures(t.Context(), results[0].Output)
	require.NoError(t, err)

	cache := "file://" + filepath.Join(t.TempDir(), "cache") + "?compression=none"
	b.forget()
	require.NoError(t, b.Copy(t.Context(), cache, []string{results[0].Output}, b.record))
	last := b.events[len(b.events)-1].Progress
	assert.Equal(t, 5, last.Copied, "the bundle, what it links to, and the system that the script names")
	assert.Equal(t, 5, last.ToCopy)
	assert.GreaterOrEqual(t, last.Bytes, int64(3<<20), "the initrd alone")
	assert.Empty(t, last.Copying)

	// Another time there is nothing to copy.
	b.forget()
	require.NoError(t, b.Copy(t.Context(), cache, []string{results[0].Output}, b.record))
	for _, event := range b.of(nix.Changed) {
		assert.Zero(t, event.Progress.Bytes)
	}

	// What is gone comes from there, and is not built.
	b.run(t, "store", "gc")
	require.NoDirExists(t, results[0].Output)
	b.forget()
	request.Args = []string{"--option", "substituters", cache, "--option", "require-sigs", "false"}
	again, err := b.Build(t.Context(), request)
	require.NoError(t, err)
	assert.Equal(t, results, again)
	assert.Empty(t, b.of(nix.Started))
	var copying []string
	for _, event := range b.of(nix.Changed) {
		if len(event.Progress.Copying) > 0 {
			copying = append(copying, event.Progress.String())
		}
	}
	assert.Regexp(t, `(?m)^copying .* of 5 done$`, strings.Join(copying, "\n"))
	downloaded, err := b.Closures(t.Context(), results[0].Output)
	require.NoError(t, err)
	assert.False(t, downloaded[results[0].Output].BuiltHere)
	assert.Equal(t, built[results[0].Output].NARHash, downloaded[results[0].Output].NARHash)

	// And so is not rebuilt.
	b.forget()
	request.Rebuild = true
	_, err = b.Build(t.Context(), request)
	require.NoError(t, err)
	assert.Empty(t, b.of(nix.Started))

	err = b.Copy(t.Context(), "https://user:secret@127.0.0.1:1/cache?secret-key=/x", []string{results[0].Output}, nil)
	require.ErrorContains(t, err, "copy to the store https://127.0.0.1:1/cache: ")
	require.NoError(t, b.Copy(t.Context(), cache, nil, nil))
}

func TestClosureAndStoreDir(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	built, err := b.Build(t.Context(), b.request(netbootX86))
	require.NoError(t, err)
	require.Len(t, built, 1)
	closures, err := b.Closures(t.Context(), built[0].Output)
	require.NoError(t, err)
	closure := closures.Of(built[0].Output)
	assert.Equal(t, built[0].Output, closure[0])
	assert.ElementsMatch(t, strings.Fields(b.run(t, "path-info", "--recursive", built[0].Output)), closure)
	_, err = b.Closures(t.Context(), built[0].Output+"-absent")
	require.Error(t, err)

	store, err := b.StoreDir(t.Context())
	require.NoError(t, err)
	assert.Equal(t, filepath.Dir(built[0].Output), store)
	b.Program = filepath.Join(t.TempDir(), "absent")
	store, err = b.StoreDir(t.Context())
	require.NoError(t, err)
	assert.Equal(t, cmp.Or(os.Getenv("NIX_STORE_DIR"), "/nix/store"), store, "without Nix")
}
