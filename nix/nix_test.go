// Package nix_test tests the NixOS side: what needs no nixpkgs always, and the
// rest against the nixpkgs that NIXPKGS_PATH names.
package nix_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// Every file is Nix, and names nothing that it does not bind.
func TestFilesParse(t *testing.T) {
	t.Parallel()
	nix := lab.Nix(t)
	files := []string{filepath.Join(lab.Root(t), "flake.nix")}
	require.NoError(t, filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".nix" {
			files = append(files, path)
		}
		return err
	}))
	require.Greater(t, len(files), 10)
	for _, file := range files {
		// Nix is all its commands, by the name that it is started with.
		command := exec.Cmd{Path: nix.Program, Args: []string{"nix-instantiate", "--parse", file}, Env: nix.Env()}
		var stderr bytes.Buffer
		command.Stderr = &stderr
		assert.NoError(t, command.Run(), "%s: %s", file, &stderr)
	}
}

type commands struct {
	Serve, Node                                     []string
	Stage, StageLatest                              [][]string
	StageFolder, StageTarball                       [][]string
	Rings, Script, ScriptWithToken, ScriptWithPeers string
	Wrong                                           map[string][]string
}

func evaluateCommands(t *testing.T) commands {
	t.Helper()
	var c commands
	require.NoError(t, json.Unmarshal(evaluate(t, `removeAttrs (import ./testdata/commands.nix) [ "scriptFor" ]`), &c))
	return c
}

func TestCommandLines(t *testing.T) {
	t.Parallel()
	c := evaluateCommands(t)
	assert.Equal(t, strings.Fields(`netboot serve --state-dir /var/lib/netboot --machines-file /var/lib/serve/machines.json --listen-ip 10.20.30.2 --interface enp1s0
		--hostname boot.every.channel --http-port 8080 --ipxe-dir /ipxe --tftp-boot-filename ec-ipxe.efi
		--files-url http://cache.lan:8080 --peer 10.20.30.3 --peer boot3.lan:8080
		--http-allowed-cidr 10.20.30.0/24 --http-allowed-cidr 10.20.31.0/24 --rings /etc/rings.yaml
		--proxy-dhcp --proxy-dhcp-subnet 10.20.30.0/24 --status-address 127.0.0.1:8077 --status-hostname boot-status.lan`), c.Serve)

	const stage = "netboot stage --state-dir /var/lib/netboot "
	const fromForge = stage + "--keep 5 --rings /etc/rings.yaml --allowed-signers /etc/allowed_signers" +
		" --forge-url https://git.every.channel --repository every/channel --release-tag "
	assert.Equal(t, [][]string{
		strings.Fields(fromForge + "boot-v2026.02.28 --allow-downgrade"),
		strings.Fields(fromForge + "boot-v2026.03.01 --allow-downgrade --switch=false"), // the two rings have one release
	}, c.Stage)
	const latest = stage + "--keep 3 --allowed-signers /etc/allowed_signers --signer release@every.channel" +
		" --forge-url https://git.every.channel --repository every/channel"
	assert.Equal(t, [][]string{
		strings.Fields(latest + " --max-age 720h"),
		strings.Fields(latest + " --release-tag boot-v2026.03.01 --allow-downgrade --switch=false"),
	}, c.StageLatest)
	assert.Equal(t, [][]string{strings.Fields(stage + "--keep 3 --forge-url file:///srv/releases")}, c.StageFolder)
	assert.Equal(t, [][]string{strings.Fields(stage + "--keep 3 --tarball /srv/bundle.tar.gz")}, c.StageTarball)

	assert.Equal(t, strings.Fields(`wt-publish --url https://relay.every.channel/anon --name kqed
		--input http://10.20.30.9/auto/v9.1 --transcode --tls-disable-verify --all --last`), c.Node)
}

// The command takes what the modules give it.
func TestCommandLinesAreUnderstood(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "runner-images")
	run(t, lab.Root(t), "go", "build", "-o", program, "./cmd/runner-images")
	c := evaluateCommands(t)
	secrets := map[string]string{"serve": "--chain-token-file", "stage": "--token-file"}
	for _, words := range slices.Concat(c.Stage, c.StageLatest, c.StageFolder, c.StageTarball, [][]string{c.Serve}) {
		// With --help the flags are read and nothing is done.
		arguments := append(words, secrets[words[1]], "/secret", "--help")
		output, err := exec.Command(program, arguments...).CombinedOutput()
		assert.NoError(t, err, "runner-images %s: %s", strings.Join(arguments, " "), output)
	}
}

