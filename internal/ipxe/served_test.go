package ipxe_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"

	"every.channel/runner-images/internal/ipxe"
)

// FuzzServed does to a release's script what a boot server does before it serves it. A
// script stays one, whose first line is its mark, and no line of it is lost.
func FuzzServed(f *testing.F) {
	for _, seed := range []string{
		nixos,
		"#!ipxe\r\nkernel ${base}/kernel \\\r\n initrd=initrd\r\ninitrd --name initrd http://h/initrd\r\nboot\r\n",
		"#!ipxe\n:a isset ${x} && kernel kernel || kernel other ; boot linux # kernel x\ninitrd initrd\n",
		"#!ipxe",
		"#!gpxe\nkernel kernel",
		"#!ipxe\nimgfree\nimgfree kernel\nchain netboot.ipxe\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if _, err := ipxe.RewriteScript(script, nil); err != nil {
			return // is in no bundle
		}
		mark, _, _ := bytes.Cut(script, []byte("\n"))
		for name, changed := range map[string][]byte{
			"free images": ipxe.FreeImages(script), "parameter": ipxe.AddParameter(script, "x=1"), "bind": ipxe.Bind(script, inFolder),
		} {
			assert.True(t, bytes.HasPrefix(changed, mark), "%s: %q", name, changed)
			assert.GreaterOrEqual(t, bytes.Count(changed, []byte("\n")), bytes.Count(script, []byte("\n")), "%s: %q", name, changed)
			assert.GreaterOrEqual(t, len(changed), len(script), name)
		}
	})
}
