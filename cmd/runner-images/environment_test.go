package main

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
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

// TestCertificates asks a forge whose certificate the system does not trust, with the
// certificate given in every way that there is. A server stands in for the forge and
// has nothing.
func TestCertificates(t *testing.T) {
	t.Parallel()
	forge := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(forge.Close)
	folder := t.TempDir()
	certificates := filepath.Join(folder, "certificates.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: forge.Certificate().Raw})
	require.NoError(t, os.WriteFile(certificates, certificate, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "kiosk.iso"), []byte("an image"), 0o600))
	program := thisProgram(t)

	const trusted, unknown = "not found", "as ca_file, or add it to the system's certificates"
	absent := filepath.Join(folder, "absent.pem")
	for _, command := range []string{"verify --download-only", "publish kiosk.iso", "netboot stage --check --state-dir absent"} {
		for given, want := range map[string]string{
			"":                                  unknown,
			"--ca-file " + certificates:         trusted,
			"--ca-file " + absent:               "ca_file: open " + absent,
			"SSL_CERT_FILE=" + certificates:     trusted,
			"NIX_SSL_CERT_FILE=" + certificates: trusted,
			"NIX_SSL_CERT_FILE=" + absent:       unknown,
			"NIX_SSL_CERT_FILE=" + absent + " SSL_CERT_FILE=" + certificates:   trusted,
			"NIX_SSL_CERT_FILE=" + certificates + " --ca-file " + certificates: trusted,
			"INPUT_CA_FILE=" + certificates:                                    trusted,
		} {
			if strings.HasPrefix(command, "netboot") && strings.HasPrefix(given, "INPUT_") {
				continue // it takes no inputs
			}
			t.Run(command+" "+given, func(t *testing.T) {
				t.Parallel()
				arguments := strings.Fields(command + " --release-tag boot-v1 --repository every/channel --forge-url " + forge.URL)
				environment := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + folder, "FORGEJO_TOKEN=0123456789"}
				for _, word := range strings.Fields(given) {
					if strings.Contains(word, "=") {
						environment = append(environment, word)
					} else {
						arguments = append(arguments, word)
					}
				}
				run := exec.CommandContext(t.Context(), program, arguments...)
				run.Dir, run.Env = folder, environment
				output, err := run.CombinedOutput()
				require.Error(t, err)
				assert.Contains(t, string(output), want)
			})
		}
	}
}

// TestProxyForAll asks for a forge that only a proxy can reach. A server stands in
// for the proxy, and has nothing.
func TestProxyForAll(t *testing.T) {
	t.Parallel()
	program := thisProgram(t)
	for variables, want := range map[string]bool{
		"ALL_PROXY=@": true,
		"all_proxy=@": true,
		"ALL_PROXY=@ HTTPS_PROXY=http://127.0.0.1:1": true, // that one is for https alone
		"ALL_PROXY=http://127.0.0.1:1 http_proxy=@":  true,
		"ALL_PROXY=@ no_proxy=forge.invalid":         false,
		"ALL_PROXY=@ http_proxy=http://127.0.0.1:1":  false,
		"https_proxy=@": false,
	} {
		t.Run(variables, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Bool
			proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Store(r.URL.Host == "forge.invalid")
				http.NotFound(w, r)
			}))
			defer proxy.Close()
			run := exec.CommandContext(t.Context(), program, "verify", "--download-only", "--release-tag", "boot-v1",
				"--forge-url", "http://forge.invalid", "--repository", "every/channel")
			run.Dir = t.TempDir()
			run.Env = append(strings.Fields(strings.ReplaceAll(variables, "@", proxy.URL)), "PATH="+os.Getenv("PATH"), "HOME="+run.Dir)
			output, err := run.CombinedOutput()
			require.Error(t, err)
			assert.Equal(t, want, asked.Load(), "%s", output)
		})
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
