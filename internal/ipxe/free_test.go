package ipxe_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/ipxe"
)

func TestFreeImages(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"#!ipxe\nkernel kernel\n":          "#!ipxe\nimgfree\nkernel kernel\n",
		"#!gpxe\r\n:again kernel kernel\n": "#!gpxe\r\nimgfree\n:again kernel kernel\n",
		"#!ipxe \\\n a comment\nboot\n":    "#!ipxe \\\n a comment\nimgfree\nboot\n",
		"#!ipxe\n":                         "#!ipxe\nimgfree\n",
	} {
		assert.Equal(t, want, string(ipxe.FreeImages([]byte(in))), in)
	}
}

func TestScriptThatFreesImagesIsABundlesScript(t *testing.T) {
	t.Parallel()
	bundled, err := ipxe.RewriteScript([]byte(nixos), names)
	require.NoError(t, err)
	again, err := ipxe.RewriteScript(ipxe.FreeImages(bundled), nil)
	require.NoError(t, err)
	assert.Equal(t, string(ipxe.FreeImages(bundled)), string(again))
}
