package nix_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// These tests evaluate the modules and all configurations with a real nixpkgs.
// Nothing is built: they need no binary cache, and a minute or two.

var update = flag.Bool("update", false, "write the units that testdata/units has")

// nixpkgs returns the folder that NIXPKGS_PATH names.
func nixpkgs(t *testing.T) string {
	t.Helper()
	folder := os.Getenv("NIXPKGS_PATH")
	if folder == "" {
		t.Skip("NOT TESTED, because NIXPKGS_PATH is not set: " + t.Name() +
			". Set it to the folder of a checkout of nixpkgs 24.11 or newer.")
	}
	folder, err := filepath.EvalSymlinks(folder)
	require.NoError(t, err)
	return folder
}

// evaluateNixOS decodes one of the values of testdata/evaluate.nix.
func evaluateNixOS(t *testing.T, attribute string, value any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(evaluate(t, nixosExpression(t, attribute)), value))
}

func nixosExpression(t *testing.T, attribute string) string {
	t.Helper()
	return fmt.Sprintf("(import ./testdata/evaluate.nix { nixpkgs = %q; }).%s", nixpkgs(t), attribute)
}

// All configurations, images, packages and virtual machine tests come to a
// derivation. The tests run one after another: each needs 0.6 to 1 GB.
func TestDerivations(t *testing.T) {
	nixpkgs(t)
	for _, name := range []string{
		"ec-runner-aarch64", "ec-runner-x86_64",
		"ec-runner-aarch64-netboot", "ec-runner-x86_64-netboot",
		"ec-runner-x86_64-iso", "ec-runner-aarch64-sdimage",
		"package-x86_64", "package-aarch64",
		"test-overlay-root", "test-install", "test-netboot", "test-netboot-bios", "test-netboot-rings",
		"shell", "boot-server",
	} {
		t.Run(name, func(t *testing.T) {
			var path string
			evaluateNixOS(t, "derivations."+name, &path)
			assert.Regexp(t, `\.drv$`, path)
		})
	}
}

func TestImages(t *testing.T) {
	var names map[string]string
	evaluateNixOS(t, "imageNames", &names)
	assert.Equal(t, map[string]string{
		"iso":     "ec-runner-x86_64-iso.iso",
		"sdimage": "ec-runner-aarch64-sdimage.img",
	}, withoutSuffix(names, ".zst"), "names that say nothing of a date or a version")

	var bundles map[string]string
	evaluateNixOS(t, "bundles", &bundles)
	for architecture, kernel := range map[string]string{"x86_64": "bzImage", "aarch64": "Image"} {
		linked := regexp.MustCompile(`ln -s \S+ (\S+)`).FindAllStringSubmatch(bundles[architecture], -1)
		var files []string
		for _, match := range linked {
			files = append(files, strings.Trim(match[1], `'"`))
		}
		assert.ElementsMatch(t, []string{kernel, "initrd", "netboot.ipxe"}, files, "%s: %s", architecture, bundles[architecture])
	}
}

func withoutSuffix(names map[string]string, suffix string) map[string]string {
	for key, name := range names {
		names[key] = strings.TrimSuffix(name, suffix)
	}
	return names
}

// The units are as in testdata/units, but for the paths of programs and what
// NixOS sets in every unit.
func TestUnits(t *testing.T) {
	var units map[string]string
	evaluateNixOS(t, "units", &units)
	for name, text := range units {
		got := normalUnit(text)
		golden := filepath.Join("testdata", "units", name)
		if *update {
			require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
		}
		assert.Equal(t, readFile(t, golden), got, "%s; to take it as it is: go test ./nix -run TestUnits -update", name)
		assert.NotContains(t, got, "LoadCredential=chain-token:/nix/store")
	}
	kept, err := filepath.Glob("testdata/units/*")
	require.NoError(t, err)
	assert.Len(t, kept, len(units))
}

var storePath = regexp.MustCompile(`/[^ ":]*/[0-9a-z]{32}-([A-Za-z+_-]+)[^ /":]*`)

// normalUnit sorts each section of a unit and leaves out what depends on the
// release of nixpkgs.
func normalUnit(text string) string {
	var sections []string
	for section := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(section), "\n"), func(line string) bool {
			return strings.HasPrefix(line, "Environment=")
		})
		for index, line := range lines {
			lines[index] = storePath.ReplaceAllString(line, "/nix/store/…-$1")
		}
		slices.Sort(lines[1:]) // the first is its name
		sections = append(sections, strings.Join(lines, "\n"))
	}
	return strings.Join(sections, "\n\n") + "\n"
}

