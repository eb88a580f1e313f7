package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"every.channel/runner-images/internal/deploy"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/verify"
)

// What a machine that was booted from a runner image knows of it.
const (
	systemFlake       = "/etc/every-channel/flake" // the source that it was built from
	kernelCommandLine = "/proc/cmdline"
)

// verifyOptions are the flags of verify that are not inputs.
type verifyOptions struct {
	trust        trustFlag
	downloadOnly bool
	against      string
	again        bool
	asJSON       bool
	onlyImages   bool
}

func newVerify(r *report.Report) *cobra.Command {
	var options verifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Rebuild a release's images and compare them with it, bit for bit",
		Long: `Rebuild a release's images and compare them with it, bit for bit.

The images that this machine can build are built from its own flake, packaged as
deploy does, and compared with the published files; all files are compared with
SHA256SUMS.txt. A difference is explained. On a runner the flake is
` + systemFlake + `, and the release the one that it was booted from, if it knows.

It exits with 0 if all that could be compared is the same, with 1 if something
differs or is not signed as it should be, and with 2 if nothing could be compared.`,
		Example: `  runner-images verify --release-tag boot-v2026.02.28 --allowed-signers allowed_signers
  runner-images verify --release-tag boot-v2026.02.28 --download-only
  runner-images verify --against ~/Downloads --flake git+https://forge.example/every/channel`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := options.validate(); err != nil {
				return &usageError{err, cmd.CommandPath() + " --help"}
			}
			given, err := givenInputs(r, cmd.Flags())
			if err != nil {
				return err
			}
			r.Mask(given[plan.Token])
			options.fromSystem(given)
			p, err := plan.ForVerify(given, surroundings(cmd.Context()), options.against == "")
			if err != nil {
				return err
			}
			options.onlyImages = given[plan.Images] != ""
			return options.run(cmd, r, p, given[plan.Token])
		},
	}
	options.addFlags(cmd)
	return cmd
}

func (o *verifyOptions) addFlags(cmd *cobra.Command) {
	addInputs(cmd, plan.ReleaseTag, plan.Flake, plan.Images, plan.NixArgs, plan.ForgeURL, plan.Repository, plan.Token, plan.CAFile)
	flags := cmd.Flags()
	for flag, usage := range map[string]string{
		"release-tag": "tag of the release (default: the release that this machine was booted from, else as for deploy)",
		"flake":       "flake that holds the images (default " + systemFlake + " if it is there, else .)",
		"images":      "images to build in place of those of the project, one line per image: its name and its installable",
		"token-file":  "token that may read the release, where everybody may not (a file that holds it; or the variable INPUT_TOKEN)",
	} {
		flags.Lookup(flag).Usage = usage
	}
	o.trust.addFlag(flags)
	flags.BoolVar(&o.downloadOnly, "download-only", false, "compare the published files with SHA256SUMS.txt only; build nothing")
	flags.StringVar(&o.against, "against", "", "compare with the files in this `folder`, all or some of a release's, instead of a release")
	flags.BoolVar(&o.again, "rebuild", false, "have Nix build again what it has built here before, to see whether it is the same then")
	flags.BoolVar(&o.asJSON, "json", false, "print the report as JSON")
}

// run verifies, and again if the release was changed meanwhile.
func (o *verifyOptions) run(cmd *cobra.Command, r *report.Report, p plan.Plan, token string) error {
	const attempts = 3
	for attempt := 1; ; attempt++ {
		source, err := o.source(cmd, r, p, token)
		if err != nil {
			return err
		}
		err = o.verify(cmd.Context(), r, p, source)
		if !errors.Is(err, verify.ErrChanged) || attempt == attempts {
			return err
		}
		r.Line("the release changed during the verification; verifying it again")
	}
}

func (o verifyOptions) validate() error {
	if o.downloadOnly && o.again {
		return errors.New("--download-only builds nothing, so it does not go with --rebuild")
	}
	return o.trust.validate()
}

