package workflow

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/lab"
)

func image(name, attribute, system string) Image {
	return Image{Image: artifact.Image{Name: name, Installable: "nixosConfigurations." + name + ".config.system.build." + attribute}, System: system}
}

var kiosk = Workflow{
	Action: "https://forge.example/every-channel/runner-images@v0.1.0",
	Flake:  ".",
	Images: []Image{image("kiosk", "isoImage", "x86_64-linux"), image("kiosk-pxe", "netboot", "")},
}

// TestREADMEHasTheWorkflow keeps README's example what init writes.
func TestREADMEHasTheWorkflow(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile(filepath.Join(lab.Root(t), "README.md"))
	require.NoError(t, err)
	_, example, ok := strings.Cut(string(readme), "```yaml\n")
	require.True(t, ok)
	example, _, ok = strings.Cut(example, "```")
	require.True(t, ok)
	assert.Equal(t, kiosk.Text(), example)
	assert.Contains(t, string(readme), "`"+Path+"`")
}

// TestText also has the linter of this repository's workflows read what is written.
func TestText(t *testing.T) {
	t.Parallel()
	assert.Contains(t, kiosk.Text(), "runs-on: "+Label+" ")
	shipped, err := os.ReadFile(filepath.Join(lab.Root(t), Path))
	require.NoError(t, err)
	for line := range strings.Lines(kiosk.Text()) {
		if strings.Contains(line, "actions/checkout@") {
			assert.Contains(t, string(shipped), line, "both pin one commit")
		}
	}

	mixed := Workflow{Action: "every/runner-images@v1", Flake: "./images", Images: []Image{image("arm", "sdImage", "aarch64-linux"), image("pc", "isoImage", "x86_64-linux")}}
	assert.Contains(t, mixed.Text(), "\n          flake: ./images\n")
	assert.Regexp(t, `(?m)^            pc +nixos`, mixed.Text())
	assert.Regexp(t, `(?m)^            # arm +nixos.* # takes a runner or a remote builder for aarch64-linux$`, mixed.Text())
	mixed.Images = mixed.Images[:1]
	assert.Regexp(t, `(?m)^            arm +nixos`, mixed.Text(), "there are no others")

	byName := kiosk
	byName.Action = mixed.Action // the linter does not know that forges take an address
	for _, w := range []Workflow{byName, mixed} {
		folder := t.TempDir()
		require.NoError(t, w.Write(folder))
		lint := exec.CommandContext(t.Context(), lab.Tool(t, "lint", "actionlint"), "-shellcheck=", "-ignore", `label ".+" is unknown`, filepath.Join(folder, Path))
		out, err := lint.CombinedOutput()
		assert.NoError(t, err, "%s", out)
		assert.ErrorContains(t, w.Write(folder), "is there already, and nothing is overwritten")
	}
	assert.Error(t, kiosk.Write(filepath.Join(t.TempDir(), "absent")))
}

// TestWriteKeepsWordsWords has words that would be more than that in the file: they come
// from a flake, and from the names of folders.
func TestWriteKeepsWordsWords(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(w *Workflow){
		"a line":          func(w *Workflow) { w.Images[1].System = "aarch64-linux\n      - run: reboot" },
		"an expression":   func(w *Workflow) { w.Images[1].System = "${{ secrets.SIGNING_KEY }}" },
		"in an attribute": func(w *Workflow) { w.Images[0].Installable = `"${{ github.token }}"` },
		"in a flake":      func(w *Workflow) { w.Flake = "./${{ github.token }}" },
		"in an action":    func(w *Workflow) { w.Action = "every/${{ github.token }}@v1" },
		"not to be seen":  func(w *Workflow) { w.Flake = "./a\x85b" },
	} {
		w := kiosk
		w.Images = slices.Clone(kiosk.Images)
		change(&w)
		folder := t.TempDir()
		require.ErrorContains(t, w.Write(folder), "cannot stand in a workflow", name)
		assert.NoFileExists(t, filepath.Join(folder, Path), name)
	}
	for flake, want := range map[string]string{
		"./a #b":                "'./a #b'",
		"./it's: one":           "'./it''s: one'",
		"path:":                 "'path:'",
		"github:o/r?dir=images": "github:o/r?dir=images",
	} {
		w := kiosk
		w.Flake = flake
		assert.Contains(t, w.Text(), "\n          flake: "+want+"\n")
	}
}