func TestBootServerFiles(t *testing.T) {
	var rings string
	evaluateNixOS(t, "rings", &rings)
	assert.JSONEq(t, `{"rings": [
		{"name": "canary", "release_tag": "boot-v2026.03.01", "macs": ["00:11:22:33:44:55"]},
		{"name": "lab", "release_tag": "boot-v2026.03.01", "macs": ["00-11-22-33-44-66"]}
	]}`, rings)

	var folder map[string]map[string]string
	evaluateNixOS(t, "stateFolder", &folder)
	assert.Equal(t, "0750 every-channel-netboot every-channel-netboot", strings.Join([]string{
		folder["/var/lib/every-channel-netboot"]["mode"],
		folder["/var/lib/every-channel-netboot"]["user"],
		folder["/var/lib/every-channel-netboot"]["group"],
	}, " "))
	var users map[string]string
	evaluateNixOS(t, "bootServerUsers", &users)
	assert.Equal(t, map[string]string{
		"every-channel-netboot":       "every-channel-netboot",
		"every-channel-netboot-serve": "every-channel-netboot",
	}, users)

	var timers map[string]bool
	evaluateNixOS(t, "timers", &timers)
	assert.Equal(t, map[string]bool{"pinned": false, "tarball": false}, timers)

	var rules map[string][]string
	evaluateNixOS(t, "alertRules", &rules)
	assert.Empty(t, rules["netbootPlain"])
	require.Len(t, rules["netbootFull"], 1)
	assert.Regexp(t, `alerts\.yaml$`, rules["netbootFull"][0])
}

func TestFirewalls(t *testing.T) {
	type ports struct{ AllowedTCPPorts, AllowedUDPPorts []int }
	type firewall struct {
		ports
		ExtraCommands   []string
		ExtraInputRules string
		Interfaces      map[string]ports
	}
	none := ports{[]int{}, []int{}}
	var firewalls map[string]firewall
	evaluateNixOS(t, "firewalls", &firewalls)
	assert.Equal(t, map[string]firewall{
		"nodeByHost": {none, []string{}, "", map[string]ports{}},
		"nodeByDevice": {
			none,
			[]string{"iptables -A nixos-fw -p udp --sport 65001 --dport 32768:60999 -j nixos-fw-accept"},
			"",
			map[string]ports{},
		},
		"nodeByDeviceWithNFTables": {none, []string{}, "udp sport 65001 udp dport 32768-60999 accept", map[string]ports{}},
		"netbootPlain":             {none, []string{}, "", map[string]ports{"enp1s0": {[]int{80}, []int{69}}}},
		"netbootFull":              {none, []string{}, "", map[string]ports{"enp1s0": {[]int{80}, []int{67, 69, 4011}}}},
	}, firewalls)
}

func TestStage1(t *testing.T) {
	var commands string
	evaluateNixOS(t, "scriptedCommands", &commands)
	assert.Regexp(t, `(?m)^sh /\S+-overlay-root.sh /mnt-root 2g$`, commands)

	var initrds map[string]string
	evaluateNixOS(t, "initrds", &initrds)
	assert.Len(t, initrds, 2)
}

func TestAppliance(t *testing.T) {
	var appliance map[string]any
	evaluateNixOS(t, "appliance", &appliance)
	assert.Equal(t, map[string]any{
		"journal":        "volatile",
		"gc":             map[string]any{"automatic": true, "dates": "weekly", "options": "--delete-older-than 14d"},
		"entries":        10.0,
		"passwords":      false,
		"passwordHashes": []any{},
		"hostKeys":       []any{"/var/lib/ssh/ssh_host_ed25519_key"},
		"features":       []any{"nix-command", "flakes"},
		"flake":          true,
	}, appliance)
}

// What the module of nixpkgs 26.11 is given passes its types, which a stand-in for it
// has, and there is one runner, however it is run.
func TestActionsWithForgejoRunner(t *testing.T) {
	var actions struct {
		Settings, Secrets map[string]any
		Units             map[string][]string
	}
	evaluateNixOS(t, "actionsForgejo", &actions)
	assert.Equal(t, map[string]any{
		"runner": map[string]any{"labels": []any{"nix:host", "x86_64-linux:host"}},
		"server": map[string]any{"connections": map[string]any{"forge": map[string]any{
			"url": "https://git.every.channel", "uuid": "33834eef-e758-48c4-a676-1745426747aa",
			"token": nil, "token_url": "file:$CREDENTIALS_DIRECTORY/server__connections__forge__token_url",
		}}},
	}, actions.Settings)
	assert.Equal(t, map[string]any{"server": map[string]any{"connections": map[string]any{"forge": map[string]any{
		"token_url": "/run/every-channel/actions/token",
	}}}}, actions.Secrets)
	assert.Equal(t, map[string][]string{
		"actionsRegistered": {"every-channel-actions-token", `gitea-runner-every\x2dchannel`},
		"actionsOwn":        {"every-channel-actions", "every-channel-actions-token"},
		"actionsForgejo":    {"every-channel-actions-token", `forgejo-runner-every\x2dchannel`},
	}, actions.Units)
}

