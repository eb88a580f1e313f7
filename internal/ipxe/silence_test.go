package ipxe_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/ipxe"
)

func TestLimitSilence(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"#!ipxe\nkernel r/kernel init=/x initrd=initrd\r\ninitrd r/initrd\nboot\n": "#!ipxe\nkernel --timeout 30000 r/kernel init=/x initrd=initrd\r\ninitrd --timeout 30000 r/initrd\nboot\n",
		":again kernel -n linux kernel || kernel kernel":                           ":again kernel --timeout 30000 -n linux kernel || kernel --timeout 30000 kernel",
		"imgfetch kernel\nmodule initrd\n":                                         "imgfetch --timeout 30000 kernel\nmodule --timeout 30000 initrd\n",
		"kernel --timeout 5 kernel\ninitrd -t 5 initrd\n":                          "kernel --timeout 5 kernel\ninitrd -t 5 initrd\n",
		"# kernel kernel\nkernel\necho kernel kernel\nboot kernel\n":               "# kernel kernel\nkernel\necho kernel kernel\nboot kernel\n",
	} {
		assert.Equal(t, want, string(ipxe.LimitSilence([]byte(in), 30*time.Second)), in)
	}
}

func TestScriptWithLimitsIsABundlesScript(t *testing.T) {
	t.Parallel()
	bundled, err := ipxe.RewriteScript([]byte(nixos), names)
	require.NoError(t, err)
	limited := ipxe.LimitSilence(bundled, time.Second)
	again, err := ipxe.RewriteScript(limited, nil)
	require.NoError(t, err)
	assert.Equal(t, string(limited), string(again))
}
