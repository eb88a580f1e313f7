package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTokenOfTheEnvironment sees what a forge is sent, by a server that stands in
// for one and has nothing: the token of the environment, if it is meant for this
// forge, and who asks.
func TestTokenOfTheEnvironment(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "runner-images")
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, program))
	commands := []string{
		"verify --download-only --release-tag boot-v1 --repository every/channel",
		"netboot stage --check --state-dir absent --release-tag boot-v1 --repository every/channel",
	}
	for environment, token := range map[string]string{
		"": "",
		"FORGEJO_TOKEN=a GITEA_TOKEN=b GITHUB_TOKEN=c": "a",
		"GITEA_TOKEN=b GITHUB_TOKEN=c":                 "b",
		// At a terminal it is a token for another server.
		"GITHUB_TOKEN=c":                     "",
		"GITHUB_TOKEN=c GITHUB_ACTIONS=true": "c",
	} {
		for _, command := range commands {
			t.Run(environment+" "+command, func(t *testing.T) {
				t.Parallel()
				var asked []http.Header
				forge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					asked = append(asked, r.Header)
					http.NotFound(w, r)
				}))
				defer forge.Close()
				run := exec.CommandContext(t.Context(), program, append(strings.Fields(command), "--forge-url", forge.URL)...)
				run.Dir = t.TempDir()
				run.Env = append(strings.Fields(environment), "PATH="+os.Getenv("PATH"), "HOME="+run.Dir)
				output, err := run.CombinedOutput()
				var exit *exec.ExitError
				require.ErrorAs(t, err, &exit, "%s", output)
				require.Equal(t, exitFailed, exit.ExitCode(), "%s", output)

				require.NotEmpty(t, asked, "%s", output)
				want := ""
				if token != "" {
					want = "token " + token
				}
				for _, header := range asked {
					assert.Equal(t, want, header.Get("Authorization"))
					assert.Equal(t, "runner-images/"+version(), header.Get("User-Agent"))
				}
			})
		}
	}
}
