package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/folder"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/size"
	"every.channel/runner-images/internal/trust"
)

// fakeNix stands for the nix command. It records what is asked of it, and builds an
// ISO for every image; the sessions in cmd/runner-images/testdata/nix run a real Nix.
type fakeNix struct {
	store string // the folder of its outputs
	mutex sync.Mutex
	calls []string

	fails    map[string]error // what fails, by the name of the method
	before   func(method string)
	metadata nix.Metadata
	empty    bool // outputs hold nothing
}

func (f *fakeNix) call(method string, args ...string) error {
	f.mutex.Lock()
	f.calls = append(f.calls, strings.Join(append([]string{method}, args...), " "))
	f.mutex.Unlock()
	if f.before != nil {
		f.before(method)
	}
	return f.fails[method]
}

func (f *fakeNix) Version(context.Context) (string, error) { return "2.31.2", f.call("Version") }

func (f *fakeNix) FlakeMetadata(_ context.Context, _, flake string) (nix.Metadata, error) {
	return f.metadata, f.call("FlakeMetadata", flake)
}

func (f *fakeNix) Build(ctx context.Context, request nix.Request) ([]nix.Result, error) {
	var results []nix.Result
	for _, image := range request.Images {
		output := filepath.Join(f.store, image.Name)
		link := filepath.Join(request.LinkDir, image.Name)
		err := errors.Join(os.MkdirAll(filepath.Join(output, "iso"), 0o755), os.MkdirAll(request.LinkDir, 0o755), os.Symlink(output, link))
		if !f.empty {
			err = errors.Join(err, os.WriteFile(filepath.Join(output, "iso", "nixos.iso"), []byte("the ISO "+image.Name), 0o600))
		}
		if err != nil {
			return nil, err
		}
		results = append(results, nix.Result{Image: image, Derivation: output + ".drv", Output: output, Link: link})
	}
	if err := f.call("Build", request.Args...); err != nil {
		return nil, err
	}
	return results, ctx.Err()
}

func (f *fakeNix) Copy(_ context.Context, to string, paths []string, _ func(nix.Event)) error {
	return f.call("Copy", append([]string{to}, f.relative(paths)...)...)
}

func (f *fakeNix) Closures(_ context.Context, paths ...string) (nix.Closures, error) {
	known := nix.Closures{}
	for _, path := range paths {
		known[path] = nix.PathInfo{Path: path, NARHash: "sha256-" + filepath.Base(path)}
	}
	return known, f.call("Closures", f.relative(paths)...)
}

// relative returns store paths without the folder of the store.
func (f *fakeNix) relative(paths []string) []string {
	var names []string
	for _, path := range paths {
		names = append(names, filepath.Base(path))
	}
	return names
}

// A line is a deployment of two ISOs with a fake Nix and a folder of releases.
type line struct {
	Deployment
	nix      *fakeNix
	releases string // the folder of releases
	log      *bytes.Buffer
	outputs  string // the file GITHUB_OUTPUT
	summary  string // the file GITHUB_STEP_SUMMARY
}

func newLine(t *testing.T) *line {
	t.Helper()
	dir := t.TempDir()
	l := &line{
		nix: &fakeNix{
			store: filepath.Join(dir, "nix", "store"), fails: map[string]error{},
			metadata: nix.Metadata{LockedURL: "git+https://forge.example/every/channel?rev=c0ffee", Revision: "c0ffee", NARHash: "sha256-flake"},
		},
		releases: filepath.Join(dir, "releases"), log: new(bytes.Buffer),
		outputs: filepath.Join(dir, "outputs"), summary: filepath.Join(dir, "summary"),
	}
	store, err := folder.Open("file://"+l.releases, nil)
	require.NoError(t, err)
	environment := map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": l.outputs, "GITHUB_STEP_SUMMARY": l.summary}
	l.Deployment = Deployment{
		Plan: plan.Plan{
			ReleaseTag: "boot-v1", Publish: true, Flake: ".", OutputDir: filepath.Join(dir, "dist"), ForgeURL: "file://" + l.releases, Commit: "c0ffee",
			Images:  []artifact.Image{{Name: "x", Installable: ".#x"}, {Name: "y", Installable: ".#y"}},
			NixArgs: []string{"--option", "cores", "1"}, NixCopyTo: "file:///cache",
		},
		Nix: l.nix, Store: store, ModTime: time.Unix(1, 0),
		Report: report.New(report.Options{Out: l.log, Getenv: func(name string) string { return environment[name] }}),
		About:  trust.Build{Commit: "c0ffee", Repository: "https://forge.example/every/channel", Versions: map[string]string{"runner-images": "1"}},
	}
	return l
}

