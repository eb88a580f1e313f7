package boottest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// TestBootByDefaults takes a bundle from the build to the booted machine with no
// option that the commands do not ask for: the ports are 80 and 69, the server
// listens on all addresses, and iPXE for UEFI has the name that the module gives it.
func TestBootByDefaults(t *testing.T) {
	t.Parallel()
	const generation = "defaults"
	folder := t.TempDir()
	program := filepath.Join(folder, "runner-images")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/runner-images")
	build.Dir = lab.Root(t)
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	nix := lab.Nix(t) // whose store is in a folder of the test
	inFolder := func(arguments ...string) {
		t.Helper()
		command := exec.CommandContext(t.Context(), program, arguments...)
		command.Dir, command.Env = folder, nix.Env()
		out, err := command.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	result := lab.BuildBootFlake(t, nix, generation)
	inFolder("package", result, "--name", "ec-runner-x86_64-netboot", "--release-tag", "boot-v1")
	inFolder("netboot", "stage", "--state-dir", "state", "--tarball", "dist/ec-runner-x86_64-netboot-boot-v1.tar.gz")
	serve := func(network *lab.Network, more ...string) {
		network.Serve(t, "msg=serving", program,
			append([]string{"netboot", "serve", "--state-dir", filepath.Join(folder, "state")}, more...)...)
	}

	// Without a folder of iPXE binaries, a machine boots whose card has an iPXE.
	t.Run("no folder of iPXE binaries", func(t *testing.T) {
		t.Parallel()
		network := lab.NewNetwork(t)
		network.StartDHCP(t, "dhcp-boot=autoexec.ipxe,,"+lab.ServerIP)
		serve(network)
		requireBoots(t, network.StartMachine(t, lab.Machine{Firmware: lab.BIOS}), generation)

		status := network.Command(t.Context(), lab.Tool(t, "boot", "busybox"), "wget", "-q", "-O", "-", "http://127.0.0.1:8077/")
		page, err := status.CombinedOutput()
		require.NoError(t, err, "%s", page)
		assert.Contains(t, string(page), "booted")
		assert.FileExists(t, filepath.Join(folder, "state", "machines.json"))
	})

	t.Run("the boot file's name", func(t *testing.T) {
		t.Parallel()
		ipxe := t.TempDir()
		binary, err := os.ReadFile(filepath.Join(lab.BootPrograms(t), "ipxe.efi"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(ipxe, "ec-ipxe.efi"), binary, 0o600))
		network := lab.NewNetwork(t)
		network.StartDHCP(t, "dhcp-boot=ec-ipxe.efi,,"+lab.ServerIP)
		serve(network, "--ipxe-dir", ipxe)
		requireBoots(t, network.StartMachine(t, lab.Machine{Firmware: lab.UEFI}), generation)
	})
}
