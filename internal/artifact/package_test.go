package artifact_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/checksum"
)

// golden is the SHA-256 of the bundle of the nixos tree, as any machine makes it.
const golden = "4ec6670c9dab855e0a7629dc340f860bb202f6942881ab99750051256d0bc432"

var netboot = artifact.Image{Name: "ec-runner-x86_64-netboot", Installable: ".#netboot"}

// anywhere has files packaged from anywhere; TestNothingOutsideIsPackaged and others
// are about where they may come from.
var anywhere = []string{"/"}

func packager(dir string) artifact.Packager {
	return artifact.Packager{Tag: "boot-v2026.02.28", Dir: dir, Within: anywhere}
}

func listing(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), name, args...)
	command.Dir = dir
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s %q: %s", name, args, out)
	return string(out)
}

func TestPackageNetboot(t *testing.T) {
	t.Parallel()
	root := plant(t, nixos)
	dir := filepath.Join(t.TempDir(), "dist", "new")
	var done, total int64
	p := packager(dir)
	p.Progress = func(d, t int64) { done, total = d, t }
	p.Warn = func(text string) { t.Error(text) }
	asset, err := p.Package(t.Context(), netboot, filepath.Join(root, "result"))
	require.NoError(t, err)

	assert.Equal(t, "ec-runner-x86_64-netboot-boot-v2026.02.28.tar.gz", asset.Name)
	assert.Equal(t, filepath.Join(dir, asset.Name), asset.Path)
	assert.Equal(t, netboot, asset.Image)
	assert.Equal(t, golden, asset.SHA256)
	assert.Equal(t, total, done)
	assert.Positive(t, total)
	info, err := os.Stat(asset.Path)
	require.NoError(t, err)
	assert.Equal(t, asset.Size, info.Size())
	assert.Equal(t, os.FileMode(0o644), info.Mode())
	assert.Equal(t, []string{asset.Name}, listing(t, dir))

	out := t.TempDir()
	run(t, out, "tar", "-xzf", asset.Path)
	assert.Equal(t, []string{"initrd", "kernel", "netboot.ipxe"}, listing(t, out))
	for name, want := range map[string]string{
		"kernel": "the kernel", "initrd": "the initrd",
		"netboot.ipxe": strings.Replace(script, "kernel bzImage", "kernel kernel", 1),
	} {
		content, err := os.ReadFile(filepath.Join(out, name))
		require.NoError(t, err)
		assert.Equal(t, want, string(content))
	}

	again, err := packager(dir).Package(t.Context(), netboot, filepath.Join(root, "store/o-netboot"))
	require.NoError(t, err)
	assert.False(t, os.SameFile(asset.Info, again.Info))
	asset.Info, again.Info = nil, nil
	assert.Equal(t, asset, again, "the same asset again, over the one of the earlier run")
}

func TestModTimeIsInTheBundle(t *testing.T) {
	t.Parallel()
	root, dir := plant(t, nixos), t.TempDir()
	result, p := filepath.Join(root, "result"), packager(dir)
	p.ModTime = artifact.DefaultModTime
	asset, err := p.Package(t.Context(), netboot, result)
	require.NoError(t, err)
	assert.Equal(t, golden, asset.SHA256)
	p.ModTime = time.Unix(1772236800, 0)
	asset, err = p.Package(t.Context(), netboot, result)
	require.NoError(t, err)
	assert.NotEqual(t, golden, asset.SHA256)
	assert.Contains(t, run(t, dir, "env", "TZ=UTC", "tar", "-tvzf", asset.Path), "2026-02-28 00:00 kernel")
}

// An output that links to NixOS's files by names of its own leaves NixOS's script
// as it is.
func TestPackageLinkFarm(t *testing.T) {
	t.Parallel()
	root := plant(t, nixos.with(tree{
		"farm/kernel":      "-> ./store/k-linux-6.12/bzImage",
		"farm/initrd.img":  "-> ./store/i-initrd/initrd",
		"farm/nixos.ipxe":  "-> ./store/s-netboot.ipxe/netboot.ipxe",
		"farm/nix-support": "-> ./store/o-netboot/nix-support",
	}))
	asset, err := packager(t.TempDir()).Package(t.Context(), netboot, filepath.Join(root, "farm"))
	require.NoError(t, err)
	assert.Equal(t, golden, asset.SHA256, "the same files, the same bundle")
}

