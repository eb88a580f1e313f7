package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/deploy"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/trust"
)

// What happens to an asset that is there with other bytes.
const (
	replaceAlways = "always"
	replaceNever  = "never" // it is an error, and nothing is changed
)

func newPublish(r *report.Report) *cobra.Command {
	var replace string
	cmd := &cobra.Command{
		Use:   "publish FILE...",
		Short: "Attach files to a release, new or existing",
		Long: `Attach files to a release, new or existing, and bring its SHA256SUMS.txt up to
date. A SHA256SUMS.txt among the files is checked, and not attached itself; its
signature is made anew with the signing key. What it does not list is refused: that
was left in the folder by an earlier run. Provenance among the files
(provenance.intoto.jsonl) is added to the release's.`,
		Example: `  runner-images publish dist/* --release-tag boot-v2026.02.28 --token-file token
  runner-images publish dist/* --release-tag boot-v2026.02.28 --forge-url file:///srv/releases`,
		Args: someArguments("FILE", "runner-images publish dist/* --release-tag boot-v2026.02.28 --token-file token"),
		RunE: func(cmd *cobra.Command, paths []string) error {
			given, err := givenInputs(r, cmd.Flags())
			if err != nil {
				return err
			}
			given[plan.PublishRelease] = "true"
			r.Mask(given[plan.Token])
			around := surroundings(cmd.Context())
			around.NeedToken = true
			p, err := plan.ForFiles(given, around)
			if err != nil {
				return err
			}
			tell(r, p)
			if replace != replaceAlways && replace != replaceNever {
				return plan.InputErrors{{Input: "replace", Value: replace, Why: "takes always or never"}}
			}
			releases, err := openPlanned(r, p, given[plan.Token])
			if err != nil {
				return err
			}
			key, err := signingKey(r, given)
			if err != nil {
				return err
			}
			files, listed, err := readFiles(r, paths, p.ReleaseTag)
			if err != nil {
				return err
			}
			return deploy.Attach(cmd.Context(), r, releases, p, files, listed, key, replace == replaceNever)
		},
	}
	addInputs(cmd, plan.ReleaseTag, plan.ForgeURL, plan.Repository, plan.Token, plan.CAFile, plan.Prerelease, plan.VerifyUploads, plan.SigningKey)
	cmd.Flags().StringVar(&replace, "replace", replaceAlways, "what to do about an asset that is there with other bytes: always replace it, or never and fail")
	return cmd
}

// readFiles looks at the files that are to be attached to the release of the tag, and
// returns what a SHA256SUMS.txt among them lists, or nil. All that cannot be attached
// come back in one error. They are hashed while they are uploaded. Names that are those
// of files of another release are warned about.
func readFiles(r *report.Report, paths []string, tag string) (files []release.File, listed checksum.Sums, err error) {
	var (
		wrong plan.InputErrors
		seen  = map[string]bool{}
	)
	fail := func(path, why string, args ...any) {
		wrong = append(wrong, &plan.InputError{Input: "file", Value: path, Why: fmt.Sprintf(why, args...)})
	}
	for _, path := range paths {
		name := filepath.Base(path)
		info, err := os.Stat(path)
		switch target, _ := os.Readlink(path); {
		case err != nil && target != "":
			fail(path, "is a link to %s, which is gone; if Nix has collected that, run deploy again, with output_dir to have the file itself", target)
		case err != nil:
			fail(path, "cannot be attached (%v)", errors.Unwrap(err))
		case info.IsDir():
			fail(path, "is a folder; name the files in it")
		case !info.Mode().IsRegular():
			fail(path, "is a device or a pipe, and no file")
		case checksum.CheckName(name) != nil:
			fail(path, "cannot be an asset: %v", checksum.CheckName(name))
		case seen[name]:
			fail(path, "another file is called %s too, and a release has one asset of a name", name)
		case name == checksum.FileName:
			content, err := os.ReadFile(path)
			if err == nil {
				listed, err = checksum.Parse(bytes.NewReader(content))
			}
			if err != nil {
				fail(path, "%v", err)
			}
		case name == trust.SignatureFileName || name == trust.SnapshotFileName: // are made anew, for what the release then lists
		default:
			if why := provenanceProblem(path, name, tag); why != nil {
				fail(path, "cannot be used: %v; give that of the files, or leave it out", why)
			}
			if other, ok := plan.OtherTag(name, tag); ok {
				r.Warning("%s has the name of a file of the release %s, and is attached to %s", name, other, tag)
			}
			files = append(files, release.File{Name: name, Path: path, Size: info.Size()})
		}
		seen[name] = true
	}
	for _, file := range files {
		if _, ok := listed[file.Name]; listed != nil && !ok {
			fail(file.Path, "is not in the %s among the files, so it may be of another release; remove it, or name the files to attach without %[1]s", checksum.FileName)
		}
	}
	if len(files) == 0 && len(wrong) == 0 {
		fail(paths[0], "is made anew for the release; name the files that it lists too")
	}
	if len(wrong) > 0 {
		return nil, nil, wrong
	}
	return files, listed, nil
}

// provenanceProblem returns why a file that is called as provenance is none for the tag.
func provenanceProblem(path, name, tag string) error {
	if name != trust.ProvenanceFileName {
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return trust.CheckProvenance(content, tag)
}
