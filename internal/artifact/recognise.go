package artifact

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"every.channel/runner-images/internal/ipxe"
)

// A kind is what an image is for.
type kind string

// The kinds of images. Anything else that is one file is fileKind.
const (
	netbootKind kind = "netboot"
	isoKind     kind = "iso"
	sdImageKind kind = "sd-image"
	fileKind    kind = "file"
)

// contents is what is in the output of a build. Paths have no symlinks.
type contents struct {
	Kind kind

	// Extension is what the asset's name ends in: ".tar.gz" for a netboot image, else what
	// the file's name does.
	Extension string

	// File is the image, unless it is a netboot image.
	File string

	// Kernel, Initrd and Script are the files of a netboot image.
	Kernel, Initrd, Script string

	// names maps what these files are called in the output, which may be more
	// than one name each, to what they are called in a bundle.
	names map[string]string
}

// ErrUnrecognised means that a build's output holds no image, or more than one.
var ErrUnrecognised = errors.New("not the output of an image's build")

// A role is what a file of an output is for.
type role struct {
	name    string // for people
	like    string // for people: what files in this role are called
	matches func(name string) bool
}

var (
	kernel = role{"kernel", "bzImage, Image, vmlinuz, kernel", func(name string) bool {
		return kernelName.MatchString(name) && !aside.MatchString(name)
	}}
	initrd = role{"initrd", "initrd, initrd.zst, initramfs", func(name string) bool {
		return initrdName.MatchString(name) && !aside.MatchString(name)
	}}
	script  = role{"iPXE script", "netboot.ipxe", suffix(".ipxe")}
	iso     = role{"ISO", "iso/NAME.iso or .iso.zst", suffix(".iso", ".iso.zst")}
	sdImage = role{"SD image", "sd-image/NAME.img or .img.zst", suffix(".img", ".img.zst")}
	anyFile = role{"file", "any name", func(string) bool { return true }}

	// What nixpkgs calls a kernel (stdenv.hostPlatform.linux-kernel.target), and
	// distributions and people do, with a version or a compression behind it.
	kernelName = regexp.MustCompile(`^(bzImage|zImage|uImage|Image|vmlinuz|vmlinux|linux|kernel)([-._].*)?$`)
	initrdName = regexp.MustCompile(`^(initrd|initramfs)([-._].*)?$`)
	// Files that are named after a kernel or an initrd and are neither.
	aside = regexp.MustCompile(`(?i)([-._](params|cmdline|modules|config|version|secrets)|\.(ipxe|json|nix|txt|sh|map|sig|asc|sha256|sha256sum|sha512|md5))$`)
)

// extensionOf finds what a file's name ends in, with the extension before that
// of a compressor; the numbers of a version are none.
var extensionOf = regexp.MustCompile(`(\.[A-Za-z][A-Za-z0-9]{0,9})?(\.(gz|zst|xz|bz2|lz4|lzma))?$`)

func suffix(suffixes ...string) func(string) bool {
	return func(name string) bool {
		return slices.ContainsFunc(suffixes, func(suffix string) bool {
			return len(name) > len(suffix) && strings.HasSuffix(name, suffix)
		})
	}
}

