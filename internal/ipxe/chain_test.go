package ipxe_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"every.channel/runner-images/internal/ipxe"
)

func TestChain(t *testing.T) {
	t.Parallel()
	const identity = "?mac=${netX/mac:hexhyp}&arch=${buildarch}&platform=${platform} ||\n"
	chains := "chain --autofree http://boot.example/netboot.ipxe" + identity + "chain --autofree http://10.20.30.2/netboot.ipxe" + identity
	want := chains + "echo Trying again in 5 seconds\nsleep 5\nimgfree\n" + chains + "echo The boot server does not answer\nsleep 5\nexit 1\n"
	addresses := []string{"http://boot.example/netboot.ipxe", "http://10.20.30.2/netboot.ipxe"}
	assert.Equal(t, "#!ipxe\nimgfree\n"+want, string(ipxe.Chain(addresses...)))
	assert.Equal(t, "#!ipxe\nimgfree\ndhcp || dhcp || exit 1\n"+want, string(ipxe.Autoexec(addresses...)))
}
