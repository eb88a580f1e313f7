package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/report"
)

func newPlan(r *report.Report) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what deploy would do, and do nothing",
		Example: `  runner-images plan --release-tag boot-v2026.02.28
  runner-images plan --json --publish-release=false | jq -r '.images[].installable'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			given, err := givenInputs(r, cmd.Flags())
			if err != nil {
				return err
			}
			p, err := plan.Make(given, surroundings(cmd.Context()))
			if err != nil {
				return err
			}
			tell(r, p)
			if asJSON {
				encoded, err := json.MarshalIndent(p, "", "  ")
				if err != nil {
					return err
				}
				r.Result(string(encoded) + "\n")
				return nil
			}
			r.Result(describe(p))
			return nil
		},
	}
	addInputs(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the plan as JSON")
	return cmd
}

func describe(p plan.Plan) string {
	if p.Skipped {
		return "skipped: " + p.Reason + "\n"
	}
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "release tag\t%s\n", p.ReleaseTag)
	fmt.Fprintf(table, "publish\t%s\n", destination(p))
	fmt.Fprintf(table, "flake\t%s\n", p.Flake)
	fmt.Fprintf(table, "files in\t%s\n", p.OutputDir)
	for _, image := range p.Images {
		fmt.Fprintf(table, "%s\t%s\n", image.Name, image.Installable)
	}
	_ = table.Flush() // a strings.Builder takes everything
	return text.String()
}

func destination(p plan.Plan) string {
	if !p.Publish {
		return "no"
	}
	kind := "release"
	if p.Prerelease {
		kind = "prerelease"
	}
	return strings.TrimSpace(fmt.Sprintf("%s at %s %s", kind, p.ForgeURL, p.Repository))
}
