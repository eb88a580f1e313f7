package verify_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"
	"unicode"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/lab"
	releases "every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/trust"
	"every.channel/runner-images/internal/verify"
)

const (
	tag    = "boot-v2026.02.28"
	bundle = "ec-runner-x86_64-netboot-boot-v2026.02.28.tar.gz"
	iso    = "ec-runner-x86_64-iso-boot-v2026.02.28.iso"
	sd     = "ec-runner-aarch64-sdimage-boot-v2026.02.28.img.zst"
)

// images are those that the flake has.
func images() []verify.Image {
	return []verify.Image{
		{Image: artifact.Image{Name: "ec-runner-x86_64-netboot", Installable: "/etc/every-channel/flake#netboot"}},
		{Image: artifact.Image{Name: "ec-runner-x86_64-iso", Installable: "/etc/every-channel/flake#iso"}},
		{Image: artifact.Image{Name: "ec-runner-aarch64-sdimage", Installable: "/etc/every-channel/flake#sd"}},
	}
}

// packed is what a bundle holds: names, in the order in the archive, and content.
type packed [][2]string

func netboot() packed {
	return packed{{"initrd", "initrd " + strings.Repeat("squashfs ", 1<<12)}, {"kernel", "kernel"}, {"netboot.ipxe", "#!ipxe\n"}}
}

func pack(t *testing.T, files packed, change func(*tar.Header)) string {
	t.Helper()
	var archive bytes.Buffer
	zip := gzip.NewWriter(&archive)
	writer := tar.NewWriter(zip)
	for _, file := range files {
		header := &tar.Header{Name: file[0], Size: int64(len(file[1])), Mode: 0o644, Typeflag: tar.TypeReg, ModTime: time.Unix(1, 0)}
		if change != nil {
			change(header)
		}
		require.NoError(t, writer.WriteHeader(header))
		_, err := writer.Write([]byte(file[1]))
		require.NoError(t, err)
	}
	require.NoError(t, writer.Close())
	require.NoError(t, zip.Close())
	return archive.String()
}

// folder is a downloaded release: names and content.
type folder map[string]string

func release(t *testing.T) folder {
	t.Helper()
	return folder{bundle: pack(t, netboot(), nil), iso: strings.Repeat("iso ", 1<<19), sd: "sd image"}
}

func (f folder) sums(t *testing.T) checksum.Sums {
	t.Helper()
	sums := checksum.Sums{}
	for name, path := range f.write(t, nil) {
		sum, _, err := checksum.File(t.Context(), path)
		require.NoError(t, err)
		sums[name] = sum
	}
	return sums
}

// write puts the files into a folder and returns their paths.
func (f folder) write(t *testing.T, dir *string) map[string]string {
	t.Helper()
	in := t.TempDir()
	if dir != nil {
		*dir = in
	}
	paths := map[string]string{}
	for name, content := range f {
		paths[name] = filepath.Join(in, name)
		require.NoError(t, os.WriteFile(paths[name], []byte(content), 0o600))
	}
	return paths
}

// with returns the folder with other files in place of, or besides, its own.
func (f folder) with(name, content string) folder {
	changed := maps.Clone(f)
	changed[name] = content
	return changed
}

func (f folder) without(name string) folder {
	changed := maps.Clone(f)
	delete(changed, name)
	return changed
}

// listed returns the folder with SHA256SUMS.txt of what is in it.
func (f folder) listed(t *testing.T) folder {
	t.Helper()
	return f.with(checksum.FileName, string(f.sums(t).Bytes()))
}

func (f folder) source(t *testing.T) verify.Source {
	t.Helper()
	var dir string
	f.write(t, &dir)
	return verify.InFolder(dir, "")
}

// whole is a folder that stands for a release: nothing may miss, nothing be more.
type whole struct{ verify.Source }

func (whole) Whole() bool { return true }

// builds returns a Rebuild that packages these files. An image that has none cannot
// be built on this machine.
func builds(t *testing.T, files folder) func(context.Context, string, []verify.Image) ([]verify.Rebuilt, error) {
	t.Helper()
	paths := files.write(t, nil)
	return func(_ context.Context, tag string, images []verify.Image) ([]verify.Rebuilt, error) {
		var results []verify.Rebuilt
		for _, image := range images {
			result := verify.Rebuilt{Image: image, Reason: "needs aarch64-linux"}
			for name, path := range paths {
				if strings.HasPrefix(name, image.Name+"-"+tag+".") {
					result = verify.Rebuilt{Image: image, File: name, Path: path}
				}
			}
			results = append(results, result)
		}
		return results, nil
	}
}

