package main

import (
	"github.com/spf13/cobra"

	"every.channel/runner-images/internal/report"
)

func newNetboot(r *report.Report) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "netboot",
		Short: "Boot machines over the network from a release",
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newNetbootStage(r), newNetbootServe())
	return cmd
}
