package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/report"
)

// TestDoctorAsksTheForge looks at a real Gitea with tokens that may do more and less.
func TestDoctorAsksTheForge(t *testing.T) {
	t.Parallel()
	gitea := lab.StartGitea(t)
	public, private := gitea.CreateRepository(t, "public", false), gitea.CreateRepository(t, "private", true)
	for _, c := range []struct {
		name, repository, token string
		purpose                 string
		want                    string
		missing                 bool
	}{
		{"to publish", private, gitea.Token(t, "write:repository"), forDeploy, `(?m)^ok       publish       http.* can be opened; whether a token has the scope write:repository,`, false},
		{"without a token", public, "", forDeploy, `(?m)^missing  publish       .*give a token with the scope write:repository`, true},
		{"with a wrong token", public, "0123456789012345678901234567890123456789", forDeploy, `(?m)^missing  publish .*give a token that this forge knows`, true},
		{"with too little scope", public, gitea.Token(t, "read:issue"), forDeploy, `(?m)^missing  publish .*scope read:repository, or write:repository to publish`, true},
		{"no such repository", gitea.User + "/absent", gitea.Token(t, "write:repository"), forDeploy, `(?m)^missing  publish .*it is not there, or the token cannot see it`, true},
		{"to read", public, "", forVerify, `(?m)^note     releases `, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			r := report.New(report.Options{Out: &out, Log: &out, Getenv: func(string) string { return "" }})
			p := plan.Plan{ForgeURL: gitea.URL, Repository: c.repository}
			assert.Equal(t, c.missing, diagnose(r, lookAtForge(t.Context(), r, p, c.token, []string{c.purpose}, nil)) != nil)
			assert.Regexp(t, c.want, out.String())
			if c.token != "" {
				assert.NotContains(t, out.String(), c.token)
			}
		})
	}

	// As a whole, from a file with the token.
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte(gitea.Token(t, "write:repository")+"\n"), 0o600))
	var out bytes.Buffer
	root := newRoot(report.New(report.Options{Out: &out, Log: &out, Getenv: func(string) string { return "" }}))
	root.SetArgs([]string{"doctor", "deploy", "--forge-url", gitea.URL, "--repository", private, "--token-file", token})
	_ = root.ExecuteContext(t.Context()) // the machine of the test may have no Nix
	assert.Regexp(t, `(?m)^ok       publish `, out.String())
}