// release returns the published files by name, and whether there is a release.
func (l *line) release(t *testing.T) (files map[string]string, found bool) {
	t.Helper()
	published, err := l.Store.Release(t.Context(), l.Plan.ReleaseTag)
	if errors.Is(err, release.ErrNotFound) {
		return nil, false
	}
	require.NoError(t, err)
	require.False(t, published.Draft)
	files = map[string]string{}
	for _, asset := range published.Assets {
		content, err := l.Store.ReadSmall(t.Context(), published, asset.Name)
		require.NoError(t, err)
		files[asset.Name] = string(content)
	}
	return files, true
}

// outputValues returns the step's outputs by name.
func (l *line) outputValues(t *testing.T) map[string]string {
	t.Helper()
	values := map[string]string{}
	for _, match := range regexp.MustCompile(`(?m)^(\w+)<<(\S+)\n([^\n]*)\n`).FindAllStringSubmatch(l.read(t, l.outputs), -1) {
		values[match[1]] = match[3]
	}
	return values
}

// read returns the content of a file, or "" if there is none.
func (l *line) read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
	}
	return string(content)
}

func TestDeployOrder(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.nix.before = func(method string) {
		if method == "FlakeMetadata" {
			assert.NoDirExists(t, l.Plan.OutputDir, "the flake may be in the folder that is written to")
		}
		_, released := l.release(t)
		assert.False(t, released, "nothing is published before %s", method)
	}
	require.NoError(t, l.Run(t.Context()))
	slices.Sort(l.nix.calls[:2]) // which are made side by side
	assert.Equal(t, []string{
		"FlakeMetadata .", "Version", "Build --option cores 1", "Copy file:///cache x y", "Closures x y",
	}, l.nix.calls)

	files, released := l.release(t)
	require.True(t, released)
	assert.Equal(t, "the ISO x", files["x-boot-v1.iso"])
	assert.Equal(t, "the ISO y", files["y-boot-v1.iso"])
	for name, content := range files {
		assert.Equal(t, content, l.read(t, filepath.Join(l.Plan.OutputDir, name)), "%s in the output folder", name)
	}
	sums, err := checksum.Parse(strings.NewReader(files[checksum.FileName]))
	require.NoError(t, err)
	assert.Len(t, sums, 3, "two images and the provenance")
	assert.NoDirExists(t, l.linkDir(), "the links are for the time of the run")
}

// watched is a folder of releases that tells of each upload of an image that begins.
type watched struct {
	release.Backend
	begins func(asset string)
}

func (w watched) Begin(tag string) (release.Transaction, error) {
	transaction, err := w.Backend.Begin(tag)
	return watchedTransaction{transaction, w.begins}, err
}

type watchedTransaction struct {
	release.Transaction
	begins func(asset string)
}

func (w watchedTransaction) Upload(ctx context.Context, upload release.Upload) (release.Asset, error) {
	if strings.HasSuffix(upload.Asset, ".iso") {
		w.begins(upload.Asset)
	}
	return w.Transaction.Upload(ctx, upload)
}

// The upload of an image begins while another one is still being packaged, whose packaging
// goes on when it has begun.
func TestUploadBesidePackaging(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	built, err := l.nix.Build(t.Context(), nix.Request{Images: l.Plan.Images, LinkDir: l.linkDir()})
	require.NoError(t, err)
	began := make(chan string, len(built))
	l.Store.Backend = watched{l.Store.Backend, func(asset string) { began <- asset }}
	var packaged []artifact.Artifact
	pack := func(ctx context.Context, upload release.UploadAhead) (err error) {
		var uploads errgroup.Group
		progress := l.Report.Progress("package")
		defer progress.Close()
		packaged, err = packaging{
			report: l.Report, progress: progress, plan: l.Plan, parts: newTimings(),
			within: func(ctx context.Context, b nix.Result) ([]string, error) {
				if b.Name == "y" {
					select {
					case asset := <-began:
						assert.Equal(t, "x-boot-v1.iso", asset)
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				}
				return []string{b.Output}, nil
			},
			whole: func(a *artifact.Artifact) {
				uploads.Go(func() error {
					file, err := upload(ctx, toPublish(*a))
					a.SHA256 = file.SHA256
					return err
				})
			},
		}.run(ctx, built)
		return errors.Join(err, uploads.Wait())
	}
	_, err = l.Store.UpdateAhead(t.Context(), "boot-v1", release.Content{}, pack, func(context.Context, release.Snapshot) (release.Content, error) {
		return release.Content{Files: []release.File{toPublish(packaged[0]), toPublish(packaged[1])}}, nil
	})
	require.NoError(t, err)
	files, _ := l.release(t)
	assert.Equal(t, "the ISO x", files["x-boot-v1.iso"])
	assert.Equal(t, "the ISO y", files["y-boot-v1.iso"])
}

// One image of two cannot be packaged: nothing stays of the other's upload.
func TestNothingStaysOfAnUpload(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.nix.before = func(method string) {
		if method == "Closures" {
			assert.NoError(t, os.Remove(filepath.Join(l.nix.store, "y", "iso", "nixos.iso")))
		}
	}
	require.ErrorIs(t, l.Run(t.Context()), artifact.ErrUnrecognised)
	assert.Contains(t, l.read(t, l.summary), "Nothing was published.")
	entries, err := os.ReadDir(l.releases)
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
	}
	for _, entry := range entries {
		assert.False(t, entry.IsDir(), "%s: no draft, hidden or not", entry.Name())
	}
}

