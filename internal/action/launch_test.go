package action

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
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
		l.link(name, program)
	}
	l.write("scripts/launch", string(read(t, filepath.Join(lab.Root(t), "scripts/launch"))))
	l.write("cmd/runner-images/VERSION", "1.2.3\n")
	return l
}

// link puts a program onto the runner's PATH, in place of one of that name.
func (l launcher) link(name, program string) {
	l.t.Helper()
	path := filepath.Join(l.path, name)
	_ = os.Remove(path)
	require.NoError(l.t, os.Symlink(program, path))
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

// install puts a script onto the runner's PATH, in place of a program of that name:
// not into the program, which may be the system's.
func (l launcher) install(name, script string) {
	l.t.Helper()
	path := filepath.Join(l.path, name)
	_ = os.Remove(path)
	require.NoError(l.t, os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755))
}

// command launches with two arguments, one of which has a space.
func (l launcher) command(environment ...string) *exec.Cmd {
	command := exec.CommandContext(l.t.Context(), filepath.Join(l.path, "sh"), filepath.Join(l.action, "scripts/launch"), "deploy", "a b")
	command.Dir = l.t.TempDir()
	command.Env = append([]string{"PATH=" + l.path, "RUNNER_TEMP=" + l.t.TempDir(), "TMPDIR=" + l.t.TempDir()}, environment...)
	return command
}

func (l launcher) run(environment ...string) (string, error) {
	out, err := l.command(environment...).CombinedOutput()
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

// withNix puts a real Nix onto the PATH, and returns the environment that it takes.
func (l launcher) withNix() []string {
	nix := lab.Nix(l.t)
	l.link("nix", nix.Program)
	return append(nix.Env(), "PATH="+l.path, "RUNNER_TEMP="+l.t.TempDir())
}

func TestLauncherBuildsWithNix(t *testing.T) {
	l := newLauncher(t)
	l.withFlake()
	l.install("runner-images", "version=1.2.2 origin=installed\n"+printing) // of another version
	out, err := l.run(l.withNix()...)
	require.NoError(t, err, out)
	assert.True(t, strings.HasSuffix(out, "<nix><deploy><a b>"), out)
	assert.Contains(t, out, "runner-images: not taking "+filepath.Join(l.path, "runner-images")+": it says that it is \"runner-images 1.2.2\", and the action is of version 1.2.3\n")
	assert.Contains(t, out, "runner-images: building version 1.2.3 with Nix\n")

	// A command that cannot run says why itself.
	l.install("runner-images", "echo 'error while loading shared libraries: libx.so' >&2; exit 127")
	out, err = l.run(l.withNix()...)
	require.NoError(t, err, out)
	assert.True(t, strings.HasSuffix(out, "<nix><deploy><a b>"), out)
	assert.Contains(t, out, "error while loading shared libraries: libx.so\nrunner-images: not taking "+filepath.Join(l.path, "runner-images")+": it does not tell its version\n")
}

// TestLauncherBuildsWithNixInARepository has the action in a folder of a
// repository, known to git and not.
func TestLauncherBuildsWithNixInARepository(t *testing.T) {
	l := newLauncher(t)
	l.withFlake()
	git, err := exec.LookPath("git")
	require.NoError(t, err)
	l.link("git", git)
	repository := filepath.Dir(l.action)
	sh(t, repository, `git init --quiet .; echo readme >README
		git add README; git -c user.name=T -c user.email=t@example.org commit --quiet --message=x`)
	environment := l.withNix()
	out, err := l.run(environment...)
	require.NoError(t, err, out)
	assert.True(t, strings.HasSuffix(out, "<nix><deploy><a b>"), out)
	sh(t, repository, "git add --all")
	out, err = l.run(environment...)
	require.NoError(t, err, out)
	assert.True(t, strings.HasSuffix(out, "<nix><deploy><a b>"), out)
}

// TestLauncherOnATerminal runs in a pseudo-terminal that script(1) makes: Forgejo's
// runner gives one to its jobs.
func TestLauncherOnATerminal(t *testing.T) {
	l := newLauncher(t)
	l.withFlake()
	command := l.command(append(l.withNix(), "TERM=xterm", "SHELL=/bin/sh")...)
	command.Args = []string{"script", "-qec", "sh '" + command.Args[1] + "' deploy", os.DevNull}
	script, err := exec.LookPath("script")
	require.NoError(t, err)
	command.Path = script
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "this derivation will be built:\r\n")
	assert.Regexp(t, `(?m)^building '.*-runner-images\.drv'\.\.\.\r$`, string(out))
	assert.NotContains(t, string(out), "\x1b", "a progress bar")
	assert.True(t, strings.HasSuffix(string(out), "<nix><deploy>"), "%s", out)
}

