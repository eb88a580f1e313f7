package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/assert"

	"every.channel/runner-images/internal/lab"
)

func TestMain(m *testing.M) {
	if process := os.Getenv(spyOn); process != "" {
		spy(process)
		return
	}
	testscript.Main(m, map[string]func(){"runner-images": main})
}

// TestScripts runs the sessions at a terminal in testdata/script.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{Dir: "testdata/script", RequireExplicitExec: true, Setup: withGit})
}

func withGit(env *testscript.Env) error {
	for _, who := range []string{"AUTHOR", "COMMITTER"} {
		env.Setenv("GIT_"+who+"_NAME", "Tester")
		env.Setenv("GIT_"+who+"_EMAIL", "tester@forge.example")
	}
	return nil
}

// TestNixScripts runs the sessions in testdata/nix, which have testdata's flake
// in the folder flake and a Nix with an empty store on PATH.
func TestNixScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{Dir: "testdata/nix", RequireExplicitExec: true, Setup: withNix(t)})
}

func withNix(t *testing.T) func(*testscript.Env) error {
	return func(env *testscript.Env) error {
		store := lab.Nix(t)
		for _, variable := range store.Env() {
			name, value, _ := strings.Cut(variable, "=")
			if strings.HasPrefix(name, "NIX_") || strings.HasPrefix(name, "XDG_") || name == "HOME" {
				env.Setenv(name, value)
			}
		}
		// For sessions that are about a PATH without Nix.
		program, err := exec.LookPath("runner-images")
		if err != nil {
			return err
		}
		env.Setenv("BIN", filepath.Dir(program))
		env.Setenv("PATH", filepath.Dir(store.Program)+string(filepath.ListSeparator)+env.Getenv("PATH"))
		env.Setenv("WITH_NIX", env.Getenv("PATH"))
		if err := os.CopyFS(filepath.Join(env.WorkDir, "flake"), os.DirFS(lab.Flake(t))); err != nil {
			return err
		}
		return withGit(env)
	}
}

// TestRunOfTheWorkflow checks what provenance says of the run. TestShippedWorkflow
// opens the address on Gitea.
func TestRunOfTheWorkflow(t *testing.T) {
	const repository = "https://forge.example/every/channel"
	t.Setenv("GITHUB_RUN_ID", "4711")
	t.Setenv("GITHUB_RUN_NUMBER", "")
	assert.Empty(t, runURL(repository), "the page takes the number")
	t.Setenv("GITHUB_RUN_NUMBER", "12")
	assert.Equal(t, repository+"/actions/runs/12?by_index=true", runURL(repository))
	assert.Empty(t, runURL(""))

	const reference = "every/channel/.forgejo/workflows/images.yml@refs/tags/boot-v1"
	t.Setenv("GITHUB_WORKFLOW_REF", reference)
	t.Setenv("GITHUB_WORKFLOW", "images")
	assert.Equal(t, "images", workflowName())
	t.Setenv("GITHUB_WORKFLOW", "")
	assert.Equal(t, reference, workflowName(), "a workflow without a name")
}
