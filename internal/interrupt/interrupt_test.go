package interrupt_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/interrupt"
)

func TestReaderReadsItAll(t *testing.T) {
	t.Parallel()
	const content = "kernel, initrd and netboot.ipxe"
	require.NoError(t, iotest.TestReader(interrupt.Reader(t.Context(), strings.NewReader(content)), []byte(content)))
}

func TestReaderEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	source := interrupt.Reader(ctx, iotest.OneByteReader(strings.NewReader("initrd")))
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
