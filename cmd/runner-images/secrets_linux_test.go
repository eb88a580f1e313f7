package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// spyOn is the variable that makes the test's binary the neighbour of a process.
const spyOn = "RUNNER_IMAGES_TEST_SPY_ON"

// spy prints what a process of the same user can have of another one.
func spy(process string) {
	if environment, err := os.ReadFile("/proc/" + process + "/environ"); err == nil {
		fmt.Printf("environ: %q\n", environment)
	}
	if memory, err := os.Open("/proc/" + process + "/mem"); err == nil {
		memory.Close()
		fmt.Println("mem")
	}
	if descriptors, err := os.ReadDir("/proc/" + process + "/fd"); err == nil {
		fmt.Println("fd", len(descriptors))
	}
	var id int
	if _, err := fmt.Sscan(process, &id); err == nil && syscall.PtraceAttach(id) == nil {
		fmt.Println("ptrace")
	}
	fmt.Println("looked")
}

// unprivileged is how a process of the user nobody is started; root could read
// everything. Where the tests are not root's, their own user does.
func unprivileged() *syscall.SysProcAttr {
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// forAnyone copies a program to where every user can run it.
func forAnyone(t *testing.T, program string) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "secrets")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(folder) })
	require.NoError(t, os.Chmod(folder, 0o755))
	content, err := os.ReadFile(program)
	require.NoError(t, err)
	path := filepath.Join(folder, filepath.Base(program))
	require.NoError(t, os.WriteFile(path, content, 0o755))
	return path
}

var secretEnvironment = []string{
	"INPUT_TOKEN=t0ken", "FORGEJO_TOKEN=f0rgejo", "GITEA_TOKEN=g1tea", "GITHUB_TOKEN=g1thub",
	"ACTIONS_RUNTIME_TOKEN=runt1me", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=ident1ty", "ACTIONS_CACHE_URL=http://cache/c4che/",
	"INPUT_NIX_ARGS=--option access-tokens n1x", "GH_TOKEN=g4",
}

var secretValues = []string{"t0ken", "f0rgejo", "g1tea", "g1thub", "runt1me", "ident1ty", "c4che", "n1x", "PRIVATE KEY", "g4"}

// TestNeighboursSeeNoSecrets has a publication wait for a server, and looks at it
// as another process of the same user does. As a check of the check it looks at a
// process that hides nothing as well.
func TestNeighboursSeeNoSecrets(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	self = forAnyone(t, self)
	look := func(process int) string {
		t.Helper()
		neighbour := exec.CommandContext(t.Context(), self)
		neighbour.Env = []string{fmt.Sprintf("%s=%d", spyOn, process)}
		neighbour.SysProcAttr = unprivileged()
		out, err := neighbour.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}

	server, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer server.Close()
	folder := filepath.Dir(self)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "a.iso"), []byte("an image"), 0o644))
	key := newKey(t)
	for name, handOver := range map[string]func(*exec.Cmd){
		"in the environment": func(publish *exec.Cmd) {
			publish.Env = append(publish.Env, "INPUT_SIGNING_KEY="+key)
			publish.Env = append(publish.Env, secretEnvironment...)
		},
		"on descriptors": func(publish *exec.Cmd) {
			publish.Args = append(publish.Args, "--token-file", "/dev/fd/3", "--signing-key-file", "/dev/fd/4")
			for _, secret := range []string{"t0ken\n", key} {
				read, write, err := os.Pipe()
				require.NoError(t, err)
				_, err = write.WriteString(secret)
				require.NoError(t, err)
				require.NoError(t, write.Close())
				if publish.SysProcAttr != nil {
					require.NoError(t, read.Chown(65534, 65534))
				}
				publish.ExtraFiles = append(publish.ExtraFiles, read)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			publish := exec.CommandContext(t.Context(), filepath.Join(folder, "runner-images"), "publish", "a.iso", "--release-tag", "boot-v1",
				"--repository", "every/channel", "--forge-url", "http://"+server.Addr().String())
			require.NoError(t, os.RemoveAll(publish.Path))
			require.NoError(t, os.Link(self, publish.Path)) // TestMain runs main under this name
			publish.Dir, publish.SysProcAttr = folder, unprivileged()
			publish.Env = []string{"PATH=" + os.Getenv("PATH"), "HARMLESS=public"}
			handOver(publish)
			var log strings.Builder
			publish.Stdout, publish.Stderr = &log, &log
			require.NoError(t, publish.Start())
			defer func() {
				_ = publish.Process.Kill()
				_ = publish.Wait()
				assert.NotContains(t, log.String(), "t0ken")
				assert.NotContains(t, log.String(), "warning")
			}()
			connection, err := server.Accept()
			require.NoError(t, err)
			defer connection.Close()
			request := make([]byte, 4096)
			size, err := connection.Read(request)
			require.NoError(t, err)
			assert.Contains(t, string(request[:size]), "Authorization: token t0ken", "the secret got to whom it is for")

			assert.Equal(t, "looked\n", look(publish.Process.Pid))
			// Root may read it all the same, if of all rights: there is nothing in it.
			environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", publish.Process.Pid))
			if errors.Is(err, fs.ErrPermission) {
				return
			}
			require.NoError(t, err)
			assert.Contains(t, string(environment), "HARMLESS=public")
			for _, secret := range secretValues {
				assert.NotContains(t, string(environment), secret)
			}
		})
	}

	open := exec.CommandContext(t.Context(), "sleep", "600")
	open.Env, open.SysProcAttr = []string{"INPUT_TOKEN=t0ken"}, unprivileged()
	require.NoError(t, open.Start())
	assert.Regexp(t, `^environ: "INPUT_TOKEN=t0ken\\x00"\n(?s:.*)fd [0-9]+\n(?s:.*)looked\n$`, look(open.Process.Pid))
	require.NoError(t, open.Process.Kill())
	require.Error(t, open.Wait())
}

