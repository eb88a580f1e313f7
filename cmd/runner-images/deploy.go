package main

import (
	"github.com/spf13/cobra"

	"every.channel/runner-images/internal/deploy"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/report"
)

func newDeploy(r *report.Report) *cobra.Command {
	var timings bool
	cmd := &cobra.Command{
		Use:   "deploy",
		Short: "Build images, package them and publish them as a release",
		Long: `Build images, package them and publish them as a release. In a workflow the
action runs this; at a terminal the commit, the server and the repository come
from git. Every flag but --timings is an input of the action too.`,
		Example: `  runner-images deploy --publish-release=false
  runner-images deploy --release-tag boot-v2026.02.28 --token-file token
  runner-images deploy --forge-url file:///srv/releases --build-x86-64-iso=false`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			given, err := givenInputs(r, cmd.Flags())
			if err != nil {
				return err
			}
			r.Mask(given[plan.Token])
			around := surroundings(cmd.Context())
			around.NeedToken = true
			p, err := plan.Make(given, around)
			if err != nil {
				return err
			}
			tell(r, p)
			modTime, err := modTime()
			if err != nil {
				return err
			}
			deployment := deploy.Deployment{Plan: p, Nix: nix.Nix{}, Report: r, ModTime: modTime, About: about(given, around), Timings: timings}
			if !p.Skipped {
				if deployment.Key, err = signingKey(r, given); err != nil {
					return err
				}
			}
			if p.Publish {
				if deployment.Store, err = openPlanned(r, p, given[plan.Token]); err != nil {
					return err
				}
			}
			return deployment.Run(cmd.Context())
		},
	}
	addInputs(cmd)
	cmd.Flags().BoolVar(&timings, "timings", false, "tell how long each part of the run has taken")
	return cmd
}
