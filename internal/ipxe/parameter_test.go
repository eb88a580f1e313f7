package ipxe_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"every.channel/runner-images/internal/ipxe"
)

func TestAddParameter(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"#!ipxe\nkernel r/kernel init=/x initrd=initrd\r\ninitrd initrd\nboot\n": "#!ipxe\nkernel r/kernel a.b=c init=/x initrd=initrd\r\ninitrd initrd\nboot\n",
		"kernel --name linux kernel || kernel kernel":                            "kernel --name linux kernel a.b=c || kernel kernel a.b=c",
		"kernel\\\n kernel\n":                           "kernel\\\n kernel a.b=c\n",
		"# kernel kernel\nkernel\necho kernel kernel\n": "# kernel kernel\nkernel\necho kernel kernel\n",
		"": "",
	} {
		assert.Equal(t, want, string(ipxe.AddParameter([]byte(in), "a.b=c")), in)
	}
}
