package artifact_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
)

const script = "#!ipxe\nkernel bzImage init=/nix/store/abc-nixos-system/init initrd=initrd loglevel=4 ${cmdline}\ninitrd initrd\nboot\n"

// A tree is a folder's content: by path, a file's content, a link ("-> target",
// relative to the tree if it begins with "./"), or a folder (a path that ends in
// "/").
type tree map[string]string

// with returns the tree with more in it; an empty content takes a path out.
func (t tree) with(more tree) tree {
	t = maps.Clone(t)
	for path, content := range more {
		t[path] = content
		if content == "" && !strings.HasSuffix(path, "/") {
			delete(t, path)
		}
	}
	return t
}

// plant makes the tree in a new folder, read-only as in a Nix store, and returns
// it.
func plant(t *testing.T, files tree) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		content := files[name]
		target, link := strings.CutPrefix(content, "-> ")
		switch {
		case strings.HasSuffix(name, "/"):
			require.NoError(t, os.MkdirAll(path, 0o755))
		case link && strings.HasPrefix(target, "./"):
			require.NoError(t, os.Symlink(filepath.Join(root, target), path))
		case link:
			require.NoError(t, os.Symlink(target, path))
		default:
			require.NoError(t, os.WriteFile(path, []byte(content), 0o444))
		}
	}
	return root
}

// nixos is a store with the output that symlinkJoin makes of NixOS's kernel,
// netbootRamdisk and netbootIpxeScript, and the link that nix build leaves.
var nixos = tree{
	"store/k-linux-6.12/bzImage":            "the kernel",
	"store/k-linux-6.12/System.map":         "symbols",
	"store/k-linux-6.12/lib/modules/x.ko":   "module",
	"store/i-initrd/initrd":                 "the initrd",
	"store/i-initrd/initrd.zst":             "-> initrd",
	"store/s-netboot.ipxe/netboot.ipxe":     script,
	"store/o-netboot/bzImage":               "-> ./store/k-linux-6.12/bzImage",
	"store/o-netboot/System.map":            "-> ./store/k-linux-6.12/System.map",
	"store/o-netboot/lib":                   "-> ./store/k-linux-6.12/lib",
	"store/o-netboot/initrd":                "-> ./store/i-initrd/initrd",
	"store/o-netboot/initrd.zst":            "-> ./store/i-initrd/initrd.zst",
	"store/o-netboot/netboot.ipxe":          "-> ./store/s-netboot.ipxe/netboot.ipxe",
	"store/o-netboot/nix-support/hydra":     "file x",
	"store/o-netboot/kexec-tree/kexec-boot": "#!/bin/sh",
	"result":                                "-> ./store/o-netboot",
}

func TestRecogniseNetbootOfNixOS(t *testing.T) {
	t.Parallel()
	root := plant(t, nixos)
	output, err := artifact.Recognise(filepath.Join(root, "result"))
	require.NoError(t, err)
	assert.Equal(t, artifact.Netboot, output.Kind)
	assert.Equal(t, ".tar.gz", output.Extension)
	assert.Equal(t, filepath.Join(root, "store/k-linux-6.12/bzImage"), output.Kernel)
	assert.Equal(t, filepath.Join(root, "store/i-initrd/initrd"), output.Initrd)
	assert.Equal(t, filepath.Join(root, "store/s-netboot.ipxe/netboot.ipxe"), output.Script)
	assert.Empty(t, output.File)
}

func TestRecogniseNamesOfKernelAndInitrd(t *testing.T) {
	t.Parallel()
	for _, kernel := range []string{
		"bzImage", "Image", "Image.gz", "kernel", "vmlinuz", "vmlinux", "zImage", "uImage",
		"vmlinuz-6.12", "vmlinuz-6.12.30-cloud-amd64", "bzImage-x86_64", "Image-6.12.zst", "vmlinuz.efi", "kernel_6.12", "linux-6.12",
	} {
		for _, initrd := range []string{"initrd", "initrd.gz", "initrd.zst", "initramfs", "initramfs-6.12.img", "initrd.img-6.12"} {
			root := plant(t, tree{kernel: "k", initrd: "i", "boot.ipxe": "s", "kernel-params": "p", "initrd.sha256": "x", "kernel.config": "c", "README": "r"})
			output, err := artifact.Recognise(root)
			require.NoError(t, err)
			assert.Equal(t, []string{kernel, initrd, "boot.ipxe"},
				[]string{filepath.Base(output.Kernel), filepath.Base(output.Initrd), filepath.Base(output.Script)})
		}
	}
}

