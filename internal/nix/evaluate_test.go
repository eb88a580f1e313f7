package nix_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/nix"
)

func TestEvaluationErrorsAreOneSentence(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	flake := func(name, text string) string {
		path := filepath.Join(folder, name)
		require.NoError(t, os.Mkdir(path, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(path, "flake.nix"), []byte(text), 0o600))
		return path
	}
	require.NoError(t, os.Mkdir(filepath.Join(folder, "empty"), 0o755))
	flake("syntax", "{ outputs = _: { x = ; }; }")
	flake("values", "{ outputs = _: { one = 1; }; }")
	flake("inputs", `{ inputs.gone.url = "path:/no/such/folder"; outputs = { self, gone }: { x = gone; }; }`)
	flake("locked", `{ inputs.gone.url = "git+http://127.0.0.1:1/gone"; outputs = { self, gone }: { x = gone.x; }; }`)
	lock := fmt.Sprintf(`{"version": 7, "root": "root", "nodes": {"root": {"inputs": {"gone": "gone"}}, "gone": {
		"original": {"type": "git", "url": "http://127.0.0.1:1/gone"},
		"locked": {"type": "git", "url": "http://127.0.0.1:1/gone", "ref": "main", "rev": %q, "lastModified": 1787101114,
			"narHash": "sha256-gwrPcFf/rDjHPaVflbDZ040ZDmBTRj/7+s8ZmE2SaIM="}}}}`, strings.Repeat("0", 39)+"1")
	require.NoError(t, os.WriteFile(filepath.Join(folder, "locked", "flake.lock"), []byte(lock), 0o600))
	// Git's work trees end the search for flakes, so these are outside of the
	// repository that holds the others.
	tracked := flake("git", "{ outputs = _: { x = throw ''has no mercy''; }; }")
	git(t, tracked, "init", "--quiet")

	tests := map[string]struct {
		installable string
		kind        nix.ProblemKind
		message     string // a regular expression
	}{
		"no folder":                     {"./nowhere#x", nix.NoFlake, `^there is no flake "\./nowhere": no folder /.*/nowhere$`},
		"no absolute folder":            {"path:/nowhere#x", nix.NoFlake, `^there is no flake "path:/nowhere": no folder /nowhere$`},
		"no flake.nix in it":            {"path:empty#x", nix.NoFlake, `^there is no flake "path:empty": no flake.nix in /.*/empty$`},
		"nor above it":                  {"./empty#x", nix.NoFlake, `^there is no flake "\./empty": no flake.nix in /.*/empty or a folder above it$`},
		"not tracked by git":            {"./git#x", nix.NoFlake, "^there is no flake \"\\./git\" for Nix: in a git repository it sees only what git tracks, so `git add` the flake.nix in /.*/git$"},
		"no repository":                 {"git+file:///no/such/repository#x", nix.NoFlake, `^there is no flake "git\+file:///no/such/repository": .*/no/such/repository['"] does not (appear to be a git repository|exist\.)$`},
		"not in the registry":           {"no-such-flake#x", nix.NoFlake, `^there is no flake "no-such-flake": cannot find flake 'flake:no-such-flake' in the flake registries$`},
		"an input is not there":         {"path:./inputs#x", nix.Mistake, `^image: the flake "path:\./inputs" or one of its inputs cannot be fetched: .*/no/such/folder`},
		"a locked input is not there":   {"path:./locked#x", nix.Mistake, `^image: the flake "path:\./locked" or one of its inputs cannot be fetched: unable to access 'http://127\.0\.0\.1:1/gone/': .*[Cc]onnect`},
		"no attribute":                  {"path:values#two", nix.NoAttribute, `^image: the flake path:/.*/values has no attribute two$`},
		"no attribute but a like one":   {"path:values#onee", nix.NoAttribute, `^image: the flake path:/.*/values has no attribute onee; did you mean one\?$`},
		"nothing to build":              {"path:values#one", nix.NoAttribute, `^image: the attribute one is nothing that can be built, but an integer: 1$`},
		"syntax":                        {"path:syntax#x", nix.Mistake, `^image: syntax error, unexpected ';'`},
		"arguments that Nix has not":    {"path:values#one", nix.Mistake, `^image: unrecognised flag '--colour'$`},
		"an installable like an option": {"--colour", nix.Mistake, `^image: getting status of .*/--colour`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			request := nix.Request{
				Dir:    folder,
				Images: []artifact.Image{{Name: "image", Installable: test.installable}},
				Events: b.record,
			}
			if name == "arguments that Nix has not" {
				request.Args = []string{"--colour"}
			}
			_, err := b.Build(t.Context(), request)
			var failed *nix.EvaluationError
			require.ErrorAs(t, err, &failed)
			assert.Regexp(t, test.message, err.Error())
			require.Len(t, failed.Problems, 1)
			assert.Equal(t, test.kind, failed.Problems[0].Kind)
			assert.Empty(t, b.of(nix.Started))
			t.Log(err)
		})
	}
}

func TestEvaluationTellsOfAllImages(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, err := b.Build(t.Context(), b.request("failed-assertion", isoX86, "ec-runner-x86_64-netbot", "no-such-sdimage", "neither-this"))
	var failed *nix.EvaluationError
	require.ErrorAs(t, err, &failed)
	require.Len(t, failed.Problems, 4)
	assert.Regexp(t, `^failed-assertion: Failed assertions:
- The ‘fileSystems’ option does not specify your root file system\.
ec-runner-x86_64-netbot: the flake path:/.*/flake has no attribute nixosConfigurations\.ec-runner-x86_64-netbot\.config\.system\.build\.isoImage; did you mean ec-runner-x86_64-netboot\?
no-such-sdimage: the flake path:/.* has no attribute nixosConfigurations\.no-such-sdimage\.config\.system\.build\.sdImage
neither-this: the flake path:/.* has no attribute .*$`, err.Error())
	assert.Contains(t, failed.Problems[0].Detail, "flake.nix:", "the detail has the position")
	assert.Empty(t, b.of(nix.Started))
}

func TestEvaluationTellsOfOneFlakeOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	request := b.request(isoX86, netbootX86)
	request.Dir = t.TempDir()
	_, err := b.Build(t.Context(), request)
	require.EqualError(t, err, `there is no flake "path:.": no flake.nix in `+request.Dir)

	_, err = b.Build(t.Context(), nix.Request{})
	require.EqualError(t, err, "there is no image to build")
}
