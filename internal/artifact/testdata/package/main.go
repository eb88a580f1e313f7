// This program packages a build's output as the tests say, in a process of its
// own, and prints the asset and the most memory that the process has used.
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
	asset, err := artifact.Package(context.Background(), artifact.Request{Result: os.Args[1], Name: "image", Tag: "boot-v1", Dir: os.Args[2]})
	if err != nil {
		return err
	}
	peak, err := peakMemory()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(struct {
		Asset artifact.Artifact
		Peak  int64 // bytes
	}{asset, peak})
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
