package deploy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/forge"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/trust"
)

// Attach publishes files that were packaged elsewhere in the plan's release, and
// signs that with the key if there is one. Its notes keep saying what the other
// files were built from. Provenance among the files is added to the release's.
func Attach(ctx context.Context, r *report.Report, store forge.Store, p plan.Plan, files []forge.File, key *trust.Key) error {
	folder, err := os.MkdirTemp("", "runner-images-publish-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	return beside(r, func() error { return attach(ctx, r, store, p, slices.Clone(files), folder, key) })
}

// beside publishes, and again if another run has published provenance since this
// one looked at it: theirs is kept, and this run's is added to it.
func beside(r *report.Report, publish func() error) error {
	const enough = 5
	for attempt := 1; ; attempt++ {
		err := publish()
		if !errors.Is(err, forge.ErrChanged) || attempt == enough {
			return err
		}
		r.Line("another run has published provenance meanwhile; adding this run's to it")
	}
}

func attach(ctx context.Context, r *report.Report, store forge.Store, p plan.Plan, files []forge.File, folder string, key *trust.Key) (err error) {
	for i, file := range files {
		if file.Name == trust.ProvenanceFileName {
			if files[i], err = mergeProvenance(ctx, store, p.ReleaseTag, file, folder, key); err != nil {
				return err
			}
		}
	}
	published, err := publish(ctx, r, store, p, files, originIn, key)
	if err != nil {
		return err
	}
	// Those that came without a checksum have one now.
	attached := slices.DeleteFunc(published.Files, func(of forge.File) bool {
		return !slices.ContainsFunc(files, func(f forge.File) bool { return f.Name == of.Name })
	})
	r.Result(Table(artifacts(attached)) + "Release " + published.Release.URL + "\n")
	return nil
}

func mergeProvenance(ctx context.Context, store forge.Store, tag string, file forge.File, folder string, key *trust.Key) (forge.File, error) {
	content, err := os.ReadFile(file.Path)
	if err != nil {
		return file, err
	}
	published, err := readAsset(ctx, store, tag, trust.ProvenanceFileName)
	if err != nil || published == nil {
		file.Follows = forge.FollowsNone
		return file, err
	}
	return writeProvenance(ctx, folder, published, trust.ParseProvenance(content), key)
}

// publish publishes files in the plan's release. What its other files were built
// from, its notes may say already.
func publish(ctx context.Context, r *report.Report, store forge.Store, p plan.Plan, files []forge.File, origin func(notes string) string, key *trust.Key) (forge.Published, error) {
	defer r.Group(strings.TrimSpace(fmt.Sprintf("Publish release %s at %s %s", p.ReleaseTag, p.ForgeURL, p.Repository)))() // a folder has no repository
	progress := r.Progress("upload")
	defer progress.Close()
	published, err := store.Publish(ctx, forge.Publication{
		Tag:        p.ReleaseTag,
		Commit:     p.Commit,
		Prerelease: p.Prerelease,
		Files:      files,
		Check: func(ctx context.Context, before forge.Before) error {
			if key == nil {
				return checkStays(before, p.ReleaseTag, files)
			}
			return checkSigned(ctx, before, key, p.ReleaseTag, files)
		},
		Sign: signWith(key, p.ReleaseTag),
		Notes: func(release forge.Release, assets []forge.File) string {
			return notes(p, origin(release.Notes), artifacts(assets), key != nil || isSigned(release))
		},
		Progress: progress.Bytes,
		Status:   func(what string) { progress.Status("%s", what) },
	})
	if err != nil {
		return forge.Published{}, err
	}
	if key != nil {
		r.Line("signed for %s with the key %s", p.ReleaseTag, key.AuthorizedKey())
	}
	for _, what := range []struct {
		done  string
		names []string
	}{{"uploaded", published.Uploaded}, {"replaced", published.Replaced}, {"unchanged", published.Unchanged}} {
		if len(what.names) > 0 {
			r.Line("%s: %s", what.done, strings.Join(what.names, ", "))
		}
	}
	return published, nil
}

// artifacts returns files of a publication as what they are.
func artifacts(files []forge.File) []artifact.Artifact {
	var found []artifact.Artifact
	for _, f := range files {
		found = append(found, artifact.Artifact{Name: f.Name, Path: f.Path, Size: f.Size, SHA256: f.SHA256})
	}
	return found
}

// toPublish returns artifacts as files of a publication.
func toPublish(artifacts []artifact.Artifact) []forge.File {
	var files []forge.File
	for _, a := range artifacts {
		files = append(files, forge.File{Name: a.Name, Path: a.Path, Size: a.Size, SHA256: a.SHA256})
	}
	return files
}