func TestRecogniseOneFile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tree      tree
		path      string // in the tree
		kind      artifact.Kind
		file      string // in the tree
		extension string
	}{
		"ISO": {
			tree{"o/iso/nixos-25.05.20260228.50ab793-x86_64-linux.iso": "i", "o/nix-support/hydra-build-products": "x"},
			"o",
			artifact.ISO, "o/iso/nixos-25.05.20260228.50ab793-x86_64-linux.iso", ".iso",
		},
		"compressed ISO": {tree{"o/iso/nixos.iso.zst": "i"}, "o", artifact.ISO, "o/iso/nixos.iso.zst", ".iso.zst"},
		"SD image": {
			tree{"o/sd-image/nixos-sd-image-25.05-aarch64-linux.img.zst": "i", "o/nix-support/x": "x", "r": "-> ./o"},
			"r",
			artifact.SDImage, "o/sd-image/nixos-sd-image-25.05-aarch64-linux.img.zst", ".img.zst",
		},
		"plain SD image":           {tree{"o/sd-image/nixos.img": "i", "o/sd-image/nixos.img.sha256": "x"}, "o", artifact.SDImage, "o/sd-image/nixos.img", ".img"},
		"linked ISO":               {tree{"s/a-image": "i", "o/iso/x.iso": "-> ./s/a-image", "o/iso/again.iso": "-> ./s/a-image"}, "o", artifact.ISO, "s/a-image", ".iso"},
		"linked folder":            {tree{"s/iso/x.iso": "i", "o/iso": "-> ./s/iso"}, "o", artifact.ISO, "s/iso/x.iso", ".iso"},
		"a file":                   {tree{"s/abc-nixos-25.05.qcow2": "i", "result": "-> ./s/abc-nixos-25.05.qcow2"}, "result", artifact.File, "s/abc-nixos-25.05.qcow2", ".qcow2"},
		"an ISO as it is":          {tree{"s/abc.iso": "i", "result": "-> ./s/abc.iso"}, "result", artifact.ISO, "s/abc.iso", ".iso"},
		"a file without extension": {tree{"s/abc-nixos-25.05": "i"}, "s/abc-nixos-25.05", artifact.File, "s/abc-nixos-25.05", ""},
		"a tarball":                {tree{"o/nixos-system-x86_64-linux.tar.xz": "i", "o/nix-support/x": "x"}, "o", artifact.File, "o/nixos-system-x86_64-linux.tar.xz", ".tar.xz"},
		"only a kernel":            {tree{"o/vmlinuz-6.12": "k"}, "o", artifact.File, "o/vmlinuz-6.12", ""},
		"links in a circle":        {tree{"o/x.raw.zst": "i", "o/iso": "-> ./o", "o/sd-image": "-> sd-image"}, "o", artifact.File, "o/x.raw.zst", ".raw.zst"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := plant(t, c.tree)
			output, err := artifact.Recognise(filepath.Join(root, c.path))
			require.NoError(t, err)
			assert.Equal(t, c.kind, output.Kind)
			assert.Equal(t, filepath.Join(root, c.file), output.File)
			assert.Equal(t, c.extension, output.Extension)
		})
	}
}

