package ipxe_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/ipxe"
)

// inFolder returns the addresses of files in r/1.
func inFolder(name string) string { return "r/1/" + name }

func TestBind(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want string }{
		"a script of NixOS":      {"#!ipxe\nkernel kernel init=/nix/store/x/init initrd=initrd ${cmdline}\ninitrd initrd\nboot\n", "#!ipxe\nkernel r/1/kernel init=/nix/store/x/init initrd=initrd ${cmdline}\ninitrd r/1/initrd\nboot\n"},
		"options and ./":         {"kernel -t 5 --name=linux -- ./kernel\r\ninitrd -ninitrd ./initrd\r\n", "kernel -t 5 --name=linux -- r/1/kernel\r\ninitrd -ninitrd r/1/initrd\r\n"},
		"an image that is there": {"imgfetch kernel\nimgargs kernel initrd=initrd\ninitrd initrd\nboot kernel\n", "imgfetch r/1/kernel\nimgargs kernel initrd=initrd\ninitrd r/1/initrd\nboot kernel\n"},
		"an image by its name":   {"kernel --name initrd kernel\nboot initrd\n", "kernel --name initrd r/1/kernel\nboot initrd\n"},
		"straight to boot":       {"initrd initrd\nboot kernel initrd=initrd\n", "initrd r/1/initrd\nboot r/1/kernel initrd=initrd\n"},
		"a second try":           {":again kernel kernel || kernel kernel || goto again\n", ":again kernel r/1/kernel || kernel r/1/kernel || goto again\n"},
		"all else":               {"# kernel kernel\necho kernel kernel\nchain netboot.ipxe\nset kernel kernel\nkernel http://x/kernel\nkernel\n", "# kernel kernel\necho kernel kernel\nchain netboot.ipxe\nset kernel kernel\nkernel http://x/kernel\nkernel\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, string(ipxe.Bind([]byte(c.in), inFolder)))
		})
	}
}

func TestBoundScriptIsABundlesScript(t *testing.T) {
	t.Parallel()
	bundled, err := ipxe.RewriteScript([]byte(nixos), names)
	require.NoError(t, err)
	again, err := ipxe.RewriteScript(ipxe.Bind(bundled, inFolder), nil)
	require.NoError(t, err)
	assert.Equal(t, string(bundled), string(again))
}
