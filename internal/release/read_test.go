package release_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/release"
)

func TestReadOn(t *testing.T) {
	t.Parallel()
	all, broken := bytes.Repeat([]byte("release"), 1000), errors.New("connection reset")
	// opens gives so many bytes, and then breaks.
	opens := func(bytesOf func(open int) int64) (func(offset int64) (io.ReadCloser, error), *int) {
		opened := 0
		return func(offset int64) (io.ReadCloser, error) {
			opened++
			rest := io.LimitReader(bytes.NewReader(all[offset:]), bytesOf(opened))
			if int64(len(all))-offset <= bytesOf(opened) {
				return io.NopCloser(rest), nil
			}
			return io.NopCloser(io.MultiReader(rest, iotest.ErrReader(broken))), nil
		}, &opened
	}

	open, opened := opens(func(int) int64 { return 3000 })
	content, err := release.ReadOn(t.Context(), open)
	require.NoError(t, err)
	got, err := io.ReadAll(content)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(all, got))
	assert.Equal(t, 3, *opened)
	require.NoError(t, content.Close())

	open, opened = opens(func(open int) int64 { return map[int]int64{1: 10}[open] }) // and nothing later
	content, err = release.ReadOn(t.Context(), open)
	require.NoError(t, err)
	got, err = io.ReadAll(content)
	require.ErrorIs(t, err, broken)
	assert.Len(t, got, 10)
	assert.Equal(t, 3, *opened)

	_, err = release.ReadOn(t.Context(), func(int64) (io.ReadCloser, error) { return nil, broken })
	require.ErrorIs(t, err, broken)
}
