package boottftp

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// TestSecondWithin is about a machine that is switched on again a while later.
func TestSecondWithin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := requests{sent: map[request]time.Time{}}
		first := request{netip.MustParseAddr("10.20.30.100"), "ipxe.efi"}
		r.completed(first)
		time.Sleep(time.Minute)
		assert.True(t, r.second(first))
		time.Sleep(time.Second)
		assert.False(t, r.second(first))
		r.completed(request{first.client, "other.efi"})
		assert.Len(t, r.sent, 1, "what is over is forgotten")
	})
}
