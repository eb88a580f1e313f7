package forgejo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"code.gitea.io/sdk/gitea"

	"every.channel/runner-images/internal/redact"
	"every.channel/runner-images/internal/release"
)

// transaction is the verbs of one publication.
type transaction struct {
	client
	tag string
	id  int64 // of the release, when it was found or created
}

var _ release.Transaction = (*transaction)(nil)

// Find looks by the tag at first, and then for the very release that it has found.
func (t *transaction) Find(ctx context.Context) (release.Release, error) {
	var (
		found *gitea.Release
		err   error
	)
	if t.id == 0 {
		found, err = t.releaseByTag(ctx, t.tag)
	} else {
		found, err = t.releaseByID(ctx)
	}
	if err != nil {
		return release.Release{}, err
	}
	return t.found(found), nil
}

func (t *transaction) found(r *gitea.Release) release.Release {
	t.id = r.ID
	return t.release(r)
}

func (t *transaction) releaseByID(ctx context.Context) (*gitea.Release, error) {
	return ask(ctx, t.client, "look at the release", func(api api) (*gitea.Release, *gitea.Response, error) {
		return api.GetRelease(api.owner, api.name, t.id)
	})
}

// Check makes sure that the draft's tag is there or can be made. Forges look only
// when the draft is published, after all uploads.
func (t *transaction) Check(ctx context.Context, draft release.Draft) error {
	repository, err := ask(ctx, t.client, "look at the repository", func(api api) (*gitea.Repository, *gitea.Response, error) {
		return api.GetRepo(api.owner, api.name)
	})
	if err != nil {
		return err
	}
	t.learn(repository.FullName)
	failed := &release.Error{Operation: t.createOperation(), URL: redact.URL(t.apiURL("releases"))}
	switch {
	case repository.Archived:
		failed.Err, failed.Advice = errors.New("the repository is archived"), "take the repository out of the archive"
	case repository.Empty:
		failed.Err, failed.Advice = errors.New("the repository is empty"), "push a first commit to this repository"
	case !repository.HasReleases && (repository.HasPackages || repository.HasActions): // old forges tell of none of these
		failed.Err, failed.Advice = errors.New("the repository has its releases turned off"), "turn them on (repository settings, Units)"
	case draft.Commit != "" && !t.isCommit(ctx, draft.Commit):
		failed.Err = fmt.Errorf("neither the tag %s nor the commit %s is in the repository", t.tag, draft.Commit)
		failed.Advice = "push one of them before publishing"
	default:
		return nil
	}
	return failed
}

func (t *transaction) createOperation() string { return "create the release " + t.tag }

// isCommit reports whether the tag is there, or can be made at a commit or branch.
func (t *transaction) isCommit(ctx context.Context, commit string) bool {
	return t.exists(ctx, t.tag, func(api api) error {
		_, _, err := api.GetTag(api.owner, api.name, t.tag)
		return err
	}) || t.exists(ctx, commit, func(api api) error {
		_, _, err := api.GetSingleCommit(api.owner, api.name, commit)
		return err
	}) || t.exists(ctx, commit, func(api api) error {
		_, _, err := api.GetRepoBranch(api.owner, api.name, commit)
		return err
	})
}

func (t *transaction) Create(ctx context.Context, draft release.Draft) (made bool, err error) {
	attempts := 0
	created, err := ask(ctx, t.client, t.createOperation(), func(api api) (*gitea.Release, *gitea.Response, error) {
		attempts++
		return api.CreateRelease(api.owner, api.name, gitea.CreateReleaseOption{
			TagName: t.tag, Title: draft.Title, Target: draft.Commit, IsDraft: true, IsPrerelease: draft.Prerelease,
		})
	})
	var refused *release.Error
	if errors.As(err, &refused) && refused.Status == http.StatusConflict {
		_, err := t.Find(ctx)
		return err == nil && attempts > 1, err // an attempt whose answer was lost has made it, or else somebody
	}
	if err != nil {
		return false, err
	}
	if strings.Contains(t.tag, "/") {
		_, _ = t.releaseByTag(ctx, t.tag) // to know in time whether addresses may have the tag
	}
	t.found(created)
	return true, nil
}

// Open downloads one very asset, also while another has its name.
func (t *transaction) Open(ctx context.Context, asset release.Asset, offset int64) (io.ReadCloser, error) {
	_, uuid := idOf(asset)
	return t.download(ctx, asset, t.uuidURL(uuid), offset)
}

func (t *transaction) Switch(ctx context.Context, switches ...release.Switch) error {
	for _, s := range switches {
		if s.Upload.Name == "" {
			continue
		}
		id, _ := idOf(s.Upload)
		err := t.do(ctx, request{"rename the upload of", s.Name, t.rename(id, s.Name)})
		if err != nil {
			return err
		}
	}
	for _, s := range switches {
		for _, old := range s.Old {
			if err := t.Remove(ctx, old); err != nil {
				return err
			}
		}
	}
	return nil
}

// errKeepsName is a forge that says that it has renamed an asset, and has not.
var errKeepsName = errors.New("the server keeps another name")

func (t *transaction) rename(id int64, name string) func(api api) error {
	return func(api api) error {
		renamed, _, err := api.EditReleaseAttachment(api.owner, api.name, t.id, id, gitea.EditAttachmentOptions{Name: name})
		if err == nil && renamed.Name != name {
			return fmt.Errorf("%w, %q in place of %q", errKeepsName, renamed.Name, name)
		}
		return err
	}
}

func (t *transaction) Remove(ctx context.Context, asset release.Asset) error {
	id, _ := idOf(asset)
	err := t.do(ctx, request{"delete", asset.Name, func(api api) error {
		_, err := api.DeleteReleaseAttachment(api.owner, api.name, t.id, id)
		return err
	}})
	if errors.Is(err, release.ErrNotFound) {
		return nil // an attempt whose answer was lost, or another hand
	}
	return err
}

// publishOperation begins the name of the request that makes the draft a
// release, and with it the tag.
const publishOperation = "publish the release "

func (t *transaction) Edit(ctx context.Context, edit release.Edit) error {
	operation, c := "edit the release "+t.tag, t.client
	option := gitea.EditReleaseOption{}
	if edit.Notes != nil {
		option.Note = *edit.Notes
	}
	if edit.Prerelease {
		option.IsPrerelease = &edit.Prerelease
	}
	if edit.Publish {
		operation = publishOperation + t.tag
		option.IsDraft, option.Target = new(bool), edit.Commit
		// Forges answer 500 also where they mean "not allowed", often without a
		// word. That is not worth the long waits of a server in trouble.
		c.budget = newBudget(min(20*time.Second, c.config.RetryBudget))
	}
	_, err := ask(ctx, c, operation, func(api api) (*gitea.Release, *gitea.Response, error) {
		return api.EditRelease(api.owner, api.name, t.id, option)
	})
	return err
}
