package serve

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The HTTP server closes its listener as well, if it is told to stop before it has seen
// that there is nothing more to accept. That is no failure of the boot server.
func TestGuardIsClosedTwice(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g, err := newGuard(listener, nil, nil)
	require.NoError(t, err)
	require.NoError(t, g.Close())
	assert.NoError(t, g.Close())
	_, err = g.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)
}
