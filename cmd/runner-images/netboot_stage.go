package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	osuser "os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"every.channel/runner-images/internal/netboot/stage"
	"every.channel/runner-images/internal/netboot/state"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/forgejo"
	"every.channel/runner-images/internal/report"
)

// stageOptions are the flags of netboot stage.
type stageOptions struct {
	stateDir  string
	from      forgejo.Config
	tokenFile string
	tag       string
	tarball   string
	rollback  bool
	check     bool
	switches  bool
	refresh   bool
	keep      int
	rings     string
	trust     trustFlag
	downgrade bool
	maxAge    time.Duration
}

func newNetbootStage(r *report.Report) *cobra.Command {
	var options stageOptions
	cmd := &cobra.Command{
		Use:   "stage",
		Short: "Download a release for the boot server and switch to it",
		Long: `Download a release for the boot server and switch to it.

The latest boot-* release that is neither a draft nor a prerelease, or the one of
--release-tag, is downloaded, compared with its SHA256SUMS.txt, unpacked beside
what is served, and then made current in one step. Whatever goes wrong before
that, what is served stays as it is. A download that breaks off goes on where it
did when this is run again. A release that is still staged is switched to without
the forge.

With --allowed-signers only what is signed is believed: SHA256SUMS.txt.sig must be
a signature for the release's tag by one of these signers, also of a release that
was staged before. A bundle that is older than the newest that was current is
refused then, since it may be an old release that is served again: the signed
snapshot.intoto.jsonl of a release says which is older, and the state folder
remembers the newest. --allow-downgrade, or --rollback, goes back on purpose. With
--max-age it is an error if nothing was published for that long, since the server
may hide what is newer.

With --check nothing is changed: it exits with 0 if the state folder has what is
wanted, with 3 if there is something to stage, and with 1 if that cannot be told.`,
		Example: `  runner-images netboot stage --state-dir /var/lib/netboot \
      --forge-url https://forge.example --repository every/channel
  runner-images netboot stage --state-dir /var/lib/netboot --rollback
  runner-images netboot stage --state-dir /var/lib/netboot --release-tag boot-v2026.02.28
  runner-images netboot stage --state-dir state --tarball dist/ec-runner-x86_64-netboot-boot-v2026.02.28.tar.gz
  runner-images netboot stage --state-dir state --forge-url file:///srv/releases --check`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := options.validate(); err != nil {
				return &usageError{err, cmd.CommandPath() + " --help"}
			}
			var store *release.Store
			if options.from.URL != "" {
				var err error
				if store, err = options.store(r); err != nil {
					return err
				}
			}
			return stageNetboot(cmd.Context(), r, options, store)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&options.stateDir, "state-dir", "", "the folder with the staged releases (required)")
	flags.StringVar(&options.from.URL, "forge-url", "", "address of the Forgejo or Gitea server, or file:///folder")
	flags.StringVar(&options.from.Repository, "repository", "", "repository of the releases, owner/name")
	flags.StringVar(&options.tag, "release-tag", "", "tag of the release (default: the latest boot-* release)")
	flags.StringVar(&options.tokenFile, "token-file", "", "a file with a token that may read the releases (or the variable FORGEJO_TOKEN or GITEA_TOKEN)")
	flags.StringVar(&options.from.CAFile, "ca-file", "", "certificates in PEM to trust besides the system's")
	flags.StringVar(&options.tarball, "tarball", "", "stage this netboot bundle instead of a release's; a SHA256SUMS.txt beside it is heeded")
	flags.BoolVar(&options.rollback, "rollback", false, "switch to the release that was current before")
	flags.BoolVar(&options.check, "check", false, "only tell whether there is something to stage")
	flags.BoolVar(&options.switches, "switch", true, "make the release current; false stages it for a ring")
	flags.BoolVar(&options.refresh, "refresh", false, "look at the forge even if the release of --release-tag is staged")
	flags.IntVar(&options.keep, "keep", stage.DefaultKeep, "how many releases stay staged")
	options.trust.addFlag(flags)
	flags.BoolVar(&options.downgrade, "allow-downgrade", false, "with --allowed-signers: take a bundle that is older than what was current before")
	flags.DurationVar(&options.maxAge, "max-age", 0, "with --allowed-signers: how old the newest proof of the latest release may be, for example 720h (default: any age)")
	flags.StringVar(&options.rings, "rings", "", "the file of rings whose releases stay staged (default: rings.yaml in the state folder, if there)")
	return cmd
}

