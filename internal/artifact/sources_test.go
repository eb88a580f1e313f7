package artifact_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
)

// withKey is a store and a key outside of it, to which outputs have links.
var withKey = nixos.with(tree{
	"home/id_ed25519":               "the key",
	"home/keys.iso":                 "the key",
	"home/iso/x.iso":                "the key",
	"store/other/x.iso":             "of another build",
	"store/iso-link/iso/x.iso":      "-> ./home/id_ed25519",
	"store/iso-up/iso/x.iso":        "-> ../../../home/id_ed25519",
	"store/iso-folder/iso":          "-> ./home/iso",
	"store/iso-other/iso/x.iso":     "-> ./store/other/x.iso",
	"store/iso-around/iso/x.iso":    "-> ./store/other/../../home/keys.iso",
	"store/iso-twice/iso/x.iso":     "-> ./store/iso-link/iso/x.iso",
	"store/iso-mine/iso/x.iso":      "-> real.iso",
	"store/iso-mine/iso/real.iso":   "mine",
	"store/file-link":               "-> ./home/id_ed25519",
	"store/tree-link":               "-> ./home",
	"store/prefix":                  "-> ./store/prefix-long/x.iso",
	"store/prefix-long/x.iso":       "of another build",
	"store/initrd-link/kernel":      "the kernel",
	"store/initrd-link/initrd":      "-> ./home/id_ed25519",
	"store/initrd-link/a.ipxe":      script,
	"store/script-link/kernel":      "the kernel",
	"store/script-link/initrd":      "the initrd",
	"store/script-link/a.ipxe":      "-> ./home/id_ed25519",
	"store/kernel-link/kernel":      "-> ./home/id_ed25519",
	"store/kernel-link/initrd":      "the initrd",
	"store/kernel-link/a.ipxe":      script,
	"store/aside/iso/x.iso":         "mine",
	"store/aside/nix-support/x.iso": "-> ./home/id_ed25519",
	"result-of-key":                 "-> ./home/id_ed25519",
	"result-of-link":                "-> ./store/file-link",
	"result-by-hand":                "-> ./made",
	"made/iso/x.iso":                "made by hand",
	"made-with-store/iso/x.iso":     "-> ./store/other/x.iso",
	"made-with-key/iso/x.iso":       "-> ./home/id_ed25519",
})

// TestNothingOutsideIsPackaged has the output alone for its closure.
func TestNothingOutsideIsPackaged(t *testing.T) {
	t.Parallel()
	root := plant(t, withKey)
	for output, want := range map[string]string{ // the content of the asset, or "" where it is refused
		"iso-link": "", "iso-up": "", "iso-folder": "", "iso-other": "", "iso-around": "", "iso-twice": "",
		"file-link": "", "tree-link": "", "prefix": "", "initrd-link": "", "kernel-link": "", "script-link": "",
		"iso-mine": "mine", "aside": "mine",
	} {
		dir := t.TempDir()
		p := packager(dir)
		p.Within = []string{filepath.Join(root, "store", output)}
		made, err := p.Package(t.Context(), artifact.Image{Name: "x"}, filepath.Join(root, "store", output))
		if want == "" {
			require.ErrorIs(t, err, artifact.ErrOutside, output)
			assert.NotContains(t, err.Error(), "the key")
			assert.NotContains(t, err.Error(), "keys.iso, ", "names of a folder outside: %s", output)
			assert.Empty(t, listing(t, dir), output)
			continue
		}
		require.NoError(t, err, output)
		content, err := os.ReadFile(made.Path)
		require.NoError(t, err)
		assert.Equal(t, want, string(content), output)
	}

	p := packager(t.TempDir())
	p.Within = []string{filepath.Join(root, "store/iso-other"), filepath.Join(root, "store/other")}
	_, err := p.Package(t.Context(), artifact.Image{Name: "x"}, filepath.Join(root, "store/iso-other"))
	require.NoError(t, err, "in the closure")
	p.Within = nil
	_, err = p.Package(t.Context(), artifact.Image{Name: "x"}, filepath.Join(root, "store/iso-mine"))
	require.ErrorContains(t, err, "it is not known where the files of a build may lie")
}

