package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/folder"
	"every.channel/runner-images/internal/trust"
)

// hash returns a git hash of one digit.
func hash(digit string) string { return strings.Repeat(digit, 40) }

func nixpkgs(revision string) trust.Input {
	return trust.Input{Name: "nixpkgs", URL: "github:NixOS/nixpkgs/" + revision, Revision: revision, NARHash: "sha256-" + revision}
}

func TestDifference(t *testing.T) {
	t.Parallel()
	p := plan.Plan{ForgeURL: "https://forge.example", Repository: "every/channel"}
	const repository = "https://forge.example/every/channel"
	build := func(commit string, images []trust.Image, inputs ...trust.Input) trust.Build {
		return trust.Build{Repository: repository, Commit: commit, Images: images, Flake: trust.Flake{Revision: commit, Inputs: inputs}}
	}
	own := func(revision string) trust.Input {
		return trust.Input{Name: "tools", URL: "git+https://forge.example/every/tools.git?ref=main&rev=" + revision, Revision: revision}
	}
	elsewhere := func(revision string) trust.Input {
		return trust.Input{Name: "disko", URL: "git+https://other.example/nix/disko?rev=" + revision, Revision: revision}
	}
	tarball := func(hash string) trust.Input {
		return trust.Input{Name: "data", URL: "https://files.example/data.tar.gz", NARHash: hash}
	}
	images := []trust.Image{{Name: "kiosk", NARHash: "sha256-1"}, {Name: "pi", NARHash: "sha256-2"}}
	was := build(hash("a"), images, nixpkgs(hash("1")), own(hash("2")), elsewhere(hash("3")), tarball("sha256-x/y+z="), trust.Input{Name: "old", Revision: hash("4")})
	is := build(hash("b"), []trust.Image{{Name: "kiosk", NARHash: "sha256-1"}, {Name: "pi", NARHash: "sha256-3"}, {Name: "new", NARHash: "sha256-4"}},
		nixpkgs(hash("5")), own(hash("6")), elsewhere(hash("7")), tarball("sha256-y"), trust.Input{Name: "systems", Revision: hash("8")})
	differ := func(was, is []trust.Build) string { return difference(p, basisOf(was), basisOf(is)) }
	assert.Equal(t, `| Source | Then | Now | |
|---|---|---|---|
| this repository | `+"`aaaaaaaaaaaa` | `bbbbbbbbbbbb`"+` | [compare](https://forge.example/every/channel/compare/`+hash("a")+"..."+hash("b")+`) |
| data | `+"`sha256-x/y+z=` | `sha256-y`"+` |  |
| disko | `+"`333333333333` | `777777777777`"+` |  |
| nixpkgs | `+"`111111111111` | `555555555555`"+` | [compare](https://github.com/NixOS/nixpkgs/compare/`+hash("1")+"..."+hash("5")+`) |
| old | `+"`444444444444`"+` | | gone |
| systems | | `+"`888888888888`"+` | new |
| tools | `+"`222222222222` | `666666666666`"+` | [compare](https://forge.example/every/tools/compare/`+hash("2")+"..."+hash("6")+`) |

Built to the same bytes as then: `+"`kiosk`.\n", differ([]trust.Build{was}, []trust.Build{is}))

	assert.Equal(t, "Nothing that the images are made from.\n\nBuilt to the same bytes as then: `kiosk`, `pi`.\n", differ([]trust.Build{was}, []trust.Build{was}))

	// The flake is another repository's, or has changes.
	flake := was
	flake.Flake.Revision, flake.Flake.URL = hash("c"), "github:every/images/"+hash("c")
	moved := flake
	moved.Flake.Revision, moved.Flake.URL = hash("d"), "github:every/images/"+hash("d")
	assert.Contains(t, differ([]trust.Build{flake}, []trust.Build{moved}),
		"| the flake | `cccccccccccc` | `dddddddddddd` | [compare](https://github.com/every/images/compare/"+hash("c")+"..."+hash("d")+") |\n")

	// Where the builds of a release do not agree, nothing is said.
	assert.NotContains(t, differ([]trust.Build{was}, []trust.Build{is, build(hash("b"), images, nixpkgs(hash("9")))}), "nixpkgs")
	assert.NotContains(t, differ([]trust.Build{was}, []trust.Build{is, build(hash("b"), []trust.Image{{Name: "kiosk", NARHash: "sha256-9"}})}), "kiosk")

	// Nobody's words come into the table.
	evil := build("`|x", nil, trust.Input{Name: "a|b", Revision: hash("1")}, trust.Input{Name: "x", Revision: "` [y](javascript:z)"},
		trust.Input{Name: "nixpkgs", URL: "github:a/b)c/d", Revision: hash("2")}, trust.Input{Name: "tools", URL: "git+https://forge.example/a b?rev=1", Revision: hash("3")})
	assert.Equal(t, "| Source | Then | Now | |\n|---|---|---|---|\n"+
		"| data | `sha256-x/y+z=` | | gone |\n| disko | `333333333333` | | gone |\n"+
		"| nixpkgs | `111111111111` | `222222222222` |  |\n| old | `444444444444` | | gone |\n| tools | `222222222222` | `333333333333` |  |\n",
		differ([]trust.Build{was}, []trust.Build{evil}))

	// Nor any number of them.
	var many trust.Build
	for n := range 300 {
		many.Flake.Inputs = append(many.Flake.Inputs, trust.Input{Name: fmt.Sprintf("input-%03d", n), Revision: hash("1")})
		many.Images = append(many.Images, trust.Image{Name: fmt.Sprintf("image-%03d", n), NARHash: "sha256-1"})
	}
	text := differ([]trust.Build{many}, []trust.Build{{Images: many.Images}})
	assert.Equal(t, 200, strings.Count(text, "| gone |\n"))
	assert.Contains(t, text, "| input-199 | `111111111111` | | gone |\n\nAnd 100 more.\n\nBuilt to the same bytes as then: `image-000`, ")
	assert.True(t, strings.HasSuffix(text, "`image-199`, and 100 more.\n"), text)
}