func (o stageOptions) validate() error {
	alone := 0
	for _, given := range []bool{o.tarball != "", o.rollback, o.check} {
		if given {
			alone++
		}
	}
	switch {
	case o.stateDir == "":
		return errNoStateDir
	case alone > 1:
		return errors.New("--tarball, --rollback and --check do not go together")
	case o.rollback && (o.tag != "" || !o.switches):
		return errors.New("--rollback goes to the release that was current before: it takes no --release-tag or --switch=false")
	case o.downgrade && o.trust.file == "":
		return errors.New("--allow-downgrade: without --allowed-signers no release is refused for its age; give both or neither")
	case o.maxAge < 0:
		return fmt.Errorf("--max-age %s: give how old a proof may be, for example 720h, or leave it out for any age", o.maxAge)
	case o.maxAge > 0 && o.trust.file == "":
		return errors.New("--max-age: without --allowed-signers nothing proves how old a release is; give both or neither")
	case o.maxAge > 0 && (o.tag != "" || o.tarball != "" || o.rollback):
		return errors.New("--max-age is about the latest release: it does not go with --release-tag, --tarball or --rollback")
	case o.keep < 1:
		return fmt.Errorf("--keep %d: keep at least 1 release", o.keep)
	case o.from.URL == "" && o.tarball == "" && !o.rollback && (o.tag == "" || o.check || o.refresh):
		return errors.New("--forge-url: say where the releases are, for example https://forge.example with --repository every/channel")
	}
	return o.trust.validate()
}

func stageNetboot(ctx context.Context, r *report.Report, options stageOptions, store *release.Store) (err error) {
	stager := stage.Stager{
		Store: store, Keep: options.keep, StayOnCurrent: !options.switches, Refresh: options.refresh, RingsFile: options.rings,
		AllowDowngrade: options.downgrade, MaxAge: options.maxAge,
		Notify: func(sentence string) { r.Line("%s", sentence) },
	}
	if stager.Dir, err = options.state(); err != nil {
		return err
	}
	if stager.Dir != nil {
		defer func() { err = errors.Join(err, stager.Dir.Close()) }()
	}
	if options.rings != "" && stager.Dir != nil { // which is read again after the staging, to keep their releases
		if _, err := stager.Dir.Rings(options.rings); err != nil {
			return plan.InputErrors{{Input: "rings", Value: options.rings, Why: "cannot be read (" + err.Error() + "); give the file that netboot serve has, or leave it out for rings.yaml in the state folder"}}
		}
	}
	signers, err := options.trust.signers(r)
	if err != nil {
		return err
	}
	if signers != nil {
		believes := stagedTrust{ctx, signers}
		stager.Verify, stager.VerifyStaged = believes.verify, believes.verifyStaged
	}
	if options.check {
		return checkNetboot(ctx, r, stager, options.tag)
	}
	outcome, err := changeStaged(ctx, r, stager, options)
	if ctx.Err() == nil {
		if err := stager.Dir.SetLastStaging(ctx, err); err != nil {
			r.Warning("the metrics of the boot server do not show how this ended: %v", err)
		}
	}
	if err != nil {
		return err
	}
	r.Result(describeStaged(outcome))
	return nil
}

// state opens the state folder, and makes it if there is something to put in it.
// It returns nil for a check of a folder that is not there.
func (o stageOptions) state() (*state.Dir, error) {
	if err := refuseRoot(o.stateDir, os.Geteuid()); err != nil && !o.check {
		return nil, err
	}
	if !o.check && !o.rollback {
		return state.Create(o.stateDir)
	}
	dir, err := state.Open(o.stateDir)
	if o.check && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return dir, err
}

