package lab

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"
)

// A Gitea is a running Gitea server on the loopback address.
type Gitea struct {
	URL       string // of its start page, without a slash at the end
	PublicURL string // the same, as the server and its runners tell others
	User      string // an administrator
	Password  string // the administrator's
	Directory string // where it keeps everything, among it gitea.log
	PID       int    // of the server's process

	adminToken string
	stop       func()
	ended      <-chan struct{}
}

// A GiteaOption changes how a Gitea is set up.
type GiteaOption func(*giteaSettings)

type giteaSettings struct {
	Directory, Static                     string
	Port                                  int
	PublicURL                             string
	SecretKey, InternalToken, TokenSecret string

	FileMaxSize  int
	AllowedTypes string
	Actions      bool
}

// WithFileMaxSize limits an asset's size, in MiB. The default is 4096.
func WithFileMaxSize(mebibytes int) GiteaOption {
	return func(s *giteaSettings) { s.FileMaxSize = mebibytes }
}

// WithAllowedTypes limits assets to these types, for example ".gz,.txt".
func WithAllowedTypes(types string) GiteaOption {
	return func(s *giteaSettings) { s.AllowedTypes = types }
}

// WithActions turns Gitea Actions on, with workflows in .forgejo/workflows and
// actions from this server alone.
func WithActions() GiteaOption {
	return func(s *giteaSettings) { s.Actions = true }
}

// WithPublicURL gives the server the address of a proxy before it, without a slash at
// the end, as its own.
func WithPublicURL(address string) GiteaOption {
	return func(s *giteaSettings) { s.PublicURL = address }
}

// giteaConfiguration is the server's app.ini, as
// https://docs.gitea.com/administration/config-cheat-sheet describes it.
// HS256 spares the server a slow RSA key at its first start.
var giteaConfiguration = template.Must(template.New("app.ini").Parse(`RUN_MODE = prod
WORK_PATH = {{.Directory}}
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {{.Port}}
ROOT_URL = {{.PublicURL}}/
LOCAL_ROOT_URL = http://127.0.0.1:{{.Port}}/
STATIC_ROOT_PATH = {{.Static}}
DISABLE_SSH = true
OFFLINE_MODE = true
LFS_START_SERVER = false
[database]
DB_TYPE = sqlite3
PATH = {{.Directory}}/gitea.db
SQLITE_JOURNAL_MODE = WAL
SQLITE_TIMEOUT = 20000
[repository]
ROOT = {{.Directory}}/repositories
DEFAULT_BRANCH = main
[repository.release]
FILE_MAX_SIZE = {{.FileMaxSize}}
ALLOWED_TYPES = {{.AllowedTypes}}
[security]
INSTALL_LOCK = true
SECRET_KEY = {{.SecretKey}}
INTERNAL_TOKEN = {{.InternalToken}}
PASSWORD_HASH_ALGO = pbkdf2_v2
[oauth2]
JWT_SECRET = {{.TokenSecret}}
JWT_SIGNING_ALGORITHM = HS256
[service]
DISABLE_REGISTRATION = true
[cron]
ENABLED = false
[indexer]
ISSUE_INDEXER_TYPE = db
[log]
MODE = console
LEVEL = Warn
[actions]
ENABLED = {{.Actions}}
WORKFLOW_DIRS = .forgejo/workflows
DEFAULT_ACTIONS_URL = self
`))

// StartGitea starts a Gitea of the test's own, which ends with the test. When
// the test fails, the end of the server's log is part of its output.
func StartGitea(t testing.TB, options ...GiteaOption) *Gitea {
	t.Helper()
	gitea, err := RunGitea(context.Background(), t.TempDir(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		gitea.Stop()
		if t.Failed() {
			t.Logf("the end of Gitea's log:\n%s", gitea.logTail())
		}
	})
	return gitea
}

// RunGitea starts a Gitea that keeps everything in an empty or new folder, and
// returns when it answers. The caller stops it.
func RunGitea(ctx context.Context, directory string, options ...GiteaOption) (*Gitea, error) {
	directory, err := filepath.Abs(directory)
	if err != nil {
		return nil, err
	}
	static, err := findTool("gitea", "static")
	if err != nil {
		return nil, err
	}
	settings := giteaSettings{
		Directory: directory, Static: static, FileMaxSize: 4096,
		SecretKey: randomText(), InternalToken: randomText(),
		TokenSecret: "KZb_QLUd4fYVyxetjxC4eZkrBgWM2SndOOWDNtgUUko", // 32 bytes in base64
	}
	for _, option := range options {
		option(&settings)
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return nil, err
	}
	gitea := &Gitea{User: "adm", Password: randomText(), Directory: directory}

	// Another process may take the port before the server does: try again.
	for attempt := 1; ; attempt++ {
		if settings.Port, err = freePort(); err != nil {
			return nil, err
		}
		if err := gitea.configure(settings); err != nil {
			return nil, err
		}
		if attempt == 1 {
			if err := gitea.initialise(ctx); err != nil {
				return nil, err
			}
		}
		err := gitea.serve(ctx)
		if err == nil {
			return gitea, nil
		}
		if attempt == 3 || ctx.Err() != nil {
			return nil, fmt.Errorf("%w; its log ends with:\n%s", err, gitea.logTail())
		}
	}
}

// Stop ends the server and waits for its end.
func (g *Gitea) Stop() { g.stop() }

// Ended is closed when the server has ended.
func (g *Gitea) Ended() <-chan struct{} { return g.ended }