func newKey(t *testing.T) string {
	t.Helper()
	key, err := os.ReadFile(lab.SSHKey(t))
	require.NoError(t, err)
	return string(key)
}

// TestChildrenGetNoSecrets has wrappers around the real git and the real Nix write
// down their environments and their descriptors.
func TestChildrenGetNoSecrets(t *testing.T) {
	t.Parallel()
	store := lab.Nix(t)
	self, err := os.Executable()
	require.NoError(t, err)
	folder, seen := t.TempDir(), filepath.Join(t.TempDir(), "seen")
	require.NoError(t, os.Symlink(self, filepath.Join(folder, "runner-images")))
	git, err := exec.LookPath("git")
	require.NoError(t, err)
	for name, program := range map[string]string{"git": git, "nix": store.Program} {
		wrapper := fmt.Sprintf("#!/bin/sh\n{ echo 'started %s'; export -p; ls -l /proc/$$/fd/; } >>'%s'\nexec '%s' \"$@\"\n", name, seen, program)
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(wrapper), 0o755))
	}
	flake := lab.Flake(t)
	commit := exec.CommandContext(t.Context(), "sh", "-euc", `git init --quiet --initial-branch=main; git add .
		git -c user.name=T -c user.email=t@example.org commit --quiet --message=x`)
	commit.Dir = flake
	out, err := commit.CombinedOutput()
	require.NoError(t, err, "%s", out)

	deploy := exec.CommandContext(t.Context(), filepath.Join(folder, "runner-images"), "deploy",
		"--forge-url", "file://"+filepath.Join(t.TempDir(), "releases"), "--build-x86-64-iso=false")
	deploy.Dir = flake
	deploy.Env = append(store.Env(), "INPUT_SIGNING_KEY="+newKey(t), "HARMLESS=public", "NIX_LOG_SECRETS=kept")
	deploy.Env = append(deploy.Env, secretEnvironment...)
	for i, variable := range deploy.Env {
		if strings.HasPrefix(variable, "INPUT_NIX_ARGS=") {
			deploy.Env[i] = "INPUT_NIX_ARGS="
		}
		if path, ok := strings.CutPrefix(variable, "PATH="); ok {
			deploy.Env[i] = "PATH=" + folder + ":" + path
		}
	}
	out, err = deploy.CombinedOutput()
	require.NoError(t, err, "%s", out)
	children, err := os.ReadFile(seen)
	require.NoError(t, err)
	for _, want := range []string{"started git\n", "started nix\n", "HARMLESS", "NIX_LOG_SECRETS"} {
		assert.Contains(t, string(children), want)
	}
	for _, secret := range append(secretValues, "INPUT_", "ACTIONS_") {
		assert.NotContains(t, string(children), secret)
	}
}