// changeStaged does what the options ask for and shows the progress of a download, if
// there is one.
func changeStaged(ctx context.Context, r *report.Report, stager stage.Stager, options stageOptions) (stage.Outcome, error) {
	var progress *report.Progress
	stager.Progress = func(name string, done, total int64) {
		if progress == nil {
			progress = r.Progress("downloading")
		}
		progress.Bytes(name, done, total)
	}
	defer func() {
		if progress != nil {
			progress.Close()
		}
	}()
	switch {
	case options.rollback:
		return stager.Rollback(ctx)
	case options.tarball != "":
		return stager.Tarball(ctx, options.tarball, options.tag)
	default:
		return stager.Release(ctx, options.tag)
	}
}

func (o stageOptions) store(r *report.Report) (*release.Store, error) {
	config := o.from
	var err error
	config.URL, config.Repository, err = plan.ForReading(map[string]string{plan.ForgeURL: config.URL, plan.Repository: config.Repository})
	if err != nil {
		return nil, err
	}
	config.Token = tokenFromEnvironment()
	if o.tokenFile != "" {
		token, err := readSecret(r, plan.Input{Name: plan.Token}, o.tokenFile)
		if err != nil {
			return nil, err
		}
		config.Token = token
	}
	return openStore(r, config)
}

func describeStaged(outcome stage.Outcome) string {
	tag := outcome.Release.Tag
	var text strings.Builder
	switch {
	case outcome.Switched && outcome.Before != "":
		fmt.Fprintf(&text, "switched from %s to %s", outcome.Before, tag)
	case outcome.Switched:
		fmt.Fprintf(&text, "%s is current", tag)
	case outcome.Before == tag && outcome.Staged:
		fmt.Fprintf(&text, "%s has been staged anew and is current", tag)
	case outcome.Before == tag:
		fmt.Fprintf(&text, "%s is current already: nothing has changed", tag)
	case outcome.Staged:
		fmt.Fprintf(&text, "staged %s without switching to it", tag)
	default:
		fmt.Fprintf(&text, "%s is staged already: nothing has changed", tag)
	}
	fmt.Fprintf(&text, " (%s)\n", strings.Join(architectures(outcome.Release), ", "))
	for _, release := range outcome.Pruned {
		fmt.Fprintf(&text, "removed %s\n", release.Tag)
	}
	return text.String()
}

func architectures(release state.Release) []string {
	var names []string
	for _, architecture := range slices.Sorted(maps.Keys(release.Bundles)) {
		names = append(names, string(architecture))
	}
	return names
}

// errNewer has an exit code of its own: there is something to stage.
var errNewer = errors.New("there is something to stage")

func checkNetboot(ctx context.Context, r *report.Report, stager stage.Stager, tag string) error {
	comparison, err := stager.Check(ctx, tag)
	if err != nil {
		return err
	}
	if newest := comparison.Published; !newest.IsZero() {
		defer func() {
			r.Result(fmt.Sprintf("the newest proof is from %s, %s ago\n", newest.UTC().Format(time.RFC3339), time.Since(newest).Round(time.Second)))
		}()
	}
	switch {
	case comparison.Same:
		r.Result(comparison.Wanted + " is current: there is nothing to stage\n")
		return nil
	case comparison.Current == "":
		r.Result(comparison.Wanted + " can be staged; nothing is current\n")
	case comparison.Current == comparison.Wanted:
		r.Result(comparison.Wanted + " is current, and its assets have changed since it was staged\n")
	default:
		r.Result(fmt.Sprintf("%s can be staged; %s is current\n", comparison.Wanted, comparison.Current))
	}
	return errNewer
}

// refuseRoot keeps root from leaving files in the folder of another user, such as the
// service's, which that user could neither read nor remove.
func refuseRoot(folder string, user int) error {
	info, err := os.Stat(folder)
	if err != nil || user != 0 {
		return nil // it is made, or opening it says what is wrong
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	name := fmt.Sprintf("'#%d'", owner.Uid)
	if known, err := osuser.LookupId(strconv.Itoa(int(owner.Uid))); err == nil {
		name = known.Username
	}
	return fmt.Errorf("--state-dir %q belongs to %s, and what root stages there could not be read by it; run this as its owner: sudo -u %[2]s runner-images netboot stage …", folder, name)
}