func TestEmbeddedScript(t *testing.T) {
	t.Parallel()
	c := evaluateCommands(t)
	assert.Equal(t, `#!ipxe
echo every.channel: booting from 10.20.30.2
set tries:int32 0
:again
imgfree
dhcp || goto wait
chain --autofree http://10.20.30.2:8080/netboot.ipxe?mac=${netX/mac:hexhyp}&arch=${buildarch}&platform=${platform} ||
imgfree
chain --autofree tftp://10.20.30.2/autoexec.ipxe ||
:wait
inc tries
iseq ${tries} 30 && exit 1 ||
echo The boot server at 10.20.30.2 does not answer, trying again in 10 seconds
sleep 10
goto again
`, c.Script)
	// Without the token the script is not at its address, and the token must not
	// be in the store.
	assert.NotContains(t, c.ScriptWithToken, "http://")
	assert.Contains(t, c.ScriptWithToken, "\nchain --autofree tftp://10.20.30.2/autoexec.ipxe ||\nimgfree\n"+
		"chain --autofree tftp://10.20.30.3/autoexec.ipxe ||\nimgfree\nchain --autofree tftp://boot3.lan/autoexec.ipxe ||\n:wait\n")
	var tries []string
	for line := range strings.Lines(c.ScriptWithPeers) {
		if _, rest, ok := strings.Cut(line, "chain --autofree "); ok {
			address, _, _ := strings.Cut(strings.TrimSuffix(rest, " ||\n"), "?")
			tries = append(tries, address)
		}
	}
	assert.Equal(t, []string{
		"http://10.20.30.2/netboot.ipxe", "http://10.20.30.3/netboot.ipxe", "http://[fd00::3]:8080/netboot.ipxe",
		"tftp://10.20.30.2/autoexec.ipxe", "tftp://10.20.30.3/autoexec.ipxe", "tftp://[fd00::3]/autoexec.ipxe",
	}, tries)
}

func TestWrongOptions(t *testing.T) {
	t.Parallel()
	wrong := evaluateCommands(t).Wrong
	assert.Empty(t, wrong["nothing"])
	for name, want := range map[string]string{
		"netbootWithoutRelease":   "netboot.release: set host and repo",
		"netbootWithoutRepo":      "netboot.release.repo is not set: the repository with the releases on git.every.channel",
		"netbootFromBoth":         "netboot.release: both host and tarball are set",
		"netbootTarballWithRings": "netboot: release.tarball is one bundle without a tag",
		"netbootSignerOfNothing":  "netboot.release: signer and maxAge are about what is signed. Set allowedSigners too",
		"netbootAgeOfNothing":     "netboot.release: signer and maxAge are about what is signed. Set allowedSigners too",
		"netbootAgeOfATag":        "netboot.release.maxAge is about the latest release",
		"netbootTwoIPXEs":         "netboot.ipxe: set one of embedded, file and url; 2 are",
		"netbootNoIPXE":           "netboot.ipxe: set one of embedded, file and url; 0 are",
		"netbootWithoutHash":      "netboot.ipxe.hash is not set",
		"netbootTwoRings":         "netboot.rings: 00:11:22:33:44:aa is in two rings",
		"netbootStoredToken":      "x-token is in the Nix store",
		"nodeWithoutPackage":      "ec-node.package is not set",
		"nodeWithoutTuner":        "ec-node.hdhomerun: set host",
		"nodeWithTwoTuners":       "ec-node.hdhomerun: both host and deviceId are set",
		"nodeTwice":               "ec-node.broadcasts: there are two with the name kqed",
	} {
		if assert.Len(t, wrong[name], 1, name) {
			assert.Contains(t, wrong[name][0], "services.every-channel.", name)
			assert.Contains(t, wrong[name][0], want, name)
		}
	}
}

// docs/OPTIONS.md has the options that the modules declare, and no others. Where
// there is a nixpkgs, its whole text is compared too.
func TestOptionsHaveTheirNamesInTheReference(t *testing.T) {
	t.Parallel()
	var declared, documented []string
	require.NoError(t, json.Unmarshal(evaluate(t, "import ./testdata/option-names.nix"), &declared))
	require.NotEmpty(t, declared)
	for line := range strings.Lines(readFile(t, "../docs/OPTIONS.md")) {
		if name, ok := strings.CutPrefix(line, "### "); ok {
			documented = append(documented, strings.TrimSpace(name))
		}
	}
	assert.ElementsMatch(t, declared, documented, "run scripts/update-options")
}

