package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"every.channel/runner-images/internal/disk"
	"every.channel/runner-images/internal/ipxe"
	"every.channel/runner-images/internal/size"
)

// DefaultModTime is when the files in a bundle were modified, unless something
// better is known: one second after the beginning of 1970, as in the Nix store.
var DefaultModTime = time.Unix(1, 0)

// A Packager makes the artifacts of one release.
type Packager struct {
	Tag string // of the release
	Dir string // where the artifacts go; made if it is not there

	// Within are the paths in which all files must lie that an output consists of,
	// wherever its links lead: the store paths of the build's closure, or what Trees
	// returns. Each other file is an ErrOutside.
	Within []string

	// Temporary is for artifacts that are needed only while this process runs. A file that
	// would be copied unchanged stays where it is, with a link to it in Dir, and is not
	// read: its Artifact has no checksum. Nothing waits for the disk: after a loss of power,
	// a bundle may have its name and not all of its content.
	Temporary bool

	// ModTime is when the files in a bundle were modified; DefaultModTime if zero.
	ModTime time.Time

	// Progress, if set, is called with the number of bytes of an output that have been
	// read.
	Progress func(done, total int64)

	// Warn, if set, is called with a sentence about what may not work with an image.
	Warn func(text string)
}

// Package makes the artifact of an image's build output at result: a store path, or
// a link to one. A netboot output becomes a bundle: a .tar.gz of kernel, initrd and
// netboot.ipxe, in which the script uses these names, and whose bytes depend only on
// the files and ModTime. Any other file is copied unchanged, unless the artifacts are
// temporary.
//
// The file gets its name when it is complete. After an error or a cancellation
// nothing of it is left, and a file of an earlier run is unchanged.
func (p Packager) Package(ctx context.Context, image Image, result string) (Artifact, error) {
	if !ValidName(image.Name) {
		return Artifact{}, fmt.Errorf("image name %q: use letters, digits and . _ + -, for example ec-runner-x86_64-netboot", image.Name)
	}
	if p.Tag == "" {
		return Artifact{}, fmt.Errorf("image %s: its file's name needs a release tag, for example boot-v2026.02.28", image.Name)
	}
	made, err := p.pack(ctx, image, result)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w; free some there or choose another output folder", err)
	}
	if err != nil {
		return Artifact{}, fmt.Errorf("image %s: %w", image.Name, err)
	}
	return made, nil
}

func (p Packager) pack(ctx context.Context, image Image, result string) (made Artifact, err error) {
	sources, err := newSources(p.Within)
	if err != nil {
		return made, err
	}
	output, err := recognise(result, sources)
	if err != nil {
		return made, err
	}
	root, err := disk.OpenFolder(p.Dir)
	if err != nil {
		return made, fmt.Errorf("make the output folder: %w", err)
	}
	defer root.Close()
	made = Artifact{Image: image, Name: FileName(image.Name, p.Tag, output.Extension)}
	made.Path = filepath.Join(p.Dir, made.Name)
	if output.Kind == netbootKind {
		if made.Architecture, err = p.architecture(made.Name, output.Kernel, sources); err != nil {
			return made, err
		}
		made.SHA256, made.Size, err = p.bundle(ctx, output, sources, root, made.Name)
	} else {
		err = p.file(ctx, output.File, sources, root, &made)
	}
	if err == nil && made.Info == nil {
		made.Info, err = root.Stat(made.Name)
	}
	return made, err
}

// architecture returns that of a netboot image's kernel, and warns of one that no
// boot server takes, or takes for other machines than people expect.
func (p Packager) architecture(name, kernel string, sources sources) (string, error) {
	file, err := sources.open(kernel)
	if err != nil {
		return "", err
	}
	defer file.Close()
	architecture, err := kernelArchitecture(file)
	if err != nil && !errors.Is(err, ErrOtherKernel) {
		return "", err
	}
	named, ok := NamedArchitecture(name)
	switch {
	case p.Warn == nil:
	case err != nil:
		p.Warn(fmt.Sprintf("No boot server stages %s: %v.", name, err))
	case architecture != "" && ok && named != architecture:
		p.Warn(fmt.Sprintf("%s is for %s by its kernel, which is what boot servers go by, whatever its name says.", name, architecture))
	}
	return architecture, nil
}

// bundle makes the bundle of a netboot output in a folder.
func (p Packager) bundle(ctx context.Context, output contents, sources sources, root *os.Root, name string) (sum string, size int64, err error) {
	kernel, err := sources.open(output.Kernel)
	if err != nil {
		return "", 0, err
	}
	defer kernel.Close()
	initrd, err := sources.open(output.Initrd)
	if err != nil {
		return "", 0, err
	}
	defer initrd.Close()
	script, err := rewrittenScript(output, sources)
	if err != nil {
		return "", 0, err
	}
	info, err := initrd.Stat()
	if err != nil {
		return "", 0, err
	}
	if info.Size() > maxInitrdSize && p.Warn != nil {
		p.Warn(largeInitrd(info.Size()))
	}
	modTime := p.ModTime
	if modTime.IsZero() {
		modTime = DefaultModTime
	}
	members := []Member{
		{Name: ipxe.KernelName, File: kernel},
		{Name: ipxe.InitrdName, File: initrd},
		{Name: ipxe.ScriptName, Content: script},
	}
	create := disk.CreateIn
	if p.Temporary {
		create = disk.CreateUnsyncedIn
	}
	return create(ctx, root, name, func(w io.Writer) error {
		return WriteBundle(ctx, w, members, modTime, p.Progress)
	})
}

// maxScriptSize is far above the size of any script for iPXE.
const maxScriptSize = 1 << 20

func rewrittenScript(output contents, sources sources) ([]byte, error) {
	file, err := sources.open(output.Script)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	script, err := io.ReadAll(io.LimitReader(file, maxScriptSize+1))
	if err != nil {
		return nil, err
	}
	if len(script) > maxScriptSize {
		return nil, fmt.Errorf("%s: larger than %d bytes: not an iPXE script", output.Script, maxScriptSize)
	}
	script, err = ipxe.RewriteScript(script, output.names)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", output.Script, err)
	}
	return script, nil
}

// maxInitrdSize is the size above which iPXE is known to fail, since it loads an
// initrd below 4 GiB, where devices use a part of the address space
// (https://github.com/NixOS/nixpkgs/issues/203593).
const maxInitrdSize = 2_000_000_000

func largeInitrd(bytes int64) string {
	return fmt.Sprintf("The initrd has %s, and iPXE fails to load one of about %s: it may not boot on every machine. Make the system smaller, or fetch the store after booting.", size.Text(bytes), size.Text(maxInitrdSize))
}

// file makes an artifact of an output that is a file. It is read once, if at all.
func (p Packager) file(ctx context.Context, path string, sources sources, root *os.Root, made *Artifact) error {
	file, err := sources.open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if p.Temporary {
		made.Path, made.Info, made.Size = path, info, info.Size()
		return disk.LinkIn(root, made.Name, path)
	}
	made.SHA256, made.Size, err = disk.CopyIn(ctx, root, made.Name, file, func(done int64) {
		if p.Progress != nil {
			p.Progress(done, info.Size())
		}
	})
	return err
}
