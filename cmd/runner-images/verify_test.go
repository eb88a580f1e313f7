package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// TestVerifyPage goes from a downloaded ISO to certainty by the commands of
// docs/VERIFY.md, which are in the files page/1 to page/6 of the session: the
// five of its first part, and the check of a single statement. The session has
// one more command,
//
//	asset add TAG NAME FILE, asset delete TAG NAME
//
// which changes a release behind the back of runner-images, and makes it if it is
// not there.
func TestVerifyPage(t *testing.T) {
	t.Parallel()
	const tag = "boot-v2026.02.28"
	gitea := lab.StartGitea(t)
	repository := gitea.CreateRepository(t, "images", false)
	gitea.Push(t, repository, lab.Flake(t), tag)
	commands := pageCommands(t)

	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/forge",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("forge", gitea.URL)
			env.Setenv("repository", repository)
			env.Setenv("tag", tag)
			env.Setenv("COREUTILS", onlyOpenSSH(t))
			files := map[string]string{"token": gitea.Token(t, "write:repository")}
			for i, command := range commands {
				files[fmt.Sprintf("page/%d", i+1)] = command
			}
			for name, content := range files {
				path := filepath.Join(env.WorkDir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					return err
				}
			}
			return withNix(t)(env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"asset": func(ts *testscript.TestScript, _ bool, args []string) {
				changeAsset(t, ts, gitea, repository, args)
			},
		},
	})
}

// pageCommands returns the shell commands of docs/VERIFY.md but for the first,
// which says which release it is about.
func pageCommands(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(lab.Root(t), "docs", "VERIFY.md"))
	require.NoError(t, err)
	var commands []string
	for _, block := range regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```$").FindAllSubmatch(page, -1) {
		commands = append(commands, string(block[1]))
	}
	require.Len(t, commands, 7)
	for _, name := range []string{"forge=", "repository=", "tag="} {
		assert.Contains(t, commands[0], name)
	}
	for _, command := range commands[1:6] {
		assert.Equal(t, 1, strings.Count(command, "\n"), "one command in %q", command)
	}
	return commands[1:]
}

// onlyOpenSSH returns a folder with nothing but OpenSSH, coreutils and a shell.
func onlyOpenSSH(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for _, name := range []string{"sh", "ssh-keygen", "sha256sum"} {
		program, err := exec.LookPath(name)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(program, filepath.Join(folder, name)))
	}
	return folder
}

func changeAsset(t *testing.T, ts *testscript.TestScript, gitea *lab.Gitea, repository string, args []string) {
	t.Helper()
	action, tag, name := args[0], args[1], args[2]
	var release struct {
		ID     int64
		Assets []struct {
			ID   int64
			Name string
		}
	}
	releases := "/repos/" + repository + "/releases"
	if gitea.API(t, http.MethodGet, releases+"/tags/"+tag, nil, &release) == http.StatusNotFound {
		require.Equal(t, http.StatusCreated, gitea.API(t, http.MethodPost, releases, map[string]string{"tag_name": tag}, &release))
	}
	assets := fmt.Sprintf("%s/%d/assets", releases, release.ID)
	if action == "delete" {
		for _, asset := range release.Assets {
			if asset.Name == name {
				require.Equal(t, http.StatusNoContent, gitea.API(t, http.MethodDelete, fmt.Sprintf("%s/%d", assets, asset.ID), nil, nil))
			}
		}
		return
	}
	upload := exec.CommandContext(t.Context(), "curl", "--fail-with-body", "--silent", "--show-error", "--output", os.DevNull,
		"--header", "Authorization: token "+gitea.Token(t, "write:repository"), "--form", "attachment=@"+ts.MkAbs(args[3]),
		gitea.URL+"/api/v1"+assets+"?name="+url.QueryEscape(name))
	out, err := upload.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
