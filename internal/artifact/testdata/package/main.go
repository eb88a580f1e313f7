// This program packages a build's output for the tests in a process of its own, and
// prints the file's path, the warnings and the peak memory of the process.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"every.channel/runner-images/internal/artifact"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	warnings := []string{}
	packager := artifact.Packager{Tag: "boot-v1", Dir: os.Args[2], Within: []string{"/"}, Warn: func(text string) { warnings = append(warnings, text) }}
	asset, err := packager.Package(context.Background(), artifact.Image{Name: "image"}, os.Args[1])
	if err != nil {
		return err
	}
	peak, err := peakMemory()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(struct {
		Path     string
		Warnings []string
		Peak     int64 // bytes
	}{asset.Path, warnings, peak})
}

// peakMemory is the resident set's high-water mark. That of getrusage(2) begins
// with the parent's.
func peakMemory() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		var kibibytes int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kibibytes); err == nil {
			return kibibytes << 10, nil
		}
	}
	return 0, errors.New("no VmHWM in /proc/self/status")
}