func run(t *testing.T, r verify.Request) verify.Report {
	t.Helper()
	report, err := verify.Verify(t.Context(), complete(r))
	require.NoError(t, err)
	encoded, err := json.Marshal(report)
	require.NoError(t, err)
	assert.NotContains(t, strings.ReplaceAll(strings.ReplaceAll(string(encoded), `"signer":null`, ""), `"flake":null`, ""), "null")
	return report
}

func complete(r verify.Request) verify.Request {
	if r.Tag == "" {
		r.Tag = tag
	}
	r.Now, r.Images, r.Flake = time.Now(), images(), "/etc/every-channel/flake"
	return r
}

func verdicts(report verify.Report) map[string]verify.Verdict {
	found := map[string]verify.Verdict{}
	for _, asset := range report.Assets {
		found[asset.Name] = asset.Verdict
	}
	return found
}

func assetOf(t *testing.T, report verify.Report, name string) verify.Asset {
	t.Helper()
	i := slices.IndexFunc(report.Assets, func(a verify.Asset) bool { return a.Name == name })
	require.GreaterOrEqual(t, i, 0, "no %s in %v", name, report.Assets)
	return report.Assets[i]
}

func TestSame(t *testing.T) {
	t.Parallel()
	files := release(t)
	report := run(t, verify.Request{Source: whole{files.listed(t).source(t)}, Rebuild: builds(t, files.without(sd))})
	require.NoError(t, report.Err())
	assert.Equal(t, map[string]verify.Verdict{bundle: verify.Same, iso: verify.Same, sd: verify.NotCompared}, verdicts(report))
	assert.Equal(t, "needs aarch64-linux", assetOf(t, report, sd).Reason)
	assert.Equal(t, files.sums(t)[sd], assetOf(t, report, sd).Published)
	assert.Contains(t, report.Text(), "not compared: needs aarch64-linux")
}

// changing is a release that becomes another one when a file of it is read.
type changing struct {
	whole
	when   string
	become verify.Source
}

func (c *changing) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if name == c.when {
		c.Source, c.when = c.become, ""
	}
	return c.Source.Open(ctx, name)
}

func TestAReleaseThatChangesMeanwhile(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	old := release(t).attested(t, key, tag, flake("1111", "sha256-1")).listed(t).signed(t, key, tag)
	replaced := release(t).with(iso, "another").attested(t, key, tag, flake("1111", "sha256-1")).listed(t).signed(t, key, tag)
	for _, when := range []string{iso, trust.ProvenanceFileName} {
		_, err := verify.Verify(t.Context(), complete(verify.Request{
			Source: &changing{whole{old.source(t)}, when, replaced.source(t)}, Signers: key.Allowed(),
		}))
		require.ErrorIs(t, err, verify.ErrChanged, when)
	}
	// What differs all the same, and what has not been read again.
	report := run(t, verify.Request{Source: &changing{whole{old.source(t)}, iso, old.with(iso, "evil").source(t)}, Signers: key.Allowed()})
	require.ErrorIs(t, report.Err(), verify.ErrDifferent)
	report = run(t, verify.Request{Source: &changing{whole{release(t).listed(t).source(t)}, bundle, release(t).with(iso, "another").listed(t).source(t)}})
	require.NoError(t, report.Err(), "what was verified was the same")
}

// counting is a source that counts how often its files are opened.
type counting struct {
	whole
	opened map[string]int
}

func (c counting) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	c.opened[name]++
	return c.Source.Open(ctx, name)
}

func TestEachFileIsReadOnce(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	files := release(t).attested(t, key, tag, flake("1111", "sha256-1")).listed(t).signed(t, key, tag)
	source := counting{whole{files.source(t)}, map[string]int{}}
	report := run(t, verify.Request{Source: source, Signers: key.Allowed()})
	require.NoError(t, report.Err())
	delete(source.opened, trust.SnapshotFileName) // which is not there
	assert.Equal(t, map[string]int{
		bundle: 1, iso: 1, sd: 1, checksum.FileName: 1, trust.SignatureFileName: 1, trust.ProvenanceFileName: 1,
	}, source.opened)
}

