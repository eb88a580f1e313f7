package action

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// launcher is a runner on which the launcher is tried: a PATH with just the
// programs that a case is about, and an action of version 1.2.3.
type launcher struct {
	t      *testing.T
	action string
	path   string
}

func newLauncher(t *testing.T) launcher {
	t.Parallel()
	l := launcher{t: t, action: filepath.Join(t.TempDir(), "the action"), path: filepath.Join(t.TempDir(), "bin")}
	require.NoError(t, os.Mkdir(l.path, 0o755))
	for _, name := range []string{"sh", "dirname", "cat", "mktemp"} {
		program, err := exec.LookPath(name)
		require.NoError(t, err)
		require.NoError(t, os.Symlink(program, filepath.Join(l.path, name)))
	}
	l.write("scripts/launch", string(read(t, filepath.Join(lab.Root(t), "scripts/launch"))))
	l.write("cmd/runner-images/VERSION", "1.2.3\n")
	return l
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return content
}

func (l launcher) write(name, content string) {
	l.t.Helper()
	path := filepath.Join(l.action, name)
	require.NoError(l.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(l.t, os.WriteFile(path, []byte(content), 0o644))
}

func (l launcher) install(name, script string) {
	l.t.Helper()
	require.NoError(l.t, os.WriteFile(filepath.Join(l.path, name), []byte("#!/bin/sh\n"+script), 0o755))
}

// run launches with two arguments, one of which has a space.
func (l launcher) run(environment ...string) (string, error) {
	command := exec.CommandContext(l.t.Context(), filepath.Join(l.path, "sh"), filepath.Join(l.action, "scripts/launch"), "deploy", "a b")
	command.Dir = l.t.TempDir()
	command.Env = append([]string{"PATH=" + l.path, "RUNNER_TEMP=" + l.t.TempDir()}, environment...)
	out, err := command.CombinedOutput()
	return string(out), err
}

const printing = `if [ "$1" = version ]; then echo "runner-images $version"; else printf '<%s>' "$origin" "$@"; fi`

func TestLauncherTakesTheInstalledBinary(t *testing.T) {
	l := newLauncher(t)
	l.install("runner-images", "version=1.2.3 origin=installed\n"+printing)
	out, err := l.run()
	require.NoError(t, err, out)
	assert.Equal(t, "<installed><deploy><a b>", out)
}

func TestLauncherPassesTheExitCodeOn(t *testing.T) {
	l := newLauncher(t)
	l.install("runner-images", `if [ "$1" = version ]; then echo "runner-images 1.2.3"; else exit 2; fi`)
	_, err := l.run()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 2, exit.ExitCode())
}

// withFlake gives the action a flake whose package is a script that prints.
func (l launcher) withFlake() {
	l.write("program", "#!/bin/sh\nversion=1.2.3 origin=nix\n"+printing+"\n")
	l.write("flake.nix", `{
	  outputs = { self }: {
	    packages.x86_64-linux.runner-images = derivation {
	      name = "runner-images";
	      system = "x86_64-linux";
	      builder = "/bin/sh";
	      PATH = "/bin:/usr/bin:/run/current-system/sw/bin";
	      args = [ "-ec" "mkdir -p $out/bin; cp ${./program} $out/bin/runner-images; chmod +x $out/bin/runner-images" ];
	    };
	  };
	}`)
}

func TestLauncherBuildsWithNix(t *testing.T) {
	l := newLauncher(t)
	l.withFlake()
	l.install("runner-images", "version=1.2.2 origin=installed\n"+printing) // of another version
	nix := lab.Nix(t)
	require.NoError(t, os.Symlink(nix.Program, filepath.Join(l.path, "nix")))
	environment := nix.Env()
	environment = append(environment, "PATH="+l.path, "RUNNER_TEMP="+t.TempDir())
	out, err := l.run(environment...)
	require.NoError(t, err, out)
	assert.True(t, strings.HasSuffix(out, "<nix><deploy><a b>"), out)
	assert.Contains(t, out, "runner-images: building version 1.2.3 with Nix\n")
}

func TestLauncherKeepsSecretsFromWhatBuilds(t *testing.T) {
	l := newLauncher(t)
	l.withFlake()
	l.write("program", "#!/bin/sh\necho \"$INPUT_TOKEN $INPUT_SIGNING_KEY\"\n")
	nix := lab.Nix(t)
	seen := filepath.Join(t.TempDir(), "seen")
	l.install("nix", "export -p >"+seen+"\nexec "+nix.Program+` "$@"`)
	environment := append(nix.Env(), "PATH="+l.path, "RUNNER_TEMP="+t.TempDir(), "INPUT_TOKEN=s3cret", "INPUT_SIGNING_KEY=k3y")
	out, err := l.run(environment...)
	require.NoError(t, err, out)
	assert.True(t, strings.HasSuffix(out, "\ns3cret k3y\n"), out)
	environmentOfNix := string(read(t, seen))
	assert.Contains(t, environmentOfNix, "NIX_STORE_DIR")
	assert.NotContains(t, environmentOfNix, "s3cret")
	assert.NotContains(t, environmentOfNix, "k3y")
}

// goEnvironment is what go needs to build without the network.
func goEnvironment(t *testing.T) []string {
	t.Helper()
	var environment []string
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPROXY", "GOFLAGS", "GOSUMDB"} {
		out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
		require.NoError(t, err)
		environment = append(environment, name+"="+strings.TrimSpace(string(out)))
	}
	return environment
}

func TestLauncherBuildsWithGo(t *testing.T) {
	l := newLauncher(t)
	l.write("go.mod", "module example.org/action\n\ngo 1.21\n")
	l.write("cmd/runner-images/main.go", `package main

import (
	"fmt"
	"os"
)

func main() { fmt.Printf("<go>%q", os.Args[1:]) }
`)
	program, err := exec.LookPath("go")
	require.NoError(t, err)
	l.install("go", `exec "`+program+`" "$@"`)
	out, err := l.run(goEnvironment(t)...)
	require.NoError(t, err, out)
	assert.True(t, strings.HasSuffix(out, `<go>["deploy" "a b"]`), out)

	// A Nix that cannot build it, offline for instance, is not the end.
	l.install("nix", "echo 'error: no network' >&2; exit 1")
	out, err = l.run(goEnvironment(t)...)
	require.NoError(t, err, out)
	assert.Contains(t, out, "error: no network\n")
	assert.True(t, strings.HasSuffix(out, `<go>["deploy" "a b"]`), out)
}

func TestLauncherSaysWhatIsMissing(t *testing.T) {
	l := newLauncher(t)
	out, err := l.run()
	require.Error(t, err)
	assert.Equal(t, "::error::this runner has no Nix, which builds the images: install it (https://nixos.org/download) or choose a runner that has it\n", out)

	// Nothing is built where there is no folder for it.
	l.install("nix", `echo "nix was run: $*"; exit 1`)
	out, err = l.run("RUNNER_TEMP=/no/such/folder")
	require.Error(t, err)
	assert.NotContains(t, out, "nix was run")
	assert.Contains(t, out, "/no/such/folder")

	l.install("nix", "exit 1")
	out, err = l.run()
	require.Error(t, err)
	assert.Contains(t, out, "::error::the action could not be built; the lines above say why. Installing runner-images 1.2.3 on the runner makes the build unnecessary\n")
}