// fromSystem completes what was given by what a runner knows of itself.
func (o verifyOptions) fromSystem(given map[string]string) {
	if given[plan.Flake] == "" {
		if _, err := os.Stat(systemFlake); err == nil {
			given[plan.Flake] = systemFlake
		}
	}
	if given[plan.ReleaseTag] == "" && o.against == "" {
		line, err := os.ReadFile(kernelCommandLine)
		if err == nil {
			given[plan.ReleaseTag] = verify.BootedTag(string(line))
		}
	}
}

// source returns where the published files are.
func (o verifyOptions) source(cmd *cobra.Command, r *report.Report, p plan.Plan, token string) (verify.Source, error) {
	if o.against != "" {
		if info, err := os.Stat(o.against); err != nil || !info.IsDir() {
			return nil, plan.InputErrors{{Input: "against", Value: o.against, Why: "is no folder; give the one with the files of a release, for example ~/Downloads"}}
		}
		return verify.InFolder(o.against, o.trust.file), nil
	}
	store, err := openPlanned(r, p, token)
	if err != nil {
		return nil, err
	}
	release, err := store.Release(cmd.Context(), p.ReleaseTag)
	if err != nil {
		return nil, err
	}
	if release.Draft {
		return nil, fmt.Errorf("the release %s is a draft: it may not be whole yet; publish it first", p.ReleaseTag)
	}
	return verify.InRelease(store, release), nil
}

func (o verifyOptions) verify(ctx context.Context, r *report.Report, p plan.Plan, source verify.Source) error {
	request := verify.Request{
		Source:   source,
		Tag:      p.ReleaseTag,
		Now:      time.Now(),
		Flake:    p.Flake,
		Progress: func(message string) { r.Line("%s", message) },

		OnlyImages: o.onlyImages,
	}
	if source.Whole() {
		request.Settle = 2 * time.Second // a few requests of a publication
	}
	var err error
	if request.Signers, err = o.trust.signers(r); err != nil {
		return err
	}
	for _, image := range p.Images {
		request.Images = append(request.Images, verify.Image{Image: image})
	}
	if !o.downloadOnly {
		folder, err := os.MkdirTemp("", "runner-images-verify-")
		if err != nil {
			return fmt.Errorf("a folder for what is rebuilt: %w", err)
		}
		defer os.RemoveAll(folder) // what stays there does no harm
		if err := o.rebuild(ctx, r, p, folder, &request); err != nil {
			return err
		}
	}
	compared, err := verify.Verify(ctx, request)
	if err != nil {
		return err
	}
	if err := o.show(r, compared); err != nil {
		return err
	}
	return compared.Err()
}

// rebuild has the request build images and package them into the folder.
func (o verifyOptions) rebuild(ctx context.Context, r *report.Report, p plan.Plan, folder string, request *verify.Request) error {
	rebuild := deploy.Rebuild{Nix: nix.Nix{}, NixArgs: p.NixArgs, Report: r, Dir: folder, Again: o.again}
	if _, err := (nix.Nix{}).Version(ctx); err != nil {
		return fmt.Errorf("%w; or compare with SHA256SUMS.txt alone: --download-only", err)
	}
	var err error
	if rebuild.ModTime, err = modTime(); err != nil {
		return err
	}
	if request.Metadata, err = deploy.Flake(ctx, nix.Nix{}, p.Flake); err != nil {
		return err
	}
	request.Rebuild = rebuild.Run
	return nil
}

func (o verifyOptions) show(r *report.Report, compared verify.Report) error {
	if !o.asJSON {
		r.Result(compared.Text())
		r.Summary(fmt.Sprintf("## Release %s: %s\n\n```\n%s```\n", compared.Tag, compared.Result, compared.Text()))
		return nil
	}
	encoded, err := json.MarshalIndent(compared, "", "  ")
	if err != nil {
		return err
	}
	r.Result(string(encoded) + "\n")
	return nil
}