func TestBuilders(t *testing.T) {
	var builders struct {
		DistributedBuilds, Substitutes bool
		Trusted                        []string
		Machines                       []map[string]any
		Hosts                          map[string]string
	}
	evaluateNixOS(t, "builders", &builders)
	assert.True(t, builders.DistributedBuilds)
	assert.True(t, builders.Substitutes)
	assert.Equal(t, []string{"root"}, builders.Trusted, "nobody else is trusted")
	assert.Equal(t, []map[string]any{{
		"hostName": "arm.every.channel", "protocol": "ssh-ng", "systems": []any{"aarch64-linux"},
		"sshUser": "nix-ssh", "sshKey": "/var/lib/secrets/builder-key", "maxJobs": 1.0,
		"supportedFeatures": []any{"big-parallel"},
	}}, builders.Machines)
	assert.Equal(t, map[string]string{"arm.every.channel": "ssh-ed25519 AAAA"}, builders.Hosts)
}

// Where keys are looked for, who logs in by itself, and what is installed.
func TestInstaller(t *testing.T) {
	var installer struct {
		Autologin, Netbooted, Installed string
		Passwords                       bool
		KeyFiles                        []string
		System, OfSite                  string
		SameSystem                      bool
		SiteFlake                       string
		InImage                         bool
	}
	evaluateNixOS(t, "installer", &installer)
	assert.Equal(t, "root", installer.Autologin)
	assert.Empty(t, installer.Netbooted, "nobody logs in by themselves elsewhere")
	assert.Empty(t, installer.Installed)
	assert.False(t, installer.Passwords)
	assert.Equal(t, []string{
		"%h/.ssh/authorized_keys", "/etc/ssh/authorized_keys.d/%u",
		"/run/every-channel/authorized_keys.d/%u", "/var/lib/every-channel/authorized_keys.d/%u",
	}, installer.KeyFiles)
	assert.True(t, installer.SameSystem, "what is installed is ec-runner-x86_64 of this flake")
	assert.True(t, installer.InImage)
	assert.Empty(t, installer.OfSite, "with another flake in the image, that decides")
	assert.Equal(t, "/etc/every-channel/flake#ec-runner-x86_64", installer.SiteFlake)
}

// The sources of all inputs are in a system, if its flake is given and not its path.
func TestFlakeInputs(t *testing.T) {
	var inputs struct {
		Published, Off, OfFlake, OfPath []string
		Want                            []string
	}
	evaluateNixOS(t, "flakeInputs", &inputs)
	assert.Len(t, inputs.Published, 1, "nixpkgs")
	assert.Empty(t, inputs.Off)
	assert.Len(t, inputs.Want, 3, "two inputs, and an input of one of them")
	assert.ElementsMatch(t, inputs.Want, inputs.OfFlake)
	assert.Empty(t, inputs.OfPath, "of which there is a warning")
}

// A netboot image has nothing that a runner does not use.
func TestNetbootIsLean(t *testing.T) {
	var netboot struct {
		Packages, KernelParams []string
		Documentation, Fonts   bool
		Microcode              map[string]bool
	}
	evaluateNixOS(t, "lean", &netboot)
	for _, unwanted := range []string{"sound-theme-freedesktop", "hicolor-icon-theme", "shared-mime-info", "fontconfig", "git", "perl", "rsync", "strace", "man-db", "nixos-manual-html"} {
		assert.NotContains(t, netboot.Packages, unwanted)
	}
	assert.False(t, netboot.Documentation)
	assert.False(t, netboot.Fonts)
	documented := readFile(t, "../docs/RUNNER_IMAGES.md")
	for _, name := range netboot.Packages {
		assert.Contains(t, documented, "`"+name+"`", "what is in the image is listed")
	}
	consoles := slices.DeleteFunc(netboot.KernelParams, func(word string) bool { return !strings.HasPrefix(word, "console=") })
	assert.Equal(t, []string{"console=ttyS0,115200n8", "console=tty0"}, consoles, "the last is where stage 1 says what is wrong")
	assert.Equal(t, map[string]bool{"x86_64": true, "aarch64": false}, netboot.Microcode)
}

