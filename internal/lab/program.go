package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// StaticProgram builds runner-images so that it runs without the libraries of this
// machine, and returns its path in a folder of the test's.
func StaticProgram(t testing.TB) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "runner-images")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "netgo,osusergo", "-ldflags", "-s -w", "-o", program, "./cmd/runner-images")
	build.Dir = Root(t)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the command: %v: %s", err, output)
	}
	return program
}
