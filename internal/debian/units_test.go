package debian_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// A debianUnit is a unit of the package, and how it differs from the one that the
// NixOS module makes.
type debianUnit struct {
	golden        string   // a file of nix/testdata/units; none if the module has no such unit
	without, with []string // lines of the golden, and of the package's in their place
}

var debianUnits = map[string]debianUnit{
	"runner-images-netboot.service": {
		golden: "netboot-plain.service",
		without: []string{
			`ExecStart="/nix/store/…-runner-images-/bin/runner-images" "netboot" "serve" "--state-dir" "/var/lib/runner-images-netboot" "--machines-file" "/var/lib/runner-images-netboot-serve/machines.json" "--listen-ip" "10.20.30.2" "--interface" "enp1s0" "--http-port" "80" "--ipxe-dir" "/nix/store/…-ec-ipxe" "--tftp-boot-filename" "ec-ipxe.efi" "--status-address" "127.0.0.1:8077"`,
		},
		with: append(options("SERVE_OPTIONS"),
			"ExecStart=/usr/bin/runner-images netboot serve --state-dir /var/lib/runner-images-netboot --machines-file /var/lib/runner-images-netboot-serve/machines.json --ipxe-dir /usr/lib/ipxe --tftp-boot-filename ipxe.efi $SERVE_OPTIONS",
			// So that "systemctl enable --now" of the server alone starts all.
			"Wants=runner-images-netboot-stage-first.service",
			"Wants=runner-images-netboot-stage.timer",
		),
	},
	"runner-images-netboot-stage.service": {
		golden: "netboot-plain-stage.service",
		without: []string{
			`ExecStart="/nix/store/…-runner-images-/bin/runner-images" "netboot" "stage" "--state-dir" "/var/lib/runner-images-netboot" "--keep" "3" "--forge-url" "https://git.every.channel" "--repository" "every/channel"`,
			"[Install]", "WantedBy=multi-user.target", // those that the server wants start it
		},
		with: append(options("STAGE_OPTIONS"),
			// The module refuses a configuration without releases.
			`ExecCondition=/bin/sh -c 'test -n "$$STAGE_OPTIONS" || { echo "Nothing is staged: say where the releases are, as STAGE_OPTIONS in /etc/default/runner-images-netboot, and then: systemctl start runner-images-netboot-stage"; exit 1; }'`,
			"ExecStart=/usr/bin/runner-images netboot stage --state-dir /var/lib/runner-images-netboot $STAGE_OPTIONS",
		),
	},
	"runner-images-netboot-stage.timer": {
		golden: "netboot-plain-stage.timer",
		// It starts and stops with the server.
		without: []string{"[Install]", "WantedBy=timers.target"},
		with:    []string{"StopWhenUnneeded=true"},
	},
	// On NixOS the target of the boot starts what stages.
	"runner-images-netboot-stage-first.service": {
		with: []string{
			"[Unit]", "Description=Have a release staged when the boot server starts", "StopWhenUnneeded=true",
			"[Service]", "Type=oneshot", "RemainAfterExit=true", "ExecStart=/usr/bin/systemctl --no-block start runner-images-netboot-stage.service",
		},
	},
	// On all addresses.
	"runner-images-netboot-http.socket": {
		golden: "netboot-plain-http.socket", without: []string{"ListenStream=10.20.30.2:80"}, with: []string{"ListenStream=80"},
	},
	"runner-images-netboot-tftp.socket": {
		golden: "netboot-plain-tftp.socket", without: []string{"ListenDatagram=10.20.30.2:69"}, with: []string{"ListenDatagram=69"},
	},
	"runner-images-netboot-status.socket": {golden: "netboot-plain-status.socket"},
	// The server binds them to its --interface. They are enabled where it is to answer
	// PXE clients, and networks are not restricted.
	"runner-images-netboot-proxy-dhcp.socket": ofProxyDHCP("proxy-dhcp", "Also=runner-images-netboot-pxe.socket"),
	"runner-images-netboot-pxe.socket":        ofProxyDHCP("pxe"),
}

// options are the lines that take the options of a command from the configuration.
func options(variable string) []string {
	return []string{"Environment=" + variable + "=", "EnvironmentFile=-/etc/default/runner-images-netboot"}
}

func ofProxyDHCP(socket string, more ...string) debianUnit {
	return debianUnit{
		golden: "netboot-full-" + socket + ".socket",
		without: []string{
			"BindToDevice=enp1s0", "IPAddressDeny=any",
			"IPAddressAllow=0.0.0.0", "IPAddressAllow=10.20.30.0/24", "IPAddressAllow=10.20.31.0/24", "IPAddressAllow=255.255.255.255", "IPAddressAllow=localhost",
		},
		with: append(more, "[Install]", "RequiredBy=runner-images-netboot.service"),
	}
}

// TestUnitsAreTheModules: each unit of the package is the NixOS module's, line by
// line, but for its name and what is listed above.
func TestUnitsAreTheModules(t *testing.T) {
	t.Parallel()
	root := lab.Root(t)
	folder := filepath.Join(root, "scripts/debian/root/usr/lib/systemd/system")
	there, err := filepath.Glob(folder + "/*")
	require.NoError(t, err)
	assert.Len(t, there, len(debianUnits))
	for name, unit := range debianUnits {
		var golden []string
		if unit.golden != "" {
			golden = unitLines(t, filepath.Join(root, "nix/testdata/units", unit.golden))
		}
		for _, line := range unit.without {
			require.Contains(t, golden, line, name)
			golden = slices.DeleteFunc(golden, func(other string) bool { return other == line })
		}
		// All of them have it, and none of the module's.
		want := append(golden, append(unit.with, "Documentation=file:///usr/share/doc/runner-images/README.Debian")...)
		assert.ElementsMatch(t, want, unitLines(t, filepath.Join(folder, name)), name)
	}
}

// unitLines returns a unit's lines without comments, with the module's name for the
// boot server replaced by the package's.
func unitLines(t *testing.T, path string) []string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	var lines []string
	for line := range strings.Lines(strings.ReplaceAll(string(content), "every-channel-netboot", "runner-images-netboot")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines
}