// The links that a run has left that was killed are gone before the flake is looked at, in
// which they may lie: provenance tells of what was built.
func TestDeployAfterOneThatWasKilled(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	require.NoError(t, os.MkdirAll(filepath.Join(l.linkDir(), "x"), 0o755))
	l.nix.before = func(method string) {
		if method == "FlakeMetadata" {
			assert.NoDirExists(t, l.linkDir())
		}
	}
	require.NoError(t, l.Run(t.Context()))
}

func TestDeployWithoutCopy(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.Plan.NixCopyTo = ""
	require.NoError(t, l.Run(t.Context()))
	assert.NotContains(t, strings.Join(l.nix.calls, "\n"), "Copy")
}

func TestDeployOutputsAndSummary(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	require.NoError(t, l.Run(t.Context()))
	outputs := l.outputValues(t)
	assert.Equal(t, "false", outputs["skipped"])
	assert.Equal(t, "boot-v1", outputs["release_tag"])
	assert.Equal(t, l.Plan.OutputDir, outputs["output_dir"])
	assert.Equal(t, "file://"+l.releases+"/boot-v1", strings.TrimSuffix(outputs["release_url"], "/"))
	var assets []artifact.Artifact
	require.NoError(t, json.Unmarshal([]byte(outputs["assets"]), &assets))
	require.Len(t, assets, 3)
	for i, name := range []string{"x-boot-v1.iso", "y-boot-v1.iso", trust.ProvenanceFileName} {
		sum, length, err := checksum.File(t.Context(), filepath.Join(l.Plan.OutputDir, name))
		require.NoError(t, err)
		want := artifact.Artifact{Name: name, Size: length, SHA256: sum, URL: "file://" + l.releases + "/boot-v1/" + name}
		assert.Equal(t, want, assets[i])
		assert.Contains(t, l.read(t, l.summary), fmt.Sprintf("| [`%s`](%s) | %s | `%s` |\n", name, want.URL, size.Text(length), sum))
		assert.Contains(t, l.log.String(), sum)
	}
	assert.True(t, strings.HasPrefix(l.read(t, l.summary), "## Boot images boot-v1\n\nRelease file://"))
	assert.Regexp(t, `(?m)^Time, with uploads beside the packaging: build [0-9.]+ s, package [0-9.]+ s, upload [0-9.]+ s, publish [0-9.]+ s\.$`, l.read(t, l.summary))
}

// Parts that overlap, and one that several goroutines have, last from the first's begin to
// the last's end.
func TestTimings(t *testing.T) {
	t.Parallel()
	parts := newTimings()
	first, second := parts.begin("upload"), parts.begin("upload")
	pack := parts.begin("package")
	first()
	pack()
	second()
	parts.begin("publish") // does not end: the run fails
	require.Len(t, parts.parts, 3)
	upload, packing := parts.parts[0], parts.parts[1]
	assert.False(t, packing.begin.Before(upload.begin))
	assert.False(t, upload.end.Before(packing.end))
	var log bytes.Buffer
	parts.tell(report.New(report.Options{Out: io.Discard, Log: &log, Getenv: func(string) string { return "" }}))
	assert.Regexp(t, `^timings: upload +[0-9.]+ s, from [0-9.]+ s on\ntimings: package .*\ntimings: all +[0-9.]+ s\n$`, log.String())
}

