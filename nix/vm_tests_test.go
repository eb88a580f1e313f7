package nix_test

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A vmTest is a test of nix/tests. It runs where there is KVM and a binary cache;
// here its script is held against the machines that it is about.
type vmTest struct {
	Script   string
	Machines map[string]struct {
		Units              map[string]string
		Packages           []string
		Address            string
		Listens, Interface string
		Interfaces         map[string][]string
	}
}

var vmTests = []string{"install", "netboot", "netboot-bios", "netboot-rings", "overlay-root"}

func evaluateVMTests(t *testing.T) map[string]vmTest {
	t.Helper()
	var tests map[string]vmTest
	evaluateNixOS(t, "vmTests", &tests)
	require.Equal(t, vmTests, slices.Sorted(maps.Keys(tests)))
	return tests
}

var ipv4 = regexp.MustCompile(`\b\d+\.\d+\.\d+\.\d+\b`)

func TestVMTests(t *testing.T) {
	for name, test := range evaluateVMTests(t) {
		t.Run(name+"/addresses", func(t *testing.T) { checkAddresses(t, test) })
		t.Run(name+"/units", func(t *testing.T) { checkUnits(t, test) })
		t.Run(name+"/commands", func(t *testing.T) { checkCommands(t, test) })
	}
}

// checkAddresses: each address in the script is a machine's, and a boot server
// listens on its own, on the card that has it.
func checkAddresses(t *testing.T, test vmTest) {
	t.Helper()
	var addresses []string
	for name, machine := range test.Machines {
		if machine.Address != "" {
			addresses = append(addresses, machine.Address)
		}
		if machine.Interface != "" {
			assert.Equal(t, machine.Address, machine.Listens, name)
			assert.Contains(t, machine.Interfaces[machine.Interface], machine.Address, name)
		}
	}
	for _, used := range ipv4.FindAllString(test.Script, -1) {
		require.True(t, netip.MustParseAddr(used).Is4())
		assert.Contains(t, addresses, used)
	}
}

var waited = regexp.MustCompile(`(\w+)\.wait_for_unit\("([^"]+)"\)`)

// checkUnits: each unit that is waited for is on the machine, and stays active: the
// driver fails at a unit that has ended.
func checkUnits(t *testing.T, test vmTest) {
	t.Helper()
	found := waited.FindAllStringSubmatch(test.Script, -1)
	require.NotEmpty(t, found)
	for _, match := range found {
		unit := match[2]
		if unit == "multi-user.target" {
			continue // systemd's own
		}
		for _, name := range machinesOf(match[1], test) {
			text, ok := test.Machines[name].Units[template(unit)]
			if assert.True(t, ok, "%s has no %s", name, unit) && strings.Contains(text, "Type=oneshot") {
				assert.Contains(t, text, "RemainAfterExit=true", unit)
			}
		}
	}
}

// template returns the name of the unit's file: getty@.service of getty@tty1.service.
func template(unit string) string {
	name, rest, ok := strings.Cut(unit, "@")
	if !ok {
		return unit
	}
	return name + "@" + rest[strings.LastIndex(rest, "."):]
}

// machinesOf returns the machines that a name in a script stands for: machine is
// each in turn.
func machinesOf(name string, test vmTest) []string {
	if name == "machine" {
		return slices.Collect(maps.Keys(test.Machines))
	}
	return []string{name}
}

var (
	commandLine = regexp.MustCompile(`(\w+)\.(?:succeed|fail|wait_until_succeeds)\(f?"((?:[^"\\]|\\.)*)"\)`)
	// Where a word is a command: at the start, in $(…), and behind a pipe or &&.
	commandWord = regexp.MustCompile(`(?:^|\$\(|\| |&& )([a-z][a-z0-9-]*)`)
)

// The packages that have the commands.
var packagesOf = map[string]string{
	"cat": "coreutils-full", "chmod": "coreutils-full", "echo": "coreutils-full", "printf": "coreutils-full",
	"readlink": "coreutils-full", "sync": "coreutils-full", "tail": "coreutils-full", "test": "coreutils-full",
	"touch": "coreutils-full", "wc": "coreutils-full", "basename": "coreutils-full",
	"curl": "curl", "ec-install": "ec-install", "find": "findutils", "findmnt": "util-linux", "grep": "gnugrep",
	"mount": "util-linux", "umount": "util-linux", "nix": "nix", "nix-env": "nix",
	"runner-images": "runner-images", "ssh": "openssh", "ssh-keygen": "openssh", "systemctl": "systemd",
	"xargs": "findutils",
}

// checkCommands: each command is on the machine.
func checkCommands(t *testing.T, test vmTest) {
	t.Helper()
	found := commandLine.FindAllStringSubmatch(test.Script, -1)
	require.NotEmpty(t, found)
	for _, match := range found {
		for _, word := range commandWord.FindAllStringSubmatch(match[2], -1) {
			for _, name := range machinesOf(match[1], test) {
				machine, ok := test.Machines[name]
				require.True(t, ok, "there is no machine %s", name)
				assert.Contains(t, machine.Packages, packagesOf[word[1]], "%s has no %q (in %s)", name, word[1], match[2])
			}
		}
	}
}
