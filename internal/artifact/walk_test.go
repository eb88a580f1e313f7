package artifact_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
)

// contents walks a bundle and returns what it holds.
func contents(input []byte, limits artifact.Limits) (map[string]string, error) {
	files := map[string]string{}
	err := artifact.WalkBundle(context.Background(), bytes.NewReader(input), limits, func(entry artifact.Entry, content io.Reader) error {
		b, err := io.ReadAll(content)
		files[entry.Name] = string(b)
		if err == nil && int64(len(b)) != entry.Size {
			return errors.New("a content of another size than the entry's")
		}
		return err
	})
	return files, err
}

// tarball makes an archive as another program, or an attacker, might.
func tarball(headers ...tar.Header) []byte {
	var b bytes.Buffer
	compressed := gzip.NewWriter(&b)
	w := tar.NewWriter(compressed)
	for _, header := range headers {
		if header.Typeflag == 0 {
			header.Typeflag = tar.TypeReg
		}
		if err := errors.Join(w.WriteHeader(&header), second(w.Write(bytes.Repeat([]byte("x"), int(header.Size))))); err != nil {
			panic(err)
		}
	}
	if err := errors.Join(w.Close(), compressed.Close()); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func second(_ int, err error) error { return err }

func gzipped(content []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if err := errors.Join(second(w.Write(content)), w.Close()); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func gunzipped(t *testing.T, content []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(content))
	require.NoError(t, err)
	plain, err := io.ReadAll(r)
	require.NoError(t, err)
	return plain
}

func TestWalkReadsWhatWriteWrote(t *testing.T) {
	t.Parallel()
	got, err := contents(bundle(t, goldenFiles()), artifact.Limits{})
	require.NoError(t, err)
	require.Len(t, got, 3)
	for _, file := range goldenFiles() {
		assert.Equal(t, sum(file.Content), sum([]byte(got[file.Name])), file.Name)
	}

	got, err = contents(bundle(t, nil), artifact.Limits{})
	require.NoError(t, err)
	assert.Empty(t, got)
}

func TestWalkReadsWhatGNUTarWrote(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := map[string]string{"kernel": "k", "initrd": "i", "netboot.ipxe": "#!ipxe\n"}
	for name, content := range want {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	for name, args := range map[string][]string{
		"names":            {"kernel", "initrd", "netboot.ipxe"},
		"folder":           {"."},
		"GNU format":       {"--format=gnu", "."},
		"pax":              {"--format=pax", "."},
		"old v7 format":    {"--format=v7", "kernel", "initrd", "netboot.ipxe"},
		"large block size": {"--blocking-factor=128", "."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "bundle.tar.gz")
			out, err := exec.CommandContext(t.Context(), "tar", append([]string{"-C", dir, "-czf", path}, args...)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			packed, err := os.ReadFile(path)
			require.NoError(t, err)
			got, err := contents(packed, artifact.Limits{})
			require.NoError(t, err)
			assert.Equal(t, want, got)
		})
	}
}

// TestWalkReadsSparseFiles reads what tar makes of a file with holes, in all of its
// formats for that.
func TestWalkReadsSparseFiles(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, "kernel")
	file, err := os.Create(path)
	require.NoError(t, err)
	for _, at := range []int64{0, 1 << 20, 3 << 20} {
		_, err := file.WriteAt([]byte("data"), at)
		require.NoError(t, err)
	}
	require.NoError(t, errors.Join(file.Truncate(5<<20), file.Close()))
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, format := range [][]string{{"--format=gnu"}, {"--format=oldgnu"}, {"--sparse-version=0.0"}, {"--sparse-version=0.1"}, {"--sparse-version=1.0"}} {
		options := append([]string{"--create", "--gzip", "--sparse"}, format...)
		made, err := exec.CommandContext(t.Context(), "tar", append(options, "-C", folder, "kernel")...).Output()
		require.NoError(t, err)
		require.Less(t, len(gunzipped(t, made)), 1<<20, "%s: not sparse", format)
		got, err := contents(made, artifact.Limits{})
		require.NoError(t, err, format)
		assert.Len(t, got, 1)
		assert.True(t, string(want) == got["kernel"], "%s: other bytes", format)
		_, err = contents(made, artifact.Limits{Files: 1, FileSize: 4 << 20, TotalSize: 8 << 20})
		require.ErrorContains(t, err, "has 5242880 bytes, more than the 4194304 allowed", format)
	}
}

