package artifact_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
)

// goldenBundle is the SHA-256 of the bundle of goldenFiles, as any machine makes it.
// If it changes, no bundle that was published can be made again from its commit: a
// new version of a library may do that only on purpose, and the changelog must
// mention it.
const goldenBundle = "71724d391241ddceef1c00e04a63ce54b61d7784a678bc16feb819098b8e793d"

const (
	kernelSize = 2<<20 + 700
	initrdSize = 3<<20 + 1234
	scriptSize = 54
)

var modTime = time.Unix(1, 0)

// goldenFiles are like a bundle's: a kernel that compresses, an initrd that
// mostly does not, several blocks of each, and a script.
func goldenFiles() []artifact.Member { return slices.Clone(madeGoldenFiles()) }

var madeGoldenFiles = sync.OnceValue(func() []artifact.Member {
	var kernel bytes.Buffer
	numbers := rand.New(rand.NewChaCha8([32]byte{1}))
	for kernel.Len() < kernelSize {
		fmt.Fprintf(&kernel, "ffffffff81%06x T sys_%d\n", numbers.IntN(1<<16), numbers.IntN(400))
	}
	kernel.Truncate(kernelSize)
	initrd := make([]byte, initrdSize)
	if _, err := rand.NewChaCha8([32]byte{2}).Read(initrd); err != nil {
		panic(err)
	}
	copy(initrd, bytes.Repeat([]byte("microcode"), 30_000))
	return []artifact.Member{
		{Name: "netboot.ipxe", Content: []byte("#!ipxe\nkernel kernel initrd=initrd\ninitrd initrd\nboot\n")},
		{Name: "kernel", Content: kernel.Bytes()},
		{Name: "initrd", Content: initrd},
	}
})

func bundle(t testing.TB, files []artifact.Member) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, artifact.WriteBundle(context.Background(), &b, files, modTime, nil))
	return b.Bytes()
}

func sum(content []byte) string {
	digest := sha256.Sum256(content)
	return hex.EncodeToString(digest[:])
}

func TestSameBytesOnAnyMachine(t *testing.T) {
	t.Parallel()
	assert.Equal(t, goldenBundle, sum(bundle(t, goldenFiles())))
}

func TestSameBytesWithAnyNumberOfCores(t *testing.T) { // not parallel: it sets GOMAXPROCS
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	for _, cores := range []int{1, 2, 4, 16} {
		runtime.GOMAXPROCS(cores)
		assert.Equal(t, goldenBundle, sum(bundle(t, goldenFiles())), "%d cores", cores)
	}
}

func TestOrderAndSourceOfFilesDoNotMatter(t *testing.T) {
	t.Parallel()
	files := goldenFiles()
	dir := t.TempDir()
	for i, file := range files[1:] {
		path := filepath.Join(dir, "file of another name"+file.Name)
		require.NoError(t, os.WriteFile(path, file.Content, 0o400))
		files[i+1] = artifact.Member{Name: file.Name, File: opened(t, path)}
	}
	files[0], files[2] = files[2], files[0]
	assert.Equal(t, goldenBundle, sum(bundle(t, files)))
}

func opened(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func TestModTimeCountsInWholeSeconds(t *testing.T) {
	t.Parallel()
	files := []artifact.Member{{Name: "kernel", Content: []byte("x")}}
	var first, second, third bytes.Buffer
	at := time.Date(2026, 2, 28, 12, 0, 0, 0, time.UTC)
	require.NoError(t, artifact.WriteBundle(t.Context(), &first, files, at, nil))
	require.NoError(t, artifact.WriteBundle(t.Context(), &second, files, at.Add(900*time.Millisecond).In(time.FixedZone("", 3600)), nil))
	require.NoError(t, artifact.WriteBundle(t.Context(), &third, files, at.Add(time.Second), nil))
	assert.Equal(t, first.Bytes(), second.Bytes())
	assert.NotEqual(t, first.Bytes(), third.Bytes())
}

func TestGNUTarAndGzipReadIt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "bundle.tar.gz")
	require.NoError(t, os.WriteFile(path, bundle(t, goldenFiles()), 0o600))

	run := func(name string, args ...string) string {
		out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
		require.NoError(t, err, "%s %q: %s", name, args, out)
		return string(out)
	}
	run("gzip", "--test", path)
	listing := run("env", "TZ=UTC", "tar", "--numeric-owner", "--full-time", "-tvzf", path)
	assert.Equal(t, []string{
		"-rw-r--r-- 0/0         3146962 1970-01-01 00:00:01 initrd",
		"-rw-r--r-- 0/0         2097852 1970-01-01 00:00:01 kernel",
		"-rw-r--r-- 0/0              54 1970-01-01 00:00:01 netboot.ipxe",
	}, strings.Split(strings.TrimSpace(listing), "\n"))
	assert.Empty(t, run("tar", "-C", dir, "-xzf", path), "no warning either")
	for _, file := range goldenFiles() {
		content, err := os.ReadFile(filepath.Join(dir, file.Name))
		require.NoError(t, err)
		assert.Equal(t, sum(file.Content), sum(content), file.Name)
	}
}

