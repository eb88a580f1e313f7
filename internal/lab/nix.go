package lab

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A NixEnv is a Nix with a store of its own, away from /nix and from the
// user's and the system's configuration, that ends with its test.
type NixEnv struct {
	Program string // the path of nix
	Folder  string // holds all that this Nix writes; the store is Folder/store

	environment []string
}

// Nix makes an empty store for a test.
func Nix(t testing.TB) NixEnv {
	t.Helper()
	folder, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// Store paths are read-only, also for the removal of the test's folder.
	t.Cleanup(func() { makeWritable(t, folder) })
	return nixAt(t, folder)
}

// nixAt runs scripts/with-nix, which alone knows how to set up such a store.
func nixAt(t testing.TB, folder string) NixEnv {
	t.Helper()
	program := Tool(t, "nix", "nix")
	env := exec.Command(filepath.Join(Root(t), "scripts", "with-nix"), folder, "env", "-0")
	env.Stderr = os.Stderr
	output, err := env.Output()
	if err != nil {
		t.Fatalf("scripts/with-nix: %v", err)
	}
	return NixEnv{
		Program:     program,
		Folder:      folder,
		environment: strings.Split(strings.TrimSuffix(string(output), "\x00"), "\x00"),
	}
}

// Env returns the whole environment of a process that is to use this Nix, the
// test's own included, as exec.Cmd takes it. Its PATH begins with this Nix's
// folder, and its HOME is an empty one.
func (n NixEnv) Env() []string {
	return append([]string(nil), n.environment...)
}

// EmbeddedScript returns the script that nixosModules.ec-netboot puts into iPXE, as
// Nix evaluates it from the module's files, with these options of the module (an
// attribute set in Nix) in place of those of nix/testdata/commands.nix.
func EmbeddedScript(t testing.TB, nix NixEnv, options string) string {
	t.Helper()
	commands := filepath.Join(Root(t), "nix", "testdata", "commands.nix")
	evaluate := exec.CommandContext(t.Context(), nix.Program, "eval", "--raw", "--impure", "--read-only",
		"--expr", "(import "+strconv.Quote(commands)+").scriptFor "+options)
	evaluate.Env = nix.Env()
	evaluate.Stderr = t.Output()
	script, err := evaluate.Output()
	if err != nil {
		t.Fatalf("evaluate the embedded script: %v", err)
	}
	return string(script)
}

// Flake copies testdata/flake into a folder of the test's and returns the
// folder's path. There it is no part of a git work tree, of which Nix would see
// the tracked files only.
func Flake(t testing.TB) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "flake")
	if err := os.CopyFS(folder, os.DirFS(filepath.Join(Root(t), "testdata", "flake"))); err != nil {
		t.Fatal(err)
	}
	return folder
}

func makeWritable(t testing.TB, folder string) {
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !entry.IsDir() {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return os.Chmod(path, info.Mode().Perm()|0o700)
	})
	if err != nil {
		t.Errorf("make %s removable: %v", folder, err)
	}
}
