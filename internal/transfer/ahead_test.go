package transfer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/transfer"
)

func random(size int) []byte {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	return content
}

// Reading in pieces, a byte at a time, and by WriteTo give the same, and all of it is
// hashed, whatever the sizes of blocks and of reads are.
func TestReadAheadGivesAndHashesAllOfIt(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 256<<10 - 1, 256 << 10, 256<<10 + 1, 5<<20 + 17} {
		content := random(size)
		for name, read := range map[string]func(io.Reader) ([]byte, error){
			"Read": func(r io.Reader) ([]byte, error) { return io.ReadAll(struct{ io.Reader }{r}) },
			"WriteTo": func(r io.Reader) ([]byte, error) {
				var all bytes.Buffer
				_, err := io.Copy(struct{ io.Writer }{&all}, r)
				return all.Bytes(), err
			},
			"ReadByte, then WriteTo": func(r io.Reader) ([]byte, error) {
				var all bytes.Buffer
				first, err := r.(io.ByteReader).ReadByte()
				if size == 0 {
					require.Equal(t, io.EOF, err)
					return nil, nil
				}
				all.WriteByte(first)
				_, err = io.Copy(&all, r)
				return all.Bytes(), err
			},
		} {
			for _, source := range []io.Reader{bytes.NewReader(content), iotest.HalfReader(bytes.NewReader(content)), iotest.DataErrReader(bytes.NewReader(content))} {
				hash := sha256.New()
				err := transfer.ReadAhead(source, hash, func(r io.Reader) error {
					got, err := read(r)
					assert.True(t, bytes.Equal(content, got), "%s of %d bytes", name, size)
					return err
				})
				require.NoError(t, err)
				want := sha256.Sum256(content)
				assert.Equal(t, want[:], hash.Sum(nil), "%s of %d bytes", name, size)
			}
		}
	}
}

// An error comes after what was read before it, as it is, and only io.EOF itself is the
// end: a download that was cut short may wrap it.
func TestReadAheadReportsErrorsOfTheSource(t *testing.T) {
	t.Parallel()
	content := random(1<<20 + 17)
	for _, broken := range []error{errors.New("the cable is cut"), fmt.Errorf("the connection is closed: %w", io.EOF), io.ErrUnexpectedEOF} {
		hash := sha256.New()
		source := io.MultiReader(bytes.NewReader(content), iotest.ErrReader(broken))
		err := transfer.ReadAhead(source, hash, func(r io.Reader) error {
			var got bytes.Buffer
			_, err := io.Copy(&got, r)
			assert.True(t, bytes.Equal(content, got.Bytes()))
			_, again := r.Read(make([]byte, 1))
			assert.Equal(t, broken, again, "it stays")
			return err
		})
		require.Equal(t, broken, err)
		want := sha256.Sum256(content)
		assert.Equal(t, want[:], hash.Sum(nil))
	}
}

// endless is a source that counts what is read of it.
type endless struct{ reads, running atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.running.Add(1)
	defer e.running.Add(-1)
	e.reads.Add(1)
	return len(p), nil
}

// guarded is a hash that tells whether it is being used.
type guarded struct {
	hash.Hash
	writes, running atomic.Int64
}

func (g *guarded) Write(p []byte) (int, error) {
	g.running.Add(1)
	defer g.running.Add(-1)
	g.writes.Add(1)
	return g.Hash.Write(p)
}

// Whoever stops in the middle gets their own error; then nothing reads or hashes any
// more, and what was read ahead is bounded.
func TestReadAheadEndsWithItsUser(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left")
	var source endless
	sum := guarded{Hash: sha256.New()}
	err := transfer.ReadAhead(&source, &sum, func(r io.Reader) error {
		_, err := io.CopyN(io.Discard, r, 10)
		require.NoError(t, err)
		return full
	})
	require.Equal(t, full, err)
	assert.Zero(t, source.running.Load()+sum.running.Load())
	reads, writes := source.reads.Load(), sum.writes.Load()
	assert.LessOrEqual(t, reads, int64(8), "blocks of memory")
	assert.LessOrEqual(t, writes, reads)

	// A reader that is kept beyond the call says so, and does not wait.
	var kept io.Reader
	require.NoError(t, transfer.ReadAhead(&source, nil, func(r io.Reader) error { kept = r; return nil }))
	_, err = io.Copy(io.Discard, kept)
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

func TestReadAheadEndsWithTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the job was cancelled")
	var source endless
	err := transfer.ReadAhead(transfer.WithContext(ctx, &source), nil, func(r io.Reader) error {
		_, err := io.CopyN(io.Discard, r, 3<<20)
		require.NoError(t, err)
		cancel(why)
		_, err = io.Copy(io.Discard, r)
		return err
	})
	require.ErrorIs(t, err, why)
	assert.Zero(t, source.running.Load())
}