func (g *Gitea) configure(settings giteaSettings) error {
	g.URL = "http://127.0.0.1:" + strconv.Itoa(settings.Port)
	if settings.PublicURL == "" {
		settings.PublicURL = g.URL
	}
	g.PublicURL = settings.PublicURL
	var ini bytes.Buffer
	if err := giteaConfiguration.Execute(&ini, settings); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(g.Directory, "app.ini"), ini.Bytes(), 0o600)
}

func (g *Gitea) initialise(ctx context.Context) error {
	if _, err := g.run(ctx, "migrate"); err != nil {
		return err
	}
	_, err := g.run(ctx, "admin", "user", "create", "--admin", "--must-change-password=false",
		"--username", g.User, "--password", g.Password, "--email", g.User+"@example.org")
	if err != nil {
		return err
	}
	token, err := g.run(ctx, "admin", "user", "generate-access-token",
		"--username", g.User, "--token-name", "lab", "--scopes", "all", "--raw")
	if err != nil {
		return err
	}
	// Warnings may stand before it, and under load after it.
	if g.adminToken = regexp.MustCompile(`(?m)^[0-9a-f]{40}$`).FindString(token); g.adminToken == "" {
		return fmt.Errorf("Gitea prints no token: %s", token)
	}
	return nil
}

func (g *Gitea) command(ctx context.Context, arguments ...string) (*exec.Cmd, error) {
	program, err := findTool("gitea", "bin/gitea")
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, program,
		append([]string{"--config", filepath.Join(g.Directory, "app.ini")}, arguments...)...)
	command.Dir = g.Directory
	command.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + g.Directory, "USER=" + os.Getenv("USER"),
		"GITEA_I_AM_BEING_UNSAFE_RUNNING_AS_ROOT=true", "GIT_CONFIG_NOSYSTEM=1",
	}
	return command, nil
}

func (g *Gitea) run(ctx context.Context, arguments ...string) (string, error) {
	command, err := g.command(ctx, arguments...)
	if err != nil {
		return "", err
	}
	out, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("gitea %s: %w\n%s", arguments[0], err, out)
	}
	return string(out), nil
}

func (g *Gitea) serve(ctx context.Context) error {
	log, err := os.Create(filepath.Join(g.Directory, "gitea.log"))
	if err != nil {
		return err
	}
	defer log.Close() // the server has its own handle
	command, err := g.command(context.Background(), "web")
	if err != nil {
		return err
	}
	command.Stdout, command.Stderr = log, log
	if g.stop, g.ended, err = startProcess(command); err != nil {
		return err
	}
	g.PID = command.Process.Pid
	if err := g.ready(ctx); err != nil {
		g.Stop()
		return err
	}
	return nil
}

// ready waits until this very server answers: it alone knows the token.
func (g *Gitea) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("Gitea does not answer after two minutes"))
	defer cancel()
	for {
		select {
		case <-g.ended:
			return errors.New("Gitea ended at its start")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
		if status, err := g.Call(ctx, http.MethodGet, "/user", nil, nil); err == nil && status == http.StatusOK {
			return nil
		}
	}
}

// Call sends a request to the API as the administrator, with body as JSON if
// there is one. path begins after /api/v1. An answer below 300 is decoded into
// result if that is not nil; any other is only the status that Call returns.
func (g *Gitea) Call(ctx context.Context, method, path string, body, result any) (status int, err error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, g.URL+"/api/v1"+path, content)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "token "+g.adminToken)
	if strings.HasPrefix(path, "/users/"+g.User+"/tokens") { // the one path that wants the password
		request.SetBasicAuth(g.User, g.Password)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	if response.StatusCode < 300 && result != nil {
		if err := json.Unmarshal(text, result); err != nil {
			return 0, fmt.Errorf("%s %s: %w in %.500s", method, path, err, text)
		}
	}
	return response.StatusCode, nil
}

// API is Call for tests.
func (g *Gitea) API(t testing.TB, method, path string, body, result any) (status int) {
	t.Helper()
	status, err := g.Call(context.Background(), method, path, body, result)
	if err != nil {
		t.Fatal(err)
	}
	return status
}

// NewToken returns a new access token of the administrator with these scopes,
// for example write:repository.
func (g *Gitea) NewToken(ctx context.Context, scopes ...string) (string, error) {
	var token struct {
		Secret string `json:"sha1"`
	}
	body := map[string]any{"name": randomText(), "scopes": scopes}
	status, err := g.Call(ctx, http.MethodPost, "/users/"+g.User+"/tokens", body, &token)
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("a token with the scopes %q: Gitea answered %d", scopes, status)
	}
	return token.Secret, err
}

// Token is NewToken for tests.
func (g *Gitea) Token(t testing.TB, scopes ...string) string {
	t.Helper()
	token, err := g.NewToken(context.Background(), scopes...)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// NewRepository makes a repository of the administrator with a first commit on
// main.
func (g *Gitea) NewRepository(ctx context.Context, name string, private bool) error {
	status, err := g.Call(ctx, http.MethodPost, "/user/repos", map[string]any{
		"name": name, "private": private, "auto_init": true, "default_branch": "main",
	}, nil)
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("the repository %s: Gitea answered %d", name, status)
	}
	return err
}

// CreateRepository is NewRepository for tests. It returns the repository's full
// name, owner/name.
func (g *Gitea) CreateRepository(t testing.TB, name string, private bool) string {
	t.Helper()
	if err := g.NewRepository(context.Background(), name, private); err != nil {
		t.Fatal(err)
	}
	return g.User + "/" + name
}

func (g *Gitea) logTail() string {
	const size = 4096
	text, err := os.ReadFile(filepath.Join(g.Directory, "gitea.log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-size):])
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}

func randomText() string {
	random := make([]byte, 20)
	_, _ = rand.Read(random) // never fails since Go 1.24
	return hex.EncodeToString(random)
}
