package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"every.channel/runner-images/internal/archive"
	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/count"
	"every.channel/runner-images/internal/disk"
	"every.channel/runner-images/internal/ipxe"
)

// DefaultModTime is when the files in a bundle were modified, unless something
// better is known: one second after the beginning of 1970, as in the Nix store.
var DefaultModTime = time.Unix(1, 0)

// A Request is a build's output to package.
type Request struct {
	Result string // the output: a store path, or a link to one
	Name   string // of the image, for example ec-runner-x86_64-netboot
	Tag    string // of the release
	Dir    string // where the asset goes; made if it is not there

	// ModTime is when the files in a bundle were modified; DefaultModTime if zero.
	ModTime time.Time

	// Progress, if set, is told how many bytes of the output have been read.
	Progress func(done, total int64)
}

// An Asset is a packaged image, a file that a release carries.
type Asset struct {
	Name   string // the file's name, without a folder
	Path   string
	Size   int64  // bytes
	SHA256 string // lower-case hexadecimal
	Kind   Kind

	// Warnings tell what may not work with the image, a sentence each.
	Warnings []string
}

// AssetName returns the name of an image's asset: "NAME-TAG" and the extension.
// Letters, digits, ".", "_", "+" and "-" of the tag stay; each other character
// that git allows in a tag, such as "/", becomes a "-", because a file's name
// must be safe on any system and in any address.
func AssetName(name, tag, extension string) string {
	return name + "-" + unsafeInName.ReplaceAllLiteralString(tag, "-") + extension
}

var (
	unsafeInName = regexp.MustCompile(`[^A-Za-z0-9._+-]`)
	safeName     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*$`)
)

// Package makes the asset of a build's output. A netboot output becomes a bundle:
// a .tar.gz of kernel, initrd and netboot.ipxe, in which the script has these
// names, and whose bytes depend on nothing but the files and ModTime. Any other
// file is copied as it is.
//
// The asset has its name when it is whole; after an error or the end of the
// context nothing of it is left, and an asset of an earlier run is as it was.
func Package(ctx context.Context, r Request) (Asset, error) {
	if !safeName.MatchString(r.Name) {
		return Asset{}, fmt.Errorf("image name %q: use letters, digits and . _ + -, for example ec-runner-x86_64-netboot", r.Name)
	}
	if r.Tag == "" {
		return Asset{}, fmt.Errorf("image %s: its asset's name needs a release tag, for example boot-v2026.02.28", r.Name)
	}
	if r.ModTime.IsZero() {
		r.ModTime = DefaultModTime
	}
	output, err := Recognise(r.Result)
	if err != nil {
		return Asset{}, fmt.Errorf("image %s: %w", r.Name, err)
	}
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return Asset{}, fmt.Errorf("make the output folder: %w", err)
	}
	asset := Asset{Name: AssetName(r.Name, r.Tag, output.Extension), Kind: output.Kind}
	asset.Path = filepath.Join(r.Dir, asset.Name)
	if output.Kind == Netboot {
		err = bundle(ctx, output, r, &asset)
	} else {
		err = copyImage(ctx, output.File, r, &asset)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w; free some there or choose another output folder", err)
	}
	if err != nil {
		return Asset{}, fmt.Errorf("image %s: %w", r.Name, err)
	}
	return asset, nil
}

// bundle makes the asset of a netboot output.
func bundle(ctx context.Context, output Output, r Request, asset *Asset) error {
	script, err := rewrittenScript(output)
	if err != nil {
		return err
	}
	info, err := os.Stat(output.Initrd)
	if err != nil {
		return err
	}
	asset.Warnings = initrdWarnings(info.Size())
	files := []archive.File{
		{Name: ipxe.KernelName, Path: output.Kernel},
		{Name: ipxe.InitrdName, Path: output.Initrd},
		{Name: ipxe.ScriptName, Content: script},
	}
	asset.SHA256, asset.Size, err = disk.Create(ctx, asset.Path, func(w io.Writer) error {
		return archive.Write(ctx, w, files, r.ModTime, r.Progress)
	})
	return err
}

// maxScriptSize is far more than the script of a person or of NixOS has.
const maxScriptSize = 1 << 20

func rewrittenScript(output Output) ([]byte, error) {
	file, err := os.Open(output.Script)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	script, err := io.ReadAll(io.LimitReader(file, maxScriptSize+1))
	if err != nil {
		return nil, err
	}
	if len(script) > maxScriptSize {
		return nil, fmt.Errorf("%s: larger than %d bytes, which is no iPXE script", output.Script, maxScriptSize)
	}
	script, err = ipxe.RewriteScript(script, output.names)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", output.Script, err)
	}
	return script, nil
}

// maxInitrdSize is about where iPXE, which loads an initrd below 4 GiB in memory
// beside what devices take of that, is known to fail
// (https://github.com/NixOS/nixpkgs/issues/203593).
const maxInitrdSize = 2_000_000_000

func initrdWarnings(size int64) []string {
	if size <= maxInitrdSize {
		return nil
	}
	return []string{fmt.Sprintf("The initrd has %.1f GB, and iPXE fails to load one of about 2 GB: it may not boot on every machine. Make the system smaller, or fetch the store after booting.", float64(size)/1e9)}
}

// copyImage makes the asset of an output that is a file.
func copyImage(ctx context.Context, path string, r Request, asset *Asset) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	asset.SHA256, asset.Size, err = disk.Create(ctx, asset.Path, func(w io.Writer) error {
		content := io.Reader(file)
		if r.Progress != nil {
			content = count.Reader(file, func(done int64) { r.Progress(done, info.Size()) })
		}
		_, err := io.CopyBuffer(w, content, make([]byte, 1<<20))
		return err
	})
	return err
}

// WriteSums writes SHA256SUMS.txt (checksum.FileName) of the assets into the
// folder in which they are, as `sha256sum -c` wants it. It lists these assets and
// nothing else: what an earlier run has left in the folder, its SHA256SUMS.txt
// included, is not part of this release. The file is replaced in one step.
func WriteSums(ctx context.Context, dir string, assets []Asset) error {
	sums := checksum.Sums{}
	for _, asset := range assets {
		if known, ok := sums[asset.Name]; ok && known != asset.SHA256 {
			return fmt.Errorf("two different assets have the name %s", asset.Name)
		}
		sums[asset.Name] = asset.SHA256
	}
	_, err := disk.WriteFile(ctx, filepath.Join(dir, checksum.FileName), sums.Bytes())
	return err
}
