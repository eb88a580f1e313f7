package main

import (
	_ "embed"
	"strings"

	"github.com/spf13/cobra"

	"every.channel/runner-images/internal/report"
)

// versionFile is read by the launcher and by the Nix package too, so that an
// installed binary is used only by the action that it belongs to.
//
//go:embed VERSION
var versionFile string

func version() string { return strings.TrimSpace(versionFile) }

func newVersion(r *report.Report) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArguments,
		RunE: func(*cobra.Command, []string) error {
			r.Result("runner-images " + version() + "\n")
			return nil
		},
	}
}
