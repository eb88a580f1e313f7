package chain_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"every.channel/runner-images/internal/netboot/chain"
	"every.channel/runner-images/internal/netboot/state"
)

func TestArchitecture(t *testing.T) {
	t.Parallel()
	for buildarch, want := range map[string]state.Architecture{
		"": state.X86_64, "i386": state.X86_64, "x86_64": state.X86_64, "arm64": state.AArch64, "aarch64": state.AArch64,
	} {
		got, err := chain.Architecture(buildarch)
		assert.NoError(t, err)
		assert.Equal(t, want, got)
	}
	_, err := chain.Architecture("riscv64")
	assert.ErrorContains(t, err, `there are no releases for "riscv64"; want x86_64 or arm64`)
}

func TestScripts(t *testing.T) {
	t.Parallel()
	const identity = "?mac=${netX/mac:hexhyp}&arch=${buildarch}&platform=${platform} ||\n"
	chains := "chain --autofree http://boot.example/netboot.ipxe" + identity + "chain --autofree http://10.20.30.2/netboot.ipxe" + identity
	want := chains + "echo Trying again in 5 seconds\nsleep 5\nimgfree\n" + chains + "echo The boot server does not answer\nsleep 5\nexit 1\n"
	addresses := []string{"http://boot.example/netboot.ipxe", "http://10.20.30.2/netboot.ipxe"}
	assert.Equal(t, "#!ipxe\nimgfree\n"+want, string(chain.Second(addresses...)))
	assert.Equal(t, "#!ipxe\nimgfree\ndhcp || dhcp || exit 1\n"+want, string(chain.Autoexec(addresses...)))
}
