package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/redact"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/workflow"
)

func newInit(r *report.Report) *cobra.Command {
	var action string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write the workflow that releases a repository's images",
		Long: `Write the workflow that releases a repository's images, ` + workflow.Path + `,
with the images that its flake has: each of nixosConfigurations whose
config.system.build has ` + strings.Join(plan.ImageAttributes(), ", ") + `. A file that is there is not overwritten.`,
		Example: `  runner-images init --action https://forge.example/every-channel/runner-images@v` + version() + `
  runner-images init --action every-channel/runner-images@v` + version() + ` --flake ./images`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkAction(action); err != nil {
				return err
			}
			given, err := givenInputs(r, cmd.Flags())
			if err != nil {
				return err
			}
			p, err := plan.ForVerify(given, plan.Context{}, false)
			if err != nil {
				return err
			}
			top, flake, err := inRepository(cmd.Context(), p.Flake)
			if err != nil {
				return err
			}
			images, err := imagesOf(cmd.Context(), r, p.Flake)
			if err != nil {
				return err
			}
			made := workflow.Workflow{Action: action, Flake: flake, Images: images}
			others := workflow.OtherFolders(top)
			if err := made.Write(top); err != nil {
				return err
			}
			if len(others) > 0 {
				r.Warning("Forgejo reads no other workflows where there is a folder .forgejo/workflows, which is new here: move those of %s into it, or this one to them", strings.Join(others, " and "))
			}
			r.Result(nextSteps(made))
			return nil
		},
	}
	addInputs(cmd, plan.Flake)
	cmd.Flags().StringVar(&action, "action", "", "the action with its version, as a workflow's uses: has it (required)")
	return cmd
}

// usable is an action as `uses:` takes it, by its address or by owner/name, and
// nothing that would mean something else in the file.
var usable = regexp.MustCompile(`^(https?://[^\s@#'"]+/)?[A-Za-z0-9._-]+/[A-Za-z0-9._-]+@[A-Za-z0-9][A-Za-z0-9._/+-]*$`)

func checkAction(action string) error {
	if usable.MatchString(action) {
		return nil
	}
	return plan.InputErrors{{Input: "action", Value: redact.Text(action), Why: fmt.Sprintf(
		"takes the repository of runner-images and a version, https://forge.example/every-channel/runner-images@v%s, or only owner/name@version where your forge has it", version())}}
}

// inRepository returns the top of the git repository around the working directory, and
// how a flake is named from there.
func inRepository(ctx context.Context, flake string) (top, fromTop string, err error) {
	top, err = git(ctx, "rev-parse", "--show-toplevel")
	if err != nil || top == "" {
		return "", "", fmt.Errorf("the workflow belongs into a git repository, and git finds none here; go to the one with the flake, or begin one with git init: %v", err)
	}
	if !strings.HasPrefix(flake, ".") && !strings.HasPrefix(flake, "/") {
		return top, flake, nil
	}
	folder, err := filepath.Abs(flake)
	if err == nil {
		folder, err = filepath.EvalSymlinks(folder) // as git has done with the top
	}
	if err != nil {
		return "", "", plan.InputErrors{{Input: plan.Flake, Value: flake, Why: err.Error()}}
	}
	fromTop, err = filepath.Rel(top, flakeFolder(top, folder))
	if err != nil || !filepath.IsLocal(fromTop) {
		return "", "", plan.InputErrors{{Input: plan.Flake, Value: flake, Why: "is outside the repository " + top + ", so that a runner would not have it"}}
	}
	if fromTop != "." {
		fromTop = "./" + filepath.ToSlash(fromTop)
	}
	return top, fromTop, nil
}

// flakeFolder is where Nix finds the flake for a folder of the repository: there, or above.
func flakeFolder(top, folder string) string {
	for at := folder; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "flake.nix")); err == nil {
			return at
		}
		if at == top || at == filepath.Dir(at) {
			return folder
		}
	}
}

