package deploy

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/verify"
)

// rebuildNix is a fakeNix whose answers to Foreign and Build are given, one for each
// call; what is not given succeeds.
type rebuildNix struct {
	*fakeNix
	foreign  map[string]string
	evaluate []error
	build    []error
	requests []nix.Request // of Build
}

func (f *rebuildNix) Foreign(context.Context, nix.Request) (map[string]string, error) {
	return f.foreign, next(&f.evaluate)
}

func (f *rebuildNix) Build(ctx context.Context, request nix.Request) ([]nix.Result, error) {
	f.requests = append(f.requests, request)
	if err := next(&f.build); err != nil {
		return nil, err
	}
	return f.fakeNix.Build(ctx, request)
}

func next(errs *[]error) error {
	if len(*errs) == 0 {
		return nil
	}
	first := (*errs)[0]
	*errs = (*errs)[1:]
	return first
}

// rebuild rebuilds the ISOs x and y, and returns what became of them by name.
func rebuild(t *testing.T, n *rebuildNix) (map[string]verify.Rebuilt, error) {
	t.Helper()
	n.fakeNix = &fakeNix{store: t.TempDir()}
	b := Rebuild{
		Nix: n, NixArgs: []string{"--offline"}, Dir: t.TempDir(), Again: true,
		Report: report.New(report.Options{Out: io.Discard, Log: io.Discard, Getenv: func(string) string { return "" }}),
	}
	var images []verify.Image
	for _, name := range []string{"x", "y"} {
		images = append(images, verify.Image{Image: artifact.Image{Name: name, Installable: ".#" + name}})
	}
	rebuilt, err := b.Run(t.Context(), "boot-v1", images)
	byName := map[string]verify.Rebuilt{}
	for _, r := range rebuilt {
		byName[r.Name] = r
	}
	return byName, err
}

func assertBuilt(t *testing.T, r verify.Rebuilt, file, content string) {
	t.Helper()
	require.NoError(t, r.Err)
	assert.Empty(t, r.Reason)
	assert.Equal(t, file, r.File)
	got, err := os.ReadFile(r.Path)
	require.NoError(t, err)
	assert.Equal(t, content, string(got))
}

func TestRebuild(t *testing.T) {
	t.Parallel()
	n := &rebuildNix{}
	rebuilt, err := rebuild(t, n)
	require.NoError(t, err)
	assertBuilt(t, rebuilt["x"], "x-boot-v1.iso", "the ISO x")
	assertBuilt(t, rebuilt["y"], "y-boot-v1.iso", "the ISO y")
	require.Len(t, n.requests, 1)
	assert.True(t, n.requests[0].Rebuild)
	assert.Equal(t, []string{"--offline"}, n.requests[0].Args)
}

func TestRebuildLeavesOutWhatCannotBeBuiltHere(t *testing.T) {
	t.Parallel()
	noAttribute := &nix.EvaluationError{Problems: []nix.Problem{{Images: []string{"y"}, Kind: nix.NoAttribute, Reason: "no attribute y"}}}
	mistake := &nix.EvaluationError{Problems: []nix.Problem{{Images: []string{"y"}, Kind: nix.Mistake, Reason: "an assertion failed"}}}
	wrongMachine := &nix.BuildError{Failures: []nix.Failure{{Images: []string{"y"}, Kind: nix.WrongMachine, Reason: "needs aarch64-linux"}}}
	broken := &nix.BuildError{Failures: []nix.Failure{{Images: []string{"y"}, Kind: nix.BuilderFailed, Reason: "exit code 1"}}}
	for name, c := range map[string]struct {
		nix    *rebuildNix
		reason string // why y was not tried
		err    string // why y failed
		builds int
	}{
		"foreign":       {&rebuildNix{foreign: map[string]string{"y": "needs aarch64-linux"}}, "needs aarch64-linux", "", 1},
		"no attribute":  {&rebuildNix{evaluate: []error{noAttribute}}, "no attribute y", "", 1},
		"mistake":       {&rebuildNix{evaluate: []error{mistake}}, "", "an assertion failed", 1},
		"wrong machine": {&rebuildNix{build: []error{wrongMachine}}, "needs aarch64-linux", "", 2},
		"broken":        {&rebuildNix{build: []error{broken}}, "", "exit code 1", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rebuilt, err := rebuild(t, c.nix)
			require.NoError(t, err)
			assertBuilt(t, rebuilt["x"], "x-boot-v1.iso", "the ISO x")
			assert.Equal(t, c.reason, rebuilt["y"].Reason)
			assert.Empty(t, rebuilt["y"].Path)
			if c.err == "" {
				require.NoError(t, rebuilt["y"].Err)
			} else {
				require.ErrorContains(t, rebuilt["y"].Err, c.err)
			}
			require.Len(t, c.nix.requests, c.builds)
			last := c.nix.requests[c.builds-1]
			assert.Equal(t, []artifact.Image{{Name: "x", Installable: ".#x"}}, last.Images)
			assert.Equal(t, c.builds == 1, last.Rebuild, "what was built again is not built a third time")
		})
	}
}

func TestRebuildOfNothing(t *testing.T) {
	t.Parallel()
	n := &rebuildNix{foreign: map[string]string{"x": "needs aarch64-linux", "y": "needs aarch64-linux"}}
	rebuilt, err := rebuild(t, n)
	require.NoError(t, err)
	assert.Empty(t, n.requests)
	assert.Equal(t, "needs aarch64-linux", rebuilt["x"].Reason)

	noFlake := &nix.EvaluationError{Problems: []nix.Problem{{Images: []string{"x", "y"}, Kind: nix.NoFlake, Reason: "no flake.nix"}}}
	_, err = rebuild(t, &rebuildNix{evaluate: []error{noFlake}})
	require.ErrorIs(t, err, noFlake)

	failure := errors.New("the disk is full")
	_, err = rebuild(t, &rebuildNix{build: []error{failure}})
	require.ErrorIs(t, err, failure)
}
