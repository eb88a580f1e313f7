// Package workflow writes the workflow with which a repository releases its images.
package workflow

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/redact"
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
		fmt.Fprintf(&text, "          flake: %s\n", scalar(w.Flake))
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

// plainScalar is a text that YAML takes as it is, without quotes.
var plainScalar = regexp.MustCompile(`^[A-Za-z./][A-Za-z0-9._/+:?=&%~-]*$`)

// scalar writes a text of one line as YAML.
func scalar(text string) string {
	if plainScalar.MatchString(text) && !strings.HasSuffix(text, ":") {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}

// check finds what would be more in the file than a word of it: a line of its own, or an
// expression, which the server would fill in, with a secret perhaps.
func (w Workflow) check() error {
	words := []string{w.Action, w.Flake}
	for _, image := range w.Images {
		words = append(words, image.Name, image.Installable, image.System)
	}
	for _, word := range words {
		if strings.Contains(word, "${{") || redact.Printable(word) != word || strings.ContainsAny(word, "\n\t") {
			return fmt.Errorf("%q cannot stand in a workflow: it has ${{ or a character that does not show; rename it", word)
		}
	}
	return nil
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

// OtherFolders returns the folders in which a repository has its workflows, if Path would
// be the first in its own: Forgejo then looks no longer into the others. An empty folder is
// in no commit.
func OtherFolders(top string) []string {
	isEmpty := func(folder string) bool {
		files, err := os.ReadDir(filepath.Join(top, folder))
		return err != nil || len(files) == 0
	}
	if !isEmpty(filepath.Dir(Path)) {
		return nil
	}
	return slices.DeleteFunc([]string{".gitea/workflows", ".github/workflows"}, isEmpty)
}

// Write writes the workflow into the repository whose top is the folder. It overwrites
// nothing, follows no link out of the folder, and writes nothing in which a word would be
// more than that.
func (w Workflow) Write(folder string) error {
	if err := w.check(); err != nil {
		return err
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(filepath.Dir(Path), 0o755); err != nil {
		return fmt.Errorf("%s cannot be written: %w", Path, err)
	}
	file, err := root.OpenFile(Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already, and nothing is overwritten; move it away to have it written anew", Path)
	}
	if err != nil {
		return fmt.Errorf("%s cannot be written: %w", Path, err)
	}
	_, err = file.WriteString(w.Text())
	return errors.Join(err, file.Close())
}
