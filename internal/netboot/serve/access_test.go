package serve

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNetworks(t *testing.T) {
	t.Parallel()
	allowed, err := parseNetworks([]string{"10.20.30.7/24", "192.0.2.1", "fd77::/64"})
	require.NoError(t, err)
	for address, want := range map[string]bool{
		"10.20.30.1":        true,
		"::ffff:10.20.30.1": true, // as a socket for both IPv4 and IPv6 has it
		"10.20.31.1":        false,
		"192.0.2.1":         true,
		"192.0.2.2":         false,
		"fd77::1":           true,
		"fd77::1%eth0":      true,
		"fd78::1":           false,
	} {
		assert.Equal(t, want, allowed.allow(netip.MustParseAddr(address)), address)
	}
	assert.False(t, allowed.allow(netip.Addr{}))
	assert.True(t, networks(nil).allow(netip.MustParseAddr("192.0.2.2")))

	for _, wrong := range []string{"", "10.20.30.0/33", "10.20.30", "the LAN"} {
		_, err := parseNetworks([]string{wrong})
		assert.ErrorContains(t, err, fmt.Sprintf("%q is no network; use for example 10.20.30.0/24", wrong))
	}
}

func TestChainTokenOfAFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(path, []byte("aB3._~-\n"), 0o600))
	token, err := readToken(path)
	require.NoError(t, err)
	assert.True(t, token.isSet())
	assert.Equal(t, "/aB3._~-/", token.path())
	assert.True(t, token.matches("aB3._~-"))
	for _, other := range []string{"", "aB3._~", "aB3._~-x", "ab3._~-"} {
		assert.False(t, token.matches(other), other)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "token", token)
	for _, shown := range []string{log.String(), fmt.Sprint(token), fmt.Sprintf("%+v %#v %s", token, token, &token)} {
		assert.NotContains(t, shown, "aB3")
		assert.Contains(t, shown, "hidden")
	}

	var none chainToken
	assert.False(t, none.isSet())
	assert.False(t, none.matches(""))
	assert.Equal(t, "/", none.path())
}

func TestTokenThatCannotBe(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		" \n":                   "is empty; put in for example the output of: openssl rand -hex 16",
		"..":                    "has only dots",
		"a/b":                   "has a character that needs escaping",
		"s3cret word":           "has a character that needs escaping",
		"s3cret\u00e9":          "has a character that needs escaping",
		strings.Repeat("a", 65): "is longer than 64 characters",
	} {
		_, err := parseToken(text)
		require.ErrorContains(t, err, want)
		assert.NotContains(t, err.Error(), "s3cret")
	}
	_, err := readToken(filepath.Join(t.TempDir(), "absent"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}