// recognise returns what is in the output of a build at path (a store path, or a
// link to one such as result): a folder with a kernel, an initrd and an iPXE
// script is a netboot image; an ISO is in the folder iso, and an SD image in the folder
// sd-image, as NixOS makes them, perhaps compressed by zstd; else one regular
// file is taken as it is. Links are followed, and names that lead to the same
// file are one candidate. What else there is, such as nix-support or the kexec
// tree, is passed over. A file that is outside of the sources is
// recognised, and cannot be opened.
//
// Where a role has two candidates or none, the error wraps ErrUnrecognised and
// lists what is wanted and what is there.
func recognise(path string, sources sources) (contents, error) {
	dir, err := filepath.EvalSymlinks(path)
	if err != nil {
		return contents{}, fmt.Errorf("build output %s: %w (give a store path, or the link that nix build has left)", path, err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return contents{}, err
	}
	if _, err := sources.of(dir); err != nil {
		return contents{}, fmt.Errorf("build output %s: %w", path, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return contents{}, fmt.Errorf("build output %s: %w", path, err)
	}
	switch {
	case info.Mode().IsRegular():
		output, err := single(fileKind, file{filepath.Base(path), dir, info})
		if err != nil {
			return contents{}, fmt.Errorf("%s: %w: %w", path, ErrUnrecognised, err)
		}
		return output, nil
	case !info.IsDir():
		return contents{}, fmt.Errorf("%s: %w, neither a file nor a folder", path, ErrUnrecognised)
	}
	var there listing
	for _, part := range []struct {
		folder string
		files  *[]file
	}{{".", &there.top}, {"iso", &there.iso}, {"sd-image", &there.sdImage}} {
		if *part.files, err = there.list(dir, part.folder, sources); err != nil {
			return contents{}, fmt.Errorf("build output %s: %w", path, err)
		}
	}
	output, err := there.recognise()
	if err != nil {
		return contents{}, fmt.Errorf("%s: %w: %w; there is %s", path, ErrUnrecognised, err, there.all())
	}
	return output, nil
}

// A file is a regular file in an output.
type file struct {
	name string // in its folder
	path string // without links
	info fs.FileInfo
}

// A listing is what is in an output, by the folders that matter.
type listing struct {
	top, iso, sdImage []file
	names             []string // of everything, for people
}

// list returns the regular files in a folder of an output, if there is such a
// folder.
func (l *listing) list(output, folder string, sources sources) ([]file, error) {
	dir := filepath.Join(output, folder)
	switch info, err := os.Stat(dir); {
	case leadsNowhere(err):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, nil
	}
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	if _, err := sources.of(resolved); err != nil { // its names are nobody's business
		return nil, fmt.Errorf("%s: %w", folder, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []file
	for _, entry := range entries {
		name := filepath.Join(folder, entry.Name())
		info, err := os.Stat(filepath.Join(output, name))
		if leadsNowhere(err) {
			l.names = append(l.names, name+" (a link to nothing)")
			continue
		}
		if err != nil {
			return nil, err
		}
		path, err := filepath.EvalSymlinks(filepath.Join(output, name))
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			name += "/"
		}
		l.names = append(l.names, name)
		if info.Mode().IsRegular() {
			files = append(files, file{entry.Name(), path, info})
		}
	}
	return files, nil
}

// leadsNowhere reports whether an error of os.Stat means that there is no file, or
// a link that leads to none. Any other error may hide a file.
func leadsNowhere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENOTDIR)
}

// all lists what is there, for people.
func (l *listing) all() string {
	const listed = 30
	switch {
	case len(l.names) == 0:
		return "nothing"
	case len(l.names) > listed:
		return fmt.Sprintf("%s and %d more", strings.Join(l.names[:listed], ", "), len(l.names)-listed)
	}
	return strings.Join(l.names, ", ")
}

func (l *listing) recognise() (contents, error) {
	kernels, initrds, scripts := candidates(l.top, kernel), candidates(l.top, initrd), candidates(l.top, script)
	isos, sdImages := candidates(l.iso, iso), candidates(l.sdImage, sdImage)
	var kinds []kind
	if len(scripts) > 0 || (len(kernels) > 0 && len(initrds) > 0) {
		kinds = append(kinds, netbootKind)
	}
	if len(isos) > 0 {
		kinds = append(kinds, isoKind)
	}
	if len(sdImages) > 0 {
		kinds = append(kinds, sdImageKind)
	}
	switch {
	case len(kinds) > 1:
		return contents{}, fmt.Errorf("want one image, not both %s and %s", kinds[0], kinds[1])
	case len(kinds) == 0:
		files := candidates(l.top, anyFile)
		if len(files) != 1 {
			return contents{}, fmt.Errorf("want a %s, an %s and an %s, or %s, or %s, or one file",
				kernel.described(), initrd.described(), script.described(), iso.like, sdImage.like)
		}
		return single(fileKind, files[0][0])
	case kinds[0] == netbootKind:
		return netboot(kernels, initrds, scripts)
	case kinds[0] == isoKind:
		return one(isoKind, iso, isos)
	default:
		return one(sdImageKind, sdImage, sdImages)
	}
}

func (r role) described() string { return fmt.Sprintf("%s (%s)", r.name, r.like) }

// candidates returns the files that may have a role. Those that are one and the
// same, by links, are one candidate.
func candidates(files []file, r role) [][]file {
	var found [][]file
	for _, f := range files {
		if !r.matches(f.name) {
			continue
		}
		same := slices.IndexFunc(found, func(known []file) bool { return os.SameFile(known[0].info, f.info) })
		if same < 0 {
			found = append(found, nil)
			same = len(found) - 1
		}
		found[same] = append(found[same], f)
	}
	return found
}

// only returns the one candidate for a role.
func (r role) only(found [][]file) ([]file, error) {
	if len(found) == 0 {
		return nil, fmt.Errorf("want a file for the %s", r.described())
	}
	if len(found) > 1 {
		var names []string
		for _, f := range found {
			names = append(names, f[0].name)
		}
		return nil, fmt.Errorf("want one %s, not %s", r.name, strings.Join(names, " and "))
	}
	if found[0][0].info.Size() == 0 {
		return nil, fmt.Errorf("the %s %s is empty", r.name, found[0][0].name)
	}
	return found[0], nil
}

func netboot(kernels, initrds, scripts [][]file) (contents, error) {
	output := contents{Kind: netbootKind, Extension: ".tar.gz", names: map[string]string{}}
	parts := []struct {
		role
		found    [][]file
		path     *string
		inBundle string
	}{
		{kernel, kernels, &output.Kernel, ipxe.KernelName},
		{initrd, initrds, &output.Initrd, ipxe.InitrdName},
		{script, scripts, &output.Script, ipxe.ScriptName},
	}
	for _, part := range parts {
		files, err := part.only(part.found)
		if err != nil {
			return contents{}, err
		}
		*part.path = files[0].path
		for _, f := range files {
			output.names[f.name] = part.inBundle
		}
	}
	// In an output that links to the files under other names, the script still uses
	// the names of the files themselves.
	for _, part := range parts {
		linked := filepath.Base(*part.path)
		if _, taken := output.names[linked]; !taken {
			output.names[linked] = part.inBundle
		}
	}
	return output, nil
}

func one(k kind, r role, found [][]file) (contents, error) {
	files, err := r.only(found)
	if err != nil {
		return contents{}, err
	}
	return single(k, files[0])
}

func single(k kind, f file) (contents, error) {
	if f.info.Size() == 0 {
		return contents{}, fmt.Errorf("the file %s is empty", f.name)
	}
	extension := extensionOf.FindString(f.name)
	if extension == "" {
		extension = extensionOf.FindString(filepath.Base(f.path))
	}
	if k == fileKind && (extension == ".iso" || extension == ".iso.zst") {
		k = isoKind
	}
	return contents{Kind: k, Extension: extension, File: f.path}, nil
}