func TestDownloadOnly(t *testing.T) {
	t.Parallel()
	files := release(t).listed(t)
	report := run(t, verify.Request{Source: whole{files.source(t)}})
	require.NoError(t, report.Err())
	assert.Equal(t, map[string]verify.Verdict{bundle: verify.Same, iso: verify.Same, sd: verify.Same}, verdicts(report))

	t.Run("changed", func(t *testing.T) {
		t.Parallel()
		report := run(t, verify.Request{Source: whole{files.with(iso, "iso").source(t)}})
		require.ErrorIs(t, report.Err(), verify.ErrDifferent)
		assert.Equal(t, verify.Different, assetOf(t, report, iso).Verdict)
		assert.Contains(t, report.Text(), "the published file is not the one that SHA256SUMS.txt lists\n  listed     ")
	})
	t.Run("missing and too much", func(t *testing.T) {
		t.Parallel()
		part := files.without(sd).with("evil.iso", "x")
		report := run(t, verify.Request{Source: whole{part.source(t)}})
		require.ErrorIs(t, report.Err(), verify.ErrDifferent)
		assert.Equal(t, "listed in SHA256SUMS.txt, but not in the release", assetOf(t, report, sd).Reason)
		assert.Equal(t, "in the release, but not listed in SHA256SUMS.txt", assetOf(t, report, "evil.iso").Reason)

		// In a folder of downloads there may be less and more.
		report = run(t, verify.Request{Source: part.source(t)})
		require.NoError(t, report.Err())
		assert.Equal(t, map[string]verify.Verdict{
			bundle: verify.Same, iso: verify.Same, sd: verify.NotCompared, "evil.iso": verify.NotCompared,
		}, verdicts(report))
	})
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		only := folder{checksum.FileName: files[checksum.FileName]}
		report := run(t, verify.Request{Source: only.source(t)})
		require.ErrorIs(t, report.Err(), verify.ErrNothingComparable)
	})
	t.Run("no sums", func(t *testing.T) {
		t.Parallel()
		_, err := verify.Verify(t.Context(), complete(verify.Request{Source: release(t).source(t)}))
		require.ErrorIs(t, err, releases.ErrNotFound)
		assert.ErrorContains(t, err, "SHA256SUMS.txt")
	})
}

func TestWhatChangedIsSaid(t *testing.T) {
	t.Parallel()
	built := release(t)
	published := netboot()
	published[0][1] = published[0][1][:1000] + "X" + published[0][1][1001:]
	changed := pack(t, published, nil)

	t.Run("after publishing", func(t *testing.T) {
		t.Parallel()
		files := built.listed(t).with(bundle, changed)
		report := run(t, verify.Request{Source: files.source(t), Rebuild: builds(t, built)})
		require.ErrorIs(t, report.Err(), verify.ErrDifferent)
		asset := assetOf(t, report, bundle)
		assert.Equal(t, "the rebuilt file is the one that SHA256SUMS.txt lists; the published file was changed afterwards", asset.Reason)
		size := int64(len(netboot()[0][1]))
		assert.Equal(t, []verify.Difference{{File: "initrd", PublishedSize: size, RebuiltSize: size, Offset: 1000, Reason: "other content"}}, asset.Differences)
		assert.Contains(t, report.Text(), "initrd: other content: 36871 bytes in both, first different at offset 1000 (0x3e8)")
	})
	t.Run("before publishing", func(t *testing.T) {
		t.Parallel()
		report := run(t, verify.Request{Source: built.with(bundle, changed).listed(t).source(t), Rebuild: builds(t, built)})
		assert.Equal(t, "the rebuilt file is another one", assetOf(t, report, bundle).Reason)
	})
	t.Run("in the list only", func(t *testing.T) {
		t.Parallel()
		files := built.with(checksum.FileName, built.with(bundle, changed).listed(t)[checksum.FileName])
		report := run(t, verify.Request{Source: files.source(t), Rebuild: builds(t, built)})
		require.ErrorIs(t, report.Err(), verify.ErrDifferent)
		assert.Equal(t, "the published and the rebuilt file are the same, but SHA256SUMS.txt has another sum", assetOf(t, report, bundle).Reason)
	})
	t.Run("everywhere", func(t *testing.T) {
		t.Parallel()
		files := built.listed(t).with(bundle, changed)
		report := run(t, verify.Request{Source: files.source(t), Rebuild: builds(t, built.with(bundle, pack(t, packed{{"kernel", "other"}}, nil)))})
		asset := assetOf(t, report, bundle)
		assert.Equal(t, "the published file is neither the rebuilt one nor the one that SHA256SUMS.txt lists", asset.Reason)
		assert.Equal(t, []string{
			"initrd: only in the published bundle: 36871 bytes",
			"kernel: other content: 6 bytes published, 5 rebuilt, first different at offset 0 (0x0)",
			"netboot.ipxe: only in the published bundle: 7 bytes",
		}, texts(asset.Differences))
	})
}

func texts(differences []verify.Difference) []string {
	var lines []string
	for _, d := range differences {
		lines = append(lines, d.String())
	}
	return lines
}

