package deploy

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/folder"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/trust"
)

// TestNotes compares with testdata/notes.md. With UPDATE=1 in the environment it
// writes that instead.
func TestNotes(t *testing.T) {
	t.Parallel()
	p := plan.Plan{ReleaseTag: "boot-v1", ForgeURL: "https://forge.example", Repository: "every/channel", Commit: "c0ffee"}
	builds := func(commit, nixpkgs string) []trust.Build {
		return []trust.Build{{Repository: "https://forge.example/every/channel", Commit: commit, Flake: trust.Flake{Revision: commit, Inputs: []trust.Input{
			{Name: "nixpkgs", URL: "github:NixOS/nixpkgs/" + nixpkgs, Revision: nixpkgs},
		}}}}
	}
	changes := changesBegin + "[boot-v0](https://forge.example/every/channel/releases/tag/boot-v0)\n\n" +
		difference(p, basisOf(builds(hash("a"), hash("1"))), basisOf(builds(hash("b"), hash("2"))))
	got := notes(p, origin(p, "f1a4e"), changes, []artifact.Artifact{
		{Name: "a-boot-v1.tar.gz", Size: 3 << 20, SHA256: "01"},
		{Name: "b-boot-v1.iso", Size: 5, SHA256: "02"},
		{Name: "c-boot-v1.img.zst", Size: 5, SHA256: "03"},
		{Name: "d-boot-v1.img", Size: 5, SHA256: "04"},
		{Name: "e.json", Size: 5, SHA256: "05"},
	}, true)
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile("testdata/notes.md", []byte(got), 0o644))
	}
	want, err := os.ReadFile("testdata/notes.md")
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

func TestOrigin(t *testing.T) {
	t.Parallel()
	p := plan.Plan{ForgeURL: "file:///srv", Commit: "c0ffee"}
	assert.Equal(t, "Built from commit `c0ffee`, the flake's revision too.", origin(p, "c0ffee"))
	assert.Equal(t, "Built from commit `c0ffee`; the flake was not at a revision in git.", origin(p, ""))
	assert.Empty(t, origin(plan.Plan{}, "c0ffee"))

	assert.Equal(t, origin(p, ""), originIn("By hand.\n\n"+notes(p, origin(p, ""), "", nil, false)))
	assert.Empty(t, originIn("By hand.\n"))
	assert.NotContains(t, notes(p, "", "", nil, false), "ssh-keygen")
}

// Commands are there only for what a boot server takes.
func TestNotesOfBundles(t *testing.T) {
	t.Parallel()
	p := publication{plan: plan.Plan{ReleaseTag: "boot-v1", ForgeURL: "https://forge.example"}, architectures: map[string]string{
		"kiosk-boot-v1.tar.gz": "x86_64", "pi-boot-v1.tar.gz": "aarch64", "text-boot-v1.tar.gz": "",
	}}
	text := func(names ...string) string {
		var files []release.File
		for _, name := range names {
			files = append(files, release.File{Name: name})
		}
		return notes(p.plan, "", "", p.known(files), false)
	}
	const command = "netboot stage --forge-url https://forge.example --release-tag boot-v1"
	assert.Equal(t, 2, strings.Count(text("kiosk-boot-v1.tar.gz", "pi-boot-v1.tar.gz"), command))
	assert.Equal(t, 1, strings.Count(text("before-boot-v1.tar.gz"), command))
	assert.Equal(t, 1, strings.Count(text("before-x86_64-netboot-boot-v1.tar.gz"), command))

	got := text("kiosk-boot-v1.tar.gz", "ec-runner-x86_64-netboot-boot-v1.tar.gz", "text-boot-v1.tar.gz", "sources.tar.gz")
	assert.Equal(t, 1, strings.Count(got, command))
	assert.Contains(t, got, "`kiosk-boot-v1.tar.gz` is not what a boot server stages: it takes `ec-runner-x86_64-netboot-boot-v1.tar.gz` for x86_64.")
	assert.Contains(t, got, "`text-boot-v1.tar.gz` is not what a boot server stages: it is no netboot bundle, or neither")
	assert.Contains(t, got, "`sources.tar.gz` is not what")

	got = text("kiosk-boot-v1.tar.gz", "before-x86_64-netboot-boot-v1.tar.gz")
	assert.NotContains(t, got, command)
	assert.Contains(t, got, "`kiosk-boot-v1.tar.gz` is not what a boot server stages: the release has 2 for x86_64, which is one too many.")
}

// What a boot server refuses is said before anything is published.
func TestWarningOfBundles(t *testing.T) {
	t.Parallel()
	store, err := folder.Open("file://"+t.TempDir(), nil)
	require.NoError(t, err)
	attach := func(names ...string) string {
		var out bytes.Buffer
		r := report.New(report.Options{Out: io.Discard, Log: &out, Getenv: func(string) string { return "" }})
		var files []release.File
		for _, name := range names {
			path := filepath.Join(t.TempDir(), name)
			require.NoError(t, os.WriteFile(path, []byte(name), 0o600))
			files = append(files, release.File{Name: name, Path: path, Size: int64(len(name))})
		}
		require.NoError(t, Attach(t.Context(), r, store, plan.Plan{ReleaseTag: "boot-v1"}, files, nil, nil, false))
		return out.String()
	}
	assert.NotContains(t, attach("kiosk-x86_64-netboot-boot-v1.tar.gz", "pi-aarch64-netboot-boot-v1.tar.gz", "sources.tar.gz"), "warning")
	const warning = "warning: boot servers will not stage the release boot-v1: it has 2 netboot bundles for x86_64: desk-x86_64-netboot-boot-v1.tar.gz, kiosk-x86_64-netboot-boot-v1.tar.gz; keep one of them\n"
	got := attach("desk-x86_64-netboot-boot-v1.tar.gz")
	assert.Equal(t, 1, strings.Count(got, warning), got)
	assert.Less(t, strings.Index(got, warning), strings.Index(got, "uploaded: "), "it is said before")
	assert.NotContains(t, attach("ec-runner-x86_64-netboot-boot-v1.tar.gz"), "warning", "which boot servers prefer")
}

// The commands in the notes are pasted into a shell: it hands on what they name.
func TestCommandsInNotesAreWords(t *testing.T) {
	t.Parallel()
	p := plan.Plan{ReleaseTag: "a'b;$(touch planted)`x`", ForgeURL: "file:///srv/all releases"}
	text := notes(p, "", "", []artifact.Artifact{{Name: "the kiosk's.iso"}, {Name: "-pi &.img.zst"}}, true)
	folder := t.TempDir()
	commands := regexp.MustCompile("(?s)```\n(.*?)```").FindAllStringSubmatch(text, -1)
	require.Len(t, commands, 4)
	script := ` for name in runner-images dd zstd sha256sum ssh-keygen head; do eval "$name() { printf '<%s>' $name \"\$@\"; echo; }"; done; touch allowed_signers SHA256SUMS.txt` + "\n"
	for _, command := range commands {
		script += command[1]
	}
	command := exec.CommandContext(t.Context(), "bash", "-c", script)
	command.Dir = folder
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "<runner-images><verify><--forge-url><file:///srv/all releases><--release-tag><a'b;$(touch planted)`x`>")
	assert.Contains(t, string(out), "<dd><if=the kiosk's.iso>")
	assert.Contains(t, string(out), "<-n><runner-images/a'b;$(touch planted)`x`@every.channel>")
	assert.NoFileExists(t, filepath.Join(folder, "planted"))
}
