package transfer_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/transfer"
)

func TestWithContextReadsAll(t *testing.T) {
	t.Parallel()
	const content = "kernel, initrd and netboot.ipxe"
	require.NoError(t, iotest.TestReader(transfer.WithContext(t.Context(), strings.NewReader(content)), []byte(content)))
}

func TestWithContextEndsWithTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	source := transfer.WithContext(ctx, iotest.OneByteReader(strings.NewReader("initrd")))
	first := make([]byte, 4)
	n, err := source.Read(first)
	require.NoError(t, err)
	assert.Equal(t, "i", string(first[:n]))

	why := errors.New("the job was cancelled")
	cancel(why)
	rest, err := io.ReadAll(source)
	require.ErrorIs(t, err, why)
	assert.Empty(t, rest)
}

func TestWithProgress(t *testing.T) {
	t.Parallel()
	var progress []int64
	reader := transfer.WithProgress(iotest.OneByteReader(strings.NewReader("iso")), func(read int64) { progress = append(progress, read) })
	content, err := io.ReadAll(reader)
	require.NoError(t, err)
	assert.Equal(t, "iso", string(content))
	assert.Equal(t, []int64{1, 2, 3}, progress)

	progress = nil
	_, err = io.ReadAll(transfer.WithProgress(iotest.TimeoutReader(iotest.HalfReader(strings.NewReader("iso"))), func(read int64) { progress = append(progress, read) }))
	require.ErrorIs(t, err, iotest.ErrTimeout)
	assert.Equal(t, int64(3), progress[len(progress)-1], "what was read before an error counts")
}