func TestRecogniseListsWhatIsThere(t *testing.T) {
	t.Parallel()
	const wantAll = "want a kernel (bzImage, Image, vmlinuz, kernel), an initrd (initrd, initrd.zst, initramfs) and an iPXE script (netboot.ipxe), or iso/NAME.iso or .iso.zst, or sd-image/NAME.img or .img.zst, or one file; "
	whole := tree{"bzImage": "k", "initrd": "i", "netboot.ipxe": "s"}
	many := tree{}
	for i := range 40 {
		many[fmt.Sprintf("file%02d", i)] = "x"
	}
	for name, c := range map[string]struct {
		tree tree
		want string
	}{
		"two kernels":         {whole.with(tree{"vmlinuz-6.12": "k2"}), "want one kernel, not bzImage and vmlinuz-6.12; there is bzImage, initrd, netboot.ipxe, vmlinuz-6.12"},
		"two initrds":         {whole.with(tree{"initrd.zst": "other"}), "want one initrd, not initrd and initrd.zst; there is"},
		"two scripts":         {whole.with(tree{"menu.ipxe": "s"}), "want one iPXE script, not menu.ipxe and netboot.ipxe; there is"},
		"no kernel":           {whole.with(tree{"bzImage": "", "lib/": ""}), "want a file for the kernel (bzImage, Image, vmlinuz, kernel); there is initrd, lib/, netboot.ipxe"},
		"no initrd":           {whole.with(tree{"initrd": ""}), "want a file for the initrd (initrd, initrd.zst, initramfs); there is bzImage, netboot.ipxe"},
		"no script":           {whole.with(tree{"netboot.ipxe": "", "kexec-boot": "#!"}), "want a file for the iPXE script (netboot.ipxe); there is bzImage, initrd, kexec-boot"},
		"a link to nothing":   {whole.with(tree{"bzImage": "-> /nix/store/absent/bzImage"}), "want a file for the kernel (bzImage, Image, vmlinuz, kernel); there is bzImage (a link to nothing), initrd"},
		"a folder as kernel":  {whole.with(tree{"bzImage": "", "kernel/": ""}), "want a file for the kernel (bzImage, Image, vmlinuz, kernel); there is initrd, kernel/"},
		"two ISOs":            {tree{"iso/a.iso": "1", "iso/b.iso.zst": "2"}, "want one ISO, not a.iso and b.iso.zst; there is iso/, iso/a.iso, iso/b.iso.zst"},
		"two SD images":       {tree{"sd-image/a.img": "1", "sd-image/a.img.zst": "2"}, "want one SD image, not a.img and a.img.zst"},
		"an ISO and netboot":  {whole.with(tree{"iso/a.iso": "1"}), "want one image, not both netboot and iso; there is bzImage, initrd, iso/, netboot.ipxe, iso/a.iso"},
		"an ISO and SD image": {tree{"iso/a.iso": "1", "sd-image/a.img": "2"}, "want one image, not both iso and sd-image"},
		"nothing":             {tree{"o/": ""}, wantAll + "there is o/"},
		"other files":         {tree{"a": "1", "b": "2", "iso/readme": "x"}, wantAll + "there is a, b, iso/, iso/readme"},
		"a NixOS system":      {tree{"kernel": "k", "kernel-params": "p", "activate": "#!", "init": "#!", "sw/": ""}, wantAll},
		"many files":          {many, "file28, file29 and 10 more"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := plant(t, c.tree)
			_, err := artifact.Recognise(root)
			require.ErrorIs(t, err, artifact.ErrUnrecognised)
			assert.ErrorContains(t, err, root+": not the output of an image's build: ")
			assert.ErrorContains(t, err, c.want)
		})
	}
}

func TestRecogniseEmptyAndSpecialFiles(t *testing.T) {
	t.Parallel()
	root := plant(t, tree{"o/bzImage": "k", "o/initrd": "i", "o/netboot.ipxe": "s", "p/image.raw": "x", "q/": ""})
	require.NoError(t, os.Chmod(filepath.Join(root, "o/initrd"), 0o600))
	require.NoError(t, os.Truncate(filepath.Join(root, "o/initrd"), 0))
	_, err := artifact.Recognise(filepath.Join(root, "o"))
	require.ErrorIs(t, err, artifact.ErrUnrecognised)
	assert.ErrorContains(t, err, "the initrd initrd is empty")

	require.NoError(t, os.Chmod(filepath.Join(root, "p/image.raw"), 0o600))
	require.NoError(t, os.Truncate(filepath.Join(root, "p/image.raw"), 0))
	for _, path := range []string{"p", "p/image.raw"} {
		_, err = artifact.Recognise(filepath.Join(root, path))
		require.ErrorIs(t, err, artifact.ErrUnrecognised)
		assert.ErrorContains(t, err, "the file image.raw is empty")
	}

	_, err = artifact.Recognise(filepath.Join(root, "q"))
	assert.ErrorContains(t, err, "there is nothing")

	// Opening a pipe would wait for ever.
	pipe := filepath.Join(root, "q", "vmlinuz")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, err = artifact.Recognise(filepath.Join(root, "q"))
	require.ErrorIs(t, err, artifact.ErrUnrecognised)
	_, err = artifact.Recognise(pipe)
	require.ErrorIs(t, err, artifact.ErrUnrecognised)

	// What cannot be looked at is not taken for what is not there.
	tooLong := "/" + strings.Repeat("x", 300)
	for _, name := range []string{"iso", "initrd"} {
		unreadable := plant(t, tree{"bzImage": "k", "netboot.ipxe": "s", name: "-> " + tooLong})
		_, err = artifact.Recognise(unreadable)
		require.ErrorIs(t, err, syscall.ENAMETOOLONG)
		assert.NotErrorIs(t, err, artifact.ErrUnrecognised)
	}

	_, err = artifact.Recognise(filepath.Join(root, "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.NotErrorIs(t, err, artifact.ErrUnrecognised)
}