func TestPackageOtherFiles(t *testing.T) {
	t.Parallel()
	content := make([]byte, 3<<20+1)
	_, err := rand.NewChaCha8([32]byte{}).Read(content)
	require.NoError(t, err)
	sum := sha256.Sum256(content)
	for path, c := range map[string]struct{ result, asset string }{
		"o/iso/nixos-25.05-x86_64-linux.iso": {"o", "image-boot-v1.iso"},
		"o/iso/nixos.iso.zst":                {"o", "image-boot-v1.iso.zst"},
		"o/sd-image/nixos.img.zst":           {"o", "image-boot-v1.img.zst"},
		"o/nixos.qcow2":                      {"o", "image-boot-v1.qcow2"},
		"abc-nixos-25.05":                    {"abc-nixos-25.05", "image-boot-v1"},
	} {
		root, dir := plant(t, tree{path: string(content)}), t.TempDir()
		var done, total int64
		p := artifact.Packager{Tag: "boot-v1", Within: anywhere, Dir: dir, Progress: func(d, t int64) { done, total = d, t }}
		asset, err := p.Package(t.Context(), artifact.Image{Name: "image"}, filepath.Join(root, c.result))
		require.NoError(t, err)
		assert.EqualValues(t, len(content), asset.Info.Size())
		asset.Info = nil
		assert.Equal(t, artifact.Artifact{
			Name: c.asset, Path: filepath.Join(dir, c.asset), Size: int64(len(content)),
			SHA256: hex.EncodeToString(sum[:]), Image: artifact.Image{Name: "image"},
		}, asset)
		assert.EqualValues(t, len(content), done)
		assert.EqualValues(t, len(content), total)
		info, err := os.Stat(asset.Path)
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o644), info.Mode())
		source, err := os.Stat(filepath.Join(root, path))
		require.NoError(t, err)
		assert.False(t, os.SameFile(info, source), "no link into the store")
		run(t, dir, "cmp", asset.Path, filepath.Join(root, path))

		// For this run only it is not copied, and can be read under its name all the same.
		p.Temporary = true
		linked, err := p.Package(t.Context(), artifact.Image{Name: "image"}, filepath.Join(root, c.result))
		require.NoError(t, err)
		assert.Equal(t, filepath.Join(root, path), linked.Path)
		assert.Empty(t, linked.SHA256, "it is not read")
		assert.Equal(t, asset.Size, linked.Size)
		assert.True(t, os.SameFile(source, linked.Info))
		target, err := os.Readlink(filepath.Join(dir, c.asset))
		require.NoError(t, err)
		assert.Equal(t, filepath.Join(root, path), target, "in place of the copy")
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		assert.Len(t, entries, 1)

		// And a copy takes the place of the link, not of what it leads to.
		p.Temporary = false
		_, err = p.Package(t.Context(), artifact.Image{Name: "image"}, filepath.Join(root, c.result))
		require.NoError(t, err)
		info, err = os.Lstat(asset.Path)
		require.NoError(t, err)
		assert.True(t, info.Mode().IsRegular())
	}
}

func TestFileName(t *testing.T) {
	t.Parallel()
	for tag, want := range map[string]string{
		"boot-v2026.02.28":       "i-boot-v2026.02.28.iso",
		"release/2026/boot-v1":   "i-release-2026-boot-v1.iso",
		"v1.0.0-rc.1+build_7":    "i-v1.0.0-rc.1+build_7.iso",
		`a"b'c$d&e#f%g(h)i;j|k!`: "i-a-b-c-d-e-f-g-h-i-j-k-.iso",
		"größe":                  "i-gr--e.iso",
		"..":                     "i-...iso",
	} {
		assert.Equal(t, want, artifact.FileName("i", tag, ".iso"))
	}
}

func TestPackageErrors(t *testing.T) {
	t.Parallel()
	root, dir := plant(t, nixos), t.TempDir()
	result := filepath.Join(root, "result")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for name, c := range map[string]struct {
		packager artifact.Packager
		name     string // of the image
		result   string
		want     string
	}{
		"a name with a folder": {artifact.Packager{Tag: "t", Within: anywhere, Dir: dir}, "../x", result, `image name "../x": use letters, digits and . _ + -`},
		"no name":              {artifact.Packager{Tag: "t", Within: anywhere, Dir: dir}, "", result, `image name ""`},
		"no tag":               {artifact.Packager{Dir: dir}, "x", result, "needs a release tag"},
		"no result":            {artifact.Packager{Tag: "t", Within: anywhere, Dir: dir}, "x", filepath.Join(root, "absent"), "absent: no such file or directory (give a store path, or the link that nix build has left)"},
		"no image":             {artifact.Packager{Tag: "t", Within: anywhere, Dir: dir}, "x", filepath.Join(root, "store"), "image x: " + filepath.Join(root, "store") + ": not the output of an image's build"},
		"a file as folder":     {artifact.Packager{Tag: "t", Within: anywhere, Dir: filepath.Join(dir, "file", "dist")}, "x", result, "make the output folder"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := c.packager.Package(t.Context(), artifact.Image{Name: c.name}, c.result)
			assert.ErrorContains(t, err, c.want)
		})
	}
	t.Cleanup(func() { assert.Equal(t, []string{"file"}, listing(t, dir)) })
}

