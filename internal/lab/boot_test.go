package lab_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// The image of testdata/boot-flake boots as Nix built it.
func TestBootFlakeBoots(t *testing.T) {
	t.Parallel()
	output := lab.BuildBootFlake(t, lab.Nix(t), "first")
	server := httptest.NewServer(http.FileServer(http.Dir(output)))
	defer server.Close()
	port := server.URL[strings.LastIndex(server.URL, ":"):]
	vm := lab.StartMachine(t, lab.Machine{Firmware: lab.BIOS, Bootfile: "http://10.0.2.2" + port + "/netboot.ipxe"})
	require.NoError(t, vm.Wait(t.Context(), lab.InInit("first")))
	require.NoError(t, vm.Wait(t.Context(), "Power down"))
	assert.Contains(t, vm.Console(), lab.InitFiles)
	assert.Contains(t, vm.Console(), "boot test: command line: init=/init initrd=initrd loglevel=4 console=ttyS0 panic=1 no_timer_check generation=first")
}

func TestNetworksAreApart(t *testing.T) {
	t.Parallel()
	networks := []*lab.Network{lab.NewNetwork(t), lab.NewNetwork(t)}
	for _, network := range networks {
		network.StartDHCP(t)
		out, err := network.Command(t.Context(), lab.Tool(t, "boot", "busybox"), "ping", "-c", "1", lab.GatewayIP).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}