func TestDifferencesOfBundles(t *testing.T) {
	t.Parallel()
	built := release(t)
	longer := netboot()
	longer[2][1] += "boot\n"
	reversed := netboot()
	slices.Reverse(reversed)
	valid := pack(t, netboot(), nil)
	var more packed
	for i := range 100 {
		more = append(more, [2]string{fmt.Sprintf("file-%d", i), ""})
	}
	for name, c := range map[string]struct {
		published string
		want      []string
	}{
		"one is longer": {pack(t, longer, nil), []string{"netboot.ipxe: other content: 12 bytes published, 7 rebuilt, first different at offset 7 (0x7)"}},
		"a file more":   {pack(t, append(netboot(), [2]string{"wifi.conf", "x"}), nil), []string{"wifi.conf: only in the published bundle: 1 bytes"}},
		"a file less":   {pack(t, netboot()[1:], nil), []string{"initrd: only in the rebuilt bundle: 36871 bytes"}},
		"another mode": {pack(t, netboot(), func(h *tar.Header) { h.Mode = 0o755 }), []string{
			"initrd: with the mode 0755 and 0644: 36871 bytes in both",
			"kernel: with the mode 0755 and 0644: 6 bytes in both",
			"netboot.ipxe: with the mode 0755 and 0644: 7 bytes in both",
		}},
		"another time": {pack(t, netboot(), func(h *tar.Header) {
			if h.Name == "kernel" {
				h.ModTime = time.Unix(1<<30, 0)
			}
		}), []string{"kernel: with the time 2004-01-10T13:37:04Z and 1970-01-01T00:00:01Z: 6 bytes in both"}},
		"another order": {pack(t, reversed, nil), []string{"only how they are packed differs"}},
		"cut short":     {valid[:len(valid)/2], []string{"cannot be unpacked to its end: unexpected EOF"}},
		"not a bundle":  {"<!doctype html>", []string{"cannot be unpacked to its end: gzip: invalid header"}},
		"a file twice":  {pack(t, append(netboot(), netboot()[1]), nil), []string{"cannot be unpacked to its end: \"kernel\" occurs twice"}},
		"files without end": {pack(t, slices.Concat(netboot(), more), nil), append(slices.Repeat([]string{": only in the published bundle"}, 13),
			"cannot be unpacked to its end: it has more than 16 files")},
		"a name of many lines": {pack(t, append(netboot(), [2]string{"x\n\x1b[2Jinitrd: same", "x"}), nil), []string{"x\ufffd\ufffd[2Jinitrd: same: only in the published bundle: 1 bytes"}},
		"damaged":              {valid[:len(valid)-8] + "damaged!", []string{"cannot be unpacked to its end: gzip: invalid checksum"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := run(t, verify.Request{Source: built.with(bundle, c.published).listed(t).source(t), Rebuild: builds(t, built)})
			require.ErrorIs(t, report.Err(), verify.ErrDifferent)
			lines := texts(assetOf(t, report, bundle).Differences)
			require.Len(t, lines, len(c.want), "%q", lines)
			for i, want := range c.want {
				assert.Contains(t, lines[i], want)
			}
		})
	}
}

func TestDifferencesOfOtherFiles(t *testing.T) {
	t.Parallel()
	built := release(t)
	content := built[iso]
	for name, c := range map[string]struct {
		published string
		want      verify.Difference
	}{
		"a byte beyond the first block": {content[:1<<20+5] + "X" + content[1<<20+6:], verify.Difference{Offset: 1<<20 + 5}},
		"shorter":                       {content[:1<<20], verify.Difference{Offset: 1 << 20}},
		"shorter within a block":        {content[:77], verify.Difference{Offset: 77}},
		"longer":                        {content + "x", verify.Difference{Offset: int64(len(content))}},
		"empty":                         {"", verify.Difference{Offset: 0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.want.File, c.want.Reason = iso, "other content"
			c.want.PublishedSize, c.want.RebuiltSize = int64(len(c.published)), int64(len(content))
			report := run(t, verify.Request{Source: built.with(iso, c.published).listed(t).source(t), Rebuild: builds(t, built)})
			require.ErrorIs(t, report.Err(), verify.ErrDifferent)
			assert.Equal(t, []verify.Difference{c.want}, assetOf(t, report, iso).Differences)
		})
	}
}