func TestPackageScriptThatDoesNotFit(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		strings.Replace(script, "kernel bzImage", "kernel Image", 1): "store/s-netboot.ipxe/netboot.ipxe: line 2, `kernel Image ",
		"#!/bin/sh\n": "netboot.ipxe: not an iPXE script",
		"#!ipxe\n" + strings.Repeat("# a comment\n", 100_000): "larger than 1048576 bytes",
	} {
		root, dir := plant(t, nixos.with(tree{"store/s-netboot.ipxe/netboot.ipxe": content})), t.TempDir()
		_, err := packager(dir).Package(t.Context(), netboot, filepath.Join(root, "result"))
		assert.ErrorContains(t, err, want)
		assert.Empty(t, listing(t, dir))
	}
}

func TestCancelledPackageLeavesWhatWasThere(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("large enough for several reads ", 200_000)
	for name, files := range map[string]tree{
		"bundle": nixos.with(tree{"store/i-initrd/initrd": large}),
		"ISO":    {"result/iso/nixos.iso": large},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, dir := plant(t, files), t.TempDir()
			result, p := filepath.Join(root, "result"), packager(dir)
			for _, earlier := range []bool{false, true} {
				var want []string
				if earlier {
					asset, err := packager(dir).Package(t.Context(), netboot, result)
					require.NoError(t, err)
					want = []string{asset.Name}
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				p.Progress = func(done, total int64) {
					if done > total/2 {
						cancel()
					}
				}
				_, err := p.Package(ctx, netboot, result)
				require.ErrorIs(t, err, context.Canceled)
				assert.ElementsMatch(t, want, listing(t, dir))
			}
		})
	}
}

func TestWriteSums(t *testing.T) {
	t.Parallel()
	root, dir := plant(t, nixos.with(tree{"i/iso/nixos.iso": "an ISO"})), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, checksum.FileName), []byte(strings.Repeat("0", 64)+"  of-an-earlier-run.iso\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "of-an-earlier-run.iso"), nil, 0o600))
	var assets []artifact.Artifact
	for name, result := range map[string]string{"z-netboot": "result", "a-iso": "i"} {
		p := artifact.Packager{Tag: "boot-v1", Within: anywhere, Dir: dir}
		asset, err := p.Package(t.Context(), artifact.Image{Name: name}, filepath.Join(root, result))
		require.NoError(t, err)
		assets = append(assets, asset)
	}
	sums, err := artifact.Sums(assets)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, checksum.FileName), sums.Bytes(), 0o600)) // as deploy does
	assert.Equal(t, "a-iso-boot-v1.iso: OK\nz-netboot-boot-v1.tar.gz: OK\n", run(t, dir, "sha256sum", "--check", "--strict", checksum.FileName))

	assets[0].Name = assets[1].Name
	_, err = artifact.Sums(assets)
	assert.ErrorContains(t, err, "two different files have the name "+assets[0].Name)
}

// programs is a folder for what packagingProgram builds.
var programs string

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "programs-"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(programs)
	os.Exit(code)
}

// packagingProgram returns the program in testdata/package. It is built without the race
// detector, which takes memory of its own.
func packagingProgram(t *testing.T) string {
	t.Helper()
	path, err := buildProgram()
	require.NoError(t, err)
	return path
}

var buildProgram = sync.OnceValues(func() (string, error) {
	path := filepath.Join(programs, "package")
	if out, err := exec.Command("go", "build", "-o", path, "./testdata/package").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./testdata/package: %w: %s", err, out)
	}
	return path, nil
})