func TestWalkRefuses(t *testing.T) {
	t.Parallel()
	limits := artifact.Limits{Files: 3, FileSize: 100, TotalSize: 150}
	many := make([]tar.Header, 20_000) // of a folder that is passed over, 10 MB of them
	for i := range many {
		many[i] = tar.Header{Name: "./", Typeflag: tar.TypeDir}
	}
	whole := tarball(tar.Header{Name: "kernel", Size: 10})
	for name, c := range map[string]struct {
		input []byte
		want  string
	}{
		"a symlink":              {tarball(tar.Header{Name: "kernel", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}), `"kernel" is not a regular file but a symbolic link`},
		"a hard link":            {tarball(tar.Header{Name: "kernel", Typeflag: tar.TypeLink, Linkname: "initrd"}), "not a regular file but a hard link"},
		"a device":               {tarball(tar.Header{Name: "kernel", Typeflag: tar.TypeBlock}), "not a regular file but a device"},
		"a pipe":                 {tarball(tar.Header{Name: "kernel", Typeflag: tar.TypeFifo}), "not a regular file but a pipe"},
		"a folder":               {tarball(tar.Header{Name: "boot/", Typeflag: tar.TypeDir}), "not a regular file but a folder"},
		"a file in a folder":     {tarball(tar.Header{Name: "boot/kernel"}), "plain file name"},
		"an absolute name":       {tarball(tar.Header{Name: "/kernel"}), "plain file name"},
		"a way out":              {tarball(tar.Header{Name: "../kernel"}), "plain file name"},
		"a hidden way out":       {tarball(tar.Header{Name: "./../kernel"}), "plain file name"},
		"a backslash":            {tarball(tar.Header{Name: `..\kernel`}), "plain file name"},
		"the folder as a file":   {tarball(tar.Header{Name: "./."}), "plain file name"},
		"a control character":    {tarball(tar.Header{Name: "ker\nnel"}), "plain file name"},
		"the same name twice":    {tarball(tar.Header{Name: "kernel"}, tar.Header{Name: "./kernel"}), `"kernel" occurs twice`},
		"too many files":         {tarball(tar.Header{Name: "a"}, tar.Header{Name: "b"}, tar.Header{Name: "c"}, tar.Header{Name: "d"}), "more than 3 files"},
		"too large a file":       {tarball(tar.Header{Name: "initrd", Size: 101}), "initrd has 101 bytes, more than the 100 allowed"},
		"too much together":      {tarball(tar.Header{Name: "initrd", Size: 80}, tar.Header{Name: "kernel", Size: 80}), "more than 150 bytes"},
		"headers without end":    {tarball(many...), "unpacks to more than the limit"},
		"an empty file":          {nil, "not a whole .tar.gz: unexpected EOF"},
		"no gzip":                {[]byte("<html>404 not found</html>"), "not a whole .tar.gz"},
		"no tar":                 {gzipped(bytes.Repeat([]byte("no tar "), 1000)), "not a whole .tar.gz"},
		"more files behind it":   {append(bytes.Clone(whole), gzipped([]byte("more"))...), "data follows its end"},
		"zeros without end":      {append(bytes.Clone(whole), gzipped(make([]byte, 2<<20))...), "unpacks to more than the limit"},
		"junk behind the stream": {append(bytes.Clone(whole), "junk behind it"...), "not a whole .tar.gz"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := contents(c.input, limits)
			assert.ErrorContains(t, err, c.want)
		})
	}
	_, err := contents(tarball(tar.Header{Name: "initrd", Size: 100}, tar.Header{Name: "kernel", Size: 50}), limits)
	assert.NoError(t, err, "the limits themselves are allowed")
}

func TestWalkFindsEveryTruncation(t *testing.T) {
	t.Parallel()
	whole := bundle(t, []artifact.Member{{Name: "initrd", Content: bytes.Repeat([]byte("i"), 700)}, {Name: "kernel", Content: []byte("k")}})
	for length := range whole {
		_, err := contents(whole[:length], artifact.Limits{})
		assert.Error(t, err, "cut to %d of %d bytes", length, len(whole))
	}
	plain := gunzipped(t, whole)
	for _, length := range []int{100, 600, 1000, 1600} {
		_, err := contents(gzipped(plain[:length]), artifact.Limits{})
		assert.Error(t, err, "tar cut to %d of %d bytes", length, len(plain))
	}
}