func TestFailedAndNothingToBuild(t *testing.T) {
	t.Parallel()
	files := release(t).listed(t)
	report := run(t, verify.Request{Source: files.source(t), Rebuild: func(_ context.Context, _ string, asked []verify.Image) ([]verify.Rebuilt, error) {
		assert.ElementsMatch(t, images(), asked)
		return []verify.Rebuilt{{Image: asked[0], Err: errors.New("no space left on device\nlog")}}, nil
	}})
	require.ErrorContains(t, report.Err(), "could not be rebuilt: "+sd)
	require.NotErrorIs(t, report.Err(), verify.ErrDifferent)
	assert.Contains(t, report.Text(), "failed: no space left on device\n")

	report = run(t, verify.Request{Source: files.source(t), Rebuild: builds(t, folder{})})
	require.ErrorIs(t, report.Err(), verify.ErrNothingComparable)

	_, err := verify.Verify(t.Context(), complete(verify.Request{Source: files.source(t), Rebuild: func(context.Context, string, []verify.Image) ([]verify.Rebuilt, error) {
		return nil, errors.New("nix is not installed")
	}}))
	require.ErrorContains(t, err, "nix is not installed")
}

// A folder of files without a list can be compared with what is rebuilt.
func TestFolderWithoutSums(t *testing.T) {
	t.Parallel()
	files := release(t)
	report := run(t, verify.Request{Source: files.with("notes.txt", "x").source(t), Rebuild: builds(t, files)})
	require.NoError(t, report.Err())
	assert.Equal(t, verify.NotCompared, assetOf(t, report, "notes.txt").Verdict)
	assert.Contains(t, report.Text(), "note: there is no SHA256SUMS.txt")
}

func newKey(t *testing.T) *trust.Key {
	t.Helper()
	text, err := os.ReadFile(lab.SSHKey(t))
	require.NoError(t, err)
	key, err := trust.ParseKey(string(text))
	require.NoError(t, err)
	return &key
}

func flake(revision, narHash string) trust.Flake {
	return trust.Flake{URL: "git+https://forge.example/x?rev=" + revision, Revision: revision, NARHash: narHash}
}

func (f folder) attested(t *testing.T, key *trust.Key, tag string, flake trust.Flake) folder {
	t.Helper()
	build := trust.Build{
		Tag: tag, Subjects: f.sums(t), Flake: flake, Repository: "https://forge.example/x", Commit: flake.Revision,
		ModTime: time.Unix(1772236800, 0),
		Run: trust.Run{
			URL: "https://forge.example/x/actions/runs/17", Finished: time.Date(2026, 2, 28, 12, 9, 30, 0, time.UTC),
		},
		Images: []trust.Image{
			{Name: "ec-runner-x86_64-netboot", Installable: "github:evil/flake#other.netboot", Asset: bundle},
			{Name: "ec-runner-x86_64-iso", Installable: ".#other.iso", Asset: iso},
		},
	}
	attestation, err := trust.Attest(t.Context(), build, key)
	require.NoError(t, err)
	content, err := trust.MergeProvenance(t.Context(), []byte(f[trust.ProvenanceFileName]), attestation, key)
	require.NoError(t, err)
	return f.with(trust.ProvenanceFileName, string(content))
}

func (f folder) signed(t *testing.T, key *trust.Key, tag string) folder {
	t.Helper()
	armored, err := key.Sign(tag, []byte(f[checksum.FileName]))
	require.NoError(t, err)
	return f.with(trust.SignatureFileName, string(armored))
}

// What is built comes from this machine's flake, whatever the provenance has;
// only the attribute is taken from there.
func TestProvenanceNamesTheAttributes(t *testing.T) {
	t.Parallel()
	files := release(t)
	published := files.attested(t, nil, tag, flake("1111", "sha256-1")).listed(t)
	rebuild := builds(t, files)
	var asked []verify.Image
	report := run(t, verify.Request{
		Source: whole{published.source(t)}, Metadata: flake("1111", "sha256-1"),
		Rebuild: func(ctx context.Context, tag string, images []verify.Image) ([]verify.Rebuilt, error) {
			asked = images
			return rebuild(ctx, tag, images)
		},
	})
	require.NoError(t, report.Err())
	assert.ElementsMatch(t, []verify.Image{
		{Image: artifact.Image{Name: "ec-runner-x86_64-netboot", Installable: "/etc/every-channel/flake#other.netboot"}, ModTime: time.Unix(1772236800, 0).UTC()},
		{Image: artifact.Image{Name: "ec-runner-x86_64-iso", Installable: "/etc/every-channel/flake#other.iso"}, ModTime: time.Unix(1772236800, 0).UTC()},
		{Image: artifact.Image{Name: "ec-runner-aarch64-sdimage", Installable: "/etc/every-channel/flake#sd"}},
	}, asked)
	assert.Empty(t, report.OtherFlake)
	assert.Equal(t, []verify.Origin{{
		Repository: "https://forge.example/x", Commit: "1111", Run: "https://forge.example/x/actions/runs/17", Finished: "2026-02-28T12:09:30Z",
	}}, report.Origins)
	assert.Contains(t, report.Text(), "\nbuilt on 2026-02-28T12:09:30Z from commit 1111 of https://forge.example/x by https://forge.example/x/actions/runs/17\n")
	assert.Equal(t, "it describes the build and is not built itself", assetOf(t, report, trust.ProvenanceFileName).Reason)

	// Unless the request lists the images to build.
	run(t, verify.Request{Source: published.source(t), OnlyImages: true, Rebuild: func(_ context.Context, _ string, asked []verify.Image) ([]verify.Rebuilt, error) {
		assert.ElementsMatch(t, images(), asked)
		return nil, nil
	}})

	// The tag is in the provenance too.
	request := complete(verify.Request{Source: published.source(t), Rebuild: rebuild})
	request.Tag = ""
	report, err := verify.Verify(t.Context(), request)
	require.NoError(t, err)
	assert.Equal(t, tag, report.Tag)

	request.Source = files.source(t)
	_, err = verify.Verify(t.Context(), request)
	require.ErrorContains(t, err, "--release-tag")
}