func TestDeployWithoutPublishing(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.Plan.Publish = false
	require.NoError(t, l.Run(t.Context()))
	_, released := l.release(t)
	assert.False(t, released)
	assert.NoDirExists(t, l.releases)
	assert.Equal(t, "the ISO x", l.read(t, filepath.Join(l.Plan.OutputDir, "x-boot-v1.iso")))
	assert.Contains(t, l.read(t, filepath.Join(l.Plan.OutputDir, checksum.FileName)), "  "+trust.ProvenanceFileName+"\n")
	outputs := l.outputValues(t)
	assert.Empty(t, outputs["release_url"])
	assert.Contains(t, outputs["assets"], `"url":""`)
	assert.Contains(t, l.read(t, l.summary), "Files in "+l.Plan.OutputDir+"\n")
	assert.Regexp(t, `(?m)^Time: build [0-9.]+ s, package [0-9.]+ s\.$`, l.read(t, l.summary))
}

func TestDeploySkipped(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.Deployment = Deployment{Plan: plan.Plan{Skipped: true, Reason: "codeberg.org only mirrors it", ReleaseTag: "boot-v1"}, Report: l.Report}
	require.NoError(t, l.Run(t.Context()))
	assert.Empty(t, l.nix.calls)
	assert.Equal(t, "Skipped: codeberg.org only mirrors it.\n\n", l.read(t, l.summary))
	outputs := l.outputValues(t)
	assert.Equal(t, "true", outputs["skipped"])
	assert.Equal(t, "[]", outputs["assets"])
	assert.Contains(t, l.log.String(), "::notice::skipped: codeberg.org only mirrors it\n")
}

// Whichever step fails, no step follows, nothing is published, and an older
// release stays as it was.
func TestDeployFailureBeforePublishing(t *testing.T) {
	t.Parallel()
	failure := errors.New("this step failed")
	for _, older := range []bool{false, true} {
		for _, method := range []string{"Version", "FlakeMetadata", "Build", "Copy", "Closures", "Package"} {
			t.Run(fmt.Sprintf("%s/older %t", method, older), func(t *testing.T) {
				t.Parallel()
				l := newLine(t)
				if older {
					require.NoError(t, l.Run(t.Context()))
					require.NoError(t, errors.Join(os.Remove(l.outputs), os.Remove(l.summary), os.RemoveAll(l.nix.store)))
					l.nix.calls = nil
				}
				before, _ := l.release(t)
				l.nix.fails[method] = failure
				l.nix.empty = method == "Package" // no image in what was built
				err := l.Run(t.Context())
				if method != "Package" {
					require.ErrorIs(t, err, failure)
				} else {
					require.ErrorIs(t, err, artifact.ErrUnrecognised)
				}
				after, released := l.release(t)
				assert.Equal(t, older, released)
				assert.Equal(t, before, after)
				if method != "Version" && method != "FlakeMetadata" && method != "Package" { // the build reports better what is wrong with a flake
					last := l.nix.calls[len(l.nix.calls)-1]
					assert.True(t, strings.HasPrefix(last, method), "%s comes after %s", last, method)
				}
				assert.Equal(t, fmt.Sprintf("## Boot images boot-v1: failed\n\nNothing was published.\n\n```\n%s\n```\n\n", err), l.read(t, l.summary))
				assert.Empty(t, l.read(t, l.outputs), "an earlier step's outputs must not be taken for this one's")
				assert.NoDirExists(t, l.linkDir())
			})
		}
	}
}

func TestDeployPrefersTheErrorOfTheBuild(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.nix.fails["FlakeMetadata"] = errors.New("no flake.nix")
	l.nix.fails["Build"] = errors.New("there is no flake, and what to do")
	require.ErrorIs(t, l.Run(t.Context()), l.nix.fails["Build"])
}

// failing is a folder of releases that fails at a method.
type failing struct {
	release.Backend
	found, check, create error
}

func (f failing) Release(ctx context.Context, tag string) (release.Release, error) {
	if f.found != nil {
		return release.Release{}, f.found
	}
	return f.Backend.Release(ctx, tag)
}

func (f failing) Begin(tag string) (release.Transaction, error) {
	transaction, err := f.Backend.Begin(tag)
	return failingTransaction{transaction, f}, err
}

type failingTransaction struct {
	release.Transaction
	failing failing
}

