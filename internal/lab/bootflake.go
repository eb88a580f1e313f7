package lab

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// BootFlake copies testdata/boot-flake into a folder of the test's, with the
// kernel and the busybox that it needs beside it, and returns the folder's path.
// The image that it builds writes its generation, a word, on the console when it has
// booted.
func BootFlake(t testing.TB, generation string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "flake")
	if err := os.CopyFS(folder, os.DirFS(filepath.Join(Root(t), "testdata", "boot-flake"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "generation"), []byte(generation+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(folder, "boot"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"bin/busybox": 0o755, "share/vmlinuz": 0o644} {
		source, err := findTool("boot", name)
		if err == nil {
			err = copyFile(filepath.Join(folder, "boot", filepath.Base(name)), source, mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// BuildBootFlake builds the netboot image of BootFlake and returns the output's path.
func BuildBootFlake(t testing.TB, nix NixEnv, generation string) string {
	t.Helper()
	build := exec.CommandContext(t.Context(), nix.Program, "build", "--json", "--no-link",
		"path:"+BootFlake(t, generation)+"#nixosConfigurations.ec-runner-x86_64-netboot.config.system.build.netboot")
	build.Env = nix.Env()
	build.Stderr = t.Output()
	out, err := build.Output()
	if err != nil {
		t.Fatalf("build testdata/boot-flake: %v", err)
	}
	var built []struct{ Outputs map[string]string }
	if err := json.Unmarshal(out, &built); err != nil || len(built) != 1 {
		t.Fatalf("nix build --json printed %s", out)
	}
	return built[0].Outputs["out"]
}

// InitFiles is what a machine writes on its console of the files that it has from
// the image of BootFlake, when nothing was put into the initrd on its way.
const InitFiles = "boot test: files: bin dev init proc root end of files"

// InInit returns what a machine writes on its console when it has booted the
// image of a generation.
func InInit(generation string) string {
	return "boot test: generation " + generation + " reached its init"
}

func copyFile(to, from string, mode os.FileMode) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
