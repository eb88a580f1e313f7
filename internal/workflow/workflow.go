// Package workflow writes the workflow with which a repository releases its images.
package workflow

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"every.channel/runner-images/internal/artifact"
)

// Path is where Forgejo looks for the workflow, in the repository.
const Path = ".forgejo/workflows/deploy-runner-images.yml"

// What the workflow asks for, beside the action.
const (
	Label  = "nix"         // of the runners
	Secret = "SIGNING_KEY" // of the repository; without it, the release is not signed
)

// A Workflow is what differs from repository to repository.
type Workflow struct {
	Action string  // the action with its version, as `uses:` takes it
	Flake  string  // the flake with the images, as seen from the repository's top
	Images []Image // at least one
}

// An Image is one of the flake's, whose installable is an attribute of it.
type Image struct {
	artifact.Image
	System string // that it has to be built on, "aarch64-linux"; empty if that is not known
}

// head is the workflow up to the action. The checkout is pinned by its commit: a tag
// can be moved.
const head = `on:
  push:
    tags: ["boot-v*"]
  workflow_dispatch:

concurrency:
  group: deploy-runner-images-${{ github.ref }}

permissions:
  contents: write # releases

jobs:
  deploy:
    runs-on: nix # a label of your runners that have Nix
    steps:
      - uses: actions/checkout@11d5960a326750d5838078e36cf38b85af677262 # v4.4.0
        with:
          persist-credentials: false # nothing here needs the token that it would keep
`

// Text returns the workflow as it is in its file. What it says of images for other
// systems than x86_64-linux, which the runner may not be able to build, is a comment,
// unless there are no others.
func (w Workflow) Text() string {
	var text strings.Builder
	text.WriteString(head)
	fmt.Fprintf(&text, "      - uses: %s\n        with:\n", w.Action)
	fmt.Fprintf(&text, "          signing_key: ${{ secrets.%s }} # without this secret, the release is not signed\n", Secret)
	if w.Flake != "." {
		fmt.Fprintf(&text, "          flake: %s\n", w.Flake)
	}
	text.WriteString("          images: |\n")
	active, others := w.bySystem()
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, image := range active {
		fmt.Fprintf(table, "            %s\t%s\n", image.Name, image.Installable)
	}
	for _, image := range others {
		fmt.Fprintf(table, "            # %s\t%s # takes a runner or a remote builder for %s\n", image.Name, image.Installable, image.System)
	}
	_ = table.Flush() // a strings.Builder takes everything
	return text.String()
}

// bySystem returns the images that any runner is expected to build, and the others.
func (w Workflow) bySystem() (active, others []Image) {
	for _, image := range w.Images {
		if image.System == "" || image.System == "x86_64-linux" {
			active = append(active, image)
		} else {
			others = append(others, image)
		}
	}
	if len(active) == 0 {
		return others, nil
	}
	return active, others
}

// Write writes the workflow into the repository whose top is the folder. It overwrites
// nothing, and follows no link out of the folder.
func (w Workflow) Write(folder string) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(filepath.Dir(Path), 0o755); err != nil {
		return err
	}
	file, err := root.OpenFile(Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already, and nothing is overwritten; move it away to have it written anew", Path)
	}
	if err != nil {
		return err
	}
	_, err = file.WriteString(w.Text())
	return errors.Join(err, file.Close())
}