func (f failingTransaction) Check(ctx context.Context, draft release.Draft) error {
	if f.failing.check != nil {
		return f.failing.check
	}
	return f.Transaction.Check(ctx, draft)
}

func (f failingTransaction) Create(context.Context, release.Draft) (bool, error) {
	return false, f.failing.create
}

func TestDeployBuildsNothingForAForgeThatRefuses(t *testing.T) {
	t.Parallel()
	for _, refusal := range []failing{{found: errors.New("401 Unauthorized")}, {check: errors.New("neither the tag nor the commit")}} {
		l := newLine(t)
		refusal.Backend = l.Store.Backend
		l.Store.Backend = refusal
		require.EqualError(t, l.Run(t.Context()), "before anything is built: "+errors.Join(refusal.found, refusal.check).Error())
		assert.NotContains(t, strings.Join(l.nix.calls, "\n"), "Build")
		assert.Contains(t, l.read(t, l.summary), "Nothing was published.")
	}
}

func TestDeployFailureWhilePublishing(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.Store.Backend = failing{Backend: l.Store.Backend, create: errors.New("502 Bad Gateway")}
	require.ErrorContains(t, l.Run(t.Context()), "502 Bad Gateway")
	assert.Contains(t, l.read(t, l.summary), "The release was not completed")
	assert.NotContains(t, l.read(t, l.summary), "Nothing was published")
	assert.Empty(t, l.read(t, l.outputs))
	sums := sumsThere(t, l)
	for _, name := range []string{"x-boot-v1.iso", "y-boot-v1.iso", trust.ProvenanceFileName} {
		assert.FileExists(t, filepath.Join(l.Plan.OutputDir, name), "what was built stays, for another try")
		assert.Contains(t, sums, name)
	}
}

// What was uploaded for a release that may not be signed is taken back, and the summary says
// so.
func TestDeployThatMayNotSign(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	require.NoError(t, Attach(t.Context(), l.Report, l.Store, l.Plan, []release.File{small(t, "evil.iso", "evil")}, nil, nil, false))
	before, _ := l.release(t)
	l.Key = newKey(t)
	require.ErrorContains(t, l.Run(t.Context()), "has files that are not signed with this key")
	after, _ := l.release(t)
	assert.Equal(t, before, after)
	assert.Contains(t, l.read(t, l.summary), "Nothing was published.")
}

func TestDeployCanceled(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"Version", "FlakeMetadata", "Build", "Copy", "Closures"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			l := newLine(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			l.nix.before = func(called string) {
				if called == method {
					cancel()
				}
			}
			require.ErrorIs(t, l.Run(ctx), context.Canceled)
			_, released := l.release(t)
			assert.False(t, released)
			assert.Empty(t, l.read(t, l.summary), "a run that was canceled is not one that failed")
			assert.Empty(t, l.read(t, l.outputs))
			assert.NoDirExists(t, l.linkDir())
			for name := range sumsThere(t, l) {
				assert.FileExists(t, filepath.Join(l.Plan.OutputDir, name), "no list of what is not there")
			}
		})
	}
}

// sumsThere returns what SHA256SUMS.txt in the output folder lists.
func sumsThere(t *testing.T, l *line) checksum.Sums {
	t.Helper()
	sums, err := checksum.Parse(strings.NewReader(l.read(t, filepath.Join(l.Plan.OutputDir, checksum.FileName))))
	require.NoError(t, err)
	return sums
}

func TestDeployProvenance(t *testing.T) {
	t.Parallel()
	for _, dirty := range []bool{false, true} {
		l := newLine(t)
		l.nix.metadata.Dirty = dirty
		l.nix.metadata.Inputs = []nix.Input{{Name: "nixpkgs", Revision: "b18a4b9"}}
		require.NoError(t, l.Run(t.Context()))
		files, _ := l.release(t)
		lines := trust.ParseProvenance([]byte(files[trust.ProvenanceFileName]))
		require.Len(t, lines, 1)
		build := lines[0].Build
		assert.Equal(t, "boot-v1", build.Tag)
		assert.Equal(t, !dirty, build.Commit == "c0ffee", "what was built from changes has no commit")
		assert.Equal(t, map[string]string{"nix": "2.31.2", "runner-images": "1"}, build.Versions)
		assert.Equal(t, trust.Flake{
			URL: "git+https://forge.example/every/channel?rev=c0ffee", Revision: "c0ffee", NARHash: "sha256-flake",
			Inputs: []trust.Input{{Name: "nixpkgs", Revision: "b18a4b9"}},
		}, build.Flake)
		sums := sumsThere(t, l)
		delete(sums, trust.ProvenanceFileName)
		assert.Equal(t, sums, build.Subjects)
		slices.SortFunc(build.Images, func(a, b trust.Image) int { return strings.Compare(a.Name, b.Name) })
		require.Len(t, build.Images, 2)
		for i, name := range []string{"x", "y"} {
			assert.Equal(t, trust.Image{
				Name: name, Installable: ".#" + name, Asset: name + "-boot-v1.iso",
				Derivation: filepath.Join(l.nix.store, name+".drv"), Output: filepath.Join(l.nix.store, name), NARHash: "sha256-" + name,
			}, build.Images[i])
		}
		assert.False(t, build.Run.Finished.IsZero())
	}
}

