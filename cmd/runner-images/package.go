package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/deploy"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/report"
)

func newPackage(r *report.Report) *cobra.Command {
	var names []string
	cmd := &cobra.Command{
		Use:   "package RESULT... --name NAME...",
		Short: "Package what nix build has built, as deploy does",
		Long: `Package what nix build has built, as deploy does: for images that are built by
hand, such as those for aarch64. A RESULT is a link that nix build left, or a
store path; each takes a --name, in the same order.`,
		Example: `  nix build .#nixosConfigurations.ec-runner-aarch64-sdimage.config.system.build.sdImage
  runner-images package result --name ec-runner-aarch64-sdimage --release-tag boot-v2026.02.28
  runner-images publish dist/* --release-tag boot-v2026.02.28 --token-file token`,
		Args: someArguments("RESULT", "runner-images package result --name ec-runner-aarch64-sdimage --release-tag boot-v2026.02.28"),
		RunE: func(cmd *cobra.Command, results []string) error {
			built, err := named(results, names)
			if err != nil {
				return err
			}
			given, err := givenInputs(r, cmd.Flags())
			if err != nil {
				return err
			}
			given[plan.PublishRelease] = "false"
			p, err := plan.ForFiles(given, surroundings(cmd.Context()))
			if err != nil {
				return err
			}
			tell(r, p)
			modTime, err := modTime()
			if err != nil {
				return err
			}
			files, err := deploy.Package(cmd.Context(), r, built, deploy.InStore(nix.Nix{}), p, modTime)
			if err != nil {
				return err
			}
			r.Result(deploy.Table(files) + "Files in " + p.OutputDir + "\n")
			return nil
		},
	}
	addInputs(cmd, plan.ReleaseTag, plan.OutputDir)
	cmd.Flags().StringArrayVar(&names, "name", nil, "`name` of the image, which begins its asset's name; once for each RESULT")
	return cmd
}

// named joins results with the names that were given for them.
func named(results, names []string) ([]nix.Result, error) {
	if len(names) != len(results) {
		return nil, plan.InputErrors{{
			Input: "name", Value: strings.Join(names, " "),
			Why: fmt.Sprintf("each result (there are %d) takes a --name, for example --name ec-runner-aarch64-sdimage", len(results)),
		}}
	}
	var (
		built []nix.Result
		wrong plan.InputErrors
	)
	for i, name := range names {
		built = append(built, nix.Result{Image: artifact.Image{Name: name}, Link: results[i]})
		if !artifact.ValidName(name) {
			wrong = append(wrong, &plan.InputError{Input: "name", Value: name, Why: "begins a file's name: use letters, digits and . _ + -"})
		}
		if _, err := os.Lstat(results[i]); err != nil {
			wrong = append(wrong, &plan.InputError{Input: "result", Value: results[i], Why: "cannot be packaged (" + errors.Unwrap(err).Error() + "); give a store path, or the link that nix build has left"})
		}
		if slices.Contains(names[:i], name) {
			wrong = append(wrong, &plan.InputError{Input: "name", Value: name, Why: "is given twice, so that one file would replace the other; give each result a name of its own"})
		}
	}
	if len(wrong) > 0 {
		return nil, wrong
	}
	return built, nil
}

// modTime is the time that files in bundles get: that of SOURCE_DATE_EPOCH
// (https://reproducible-builds.org/specs/source-date-epoch/), else a constant.
func modTime() (time.Time, error) {
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		return artifact.DefaultModTime, nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, plan.InputErrors{{Input: "SOURCE_DATE_EPOCH", Value: epoch, Why: "takes seconds since 1970, for example 1772236800"}}
	}
	return time.Unix(seconds, 0).UTC(), nil
}