// A change of go.mod, or of what is imported, needs a new vendorHash.
func TestVendorHash(t *testing.T) {
	t.Parallel()
	lab.Tool(t, "nix", "nix")
	run(t, lab.Root(t), "scripts/update-vendor-hash", "--check")
}

// The package has the licenses of what is linked into its program, the same as a release.
// A build by buildGoModule takes nixpkgs; the test does what that does before the
// package's postInstall: it has the modules in vendor, and no network.
func TestLicensesOfThePackage(t *testing.T) {
	t.Parallel()
	var install string
	require.NoError(t, json.Unmarshal(evaluate(t, `(import ./package.nix {
	  lib = { inherit (builtins) head; versionAtLeast = _: _: true; optionalString = _: _: ""; };
	  go.version = "1.26";
	  buildGoModule = package: package;
	  installShellFiles = null;
	  pkgs = { };
	  stdenv = { buildPlatform.canExecute = _: false; hostPlatform = { }; };
	}).postInstall`), &install))
	folder, out := t.TempDir(), t.TempDir()
	run(t, lab.Root(t), "sh", "-euc", `git ls-files -z go.mod go.sum LICENSE cmd/runner-images internal scripts/licenses | xargs -0 cp --parents -t "$0"
		cd "$0" && go mod vendor && go build -mod=vendor -trimpath -buildvcs=false -o "$1/bin/runner-images" ./cmd/runner-images`, folder, out)
	run(t, folder, "env", "GOFLAGS=-mod=vendor", "GOPROXY=off", "GOMODCACHE="+t.TempDir(), "GOTOOLCHAIN=local", "out="+out, "bash", "-euc", install)

	licenses := readFile(t, filepath.Join(out, "share/doc/runner-images/LICENSE.modules"))
	assert.Contains(t, licenses, "Copyright 2009 The Go Authors")
	released, err := exec.Command(filepath.Join(lab.Root(t), "scripts/licenses"), filepath.Join(out, "bin/runner-images")).Output()
	require.NoError(t, err)
	assert.Equal(t, string(released), licenses)
	assert.Equal(t, readFile(t, "../LICENSE"), readFile(t, filepath.Join(out, "share/doc/runner-images/LICENSE")))
}

// The lock is that of the flake's inputs: Nix would not change it.
func TestLock(t *testing.T) {
	t.Parallel()
	nix := lab.Nix(t)
	folder := t.TempDir()
	for _, name := range []string{"flake.nix", "flake.lock"} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(readFile(t, filepath.Join("..", name))), 0o644))
	}
	command := exec.Command(nix.Program, "flake", "metadata", "--json", "--no-update-lock-file", "path:"+folder)
	command.Env = nix.Env()
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	require.NoError(t, err, "%s", &stderr)

	var metadata struct {
		Locks struct {
			Nodes map[string]struct{ Locked, Original map[string]any }
		}
	}
	require.NoError(t, json.Unmarshal(output, &metadata))
	assert.Len(t, metadata.Locks.Nodes, 2, "nixpkgs and the flake itself")
	assert.Equal(t, "nixos-26.05", metadata.Locks.Nodes["nixpkgs"].Original["ref"])
	assert.NotEmpty(t, metadata.Locks.Nodes["nixpkgs"].Locked["narHash"])
}

// evaluate returns the value of a Nix expression as JSON. Paths in it are relative
// to this folder.
func evaluate(t *testing.T, expression string) []byte {
	t.Helper()
	output, err := evaluateError(t, expression)
	require.NoError(t, err)
	return output
}

// evaluateError is evaluate for what may fail; the error is what Nix says.
func evaluateError(t *testing.T, expression string) ([]byte, error) {
	t.Helper()
	nix := lab.Nix(t)
	command := exec.Command(nix.Program, "eval", "--json", "--impure", "--read-only", "--expr", expression)
	command.Env = nix.Env()
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		err = nixError(stderr.String())
	}
	return output, err
}

type nixError string

func (e nixError) Error() string { return string(e) }
