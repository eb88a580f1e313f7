// Package lab gives tests the real parts that they run against: the programs
// that scripts/tools installs, and servers started from them.
package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// Root returns the folder of this repository, the one with go.mod.
func Root(t testing.TB) string {
	t.Helper()
	root, err := findRoot()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// Tool returns the path of a program that scripts/tools/NAME installed. A test
// whose tool is not there fails and says what to run.
func Tool(t testing.TB, name, program string) string {
	t.Helper()
	path, err := findTool(name, filepath.Join("bin", program))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func findTool(name, file string) (string, error) {
	root, err := findRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".cache", "tools", name, file)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: run ./scripts/tools/%s first", err, name)
	}
	return path, nil
}

func findRoot() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder, nil
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return "", errors.New("no go.mod here or above: run this inside the repository")
		}
		folder = parent
	}
}
