package nix_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// shell runs a script of a module in a folder, with a credential of systemd's, and
// returns what it said.
func shell(t *testing.T, folder, script, credential string, arguments ...string) (string, error) {
	t.Helper()
	credentials := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(credentials, "token"), []byte(credential), 0o600))
	command := exec.Command("sh", append([]string{filepath.Join(lab.Root(t), "nix/modules/ec-runner/actions", script)}, arguments...)...)
	command.Dir = folder
	command.Env = append(os.Environ(), "CREDENTIALS_DIRECTORY="+credentials)
	output, err := command.CombinedOutput()
	return string(output), err
}

func TestActionsToken(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]string{
		"alone":              "a1b2c3",
		"with a newline":     "a1b2c3\n",
		"as an environment":  "TOKEN=a1b2c3\n",
		"from another world": "TOKEN=a1b2c3\r\n",
	} {
		folder := t.TempDir()
		output, err := shell(t, folder, "token.sh", file)
		require.NoError(t, err, "%s: %s", name, output)
		assert.Equal(t, "a1b2c3\n", readFile(t, filepath.Join(folder, "token")), name)
		assert.Equal(t, "TOKEN=a1b2c3\n", readFile(t, filepath.Join(folder, "token.env")), name)
		info, err := os.Stat(filepath.Join(folder, "token"))
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode())
	}
	for file, want := range map[string]string{
		"":                    "has no token in it",
		"TOKEN=\n":            "has no token in it",
		"a1b2c3\nTOKEN=\"x\"": "has more in it than a token",
	} {
		folder := t.TempDir()
		output, err := shell(t, folder, "token.sh", file)
		require.Error(t, err, "%q", file)
		assert.Contains(t, output, "services.every-channel.runner.actions.tokenFile "+want)
		assert.NotContains(t, output, "a1b2c3")
		assert.NoFileExists(t, filepath.Join(folder, "token"))
	}
}

// The connection of forgejo-runner 12.8 and newer is as its documentation has it. No
// such program can be had for the tests.
func TestActionsConnection(t *testing.T) {
	t.Parallel()
	assert.JSONEq(t, `{"server": {"connections": {"forge": {
		"url": "https://git.every.channel", "uuid": "33834eef-e758-48c4-a676-1745426747aa",
		"labels": ["nix:host"], "token_url": "file:$CREDENTIALS_DIRECTORY/token"
	}}}}`, string(evaluate(t, `(import ./modules/ec-runner/actions/settings.nix {
		url = "https://git.every.channel"; uuid = "33834eef-e758-48c4-a676-1745426747aa"; name = "nuc-1"; labels = [ "nix:host" ];
	}).connected`)))
}

// A runner that was registered elsewhere connects with the file that is made of its
// UUID and its token. Gitea and its runner are in the place of a Forgejo and the
// forgejo-runner of nixpkgs up to 25.11, which have this file in common.
func TestActionsRegistrationConnects(t *testing.T) {
	t.Parallel()
	gitea := lab.StartGitea(t, lab.WithActions())
	program := lab.Tool(t, "gitea", "gitea-runner")
	environment := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}

	var invitation struct{ Token string }
	require.Equal(t, http.StatusOK, gitea.API(t, http.MethodPost, "/admin/actions/runners/registration-token", nil, &invitation))
	made := t.TempDir()
	register := exec.Command(program, "register", "--no-interactive", "--instance", gitea.URL, "--token", invitation.Token,
		"--name", "made-by-hand", "--labels", "old:host")
	register.Dir, register.Env = made, environment
	output, err := register.CombinedOutput()
	require.NoError(t, err, "%s", output)
	var runner struct{ UUID, Token string }
	require.NoError(t, json.Unmarshal([]byte(readFile(t, filepath.Join(made, ".runner"))), &runner))

	var settings struct{ Registered, Registration json.RawMessage }
	require.NoError(t, json.Unmarshal(evaluate(t, `removeAttrs (import ./modules/ec-runner/actions/settings.nix {
		url = "`+gitea.URL+`"; uuid = "`+runner.UUID+`"; name = "it's nuc-1"; labels = [ "nix:host" ];
	}) [ "connected" ]`), &settings))
	folder := t.TempDir()
	said, err := shell(t, folder, "registration.sh", runner.Token+"\n", string(settings.Registration))
	require.NoError(t, err, said)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "config.yaml"), settings.Registered, 0o600))

	daemon := exec.CommandContext(t.Context(), program, "daemon", "--config", "config.yaml")
	daemon.Dir, daemon.Env = folder, environment
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(folder, "log"))
	require.NoError(t, err)
	defer log.Close()
	daemon.Stdout, daemon.Stderr = log, log
	require.NoError(t, daemon.Start())
	t.Cleanup(func() {
		_ = daemon.Wait()
		if t.Failed() {
			t.Logf("%s", readFile(t, log.Name()))
		}
	})

	// It says what labels it has when it has connected.
	require.Eventually(t, func() bool {
		var listed struct {
			Runners []struct {
				Name   string
				Labels []struct{ Name string }
			}
		}
		status := gitea.API(t, http.MethodGet, "/admin/actions/runners", nil, &listed)
		return status == http.StatusOK && len(listed.Runners) == 1 && listed.Runners[0].Name == "made-by-hand" &&
			len(listed.Runners[0].Labels) == 1 && listed.Runners[0].Labels[0].Name == "nix"
	}, 3*time.Minute, 200*time.Millisecond)
}
