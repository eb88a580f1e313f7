package main

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"every.channel/runner-images/internal/plan"
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
		c.SHA = git(ctx, "rev-parse", "--verify", "--quiet", "HEAD")
		if tags := strings.Fields(git(ctx, "tag", "--points-at", "HEAD", "--list", plan.TagPrefix+"*")); len(tags) == 1 {
			c.Ref = "refs/tags/" + tags[0]
		}
	}
	if c.ServerURL == "" && c.Repository == "" {
		c.ServerURL, c.Repository = fromRemote(git(ctx, "remote", "get-url", "origin"))
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
		build.Workflow = os.Getenv("GITHUB_WORKFLOW")
		build.Run.URL = runURL(build.Repository)
	}
	return build
}

// runURL returns the address of the workflow's run: Forgejo names it by its number
// in the repository, Gitea by its id.
func runURL(repository string) string {
	run := os.Getenv("FORGEJO_RUN_NUMBER")
	if run == "" {
		run = os.Getenv("GITHUB_RUN_ID")
	}
	if repository == "" || run == "" {
		return ""
	}
	return repository + "/actions/runs/" + run
}

// git returns what git prints, or "" outside of a repository or without git: the plan
// then reports what is missing.
func git(ctx context.Context, args ...string) string {
	out, err := exec.CommandContext(ctx, "git", args...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// fromRemote finds the server's address and the repository's owner/name in the
// address of a git remote, in any form of git-fetch(1).
func fromRemote(remote string) (serverURL, repository string) {
	if !strings.Contains(remote, "://") {
		host, path, ok := strings.Cut(remote, ":") // git@forge.example:owner/name.git
		if !ok || strings.Contains(host, "/") {
			return "", ""
		}
		remote = "ssh://" + host + "/" + path
	}
	u, err := url.Parse(remote)
	if err != nil || u.Host == "" {
		return "", ""
	}
	repository = strings.TrimSuffix(strings.Trim(u.Path, "/"), ".git")
	switch u.Scheme {
	case "http", "https":
		return u.Scheme + "://" + u.Host, repository
	default:
		return "https://" + u.Hostname(), repository // an SSH port is not the web's
	}
}
