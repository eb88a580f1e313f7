package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"every.channel/runner-images/internal/doctor"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/report"
)

// What doctor looks at: the commands that need something of the machine.
const (
	forDeploy = "deploy"
	forVerify = "verify"
	forServe  = "serve"
)

func newDoctor(r *report.Report) *cobra.Command {
	var options serveOptions
	purposes := []string{forDeploy, forVerify, forServe}
	cmd := &cobra.Command{
		Use:   "doctor [deploy] [verify] [serve]",
		Short: "Say what this machine lacks for deploy, verify and netboot serve",
		Long: `Say what this machine lacks for deploy, verify and netboot serve: for all three, or
for those that are named. Nothing is changed, on the machine or on the forge; the
boot server's ports are opened and closed again.

It exits with 0 if nothing is missing, and with 1 if something is.`,
		Example: `  runner-images doctor
  runner-images doctor deploy --token-file token
  runner-images doctor serve --state-dir /var/lib/netboot --ipxe-dir /srv/ipxe`,
		ValidArgs: purposes,
		Args:      validArguments,
		RunE: func(cmd *cobra.Command, named []string) error {
			if len(named) == 0 {
				named = purposes
			}
			var findings []doctor.Finding
			if slices.Contains(named, forDeploy) || slices.Contains(named, forVerify) {
				found, err := lookAtBuilds(cmd, r, named)
				if err != nil {
					return err
				}
				findings = append(findings, found...)
			}
			if slices.Contains(named, forServe) {
				config, err := options.parse()
				if err != nil {
					return err
				}
				found, err := doctor.Serving(cmd.Context(), config)
				if err != nil {
					return err
				}
				findings = append(findings, found...)
			}
			return diagnose(r, findings)
		},
	}
	addInputs(cmd, plan.OutputDir, plan.ForgeURL, plan.Repository, plan.Token, plan.CAFile)
	var served pflag.FlagSet
	options.addFlags(&served)
	for _, name := range []string{"state-dir", "listen-ip", "interface", "http-port", "tftp-port", "ipxe-dir", "tftp-boot-filename", "status-address"} {
		flag := served.Lookup(name)
		flag.Usage = "netboot serve: " + strings.TrimSuffix(flag.Usage, " (required)")
		cmd.Flags().AddFlag(flag)
	}
	return cmd
}

// lookAtBuilds looks at what deploy and verify need, as far as they are named.
func lookAtBuilds(cmd *cobra.Command, r *report.Report, named []string) ([]doctor.Finding, error) {
	ctx := cmd.Context()
	given, err := givenInputs(r, cmd.Flags())
	if err != nil {
		return nil, err
	}
	r.Mask(given[plan.Token])
	around := surroundings(ctx)
	p, err := plan.ForVerify(given, around, false)
	if err != nil {
		return nil, err
	}
	forge := lookAtForge(ctx, r, p, given[plan.Token], named, around.NoRemote)
	return append(doctor.Building(ctx, nix.Nix{}, p.OutputDir), forge...), nil
}

// lookAtForge looks at where deploy publishes releases to, and verify reads them from.
func lookAtForge(ctx context.Context, r *report.Report, p plan.Plan, token string, named []string, noRemote error) []doctor.Finding {
	isFolder := strings.HasPrefix(p.ForgeURL, "file:")
	if p.ForgeURL == "" || p.Repository == "" && !isFolder {
		why := "no repository is known here: go to its checkout, or give --forge-url and --repository"
		if noRemote != nil {
			why += " (" + noRemote.Error() + ")"
		}
		return []doctor.Finding{{Subject: "forge", Err: errors.New(why)}}
	}
	releases, err := openPlanned(r, p, token)
	if err != nil {
		return []doctor.Finding{{Subject: "forge", Err: err}}
	}
	var findings []doctor.Finding
	address := p.ForgeURL
	if !isFolder {
		address += " " + p.Repository
	}
	switch publishes := slices.Contains(named, forDeploy); {
	case publishes && isFolder:
		findings = append(findings, doctor.PublishingToFolder(address))
	case publishes:
		findings = append(findings, doctor.Publishing(ctx, releases, address))
	}
	// Without a token, nothing has been asked of the forge yet, whose address may be wrong.
	if slices.Contains(named, forVerify) || token == "" && !isFolder {
		findings = append(findings, doctor.Reading(ctx, releases, address, release.TagPrefix))
	}
	return findings
}

// diagnose prints what was found, and returns an error if something is missing.
func diagnose(r *report.Report, findings []doctor.Finding) error {
	missing := 0
	for _, finding := range findings {
		state, text := "ok", finding.Found
		if finding.Err != nil {
			state, text = "missing", finding.Err.Error()
			if finding.Optional {
				state = "note"
			} else {
				missing++
			}
		}
		// What has several lines, such as git's words, goes on below.
		r.Result(fmt.Sprintf("%-8s %-13s %s\n", state, finding.Subject, strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", 23))))
	}
	if missing > 0 {
		return fmt.Errorf("%d of %d are missing; each line above says what to do", missing, len(findings))
	}
	return nil
}