func TestTrees(t *testing.T) {
	t.Parallel()
	root := plant(t, withKey)
	store := filepath.Join(root, "store")
	linked := filepath.Join(t.TempDir(), "store")
	require.NoError(t, os.Symlink(store, linked))
	for result, want := range map[string]string{ // the content of the asset, or an error
		"result-of-key":    "is not in the Nix store",
		"result-of-link":   artifact.ErrOutside.Error(),
		"store/file-link":  artifact.ErrOutside.Error(),
		"store/iso-link":   artifact.ErrOutside.Error(),
		"result-by-hand":   "is not in the Nix store",
		"made-with-key":    artifact.ErrOutside.Error(),
		"absent":           "no such file or directory (give a store path",
		"made":             "made by hand",
		"made/":            "made by hand",
		"made-with-store":  "of another build",
		"store/iso-other":  "of another build",
		"store/iso-mine":   "mine",
		"home/id_ed25519":  "the key", // it was asked for by its own name
		"home/../made/iso": "made by hand",
	} {
		for _, at := range []string{store, linked} {
			p := packager(t.TempDir())
			path := root + "/" + result
			var err error
			if p.Within, err = artifact.Trees(path, at); err == nil {
				var made artifact.Artifact
				if made, err = p.Package(t.Context(), artifact.Image{Name: "x"}, path); err == nil {
					content, err := os.ReadFile(made.Path)
					require.NoError(t, err)
					assert.Equal(t, want, string(content), result)
					continue
				}
			}
			assert.ErrorContains(t, err, want, result)
		}
	}
	within, err := artifact.Trees(filepath.Join(root, "made"), filepath.Join(root, "no store"))
	require.NoError(t, err)
	assert.Equal(t, []string{filepath.Join(root, "made")}, within)
}

// What becomes a link between the look at an output and its opening is not opened.
func TestOpenedFileIsTheOneThatWasFound(t *testing.T) {
	t.Parallel()
	for name, swap := range map[string]func(root string) error{
		"the file": func(root string) error {
			return os.Symlink(filepath.Join(root, "home/id_ed25519"), filepath.Join(root, "store/o/iso/x.iso"))
		},
		"its folder": func(root string) error {
			return os.Symlink(filepath.Join(root, "home/iso"), filepath.Join(root, "store/o/iso"))
		},
		"the source": func(root string) error {
			return os.Symlink(filepath.Join(root, "home"), filepath.Join(root, "store/o"))
		},
	} {
		root := plant(t, withKey.with(tree{"store/o/iso/x.iso": "mine"}))
		open := artifact.Opener(t, filepath.Join(root, "store/o"))
		path := filepath.Join(root, "store/o/iso/x.iso")
		file, err := open(path)
		require.NoError(t, err)
		require.NoError(t, file.Close())
		parts := map[string]string{"the file": "store/o/iso/x.iso", "its folder": "store/o/iso", "the source": "store/o"}
		require.NoError(t, os.RemoveAll(filepath.Join(root, parts[name])))
		require.NoError(t, swap(root))
		_, err = open(path)
		require.Error(t, err, name)
	}
	// A source that is a file.
	root := plant(t, withKey.with(tree{"store/x.iso": "mine"}))
	open := artifact.Opener(t, filepath.Join(root, "store/x.iso"))
	file, err := open(filepath.Join(root, "store/x.iso"))
	require.NoError(t, err)
	require.NoError(t, file.Close())
	require.NoError(t, os.Remove(filepath.Join(root, "store/x.iso")))
	require.NoError(t, os.Symlink("other/x.iso", filepath.Join(root, "store/x.iso")))
	_, err = open(filepath.Join(root, "store/x.iso"))
	require.ErrorIs(t, err, artifact.ErrOutside)
}
