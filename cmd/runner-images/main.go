// Runner-images builds NixOS boot images from a flake, publishes them as a
// release of a Forgejo or Gitea repository, and boots machines from it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"every.channel/runner-images/internal/netboot/serve"
	"every.channel/runner-images/internal/netboot/stage"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/verify"
)

func main() {
	// Before anything else: until then, others can read what there is to read.
	if err := hideSecrets(); err != nil {
		fmt.Fprintln(os.Stderr, "warning:", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal ends the run in order, a second one at once.
	context.AfterFunc(ctx, stop)
	useProxyForAll()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	r := report.New(report.Options{Out: os.Stdout, Log: os.Stderr})
	root := newRoot(r)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil && !errors.Is(err, errNewer) {
		r.Error(err)
	}
	return exitCode(err)
}

// The exit codes of every command.
const (
	exitDone     = 0
	exitFailed   = 1
	exitBadInput = 2
	exitNothing  = 2 // verify: nothing could be compared
	exitNewer    = 3 // netboot stage --check: there is something to stage
)

// exitCode is the one place that turns errors into exit codes.
func exitCode(err error) int {
	var (
		inputs plan.InputErrors
		usage  *usageError
		option *serve.OptionError
		bundle *stage.TarballError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &inputs), errors.As(err, &usage), errors.As(err, &option), errors.As(err, &bundle):
		return exitBadInput
	case errors.Is(err, verify.ErrNothingComparable):
		return exitNothing
	case errors.Is(err, errNewer):
		return exitNewer
	default:
		return exitFailed
	}
}

func newRoot(r *report.Report) *cobra.Command {
	root := &cobra.Command{
		Use:   "runner-images",
		Short: "Build NixOS boot images from a flake, publish them as a release, boot a fleet from it",
		Example: `  runner-images plan                              what would be built and released here
  runner-images deploy --publish-release=false    build and package into dist/
  runner-images deploy --release-tag boot-v2026.02.28 --token-file token`,
		Version:       version(),
		Args:          noArguments,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n") // as the command version prints it
	root.Flags().Bool("version", false, "print the version")
	root.SetOut(os.Stdout)
	root.SetErr(os.Stderr)
	root.AddCommand(newDeploy(r), newPlan(r), newPackage(r), newPublish(r), newVerify(r), newNetboot(r), newInit(r), newDoctor(r), newVersion(r), newMan())
	addCobras(root)
	asUsage(root)
	return root
}