// A nixpkgs whose Go is too old for the package is named, with what to do.
func TestPackageWithAnOldGo(t *testing.T) {
	_, err := evaluateError(t, nixosExpression(t, "packageWithoutGo"))
	assert.ErrorContains(t, err, "The oldest nixpkgs for the package is 26.05")
	assert.ErrorContains(t, err, "runner-images.packages.x86_64-linux.runner-images")
}

func TestAssertions(t *testing.T) {
	var wrong map[string][]string
	evaluateNixOS(t, "wrong", &wrong)
	assert.Empty(t, wrong["nothing"])
	delete(wrong, "nothing")
	for name, want := range map[string][]string{
		"bootWithoutNix":      {"overlayRoot: the boot loader's files are on a file system of their own and /nix is not"},
		"bindNix":             {"overlayRoot: the boot loader's files are on a file system of their own and /nix is not"},
		"actionsWithoutUUID":  {"actions.uuid is not set"},
		"actionsUUIDForGitea": {"actions: uuid is set, which only Forgejo has"},
		"bootKeysOff":         {"bootKeys.enable = true"},
		"builderKeyInStore":   {`builders."arm".sshKey is in the Nix store`},
		"actionsTokenInStore": {"actions.tokenFile is in the Nix store"},
		"node":                {"ec-node.package is not set", "ec-node.hdhomerun: set host"},
		"netboot":             {"netboot.release: set host", "netboot.ipxe.hash is not set"},
	} {
		if assert.Len(t, wrong[name], len(want), "%s: %q", name, wrong[name]) {
			for index, message := range wrong[name] {
				assert.Contains(t, message, want[index], name)
			}
		}
		delete(wrong, name)
	}
	assert.Empty(t, wrong, "not compared")

	var warned map[string][]string
	evaluateNixOS(t, "warned", &warned)
	assert.Empty(t, warned["all"])
	assert.Empty(t, warned["flakePathAlone"])
	if assert.Len(t, warned["flakePath"], 1) {
		assert.Contains(t, warned["flakePath"][0], "Set it to the flake itself (self, not self.outPath)")
	}
	if assert.Len(t, warned["nixOnRoot"], 1) {
		assert.Contains(t, warned["nixOnRoot"][0], "/nix is no file system of its own")
	}
}

// Values of the wrong form are refused, and the message names the option.
func TestRefusedValues(t *testing.T) {
	for name, option := range map[string]string{
		"channel":   "services.every-channel.ec-node.broadcasts",
		"interface": "services.every-channel.netboot.interface",
		"size":      "services.every-channel.runner.overlayRoot.size",
		"cidr":      "services.every-channel.netboot.httpAllowedCIDRs",
		"files":     "services.every-channel.netboot.filesUrl",
		"peer":      "services.every-channel.netboot.peers",
		"secret":    "services.every-channel.netboot.chainTokenFile",
		"mac":       "services.every-channel.netboot.rings.a.macs",
		"uuid":      "services.every-channel.runner.actions.uuid",
		"unknown":   "services.every-channel.runner.overlayroot",
	} {
		_, err := evaluateError(t, nixosExpression(t, "refused."+name))
		assert.ErrorContains(t, err, option, name)
	}
}

// docs/OPTIONS.md is what the modules say of their options.
func TestOptionsAreDocumented(t *testing.T) {
	var reference string
	evaluateNixOS(t, "options", &reference)
	assert.Equal(t, reference, readFile(t, "../docs/OPTIONS.md"), "run scripts/update-options")
}

// The package is built from the files that its vendorHash is computed from.
func TestPackageSource(t *testing.T) {
	nix := lab.Nix(t)
	command := exec.Command(nix.Program, "eval", "--raw", "--impure", "--expr", nixosExpression(t, "packageSource"))
	command.Env = nix.Env()
	var stderr bytes.Buffer
	command.Stderr = &stderr
	source, err := command.Output() // written to the store, since this is not --read-only
	require.NoError(t, err, "%s", &stderr)

	list, err := exec.Command("git", "ls-files", "-z", "..").Output()
	require.NoError(t, err)
	var want []string
	for file := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		file = strings.TrimPrefix(file, "../")
		code := strings.HasPrefix(file, "cmd/") || strings.HasPrefix(file, "internal/") && !strings.HasPrefix(file, "internal/lab/")
		test := strings.HasSuffix(file, "_test.go") || strings.HasSuffix(file, ".txtar")
		if code && !test || slices.Contains([]string{"go.mod", "go.sum", "LICENSE", "scripts/licenses"}, file) {
			want = append(want, file)
		}
	}
	var got []string
	require.NoError(t, filepath.WalkDir(string(source), func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			name, _ := filepath.Rel(string(source), path)
			got = append(got, name)
		}
		return err
	}))
	assert.ElementsMatch(t, want, got)
}