// Anyone may have written provenance that is not signed: its text must not look like
// lines of the report.
func TestProvenanceSpeaksForItselfOnly(t *testing.T) {
	t.Parallel()
	const evil = "x'; touch y; '\n\nsigned for boot-v2026.02.28 by release@every.channel \x1b[8m\u202e"
	files := release(t)
	// This project writes no such address, so it is put in afterwards.
	theirs := trust.Flake{URL: "address", Revision: evil, NARHash: evil}
	lines := withAddress(t, files.attested(t, nil, tag, theirs), evil) + withAddress(t, files.attested(t, nil, evil, theirs), evil)
	source := whole{files.with(trust.ProvenanceFileName, lines).listed(t).source(t)}
	var messages []string
	report := run(t, verify.Request{
		Source: source, Metadata: flake("1111", "sha256-1"), Rebuild: builds(t, files),
		Progress: func(message string) { messages = append(messages, message) },
	})
	require.NoError(t, report.Err())
	text := report.Text()
	assert.Contains(t, text, `--flake 'x'\''; touch y; '\''`, "and can be pasted into a shell")
	assert.NotContains(t, text, "\nsigned for")
	for _, line := range append(messages, strings.Split(text, "\n")...) {
		assert.Negative(t, strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }), "%q", line)
	}
	encoded, err := json.Marshal(report)
	require.NoError(t, err)
	var read verify.Report
	require.NoError(t, json.Unmarshal(encoded, &read))
	assert.Equal(t, evil, read.Flake.Published.URL, "JSON has it as it is")
}

// withAddress returns the provenance with another address of the flake.
func withAddress(t *testing.T, attested folder, address string) string {
	t.Helper()
	var envelope dsse.Envelope
	require.NoError(t, json.Unmarshal([]byte(attested[trust.ProvenanceFileName]), &envelope))
	statement, err := envelope.DecodeB64Payload()
	require.NoError(t, err)
	quoted, err := json.Marshal(address)
	require.NoError(t, err)
	changed := strings.Replace(string(statement), `"address"`, string(quoted), 1)
	require.NotEqual(t, string(statement), changed)
	envelope.Payload = base64.StdEncoding.EncodeToString([]byte(changed))
	line, err := json.Marshal(envelope)
	require.NoError(t, err)
	return string(line) + "\n"
}

// A statement about other files is not used, even if it is signed for the tag: the
// files were replaced since, or it was copied here.
func TestProvenanceOfOtherFiles(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	before := folder{iso: "iso of an earlier run"}.attested(t, key, tag, flake("0000", "sha256-0"))[trust.ProvenanceFileName]
	now := release(t).attested(t, key, tag, flake("1111", "sha256-1"))[trust.ProvenanceFileName]
	files := release(t).with(trust.ProvenanceFileName, before+now).listed(t).signed(t, key, tag)
	for _, signers := range []trust.AllowedSigners{nil, key.Allowed()} {
		report := run(t, verify.Request{
			Source: whole{files.source(t)}, Signers: signers, Metadata: flake("1111", "sha256-1"),
			OnlyImages: true, Rebuild: builds(t, release(t)),
		})
		require.NoError(t, report.Err())
		require.Len(t, report.Origins, 1)
		assert.Equal(t, "1111", report.Origins[0].Commit)
		assert.Equal(t, []string{"a statement in provenance.intoto.jsonl is about other files than SHA256SUMS.txt lists and is not used"}, report.Notes)
	}
}