// TestLauncherHandsSecretsOver has everything that the launcher runs, and the
// command itself, write down what they and their parents have in their environments
// and on descriptors.
func TestLauncherHandsSecretsOver(t *testing.T) {
	// Larger than what a shell puts into a pipe, or a line of it.
	key := "-----BEGIN KEY-----\n" + strings.Repeat("k3y$(false)`false`\\ \"'\n", 300) + "END\n-----END KEY-----"
	bash, err := exec.LookPath("bash")
	require.NoError(t, err)
	dash, err := exec.LookPath("dash")
	require.NoError(t, err)
	for shell, program := range map[string]string{"bash": bash, "dash": dash, "busybox": lab.Tool(t, "boot", "busybox")} {
		t.Run(shell, func(t *testing.T) {
			l := newLauncher(t)
			l.link("sh", program)
			l.withFlake()
			seen := filepath.Join(t.TempDir(), "seen")
			spy := fmt.Sprintf(`{ echo "started $0 $1"; export -p; cat "/proc/$$/environ" "/proc/$PPID/environ"; cat <&3; cat <&4; } >>'%s' 2>&1`, seen)
			l.write("program", "#!/bin/sh\n"+`cat "/proc/$$/environ" >>'`+seen+"'\n"+`echo "<$*>"; cat "$4"; echo .; cat "$6"; echo "$INPUT_IMAGES$GITHUB_REF$token$key$version$name"`)
			environment := l.withNix()
			nix, err := os.Readlink(filepath.Join(l.path, "nix"))
			require.NoError(t, err)
			l.install("nix", spy+"\nexec "+nix+` "$@"`)
			l.install("runner-images", spy+"\necho 'runner-images 1.2.2'")
			environment = append(environment, "INPUT_TOKEN=t0ken", "INPUT_SIGNING_KEY="+key, "INPUT_IMAGES=images\nINPUT_X=1", "GITHUB_REF=refs/heads/main",
				"token=job's ", "key=job's ", "version=job's ", "name=job's",
				"FORGEJO_TOKEN=f0rgejo", "GITEA_TOKEN=g1tea", "GITHUB_TOKEN=g1thub", "ACTIONS_RUNTIME_TOKEN=runt1me", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=ident1ty")
			out, err := l.run(environment...)
			require.NoError(t, err, out)
			assert.True(t, strings.HasSuffix(out, "\n<deploy a b --token-file /dev/fd/3 --signing-key-file /dev/fd/4>\nt0ken\n.\n"+
				key+"\nimages\nINPUT_X=1refs/heads/mainjob's job's job's job's\n"), out)
			written := string(read(t, seen))
			for _, want := range []string{"/nix --extra", "/runner-images version", "NIX_STORE_DIR", "GITHUB_REF"} {
				assert.Contains(t, written, want)
			}
			for _, secret := range []string{"t0ken", "k3y", "f0rgejo", "g1tea", "g1thub", "runt1me", "ident1ty"} {
				assert.NotContains(t, written, secret)
			}
			// The inputs are for the command.
			started, _, ok := strings.Cut(written, "\x00")
			require.True(t, ok)
			assert.NotContains(t, started, "INPUT_")

			// Without the input, the token is the run's; without a secret, there is no flag.
			l.install("runner-images", `if [ "$1" = version ]; then echo 'runner-images 1.2.3'; else echo "<$*>"; [ $# = 2 ] || cat "$4"; fi`)
			out, err = l.run("GITHUB_TOKEN=g1thub", "INPUT_SIGNING_KEY= \n")
			require.NoError(t, err, out)
			assert.Equal(t, "<deploy a b --token-file /dev/fd/3>\ng1thub\n", out)
			out, err = l.run()
			require.NoError(t, err, out)
			assert.Equal(t, "<deploy a b>\n", out)

			// A shell that is told to trace and to export everything tells nothing.
			l.install("runner-images", `if [ "$1" = version ]; then echo 'runner-images 1.2.3'; else cat "/proc/$$/environ"; fi`)
			out, err = l.run("INPUT_TOKEN=t0ken", "INPUT_SIGNING_KEY="+key, "SHELLOPTS=xtrace:allexport:verbose")
			require.NoError(t, err, out)
			assert.NotContains(t, out, "t0ken")
			assert.NotContains(t, out, "k3y")
		})
	}
}

// TestLauncherPrepares has the first step of the action find the command, and the
// second one take it.
func TestLauncherPrepares(t *testing.T) {
	l := newLauncher(t)
	l.withFlake()
	output := filepath.Join(t.TempDir(), "output")
	prepare := func(environment ...string) string {
		command := l.command(environment...)
		command.Args = append(command.Args[:2], "prepare")
		out, err := command.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	environment := l.withNix()
	prepare(append(environment, "GITHUB_OUTPUT="+output)...)
	program, ok := strings.CutPrefix(strings.TrimSuffix(string(read(t, output)), "\n"), "program=")
	require.True(t, ok)

	require.NoError(t, os.Remove(filepath.Join(l.path, "nix")))
	out, err := l.run("RUNNER_IMAGES_PROGRAM=" + program)
	require.NoError(t, err, out)
	assert.Equal(t, "<nix><deploy><a b>", out)

	// Of another version, or gone, it is not taken.
	l.install("runner-images", "version=1.2.3 origin=installed\n"+printing)
	l.install("other", "version=1.2.2 origin=other\n"+printing)
	for _, other := range []string{filepath.Join(l.path, "other"), filepath.Join(l.path, "gone"), ""} {
		out, err = l.run("RUNNER_IMAGES_PROGRAM=" + other)
		require.NoError(t, err, out)
		assert.True(t, strings.HasSuffix(out, "<installed><deploy><a b>"), out)
		assert.Equal(t, other != "", strings.Contains(out, "runner-images: not taking "+other+": "), out)
	}
	assert.Contains(t, prepare("GITHUB_OUTPUT=/no/such/file"), "GITHUB_OUTPUT=/no/such/file cannot be written to")
	assert.Contains(t, prepare(), filepath.Join(l.path, "runner-images"))
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

// withGo gives the action a command that Go builds with a module, and puts Go onto
// the PATH.
func (l launcher) withGo() {
	l.write("go.mod", "module example.org/action\n\ngo 1.21\n\nrequire github.com/google/shlex v0.0.0-20191202100458-e7afc7fbc510\n")
	l.write("go.sum", `github.com/google/shlex v0.0.0-20191202100458-e7afc7fbc510 h1:El6M4kTTCOh6aBiKaUGG7oYTSPP8MxqL4YI3kZKwcP4=
github.com/google/shlex v0.0.0-20191202100458-e7afc7fbc510/go.mod h1:pupxD2MaaD3pAXIBCelhxNneeOaAeabZDe5s4K6zSpQ=
`)
	l.write("cmd/runner-images/main.go", `package main

import (
	"fmt"
	"os"

	_ "github.com/google/shlex"
)

func main() { fmt.Printf("<go>%q", os.Args[1:]) }
`)
	program, err := exec.LookPath("go")
	require.NoError(l.t, err)
	l.install("go", `exec "`+program+`" "$@"`)
}

func TestLauncherBuildsWithGo(t *testing.T) {
	l := newLauncher(t)
	l.withGo()
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

// TestLauncherInTheEnvironmentOfAJob has jobs that build something else, on
// runners that lack something.
func TestLauncherInTheEnvironmentOfAJob(t *testing.T) {
	l := newLauncher(t)
	l.withGo()
	folder := filepath.Dir(l.action)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "go.work"), []byte("go 1.21\n\nuse ./elsewhere\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "env"), []byte("GOOS=windows\nGOFLAGS=-mod=vendor\nGOWORK="+folder+"/go.work\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "bashrc"), []byte("exit 3\n"), 0o644))
	for _, job := range [][]string{
		{"GOOS=windows"},
		{"GOARCH=arm64", "GOARM64=v9.9", "GOAMD64=v9"},
		{"GOFLAGS=-mod=vendor"},
		{"GOFLAGS=-toolexec=false -tags=x -o=/dev/null"},
		{"GOENV=" + folder + "/env"},
		{"GOWORK=" + folder + "/go.work"},
		{"GO111MODULE=off"},
		{"GOTOOLCHAIN=go1.2"},
		{"GOROOT=/no/such/folder"},
		{"GOTMPDIR=/no/such/folder"},
		{"GOEXPERIMENT=nosuchexperiment"},
		{"GOCACHEPROG=false"},
		{"CGO_ENABLED=1", "CC=false", "CGO_CFLAGS=-broken"},
		{"CDPATH=" + folder + ":/"},
		{"BASH_ENV=" + folder + "/bashrc", "ENV=" + folder + "/bashrc"},
		{"TMPDIR=/no/such/folder"},
		{"TMPDIR=relative"},
		{"RUNNER_TEMP=/no/such/folder"},
		{"RUNNER_TEMP="},
		{"HOME=/no/such/folder"},
		{"GIT_DIR=/no/such/folder"},
	} {
		out, err := l.run(append(goEnvironment(t), job...)...)
		require.NoError(t, err, "%v: %s", job, out)
		assert.True(t, strings.HasSuffix(out, `<go>["deploy" "a b"]`), "%v: %s", job, out)
		if variable := job[0]; strings.Contains(variable, "=/no/such/folder") && !strings.HasPrefix(variable, "G") {
			assert.Contains(t, out, "runner-images: "+variable+" is no folder that can be written to; ")
		}
	}

	// A script in place of go's program reads BASH_ENV, as wrappers do.
	bash, err := exec.LookPath("bash")
	require.NoError(t, err)
	program := filepath.Join(l.path, "go")
	require.NoError(t, os.WriteFile(program, []byte(strings.Replace(string(read(t, program)), "/bin/sh", bash, 1)), 0o755))
	out, err := l.run(append(goEnvironment(t), "BASH_ENV="+folder+"/bashrc")...)
	require.NoError(t, err, out)

	for _, mask := range []string{"0000", "0077", "0177", "0777"} {
		command := l.command(goEnvironment(t)...)
		command.Args = append([]string{"sh", "-c", "umask " + mask + `; exec sh "$@"`}, command.Args...)
		out, err := command.CombinedOutput()
		require.NoError(t, err, "umask %s: %s", mask, out)
	}
}

// TestLauncherWithoutHome has a runner whose service has no HOME and no caches, and
// that must be able to remove what was left.
func TestLauncherWithoutHome(t *testing.T) {
	l := newLauncher(t)
	l.withGo()
	temporary := t.TempDir()
	modules, err := exec.CommandContext(t.Context(), "go", "env", "GOMODCACHE").Output()
	require.NoError(t, err)
	out, err := l.run("RUNNER_TEMP="+temporary, "GOSUMDB=off", "GOPROXY=file://"+strings.TrimSpace(string(modules))+"/cache/download")
	require.NoError(t, err, out)
	assert.True(t, strings.HasSuffix(out, `<go>["deploy" "a b"]`), out)
	found := false
	require.NoError(t, filepath.WalkDir(temporary, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		assert.NotZero(t, info.Mode().Perm()&0o200, path)
		found = found || strings.HasPrefix(entry.Name(), "shlex@")
		return err
	}))
	assert.True(t, found, "the module was unpacked below RUNNER_TEMP")

	// The system knows the home of a user who has none in the environment.
	id, err := exec.LookPath("id")
	require.NoError(t, err)
	l.link("id", id)
	l.install("runner-images", `if [ "$1" = version ]; then echo 'runner-images 1.2.3'; else echo "<$HOME>"; fi`)
	me, err := user.Current()
	require.NoError(t, err)
	out, err = l.run()
	require.NoError(t, err, out)
	assert.Equal(t, "<"+me.HomeDir+">\n", out)
}

