package stage_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/stage"
	"every.channel/runner-images/internal/netboot/state"
	"every.channel/runner-images/internal/release"
)

// The beginnings of kernels as UEFI starts them, by their PE machine types.
var (
	kernelX8664   = peKernel(0x8664)
	kernelAArch64 = peKernel(0xaa64)
	kernelRISCV64 = peKernel(0x5064)
)

func peKernel(machine uint16) []byte {
	header := make([]byte, 0x400)
	copy(header, "MZ")
	binary.LittleEndian.PutUint32(header[0x3c:], 0x80)
	copy(header[0x80:], "PE\x00\x00")
	binary.LittleEndian.PutUint16(header[0x84:], machine)
	return header
}

// called is a bundle of this name with this kernel.
func called(t *testing.T, name string, kernel []byte) release.File {
	t.Helper()
	files := contents(name, machine.X86_64)
	files[state.Kernel] = kernel
	file := bundle(t, machine.X86_64, "boot-v1", files)
	renamed := filepath.Join(filepath.Dir(file.Path), name)
	require.NoError(t, os.Rename(file.Path, renamed))
	file.Name, file.Path = name, renamed
	return file
}

// assets are what is current, by architecture.
func assets(t *testing.T, dir *state.Dir) map[machine.Architecture]string {
	t.Helper()
	current, err := dir.Current()
	require.NoError(t, err)
	found := map[machine.Architecture]string{}
	for architecture, bundle := range current.Bundles {
		found[architecture] = bundle.Asset
	}
	return found
}

func TestArchitectureIsThatOfTheKernel(t *testing.T) {
	t.Parallel()
	type names = map[machine.Architecture]string
	for name, test := range map[string]struct {
		files []string // name, kernel, …
		want  names
		err   string
	}{
		"the README's example": {
			files: []string{"kiosk-pxe-boot-v1.tar.gz", "x"},
			want:  names{machine.X86_64: "kiosk-pxe-boot-v1.tar.gz"},
		},
		"a release for both": {
			files: []string{"kiosk-pxe-boot-v1.tar.gz", "x", "pi-boot-v1.tar.gz", "a"},
			want:  names{machine.X86_64: "kiosk-pxe-boot-v1.tar.gz", machine.AArch64: "pi-boot-v1.tar.gz"},
		},
		"the name is wrong": {
			files: []string{"kiosk-x86_64-netboot-boot-v1.tar.gz", "a"},
			want:  names{machine.AArch64: "kiosk-x86_64-netboot-boot-v1.tar.gz"},
		},
		"the name says it where the kernel does not": {
			files: []string{"kiosk-aarch64-netboot-boot-v1.tar.gz", "?"},
			want:  names{machine.AArch64: "kiosk-aarch64-netboot-boot-v1.tar.gz"},
		},
		"neither says it": {
			files: []string{"kiosk-pxe-boot-v1.tar.gz", "?"},
			err:   "kiosk-pxe-boot-v1.tar.gz: neither its kernel nor its name says for which machines it is; call the image for example NAME-x86_64-netboot",
		},
		"two for the same machines": {
			files: []string{"kiosk-pxe-boot-v1.tar.gz", "x", "desk-pxe-boot-v1.tar.gz", "x"},
			err:   "it has 2 netboot bundles for x86_64: desk-pxe-boot-v1.tar.gz, kiosk-pxe-boot-v1.tar.gz; keep one of them",
		},
		"the fleet's own and another": {
			files: []string{"ec-runner-x86_64-netboot-boot-v1.tar.gz", "x", "kiosk-pxe-boot-v1.tar.gz", "x"},
			want:  names{machine.X86_64: "ec-runner-x86_64-netboot-boot-v1.tar.gz"},
		},
		"a tarball that is no bundle": {
			files: []string{"kiosk-pxe-boot-v1.tar.gz", "x", "sources-boot-v1.tar.gz", ""},
			want:  names{machine.X86_64: "kiosk-pxe-boot-v1.tar.gz"},
		},
		"nothing else": {
			files: []string{"sources-boot-v1.tar.gz", ""},
			err:   `sources-boot-v1.tar.gz: it has a file "motd", as no netboot bundle does`,
		},
		"another machine, by the name": {
			files: []string{"kiosk-x86_64-netboot-boot-v1.tar.gz", "r"},
			err:   "unpack kiosk-x86_64-netboot-boot-v1.tar.gz: the kernel is neither for x86_64 nor for aarch64: it is for machines of the PE type 0x5064",
		},
		"one that was published under a name of its own": {
			files: []string{"kiosk.tar.gz", "x"},
			want:  names{machine.X86_64: "kiosk.tar.gz"},
		},
		"a tarball of another name beside a bundle is not looked at": {
			files: []string{"kiosk-pxe-boot-v1.tar.gz", "x", "sources.tar.gz", "a"},
			want:  names{machine.X86_64: "kiosk-pxe-boot-v1.tar.gz"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			var files []release.File
			for i := 0; i < len(test.files); i += 2 {
				kernel := map[string][]byte{"x": kernelX8664, "a": kernelAArch64, "r": kernelRISCV64, "?": []byte("text"), "": nil}[test.files[i+1]]
				if kernel != nil {
					files = append(files, called(t, test.files[i], kernel))
					continue
				}
				other := bundle(t, machine.X86_64, "boot-v1", map[string][]byte{"motd": []byte("hello")})
				other.Name = test.files[i]
				files = append(files, other)
			}
			publish(t, s.store, "boot-v1", release.Content{}, files...)
			comparison, err := s.stager().Check(t.Context(), "")
			if err == nil {
				assert.False(t, comparison.Same)
			}
			_, err = s.stager().Release(t.Context(), "")
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				_, err = s.dir.Current()
				require.ErrorIs(t, err, state.ErrNotStaged)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, test.want, assets(t, s.dir))

			// What was looked into is not downloaded again.
			comparison, err = s.stager().Check(t.Context(), "")
			require.NoError(t, err)
			assert.True(t, comparison.Same)
			before := snapshot(t, s.dir)
			outcome, err := s.stager().Release(t.Context(), "")
			require.NoError(t, err)
			assert.False(t, outcome.Staged)
			assert.Equal(t, before, snapshot(t, s.dir))
		})
	}
}

