package machine_test

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/machine"
)

func TestMAC(t *testing.T) {
	t.Parallel()
	mac, err := machine.ParseMAC("00:1a:2b:3c:4d:5e")
	require.NoError(t, err)
	assert.True(t, mac.IsValid())
	assert.Equal(t, "00:1a:2b:3c:4d:5e", mac.String())
	assert.Equal(t, "00-1a-2b-3c-4d-5e", mac.Hyphenated())
	for _, written := range []string{"00:1A:2b:3c:4d:5E", "00-1a-2B-3c-4d-5e", "001a2b3c4d5e", "001A2B3C4D5E", mac.Hyphenated()} {
		same, err := machine.ParseMAC(written)
		require.NoError(t, err)
		assert.Equal(t, mac, same)
	}
	sent, ok := machine.MACFrom(net.HardwareAddr{0, 0x1a, 0x2b, 0x3c, 0x4d, 0x5e})
	assert.True(t, ok)
	assert.Equal(t, mac, sent)

	for _, wrong := range []string{"", "00:1a:2b:3c:4d", "001a.2b3c.4d5e", "02:00:5e:10:00:00:00:01", "00:1a:2b:3c:4d:5g"} {
		_, err := machine.ParseMAC(wrong)
		assert.ErrorContains(t, err, "is no MAC address; write it like 00:11:22:aa:bb:cc", wrong)
	}
	_, ok = machine.MACFrom(make(net.HardwareAddr, 8))
	assert.False(t, ok, "InfiniBand")
}

// What iPXE sends of a card, by the type that a script asks for.
func TestSentMAC(t *testing.T) {
	t.Parallel()
	want, err := machine.ParseMAC("52:54:00:fb:ef:be")
	require.NoError(t, err)
	for setting, sent := range map[string]string{
		"${mac}": "52:54:00:fb:ef:be", "${mac:hexhyp}": "52-54-00-fb-ef-be", "${mac:hexraw}": "525400fbefbe",
		"${mac:base64}": "UlQA++++", "${mac:base64} in a query": "UlQA    ",
	} {
		got, err := machine.ParseSentMAC(sent)
		require.NoError(t, err, setting)
		assert.Equal(t, want, got, setting)
	}
	for _, none := range []string{"", "02:00:5e:10:00:00:00:01", "02-00-5e-10-00-00-00-01", strings.Repeat("0a", 20)} {
		got, err := machine.ParseSentMAC(none)
		require.NoError(t, err, none)
		assert.False(t, got.IsValid(), none)
	}
	for _, sent := range []string{"00:1a:2b:3c:4d:5e\r", " 001a2b3c4d5e\t", "\x00\x1a\x2b\x3c\x4d\x5e"} {
		got, err := machine.ParseSentMAC(sent)
		require.NoError(t, err, "%q", sent)
		assert.Equal(t, "00:1a:2b:3c:4d:5e", got.String(), "%q", sent)
	}
	for _, wrong := range []string{"12:34\r", "foobar", "\x00\x1a", "01-00-1a-2b-3c-4d-5e", "x", "00:1a:2b:3c:4d", "001a.2b3c.4d5e", "${net0/mac}", "00:1a:2b:3c:4d:5g", "0123456789abcdef0", "AAAA"} {
		_, err := machine.ParseSentMAC(wrong)
		assert.ErrorContains(t, err, "is no MAC address", wrong)
	}
}

func TestNoMAC(t *testing.T) {
	t.Parallel()
	zero, err := machine.ParseMAC("00:00:00:00:00:00")
	require.NoError(t, err)
	one, err := machine.ParseMAC("00:00:00:00:00:01")
	require.NoError(t, err)
	var none machine.MAC
	assert.NotEqual(t, zero, none)
	assert.False(t, none.IsValid())
	assert.Empty(t, none.String())
	assert.Empty(t, none.Hyphenated())
	sorted := []machine.MAC{one, none, zero, none}
	slices.SortFunc(sorted, machine.MAC.Compare)
	assert.Equal(t, []machine.MAC{none, none, zero, one}, sorted)
}

func TestArchitecture(t *testing.T) {
	t.Parallel()
	for buildarch, want := range map[string]machine.Architecture{
		"": machine.X86_64, "i386": machine.X86_64, "x86_64": machine.X86_64, "arm64": machine.AArch64, "aarch64": machine.AArch64,
		"arm64\r": machine.AArch64,
	} {
		got, err := machine.ParseBuildarch(buildarch)
		assert.NoError(t, err)
		assert.Equal(t, want, got)
	}
	_, err := machine.ParseBuildarch("riscv64")
	assert.ErrorContains(t, err, `there are no releases for "riscv64"; want x86_64 or arm64`)
}

func TestFirmware(t *testing.T) {
	t.Parallel()
	for platform, want := range map[string]string{"pcbios": "BIOS", "efi": "UEFI aarch64", "linux": "", "": ""} {
		firmware := machine.ParsePlatform(platform, machine.AArch64)
		assert.Equal(t, want, firmware.String())
	}
	assert.Equal(t, "UEFI HTTP x86_64", machine.Firmware{HTTP: true, Architecture: machine.X86_64}.String())
}