// deployed deploys a release of the line's flake at a revision of nixpkgs, and returns
// its notes.
func (l *line) deployed(t *testing.T, tag, revision string) (notes string) {
	t.Helper()
	l.Plan.ReleaseTag = tag
	l.nix.metadata.Inputs = []nix.Input{nix.Input(nixpkgs(revision))}
	require.NoError(t, os.RemoveAll(l.nix.store))
	require.NoError(t, l.Run(t.Context()))
	found, err := l.Store.Release(t.Context(), tag)
	require.NoError(t, err)
	return found.Notes
}

const movedNixpkgs = "| nixpkgs | `111111111111` | `222222222222` |"

// Notes compare a release with the one that was the newest when it was published, also
// when they are written anew.
func TestNotesSayWhatChanged(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	first := l.deployed(t, "boot-v1", hash("1"))
	assert.NotContains(t, first, changesBegin)
	second := l.deployed(t, "boot-v2", hash("2"))
	assert.Contains(t, second, "### Changed since [boot-v1](file://"+l.releases+"/boot-v1)\n\n| Source | Then | Now | |\n|---|---|---|---|\n"+movedNixpkgs)
	assert.Contains(t, second, "Built to the same bytes as then: `x`, `y`.")
	_, summary, _ := strings.Cut(l.read(t, l.summary), "## Boot images boot-v2\n")
	assert.Contains(t, summary, " |\n\n### Changed since [boot-v1](file://"+l.releases+"/boot-v1)\n\n| Source |")
	assert.Contains(t, summary, "Built to the same bytes as then: `x`, `y`.\n")
	assert.NotContains(t, summary, "### Verify")
	third := l.deployed(t, "boot-v3", hash("2"))
	assert.Contains(t, third, "### Changed since [boot-v2](file://"+l.releases+"/boot-v2)\n\nNothing that the images are made from.\n")

	assert.Equal(t, first, l.deployed(t, "boot-v1", hash("1")))
	assert.Equal(t, second, l.deployed(t, "boot-v2", hash("2")))

	// A release of something else is not what these are compared with.
	other := newLine(t)
	other.Store, other.releases = l.Store, l.releases
	assert.Contains(t, other.deployed(t, "nightly", hash("2")), changesBegin+"[boot-v3]")
	assert.Contains(t, l.deployed(t, "boot-v4", hash("2")), changesBegin+"[boot-v3]")
}

// What cannot be told is left out, and the release is published.
func TestNotesWithoutWhatChanged(t *testing.T) {
	t.Parallel()
	provenance := func(l *line) string { return filepath.Join(l.releases, "boot-v1", trust.ProvenanceFileName) }
	for name, spoil := range map[string]func(t *testing.T, l *line){
		"no provenance": func(t *testing.T, l *line) { require.NoError(t, os.Remove(provenance(l))) },
		"not provenance": func(t *testing.T, l *line) {
			require.NoError(t, os.WriteFile(provenance(l), []byte("<html>\n{}\n"), 0o600))
		},
		"of another tag": func(t *testing.T, l *line) {
			line, err := trust.Attest(t.Context(), trust.Build{Tag: "boot-v0", Subjects: map[string]string{"x": strings.Repeat("0", 64)}}, nil)
			require.NoError(t, err)
			content, err := trust.MergeProvenance(t.Context(), nil, line, nil)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(provenance(l), content, 0o600))
		},
		"not signed": func(t *testing.T, l *line) { l.Key = newKey(t) },
		"endless":    func(t *testing.T, l *line) { require.NoError(t, os.Truncate(provenance(l), 1<<30)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLine(t)
			l.deployed(t, "boot-v1", hash("1"))
			spoil(t, l)
			assert.NotContains(t, l.deployed(t, "boot-v2", hash("2")), changesBegin)
		})
	}
}

// With a key, what is compared is what the key has signed.
func TestSignedNotesSayWhatChanged(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.Key = newKey(t)
	l.deployed(t, "boot-v1", hash("1"))
	assert.Contains(t, l.deployed(t, "boot-v2", hash("2")), movedNixpkgs)
	l.Key = newKey(t)
	assert.NotContains(t, l.deployed(t, "boot-v3", hash("3")), changesBegin)
}

// noLatest is a backend that cannot tell which release is the newest.
type noLatest struct{ release.Backend }

func (noLatest) Latest(context.Context, string) (release.Release, error) {
	return release.Release{}, errors.New("502 Bad Gateway")
}

// A store whose newest release cannot be told is one to publish to all the same.
func TestNotesWithoutTheNewestRelease(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.deployed(t, "boot-v1", hash("1"))
	store, err := folder.Open("file://"+l.releases, nil)
	require.NoError(t, err)
	store.Backend = noLatest{store.Backend}
	l.Store = store
	assert.NotContains(t, l.deployed(t, "boot-v2", hash("2")), changesBegin)
}