func TestTarballOfAnyName(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, test := range []struct{ name, want string }{
		{"kiosk-pxe-boot-v2026.02.28.tar.gz", "boot-v2026.02.28"},
		{"kiosk-boot-boot-v1.tar.gz", "boot-v1"},
		{"lab-netboot-v4.tar.gz", "v4"},
		{"ec-runner-x86_64-netboot-v5.1.tar.gz", "v5.1"},
		{"lab-netboot-image-boot-v3.tar.gz", "boot-v3"}, // the last, so that it stays staged
	} {
		_, err := s.stager().Tarball(t.Context(), called(t, test.name, kernelX8664).Path, "")
		require.NoError(t, err, test.name)
		current, err := s.dir.Current()
		require.NoError(t, err)
		assert.Equal(t, test.want, current.Tag, test.name)
	}
	// Another architecture joins the release.
	_, err := s.stager().Tarball(t.Context(), called(t, "pi.tar.gz", kernelAArch64).Path, "boot-v3")
	require.NoError(t, err)
	assert.Equal(t, map[machine.Architecture]string{machine.X86_64: "lab-netboot-image-boot-v3.tar.gz", machine.AArch64: "pi.tar.gz"}, assets(t, s.dir))
	_, err = s.stager().Tarball(t.Context(), called(t, "pi.tar.gz", kernelAArch64).Path, "")
	require.ErrorContains(t, err, "give --release-tag")
	_, err = s.stager().Tarball(t.Context(), called(t, "pi-boot-v4.tar.gz", []byte("text")).Path, "")
	require.ErrorContains(t, err, "neither its kernel nor its name says for which machines it is")
}

// An old bundle is refused for its age although only its kernel says which machines it
// would take back.
func TestOldBundleOfAnyName(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	serials := map[string]int64{}
	s.changes = func(stager *stage.Stager) {
		stager.Verify = func(string, []byte, func(string) ([]byte, error)) (stage.Proof, error) {
			return stage.Proof{Serial: func(sum string) (int64, bool) { return serials[sum], true }}, nil
		}
		stager.VerifyStaged = stager.Verify
	}
	for i, tag := range []string{"boot-v2", "boot-v1"} {
		file := called(t, "kiosk-"+tag+".tar.gz", kernelX8664)
		serials[file.SHA256] = int64(2 - i)
		publish(t, s.store, tag, release.Content{}, file)
		_, err := s.stager().Release(t.Context(), tag)
		if tag == "boot-v1" {
			require.ErrorContains(t, err, "its bundle for x86_64 was published before that of boot-v2")
		} else {
			require.NoError(t, err)
		}
	}
	assert.Equal(t, "kiosk-boot-v2.tar.gz", assets(t, s.dir)[machine.X86_64])
}
