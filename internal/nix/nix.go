// Package nix builds images with the nix command: it evaluates and builds all
// of them in one call, reports progress, and explains a failure by the derivation
// that failed and the end of its log. It also reads what a release's provenance
// records of flakes and store paths.
//
// It works with Nix 2.8 to 2.34, and does not depend on the user's configuration
// to allow flakes.
package nix

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"every.channel/runner-images/internal/artifact"
)

// A Result is an image that was built.
type Result struct {
	artifact.Image
	Derivation string // the store path of the derivation, ending in .drv
	Output     string // the store path of the build's output
	Link       string // a symlink to Output that is a GC root while it stands
}

// A Nix runs the nix command. Its zero value is usable.
type Nix struct {
	Program string        // the command; "nix", found on PATH, if empty
	Args    []string      // extra arguments for every evaluation and build, for example --option NAME VALUE
	Env     []string      // the environment of nix; that of this process if nil
	Grace   time.Duration // how long a cancelled nix may take to end before it is killed; 10 s if zero
}

// Why a machine cannot build images.
var (
	ErrNotInstalled = errors.New("Nix is not installed; it is needed to build images")
	ErrTooOld       = errors.New("this Nix is too old")
)

// oldest is the first version that this package was tried with. Flakes are a
// little older.
var oldest = version{major: 2, minor: 8}

// Version returns the version of Nix, for example "2.26.3". It wraps
// ErrNotInstalled or ErrTooOld if this Nix cannot build images.
func (n Nix) Version(ctx context.Context) (string, error) {
	v, err := n.version(ctx)
	return v.text, err
}

// "nix (Nix) 2.26.3", "nix (Lix, like Nix) 2.91.1", "nix (Determinate Nix 3.6.2) 2.29.0"
var versionLine = regexp.MustCompile(`^nix \(.*\) (([0-9]+)\.([0-9]+)\S*)`)

func (n Nix) version(ctx context.Context) (version, error) {
	output, err := n.output(ctx, "", "--version")
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return version{}, fmt.Errorf("%w: no %q on PATH; install it (https://nixos.org/download) or choose a machine that has it", ErrNotInstalled, n.program())
	}
	if err != nil {
		return version{}, err
	}
	return parseVersion(strings.TrimSpace(string(output)))
}

// Check returns why Nix cannot build, although it is installed: its daemon does not
// answer, or it has no flakes.
func (n Nix) Check(ctx context.Context) error {
	if _, err := n.output(ctx, "", "store", "ping"); err != nil {
		if reason := daemonProblem(err.Error()); reason != "" {
			return errors.New(reason)
		}
		return err
	}
	has, err := n.output(ctx, "", "eval", "--json", "--expr", "builtins ? getFlake")
	if err == nil && strings.TrimSpace(string(has)) != "true" {
		err = errors.New("this Nix has no flakes, even if it is asked for them with --extra-experimental-features")
	}
	return err
}

// A version is that of Nix.
type version struct {
	major, minor int
	text         string // with all its parts
}

func parseVersion(line string) (version, error) {
	match := versionLine.FindStringSubmatch(line)
	if match == nil {
		return version{}, fmt.Errorf("nix --version printed %q, which is not a version of Nix", line)
	}
	v := version{text: match[1]}
	v.major, _ = strconv.Atoi(match[2]) // they are digits
	v.minor, _ = strconv.Atoi(match[3])
	if v.before(oldest) {
		return version{}, fmt.Errorf("%w: it is version %s, and images need %d.%d or newer for their flakes", ErrTooOld, v.text, oldest.major, oldest.minor)
	}
	return v, nil
}

func (v version) before(other version) bool {
	return v.major < other.major || v.major == other.major && v.minor < other.minor
}

func (n Nix) program() string {
	if n.Program == "" {
		return "nix"
	}
	return n.Program
}
