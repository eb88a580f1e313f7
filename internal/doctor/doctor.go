// Package doctor looks for what a machine lacks for the commands that need something of
// it. It changes nothing, on the machine or on the forge.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"every.channel/runner-images/internal/disk"
	"every.channel/runner-images/internal/netboot/serve"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/size"
)

// A Finding is what was found of one thing that was looked at.
type Finding struct {
	Subject  string // "nix"
	Found    string // what is there, if nothing is missing
	Err      error  // what is missing, and what to do
	Optional bool   // what is missing is not needed by all
}

// Building looks for what building images needs: Nix, git, and room for the outputs and
// the packaged files in the folder.
func Building(ctx context.Context, n nix.Nix, folder string) []Finding {
	findings := []Finding{findNix(ctx, n), findGit(ctx)}
	store, err := n.StoreDir(ctx)
	if err != nil {
		return append(findings, Finding{Subject: "disk", Err: err})
	}
	for _, path := range []string{store, folder} {
		free, err := room(path, path == store)
		findings = append(findings, Finding{Subject: "disk", Found: fmt.Sprintf("%s free for %s", size.Text(free), path), Err: err})
	}
	return findings
}

// room returns the free bytes for a folder, which need not be there yet.
func room(folder string, isStore bool) (free int64, err error) {
	if err := disk.CheckFolder(folder); err != nil {
		return 0, err
	}
	return nix.CheckDisk(folder, isStore, nix.DefaultMinFree)
}

func findNix(ctx context.Context, n nix.Nix) Finding {
	version, err := n.Version(ctx)
	if err == nil {
		err = n.Check(ctx)
	}
	return Finding{Subject: "nix", Found: "version " + version + ", with flakes", Err: err}
}

// findGit runs git, with which Nix reads a checkout.
func findGit(ctx context.Context) Finding {
	version, err := exec.CommandContext(ctx, "git", "--version").Output()
	if err != nil {
		err = fmt.Errorf("it cannot be run (%w), and Nix reads a checkout with it: install it", err)
	}
	return Finding{Subject: "git", Found: strings.TrimPrefix(strings.TrimSpace(string(version)), "git "), Err: err}
}

// patience is how long a forge may take to answer.
const patience = 10 * time.Second

// Publishing looks for what stops a publication to a forge before anything is written.
// What the token may write, forges tell only of a request that writes.
func Publishing(ctx context.Context, store *release.Store, address string) Finding {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no valid answer within %s", patience))
	defer cancel()
	return Finding{
		Subject: "publish", Err: store.Check(ctx, "a release", release.Draft{}),
		Found: address + " can be opened; whether a token has the scope write:repository, a forge tells only when something is published",
	}
}

// PublishingToFolder says whether the folder of releases at an address, which can be
// opened, is there yet.
func PublishingToFolder(address string) Finding {
	parsed, err := url.Parse(address)
	if err == nil {
		_, err = os.Stat(parsed.Path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return Finding{Subject: "publish", Found: address + " is not there yet, and is made"}
	}
	return Finding{Subject: "publish", Found: address + " is a folder", Err: err}
}

// Reading looks whether releases can be read from the store; those with images have tags
// that begin with prefix.
func Reading(ctx context.Context, store *release.Store, address, prefix string) Finding {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no valid answer within %s", patience))
	defer cancel()
	latest, err := store.Latest(ctx, prefix)
	return Finding{
		Subject: "releases", Err: err, Optional: errors.Is(err, release.ErrNotFound),
		Found: address + " can be read; its latest release is " + latest.Tag,
	}
}

// Serving looks for what the boot server needs. The error is about the configuration.
func Serving(ctx context.Context, config serve.Config) ([]Finding, error) {
	needs, err := serve.Check(ctx, config)
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, need := range needs {
		findings = append(findings, Finding{Subject: need.Name, Found: need.Found, Err: need.Err})
	}
	return findings, nil
}
