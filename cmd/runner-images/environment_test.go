package main

import (
	"encoding/pem"
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
	program := thisProgram(t)
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
				asked := make(chan http.Header, 100)
				forge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					asked <- r.Header
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
				close(asked)
				for header := range asked {
					assert.Equal(t, want, header.Get("Authorization"))
					assert.Equal(t, "runner-images/"+version(), header.Get("User-Agent"))
				}
			})
		}
	}
}

// TestForgeOfTheCheckout asks the forge that a checkout was cloned from, which has a
// certificate that this system trusts, for the release of the checkout's tag. A
// server stands in for the forge and has nothing.
func TestForgeOfTheCheckout(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 100)
	forge := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		http.NotFound(w, r)
	}))
	defer forge.Close()
	certificates := filepath.Join(t.TempDir(), "certificates.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: forge.Certificate().Raw})
	require.NoError(t, os.WriteFile(certificates, certificate, 0o600))
	checkout := t.TempDir()
	program := thisProgram(t)
	run := func(name string, arguments ...string) (string, error) {
		command := exec.CommandContext(t.Context(), name, arguments...)
		command.Dir = checkout
		command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + checkout, "FORGEJO_TOKEN=a", "SSL_CERT_FILE=" + certificates}
		output, err := command.CombinedOutput()
		return string(output), err
	}
	git := func(arguments ...string) {
		t.Helper()
		output, err := run("git", append([]string{"-c", "user.name=Tester", "-c", "user.email=tester@forge.example"}, arguments...)...)
		require.NoError(t, err, output)
	}
	git("init", "--quiet", ".")
	git("commit", "--quiet", "--allow-empty", "--message=first")
	git("tag", "boot-v1")
	git("remote", "add", "origin", forge.URL+"/every/channel.git")
	require.NoError(t, os.WriteFile(filepath.Join(checkout, "kiosk.iso"), []byte("an image"), 0o600))

	const release = "/api/v1/repos/every/channel/releases/tags/boot-v1"
	for _, command := range []string{
		"verify --download-only",
		"publish kiosk.iso",
		// A boot server is no checkout, and is told.
		"netboot stage --check --state-dir absent --release-tag boot-v1 --repository every/channel --forge-url " + forge.URL,
	} {
		output, err := run(program, strings.Fields(command)...)
		require.Error(t, err)
		assert.Contains(t, output, "not found", command)
		require.NotEmpty(t, asked, output)
		assert.Equal(t, release, <-asked, command)
		for len(asked) > 0 {
			<-asked
		}
	}
}

// thisProgram returns the path of a program that is runner-images.
func thisProgram(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "runner-images")
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, program))
	return program
}