// TestLauncherInAReadOnlyCheckout mounts the action's folder read-only.
func TestLauncherInAReadOnlyCheckout(t *testing.T) {
	l := newLauncher(t)
	l.withGo()
	l.withFlake()
	environments := map[string][]string{"nix": l.withNix(), "go": goEnvironment(t)}
	for _, origin := range []string{"nix", "go"} {
		if origin == "go" { // from here on
			l.install("nix", "exit 1")
		}
		command := l.command(environments[origin]...)
		arguments := []string{"--mount", "sh", "-euc", `mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; shift
			! touch "$(dirname "$2")/x" 2>/dev/null
			PATH=$RUNNER_PATH exec "$@"`, "sh", l.action}
		if os.Geteuid() != 0 {
			arguments = append([]string{"--user", "--map-root-user"}, arguments...)
		}
		command.Args = slices.Concat([]string{"unshare"}, arguments, command.Args)
		command.Path = lab.Tool(t, "boot", "unshare")
		command.Env = append(command.Env, "PATH="+os.Getenv("PATH"), "RUNNER_PATH="+l.path)
		out, err := command.CombinedOutput()
		require.NoError(t, err, "%s", out)
		assert.Contains(t, string(out), "<"+origin+">")
	}
}

func TestLauncherSaysWhatIsMissing(t *testing.T) {
	l := newLauncher(t)
	out, err := l.run()
	require.Error(t, err)
	assert.Equal(t, "::error::this runner has no Nix, which builds the images: install it (https://nixos.org/download) or choose a runner that has it\n", out)

	// Nothing is built where there is no folder for it.
	l.install("nix", `echo "nix was run: $*"; exit 1`)
	l.install("mktemp", "echo 'mktemp: the disk is full' >&2; exit 1")
	out, err = l.run()
	require.Error(t, err)
	assert.NotContains(t, out, "nix was run")
	assert.Contains(t, out, "mktemp: the disk is full\n")

	l.install("nix", "exit 1")
	out, err = l.run()
	require.Error(t, err)
	assert.Contains(t, out, "::error::the action could not be built; the lines above say why. Installing runner-images 1.2.3 on the runner makes the build unnecessary\n")
}