// A run that makes the same files again changes nothing, and its outputs are the
// same.
func TestDeployAgain(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	require.NoError(t, l.Run(t.Context()))
	before, _ := l.release(t)
	outputs := l.outputValues(t)
	require.NoError(t, errors.Join(os.Remove(l.outputs), os.RemoveAll(l.nix.store)))
	require.NoError(t, l.Run(t.Context()))
	after, _ := l.release(t)
	assert.Equal(t, before["x-boot-v1.iso"], after["x-boot-v1.iso"])
	assert.Equal(t, outputs["release_url"], l.outputValues(t)["release_url"])
	assert.Len(t, after, len(before))
}

// A runner whose files cannot be written: what was published is said, and only the
// outputs, which later steps use, are missed.
func TestRunnersFilesThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	require.NoError(t, os.Mkdir(l.summary, 0o700))
	require.NoError(t, l.Run(t.Context()))
	assert.Regexp(t, `(?m)^::warning::there is no job summary: .*`+l.summary, l.log)

	l = newLine(t)
	require.NoError(t, os.Mkdir(l.outputs, 0o700))
	err := l.Run(t.Context())
	require.ErrorContains(t, err, "the release file://"+filepath.Join(l.releases, "boot-v1"))
	require.ErrorContains(t, err, "is published and whole, but the outputs of this step are not set")
	_, found := l.release(t)
	assert.True(t, found)
	assert.Contains(t, l.log.String(), "x-boot-v1.iso")
	summary, err := os.ReadFile(l.summary)
	require.NoError(t, err)
	assert.NotContains(t, string(summary), "failed")
	assert.Contains(t, string(summary), "Release file://"+l.releases)

	l = newLine(t)
	l.Plan.Publish = false
	require.NoError(t, os.Mkdir(l.outputs, 0o700))
	require.ErrorContains(t, l.Run(t.Context()), "the files in "+l.Plan.OutputDir+" are whole, but the outputs")

	l = newLine(t)
	l.Plan.Skipped, l.Plan.Reason = true, "a mirror"
	require.NoError(t, os.Mkdir(l.outputs, 0o700))
	require.ErrorContains(t, l.Run(t.Context()), "the outputs of this step are not set")
}

// A checkout may have links in the place of the folders that are written to.
func TestLinksInTheCheckout(t *testing.T) {
	for name, committed := range map[string]string{"the folder": "dist", "the links": "dist/.results", "a file": "dist/x-boot-v1.iso", "the list": "dist/" + checksum.FileName} {
		l := newLine(t)
		checkout, elsewhere := t.TempDir(), t.TempDir()
		victim := filepath.Join(elsewhere, "victim")
		require.NoError(t, os.WriteFile(victim, []byte("untouched"), 0o600))
		t.Chdir(checkout)
		l.Plan.OutputDir = "dist"
		require.NoError(t, os.MkdirAll(filepath.Dir(committed), 0o755))
		target := elsewhere
		if filepath.Ext(committed) == ".iso" || filepath.Ext(committed) == ".txt" {
			target = victim
		}
		require.NoError(t, os.Symlink(target, committed))
		err := l.Run(t.Context())
		if committed == "dist" {
			require.ErrorContains(t, err, "the folder dist: dist is a link to ")
			assert.NotContains(t, l.nix.calls, "Build --option cores 1", "that is found before the build")
		} else {
			require.NoError(t, err, name)
			assert.Equal(t, "the ISO x", l.read(t, "dist/x-boot-v1.iso"))
			assert.NoFileExists(t, "dist/.results")
		}
		assert.Equal(t, "untouched", l.read(t, victim))
		entries, err := os.ReadDir(elsewhere)
		require.NoError(t, err)
		assert.Len(t, entries, 1, name)
	}
}
