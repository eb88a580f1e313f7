package nix_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/nix"
)

func TestCancelLeavesNoProcess(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		grace time.Duration
		deaf  bool // Nix has a child that does not listen, and ends without it
	}{
		"asked to end":        {},
		"killed":              {grace: time.Nanosecond}, // before it can end by itself
		"with a deaf process": {grace: 2 * time.Second, deaf: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.Grace = c.grace
			if c.deaf {
				script := "#!/bin/sh\ncase \"$*\" in *slow*.drv*) sh -c 'trap \"\" TERM; exec sleep 600' >/dev/null 2>&1 & esac\nexec " + b.Program + " \"$@\"\n"
				b.Program = filepath.Join(t.TempDir(), "nix")
				require.NoError(t, os.WriteFile(b.Program, []byte(script), 0o700))
			}
			request := b.request("slow", isoX86)
			request.LinkDir = t.TempDir()
			building := make(chan struct{})
			request.Events = func(event nix.Event) {
				b.record(event)
				if event.Text == "compressing the squashfs" {
					close(building)
				}
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			failed := make(chan error, 1)
			go func() {
				_, err := b.Build(ctx, request)
				failed <- err
			}()

			select {
			case <-building:
			case err := <-failed:
				require.NoError(t, err, "it ended before it was cancelled")
			}
			assert.NotEmpty(t, processesOf(t, b.folder), "the test finds the builder while it runs")
			tired := errors.New("tired of waiting")
			cancel(tired)
			require.ErrorIs(t, <-failed, tired)

			// A killed process is gone once the process that inherits it has reaped it.
			assert.Eventually(t, func() bool { return len(processesOf(t, b.folder)) == 0 }, 10*time.Second, time.Millisecond)
			entries, err := os.ReadDir(request.LinkDir)
			require.NoError(t, err)
			assert.Empty(t, entries)

			// The store is in order, and works.
			request.Events = b.record
			request.Images = request.Images[1:]
			_, err = b.Build(t.Context(), request)
			require.NoError(t, err)
		})
	}
}

func TestCancelledBeforeItBegins(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.Build(ctx, b.request(isoX86))
	require.ErrorIs(t, err, context.Canceled)
	assert.NoDirExists(t, filepath.Join(b.folder, "store"))
}

// processesOf returns the processes that know of a folder by their arguments or
// their environment, as Nix and its builders know of their store.
func processesOf(t *testing.T, folder string) []int {
	t.Helper()
	var found []int
	processes, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, process := range processes {
		// Those that have ended, or belong to others, cannot be read.
		arguments, _ := os.ReadFile(filepath.Join(process, "cmdline"))
		environment, _ := os.ReadFile(filepath.Join(process, "environ"))
		if bytes.Contains(arguments, []byte(folder)) || bytes.Contains(environment, []byte(folder)) {
			id, err := strconv.Atoi(filepath.Base(process))
			require.NoError(t, err)
			found = append(found, id)
		}
	}
	return found
}