// A reader may wrap the io.EOF of a connection that ended too early.
func TestWalkFindsAWrappedEnd(t *testing.T) {
	t.Parallel()
	whole := bundle(t, []artifact.Member{{Name: "initrd", Content: bytes.Repeat([]byte("i"), 700)}})
	var compressed bytes.Buffer
	w, err := gzip.NewWriterLevel(&compressed, gzip.NoCompression)
	require.NoError(t, err)
	_, err = w.Write(gunzipped(t, whole)[:512+700+324]) // a header, and the content in whole blocks
	require.NoError(t, err)
	require.NoError(t, w.Flush())
	for _, cut := range []int{0, 5, compressed.Len() - 400, compressed.Len()} {
		source := io.MultiReader(bytes.NewReader(compressed.Bytes()[:cut]), iotest.ErrReader(fmt.Errorf("the connection is closed: %w", io.EOF)))
		err := artifact.WalkBundle(t.Context(), source, artifact.Limits{}, func(_ artifact.Entry, content io.Reader) error {
			_, err := io.Copy(io.Discard, content)
			return err
		})
		require.Error(t, err, "cut to %d of %d bytes", cut, compressed.Len())
	}
}

func TestWalkFindsDamage(t *testing.T) {
	t.Parallel()
	whole := bundle(t, []artifact.Member{{Name: "initrd", Content: []byte("some content")}})
	damaged := bytes.Clone(whole)
	damaged[len(damaged)-6] ^= 1 // in the gzip checksum
	_, err := contents(damaged, artifact.Limits{})
	assert.ErrorContains(t, err, "not a whole .tar.gz: gzip: invalid checksum")
}

func TestWalkStops(t *testing.T) {
	t.Parallel()
	input := bundle(t, goldenFiles())
	ctx, cancel := context.WithCancel(t.Context())
	err := artifact.WalkBundle(ctx, bytes.NewReader(input), artifact.Limits{}, func(_ artifact.Entry, content io.Reader) error {
		cancel()
		_, err := io.Copy(io.Discard, content)
		return err
	})
	require.ErrorIs(t, err, context.Canceled)

	stop := errors.New("stop")
	err = artifact.WalkBundle(t.Context(), bytes.NewReader(input), artifact.Limits{}, func(artifact.Entry, io.Reader) error { return stop })
	assert.Equal(t, stop, err, "unchanged")

	visited := 0
	err = artifact.WalkBundle(t.Context(), bytes.NewReader(input), artifact.Limits{}, func(artifact.Entry, io.Reader) error {
		visited++
		return nil
	})
	require.NoError(t, err, "a visitor need not read")
	assert.Equal(t, 3, visited)
}

func FuzzWalk(f *testing.F) {
	f.Add(bundle(f, []artifact.Member{{Name: "initrd", Content: []byte("i")}, {Name: "kernel", Content: make([]byte, 2000)}}))
	f.Add(tarball(tar.Header{Name: "./", Typeflag: tar.TypeDir}, tar.Header{Name: "./kernel", Size: 3}))
	f.Add(tarball(tar.Header{Name: "kernel", Typeflag: tar.TypeSymlink, Linkname: "/"}))
	f.Add(tarball(tar.Header{Name: "kernel", Size: 3, Format: tar.FormatPAX, PAXRecords: map[string]string{"A.b": "c"}}))
	f.Add(tarball(tar.Header{Name: "kernel", Size: 3, Format: tar.FormatGNU}))
	holes := filepath.Join(f.TempDir(), "kernel")
	require.NoError(f, errors.Join(os.WriteFile(holes, []byte("data"), 0o600), os.Truncate(holes, 1<<15)))
	for _, format := range []string{"gnu", "pax"} {
		sparse, err := exec.Command("tar", "--create", "--sparse", "--format="+format, "-C", filepath.Dir(holes), "kernel").Output()
		require.NoError(f, err)
		f.Add(sparse)
	}
	f.Add(gzipped([]byte("no tar")))
	f.Add([]byte{0x1f, 0x8b})
	limits := artifact.Limits{Files: 4, FileSize: 1 << 16, TotalSize: 1 << 17}
	f.Fuzz(func(t *testing.T, input []byte) {
		// Most mutations of a compressed stream only break its checksum: what a
		// fuzzer finds inside is reached by compressing its input too.
		for _, input := range [][]byte{input, gzipped(input)} {
			files, err := contents(input, limits)
			total := 0
			for name, content := range files {
				assert.Equal(t, name, filepath.Base(name))
				assert.NotContains(t, []string{".", ".."}, name)
				assert.LessOrEqual(t, len(content), 1<<16)
				total += len(content)
			}
			assert.LessOrEqual(t, len(files), 4)
			assert.LessOrEqual(t, total, 1<<17)
			if err != nil {
				continue
			}
			var again []artifact.Member
			for name, content := range files {
				again = append(again, artifact.Member{Name: name, Content: []byte(content)})
			}
			got, err := contents(bundle(t, again), limits)
			require.NoError(t, err)
			assert.Equal(t, files, got)
		}
	})
}