// What is no file in a folder, such as a pipe that nobody writes to, is skipped.
func TestFolderWithOtherThings(t *testing.T) {
	t.Parallel()
	var dir string
	release(t).listed(t).write(t, &dir)
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, trust.ProvenanceFileName), 0o600))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	require.NoError(t, os.Rename(filepath.Join(dir, sd), filepath.Join(dir, "elsewhere")))
	require.NoError(t, os.Symlink("elsewhere", filepath.Join(dir, sd)))
	report := run(t, verify.Request{Source: verify.InFolder(dir, "")})
	require.NoError(t, report.Err())
	assert.Equal(t, map[string]verify.Verdict{bundle: verify.Same, iso: verify.Same, sd: verify.Same, "elsewhere": verify.NotCompared}, verdicts(report))
}

// A file's name does not determine what it was built from: if the provenance names
// another attribute than the flake has under that name, the report has a note.
func TestAnImageFromAnotherAttributeIsNoted(t *testing.T) {
	t.Parallel()
	files := release(t)
	published := files.attested(t, nil, tag, flake("1111", "sha256-1")).listed(t)
	report := run(t, verify.Request{Source: whole{published.source(t)}, Metadata: flake("1111", "sha256-1"), Rebuild: builds(t, files)})
	require.NoError(t, report.Err())
	assert.Equal(t, []string{
		iso + " is compared with /etc/every-channel/flake#other.iso, as provenance.intoto.jsonl says, and not with /etc/every-channel/flake#iso, which has its name here",
		bundle + " is compared with /etc/every-channel/flake#other.netboot, as provenance.intoto.jsonl says, and not with /etc/every-channel/flake#netboot, which has its name here",
	}, report.Notes)
}

func TestAnotherFlakeIsSaidFirst(t *testing.T) {
	t.Parallel()
	files := release(t)
	for name, c := range map[string]struct {
		theirs, ours trust.Flake
		want         string
	}{
		"the same":             {flake("1111", "sha256-1"), flake("1111", "sha256-1"), ""},
		"a copy without git":   {flake("1111", "sha256-1"), flake("", "sha256-1"), ""},
		"another revision":     {flake("1111", "sha256-1"), flake("2222", "sha256-2"), "the flake here is at revision 2222, the release was built from 1111; to build that one: --flake 'git+https://forge.example/x?rev=1111'"},
		"other files":          {flake("", "sha256-1"), flake("", "sha256-2"), "the flake here has other files (sha256-2) than the one that the release was built from (sha256-1)"},
		"only the name of one": {flake("", ""), flake("1111", "sha256-2"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var messages []string
			request := verify.Request{
				Source: files.attested(t, nil, tag, c.theirs).listed(t).source(t), Metadata: c.ours,
				Rebuild:  builds(t, files),
				Progress: func(message string) { messages = append(messages, message) },
			}
			report := run(t, request)
			require.NoError(t, report.Err())
			assert.Equal(t, c.want, report.OtherFlake)
			if c.want != "" {
				assert.Equal(t, c.want, messages[0])
				assert.True(t, strings.HasPrefix(report.Text(), c.want+"\n"))
			}
			assert.Equal(t, &verify.Flakes{
				Published: verify.Flake{URL: c.theirs.URL, Revision: c.theirs.Revision, NARHash: c.theirs.NARHash},
				Here:      verify.Flake{URL: c.ours.URL, Revision: c.ours.Revision, NARHash: c.ours.NARHash},
			}, report.Flake)
		})
	}
}

// An image that was attached later may come from another revision.
func TestPartFromAnotherFlake(t *testing.T) {
	t.Parallel()
	x86, arm := release(t).without(sd), release(t).without(bundle).without(iso)
	attested := x86.attested(t, nil, tag, flake("1111", "sha256-1"))[trust.ProvenanceFileName]
	later := arm.with(trust.ProvenanceFileName, attested).attestedBeside(t, flake("2222", "sha256-2"))
	published := release(t).with(trust.ProvenanceFileName, later)
	report := run(t, verify.Request{Source: published.listed(t).source(t), Metadata: flake("1111", "sha256-1"), Rebuild: builds(t, x86)})
	require.NoError(t, report.Err())
	assert.Empty(t, report.OtherFlake)
	assert.Contains(t, report.Text(), "note: the flake here is at revision 1111, the release was built from 2222")
}

