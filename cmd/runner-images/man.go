package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newMan is for whoever packages the command: scripts/release and nix/package.nix.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use:    "man FOLDER",
		Short:  "Write the manual pages into a folder",
		Hidden: true,
		Args: func(_ *cobra.Command, given []string) error {
			if len(given) != 1 {
				return errors.New("give one folder, which is made; for example: runner-images man man")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			date, err := modTime() // of the pages; not today, so that they are the same tomorrow
			if err != nil {
				return err
			}
			date = date.UTC()
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			header := &doc.GenManHeader{Section: "1", Date: &date, Source: "runner-images " + version(), Manual: "runner-images"}
			cmd.Root().DisableAutoGenTag = true
			return doc.GenManTree(cmd.Root(), header, args[0])
		},
	}
}