// netbootPart is what every system of NixOS for booting over the network has; the
// image, which has all of it in one folder, is not NixOS's own.
const netbootPart = "netbootRamdisk"

// imagesOf returns the images of a flake, and warns of what cannot be one.
func imagesOf(ctx context.Context, r *report.Report, flake string) ([]workflow.Image, error) {
	var n nix.Nix
	if _, err := n.Version(ctx); err != nil {
		return nil, err
	}
	configurations, err := n.Configurations(ctx, "", flake, append(plan.ImageAttributes(), netbootPart))
	if err != nil {
		return nil, err
	}
	var images []workflow.Image
	for _, configuration := range configurations {
		switch {
		case configuration.Broken:
			r.Warning("nixosConfigurations.%s cannot be evaluated, and is left out", inOneLine(configuration.Name))
			continue
		case configuration.System != "" && !system.MatchString(configuration.System):
			r.Warning("nixosConfigurations.%s is left out: %q, which its hostPlatform has for a system, is none, such as x86_64-linux", inOneLine(configuration.Name), configuration.System)
			continue
		}
		attributes := configuration.Attributes
		if at := slices.Index(attributes, netbootPart); at >= 0 {
			attributes = slices.Delete(attributes, at, at+1)
			if !slices.Contains(attributes, "netboot") {
				r.Warning("nixosConfigurations.%s boots over the network, but has no config.system.build.netboot, a folder with its kernel, its initrd and netboot.ipxe; nix/configurations/netboot.nix of runner-images makes one", inOneLine(configuration.Name))
			}
		}
		found, err := plan.ConfigurationImages(configuration.Name, attributes)
		if err != nil {
			r.Warning("one of nixosConfigurations is left out: %v", err)
			continue
		}
		for _, image := range found {
			images = append(images, workflow.Image{Image: image, System: configuration.System})
		}
	}
	if images = withoutTwins(r, images); len(images) == 0 {
		return nil, fmt.Errorf("the flake %q has no images: none of its nixosConfigurations has config.system.build.%s", flake, strings.Join(plan.ImageAttributes(), " or ."))
	}
	return images, nil
}

// withoutTwins leaves out an image whose name another one has, which the action would
// refuse: a configuration kiosk with several images has kiosk-iso, and there may be a
// configuration of that name.
func withoutTwins(r *report.Report, images []workflow.Image) []workflow.Image {
	taken := map[string]string{} // installables, by name
	return slices.DeleteFunc(images, func(image workflow.Image) bool {
		first, twin := taken[image.Name]
		if twin {
			r.Warning("%s is left out: its name would be %s, which %s has; add it to the workflow by another name", image.Installable, image.Name, first)
		} else {
			taken[image.Name] = image.Installable
		}
		return twin
	})
}

// system is what Nix calls a system. The flake may be someone else's, and the workflow
// says the system in a comment.
var system = regexp.MustCompile(`^[A-Za-z0-9_]+-[A-Za-z0-9_]+$`)

// inOneLine is the name of a configuration in a sentence.
func inOneLine(name string) string { return strings.Trim(strconv.Quote(name), `"`) }

// nextSteps says what the workflow needs beside itself.
func nextSteps(w workflow.Workflow) string {
	var names []string
	for _, image := range w.Images {
		names = append(names, image.Name)
	}
	return fmt.Sprintf(`wrote %s with %s

It needs a runner with the label %s that has Nix; another label goes into runs-on.
It needs no secret. With the secret %s, the releases are signed:
  ssh-keygen -t ed25519 -N '' -C '' -f signing-key
and the content of the file signing-key goes into the repository's settings, Actions, Secrets.
Gitea looks for workflows in .gitea/workflows, unless its WORKFLOW_DIRS says otherwise.

Then commit the workflow, push it, and push a tag:
  git tag boot-v1 && git push origin boot-v1
`, workflow.Path, strings.Join(names, ", "), workflow.Label, workflow.Secret)
}
