package count_test

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/count"
)

func TestReader(t *testing.T) {
	t.Parallel()
	var told []int64
	reader := count.Reader(iotest.OneByteReader(strings.NewReader("iso")), func(read int64) { told = append(told, read) })
	content, err := io.ReadAll(reader)
	require.NoError(t, err)
	assert.Equal(t, "iso", string(content))
	assert.Equal(t, []int64{1, 2, 3}, told)

	told = nil
	_, err = io.ReadAll(count.Reader(iotest.TimeoutReader(iotest.HalfReader(strings.NewReader("iso"))), func(read int64) { told = append(told, read) }))
	require.ErrorIs(t, err, iotest.ErrTimeout)
	assert.Equal(t, int64(3), told[len(told)-1], "what was read before an error counts")
}
