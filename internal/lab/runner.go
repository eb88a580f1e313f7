package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A Runner says how an Actions runner is set up.
type Runner struct {
	Label       string   // that workflows ask for in runs-on
	Environment []string // NAME=value, of the runner and its jobs; PATH and HOME belong here
}

// StartRunner registers an Actions runner in host mode with this Gitea, and
// starts it. It ends with the test.
func (g *Gitea) StartRunner(t testing.TB, runner Runner) {
	t.Helper()
	directory := t.TempDir()
	program := Tool(t, "gitea", "gitea-runner")
	var registration struct{ Token string }
	if status := g.API(t, http.MethodPost, "/admin/actions/runners/registration-token", nil, &registration); status != http.StatusOK {
		t.Fatalf("a registration token: Gitea answered %d", status)
	}
	label := runner.Label + ":host"
	configuration, err := json.Marshal(map[string]any{ // which YAML includes
		"log": map[string]any{"level": "info"},
		"runner": map[string]any{
			"file": ".runner", "labels": []string{label}, "fetch_interval": "200ms", "fetch_interval_max": "1s",
			"log_report_interval": "500ms", "state_report_interval": "500ms",
		},
		"cache": map[string]any{"enabled": false},
		"host":  map[string]any{"workdir_parent": filepath.Join(directory, "work")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(directory, "config.yaml"), configuration, 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(directory, "runner.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the runner has its own handle
	command := func(arguments ...string) *exec.Cmd {
		command := exec.Command(program, append([]string{"--config", "config.yaml"}, arguments...)...)
		command.Dir, command.Env = directory, runner.Environment
		command.Stdout, command.Stderr = log, log
		return command
	}
	register := command("register", "--no-interactive", "--instance", g.PublicURL, "--token", registration.Token,
		"--name", runner.Label, "--labels", label)
	if err := register.Run(); err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("register the runner: %v\n%s", err, text)
	}
	stop, _, err := startProcess(command("daemon"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the log of the runner %s:\n%s", runner.Label, text)
		}
	})
}

// Push makes a commit of a folder's files and pushes it to the branch main of
// a repository, and to the tags given. It returns the commit.
func (g *Gitea) Push(t testing.TB, repository, folder string, tags ...string) (commit string) {
	t.Helper()
	git := func(arguments ...string) string {
		t.Helper()
		command := exec.Command("git", append([]string{
			"-c", "user.name=Tester", "-c", "user.email=tester@example.org",
			"-c", "http.extraHeader=Authorization: token " + g.adminToken,
		}, arguments...)...)
		command.Dir = folder
		command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0")
		var errors bytes.Buffer
		command.Stderr = &errors
		out, err := command.Output()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", arguments[0], err, errors.String())
		}
		return strings.TrimSpace(string(out))
	}
	remote := fmt.Sprintf("%s/%s.git", g.URL, repository)
	if _, err := os.Stat(filepath.Join(folder, ".git")); err != nil {
		git("init", "--quiet", "--initial-branch=main")
	}
	git("add", "--all", "--force")
	git("commit", "--quiet", "--allow-empty", "--message=Files of the test")
	refs := []string{"HEAD:refs/heads/main"}
	for _, tag := range tags {
		refs = append(refs, "HEAD:refs/tags/"+tag)
	}
	git(append([]string{"push", "--quiet", "--force", remote}, refs...)...)
	return git("rev-parse", "HEAD")
}