// attestedBeside returns the provenance with a line about the other files.
func (f folder) attestedBeside(t *testing.T, flake trust.Flake) string {
	t.Helper()
	build := trust.Build{Tag: tag, Subjects: f.without(trust.ProvenanceFileName).sums(t), Flake: flake}
	attestation, err := trust.Attest(t.Context(), build, nil)
	require.NoError(t, err)
	content, err := trust.MergeProvenance(t.Context(), []byte(f[trust.ProvenanceFileName]), attestation, nil)
	require.NoError(t, err)
	return string(content)
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	files := release(t).attested(t, key, tag, flake("1111", "sha256-1")).listed(t)
	good := files.signed(t, key, tag)

	report := run(t, verify.Request{Source: whole{good.source(t)}, Signers: key.Allowed()})
	require.NoError(t, report.Err())
	assert.Equal(t, key.Fingerprint(), report.Signer.Fingerprint)
	assert.Empty(t, report.Notes)
	assert.Contains(t, report.Text(), "signed for boot-v2026.02.28 by ")

	for name, c := range map[string]struct {
		published folder
		tag       string
		signers   trust.AllowedSigners
		want      error
	}{
		"unsigned":          {files, tag, key.Allowed(), trust.ErrUnsigned},
		"another key":       {files.signed(t, other, tag), tag, key.Allowed(), trust.ErrNotAllowed},
		"under another tag": {good, "boot-v2026.03.07", key.Allowed(), trust.ErrWrongTag},
		"no sums":           {good.without(checksum.FileName), tag, key.Allowed(), releases.ErrNotFound},
	} {
		_, err := verify.Verify(t.Context(), complete(verify.Request{Source: c.published.source(t), Tag: c.tag, Signers: c.signers}))
		require.ErrorIs(t, err, c.want, name)
	}

	changed := good.with(iso, "evil").without(checksum.FileName).without(trust.SignatureFileName).listed(t).
		with(trust.SignatureFileName, good[trust.SignatureFileName])
	_, err := verify.Verify(t.Context(), complete(verify.Request{Source: changed.source(t), Signers: key.Allowed()}))
	require.ErrorContains(t, err, "SHA256SUMS.txt.sig: the signature by")
}

// The signed list has the sum of the provenance; a statement in that is used only if
// an allowed signer signed it too.
func TestProvenanceThatNobodyAllowedSigned(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	elsewhere := release(t).attested(t, nil, "boot-v2026.01.01", flake("1111", "sha256-1"))
	files := elsewhere.attested(t, nil, tag, flake("1111", "sha256-1"))
	files = release(t).with(trust.ProvenanceFileName, elsewhere[trust.ProvenanceFileName]+files[trust.ProvenanceFileName]).listed(t).signed(t, key, tag)

	report := run(t, verify.Request{Source: whole{files.source(t)}, Signers: key.Allowed(), Rebuild: builds(t, release(t))})
	require.NoError(t, report.Err())
	assert.Nil(t, report.Flake)
	assert.Contains(t, report.Notes, "a statement in provenance.intoto.jsonl is about the release boot-v2026.01.01 and is not used")
	assert.Contains(t, report.Notes, "a statement is not used: provenance.intoto.jsonl: not signed")
}

func TestBootedTag(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"": "",
		"initrd=initrd init=/nix/store/x/init loglevel=4\n":                                   "",
		"BOOT_IMAGE=kernel runner-images.release_tag=boot-v2026.02.28 quiet\n":                "boot-v2026.02.28",
		"runner-images.release_tag=a runner-images.release_tag=b":                             "b",
		`x="a runner-images.release_tag=a b" "runner-images.release_tag=boot-v2026.02.28"`:    "boot-v2026.02.28",
		`runner-images.release_tag="boot-v2026.02.28" quiet`:                                  "boot-v2026.02.28",
		`runner-images.release_tag=it's-a\tag quiet`:                                          `it's-a\tag`,
		`not.runner-images.release_tag=a runner-images.release_tags=b x="`:                    "",
		`runner-images.release_tag=boot-v2026.02.28 dyndbg="file drivers/usb/* +p; func it's`: "boot-v2026.02.28",
	} {
		assert.Equal(t, want, verify.BootedTag(line), line)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := verify.Verify(cancelled, complete(verify.Request{Source: release(t).listed(t).source(t)}))
	require.ErrorIs(t, err, context.Canceled)
}

// cutShort is a source whose downloads end too early, by an error that wraps io.EOF.
type cutShort struct {
	verify.Source
	name string
}

func (c cutShort) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	content, err := c.Source.Open(ctx, name)
	if err != nil || name != c.name {
		return content, err
	}
	cut := io.MultiReader(io.LimitReader(content, 10), iotest.ErrReader(fmt.Errorf("the connection is closed: %w", io.EOF)))
	return struct {
		io.Reader
		io.Closer
	}{cut, content}, nil
}

func TestDownloadThatIsCutShortIsNotDifferent(t *testing.T) {
	t.Parallel()
	files := release(t).listed(t)
	for _, rebuild := range []bool{false, true} {
		request := verify.Request{Source: cutShort{files.source(t), bundle}}
		if rebuild {
			request.Rebuild = builds(t, files)
		}
		_, err := verify.Verify(t.Context(), complete(request))
		require.ErrorContains(t, err, "the connection is closed")
	}
}