func TestMemoryStaysConstant(t *testing.T) {
	t.Parallel()
	program := packagingProgram(t)
	root := plant(t, nixos.with(tree{"store/i-initrd/initrd": "", "iso/iso/": ""}))

	// What does not compress goes through other code than zeros do.
	random, err := os.Create(filepath.Join(root, "store/i-initrd/initrd"))
	require.NoError(t, err)
	source := rand.NewChaCha8([32]byte{})
	block := make([]byte, 1<<20)
	for range 320 {
		_, err := source.Read(block)
		require.NoError(t, err)
		_, err = random.Write(block)
		require.NoError(t, err)
	}
	require.NoError(t, random.Close())

	for _, c := range []struct {
		result   string
		size     int64 // of the initrd, the rest of which is zeros
		warnings int
	}{
		{"result", 320 << 20, 0},
		{"result", 2_000_000_001, 1},
		{"iso", 320 << 20, 0},
	} {
		require.NoError(t, os.Truncate(random.Name(), c.size))
		if c.result == "iso" {
			require.NoError(t, os.Link(random.Name(), filepath.Join(root, "iso/iso/nixos.iso")))
		}
		dir := t.TempDir()
		var got struct {
			Path     string
			Warnings []string
			Peak     int64
		}
		require.NoError(t, json.Unmarshal([]byte(run(t, dir, program, filepath.Join(root, c.result), dir)), &got))
		assert.Less(t, got.Peak, int64(96<<20), "peak memory for %s of %d bytes", c.result, c.size)
		assert.Len(t, got.Warnings, c.warnings)
		t.Logf("%s of %d bytes: %d MiB", c.result, c.size, got.Peak>>20)
		require.NoError(t, os.Remove(got.Path))
	}
}

func TestFullDiskLeavesNothing(t *testing.T) {
	t.Parallel()
	program := packagingProgram(t)
	incompressible := make([]byte, 12<<20)
	_, err := rand.NewChaCha8([32]byte{}).Read(incompressible)
	require.NoError(t, err)
	for name, files := range map[string]tree{
		"bundle": nixos.with(tree{"store/i-initrd/initrd": string(incompressible)}),
		"ISO":    {"result/iso/nixos.iso": string(incompressible)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, dir := plant(t, files), t.TempDir()
			// A small file system in a namespace, which ends with the process.
			arguments := []string{"--mount"}
			if os.Geteuid() != 0 {
				arguments = append(arguments, "--user", "--map-root-user")
			}
			arguments = append(arguments, "sh", "-c",
				`mount -t tmpfs -o size=8m none "$2" && ! "$3" "$1/result" "$2" && ls -A "$2"`, "sh", root, dir, program)
			out := run(t, dir, "unshare", arguments...)
			assert.Equal(t, "image image: write "+filepath.Join(dir, "image-boot-v1")+map[string]string{"bundle": ".tar.gz", "ISO": ".iso"}[name]+
				": no space left on device; free some there or choose another output folder\n", out)
		})
	}
}

// What no boot server takes is said when the bundle is made, before it is published.
func TestPackageWarnsOfArchitecture(t *testing.T) {
	t.Parallel()
	x8664 := with(make([]byte, 0x400), 0x202, "HdrS")
	for name, test := range map[string]struct {
		image  string
		kernel []byte
		want   string // the architecture
		warns  string
	}{
		"the kernel says it":     {"kiosk-pxe", x8664, "x86_64", ""},
		"the name says it":       {"kiosk-aarch64-netboot", []byte("text"), "", ""},
		"neither says it":        {"kiosk-pxe", []byte("text"), "", ""},
		"they contradict":        {"kiosk-aarch64-netboot", x8664, "x86_64", "kiosk-aarch64-netboot-boot-v2026.02.28.tar.gz is for x86_64 by its kernel"},
		"for no machine we know": {"kiosk-pxe", peKernel(0x5064), "", "the kernel is neither for x86_64 nor for aarch64"},
	} {
		dir := t.TempDir()
		for file, content := range map[string][]byte{"bzImage": test.kernel, "initrd": []byte("initrd"), "netboot.ipxe": []byte("#!ipxe\nkernel bzImage\ninitrd initrd\nboot\n")} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, file), content, 0o600))
		}
		p := packager(t.TempDir())
		var warned []string
		p.Warn = func(text string) { warned = append(warned, text) }
		made, err := p.Package(t.Context(), artifact.Image{Name: test.image}, dir)
		require.NoError(t, err, name)
		assert.Equal(t, test.want, made.Architecture, name)
		if test.warns == "" {
			assert.Empty(t, warned, name)
			continue
		}
		require.Len(t, warned, 1, name)
		assert.Contains(t, warned[0], test.warns, name)
	}
}