func TestProgressCountsEveryByteOnce(t *testing.T) {
	t.Parallel()
	var last int64
	total := int64(kernelSize + initrdSize + scriptSize)
	err := artifact.WriteBundle(t.Context(), io.Discard, goldenFiles(), modTime, func(done, of int64) {
		assert.GreaterOrEqual(t, done, last)
		assert.Equal(t, total, of)
		last = done
	})
	require.NoError(t, err)
	assert.Equal(t, total, last)
}

func TestWriteErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, c := range map[string]struct {
		files []artifact.Member
		want  string
	}{
		"a folder in the name": {[]artifact.Member{{Name: "boot/kernel"}}, `"boot/kernel"`},
		"no name":              {[]artifact.Member{{}}, "plain file name"},
		"a name twice":         {[]artifact.Member{{Name: "initrd"}, {Name: "kernel"}, {Name: "initrd"}}, `two files for the name "initrd"`},
		"a folder":             {[]artifact.Member{{Name: "kernel", File: opened(t, dir)}}, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.ErrorContains(t, artifact.WriteBundle(t.Context(), io.Discard, c.files, modTime, nil), c.want)
		})
	}
}

func TestFileThatChangesWhileItIsRead(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int64{"longer": 9 << 20, "shorter": 5 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "initrd")
			require.NoError(t, os.WriteFile(path, make([]byte, 8<<20), 0o600))
			err := artifact.WriteBundle(t.Context(), io.Discard, []artifact.Member{{Name: "initrd", File: opened(t, path)}}, modTime, func(done, _ int64) {
				if done <= 1<<20 {
					assert.NoError(t, os.Truncate(path, size))
				}
			})
			assert.ErrorContains(t, err, "put initrd into the bundle")
		})
	}
}

// A failing writer fails every write after so many bytes, and fails the test if it is
// used after WriteBundle has returned.
type failingWriter struct {
	t    *testing.T
	left int
	err  error
	over bool
}

func (w *failingWriter) Write(p []byte) (int, error) {
	assert.False(w.t, w.over, "written to after the end")
	if w.left -= len(p); w.left < 0 {
		return 0, w.err
	}
	return len(p), nil
}

func TestWriterThatFails(t *testing.T) {
	t.Parallel()
	full := errors.New("disk full")
	whole := len(bundle(t, goldenFiles()))
	for _, left := range []int{0, 10, 1 << 20, whole - 9, whole - 1} {
		w := &failingWriter{t: t, left: left, err: full}
		err := artifact.WriteBundle(t.Context(), w, goldenFiles(), modTime, nil)
		w.over = true
		assert.ErrorIs(t, err, full, "after %d bytes", left)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	w := &failingWriter{t: t, left: 1 << 30}
	err := artifact.WriteBundle(ctx, w, goldenFiles(), modTime, func(done, _ int64) {
		if done > 2<<20 {
			cancel()
		}
	})
	w.over = true
	require.ErrorIs(t, err, context.Canceled)
	assert.Greater(t, w.left, 1<<30-4<<20, "it stopped early")
}

// BenchmarkWrite packs what a real bundle has, and hashes it as a release needs.
// Compare with BenchmarkHashAlone, the limit that hashing sets.
func BenchmarkWrite(b *testing.B) {
	files, size := benchmarkFiles(b)
	b.SetBytes(size)
	for b.Loop() {
		hash := sha256.New()
		require.NoError(b, artifact.WriteBundle(b.Context(), hash, files, modTime, nil))
	}
}

func BenchmarkHashAlone(b *testing.B) {
	files, size := benchmarkFiles(b)
	b.SetBytes(size)
	for b.Loop() {
		hash := sha256.New()
		for _, file := range files {
			hash.Write(file.Content)
		}
	}
}

func benchmarkFiles(b *testing.B) (files []artifact.Member, size int64) {
	b.Helper()
	initrd := make([]byte, 128<<20)
	_, err := rand.NewChaCha8([32]byte{}).Read(initrd)
	require.NoError(b, err)
	files = []artifact.Member{{Name: "initrd", Content: initrd}, {Name: "kernel", Content: initrd[:14<<20]}}
	return files, int64(len(files[0].Content) + len(files[1].Content))
}
