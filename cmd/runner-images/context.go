package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/redact"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/trust"
)

// surroundings describes where the run takes place: from the runner's environment,
// or from git at a terminal.
func surroundings(ctx context.Context) plan.Context {
	c := plan.Context{
		Ref:        os.Getenv("GITHUB_REF"),
		SHA:        os.Getenv("GITHUB_SHA"),
		ServerURL:  os.Getenv("GITHUB_SERVER_URL"),
		Repository: os.Getenv("GITHUB_REPOSITORY"),
	}
	if inRunner() {
		return c
	}
	if c.SHA == "" {
		c.SHA, c.NoCommit = git(ctx, "rev-parse", "--verify", "--quiet", "HEAD")
		if c.SHA != "" && c.Ref == "" {
			var tags string
			tags, c.NoCommit = git(ctx, "tag", "--points-at", c.SHA, "--list", plan.TagPrefix+"*")
			if c.Tags = strings.Fields(tags); len(c.Tags) == 1 {
				c.Ref = "refs/tags/" + c.Tags[0]
			}
		}
	}
	if c.ServerURL == "" && c.Repository == "" {
		var remote string
		remote, c.NoRemote = git(ctx, "remote", "get-url", "origin")
		c.ServerURL, c.Repository = plan.FromRemote(remote, sshHost(ctx))
		if remote != "" && c.Repository == "" {
			c.NoRemote = fmt.Errorf("the remote origin is %s, which does not tell it", redact.Text(remote))
		}
	}
	return c
}

// about describes the run at its beginning, for the provenance of what it makes.
func about(given map[string]string, c plan.Context) trust.Build {
	build := trust.Build{
		Commit:   c.SHA,
		Ref:      c.Ref,
		Inputs:   map[string]string{},
		Versions: map[string]string{"runner-images": version()},
		Run:      trust.Run{Started: time.Now().UTC()},
	}
	for _, input := range plan.Inputs() {
		if value := given[input.Name]; value != "" && !input.Secret {
			build.Inputs[input.Name] = value
		}
	}
	if c.ServerURL != "" && c.Repository != "" {
		build.Repository = strings.TrimRight(c.ServerURL, "/") + "/" + c.Repository
	}
	if inRunner() {
		build.Builder = c.ServerURL
		build.Workflow = workflowName()
		build.Run.URL = runURL(build.Repository)
	}
	return build
}

// tell reports what a plan has to say.
func tell(r *report.Report, p plan.Plan) {
	for _, note := range p.Notes {
		r.Notice("%s", note)
	}
}

// workflowName names the workflow: by its name, or by its file where it has none.
func workflowName() string {
	if name := os.Getenv("GITHUB_WORKFLOW"); name != "" {
		return name
	}
	return os.Getenv("GITHUB_WORKFLOW_REF")
}

// runURL returns the address of the workflow's run. Forgejo, and Gitea before 1.26,
// take the run's number in the repository. Later Gitea takes its id first, unless the
// address says by_index, which the others do not look at.
func runURL(repository string) string {
	number := os.Getenv("GITHUB_RUN_NUMBER")
	if repository == "" || number == "" {
		return ""
	}
	return repository + "/actions/runs/" + number + "?by_index=true"
}

// git returns what git prints. Its error is in git's own words, which have advice, for
// example on a checkout that belongs to another user. Where git says nothing, as about
// the commit of a repository without one, there is no error.
func git(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", args...).Output()
	if errors.Is(err, exec.ErrNotFound) {
		err = errors.New("git is not on PATH; install it")
	}
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = nil
		if words := strings.TrimSpace(string(failed.Stderr)); words != "" {
			err = fmt.Errorf("git says: %s", redact.Text(words))
		}
		out = nil
	}
	return strings.TrimSpace(string(out)), err
}

// sshHost returns the host that ssh connects to for a name, which may be an alias
// in ssh_config(5), or nothing. It runs the ssh that git runs, git-config(1), and
// connects to nobody.
func sshHost(ctx context.Context) func(name string) string {
	return func(name string) string {
		program := os.Getenv("GIT_SSH_COMMAND")
		if program == "" {
			configured, _ := git(ctx, "config", "--get", "core.sshCommand") // most have none
			program = cmp.Or(configured, "ssh")
		}
		settings, err := exec.CommandContext(ctx, "sh", "-c", program+` -G -- "$1"`, "sh", name).Output()
		if err != nil {
			return ""
		}
		for line := range strings.Lines(string(settings)) {
			if host, ok := strings.CutPrefix(line, "hostname "); ok {
				return strings.TrimSpace(host)
			}
		}
		return ""
	}
}
