package nix_test

import (
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/nix"
)

const (
	netbootX86   = "ec-runner-x86_64-netboot"
	netbootARM   = "ec-runner-aarch64-netboot"
	isoX86       = "ec-runner-x86_64-iso"
	sdImageARM   = "ec-runner-aarch64-sdimage"
	brokenIso    = "broken-iso"
	brokenDeeper = "broken-dependency"
)

// A bench is a Nix with an empty store and a copy of the flake.
type bench struct {
	nix.Nix
	folder string // of the store and all else that this Nix writes
	flake  string

	mu     sync.Mutex
	events []nix.Event
}

func newBench(t *testing.T) *bench {
	t.Helper()
	env := lab.Nix(t)
	return &bench{
		Nix:    nix.Nix{Program: env.Program, Env: env.Env()},
		folder: env.Folder,
		flake:  lab.Flake(t),
	}
}

// image returns an image of the flake: its attribute's last part is part of its
// name in the configurations that work, and isoImage in the others.
func (b *bench) image(configuration string) artifact.Image {
	product := "isoImage"
	switch {
	case strings.HasSuffix(configuration, "netboot"), configuration == brokenDeeper, configuration == "failed-assertion":
		product = "netboot"
	case strings.HasSuffix(configuration, "sdimage"):
		product = "sdImage"
	}
	return artifact.Image{
		Name:        configuration,
		Installable: "path:.#nixosConfigurations." + configuration + ".config.system.build." + product,
	}
}

// request asks for images of the flake, whatever room there is for them.
func (b *bench) request(configurations ...string) nix.Request {
	request := nix.Request{Dir: b.flake, MinFree: 1, Events: b.record}
	for _, configuration := range configurations {
		request.Images = append(request.Images, b.image(configuration))
	}
	return request
}

func (b *bench) record(event nix.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, event)
}

// of returns the events of a kind so far.
func (b *bench) of(kind nix.EventKind) []nix.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []nix.Event
	for _, event := range b.events {
		if event.Kind == kind {
			found = append(found, event)
		}
	}
	return found
}

func (b *bench) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = nil
}

func TestMissingNix(t *testing.T) {
	t.Parallel()
	none := nix.Nix{Program: "no-nix-of-this-name"}
	_, err := none.Version(t.Context())
	require.ErrorIs(t, err, nix.ErrNotInstalled)
	require.EqualError(t, err, `Nix is not installed; it is needed to build images: no "no-nix-of-this-name" on PATH; `+
		`install it (https://nixos.org/download) or choose a machine that has it`)
	_, err = none.Build(t.Context(), nix.Request{Images: []artifact.Image{{Name: "x", Installable: ".#x"}}})
	require.ErrorIs(t, err, nix.ErrNotInstalled)
}

func TestVersion(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	version, err := b.Version(t.Context())
	require.NoError(t, err)
	assert.Regexp(t, `^2\.[0-9]+\.[0-9]+`, version)

	_, err = nix.Nix{Program: "false"}.Version(t.Context())
	require.Error(t, err)
	_, err = nix.Nix{Program: "echo"}.Version(t.Context())
	require.ErrorContains(t, err, "which is not a version of Nix")
}

func TestFlakesNeedNotBeEnabledByTheUser(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for i, variable := range b.Env {
		b.Env[i] = strings.Replace(variable, "experimental-features = nix-command flakes", "experimental-features =", 1)
	}
	_, err := b.Build(t.Context(), b.request(isoX86))
	require.NoError(t, err)
}

// run runs the bench's nix.
func (b *bench) run(t *testing.T, args ...string) string {
	t.Helper()
	command := exec.Command(b.Program, args...)
	command.Env = b.Env
	output, err := command.CombinedOutput()
	require.NoError(t, err, string(output))
	return string(output)
}

func git(t *testing.T, folder string, args ...string) {
	t.Helper()
	command := exec.Command("git", append([]string{"-C", folder, "-c", "user.name=Test", "-c", "user.email=test@example.org"}, args...)...)
	output, err := command.CombinedOutput()
	require.NoError(t, err, string(output))
}
