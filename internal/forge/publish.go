package forge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/redact"
)

// publishing is one run of Publish.
type publishing struct {
	client
	Publication
	turn   *turn                  // nil until it is this run's
	seen   map[string]os.FileInfo // of the files with a checksum, by name: what it was made of
	small  map[int64][]byte       // contents of small assets that are known; an asset's never changes
	taken  map[int64]bool         // small uploads of a run that died which this one has put into their place
	result Published
}

// state is a release as the server has it at one moment.
type state struct {
	apiRelease
	byName map[string][]apiAsset // from old to new
	sums   checksum.Sums         // of the newest SHA256SUMS.txt
}

func (w *publishing) run(ctx context.Context) (Published, error) {
	release, err := w.releaseByTag(ctx, w.Tag)
	switch {
	case errors.Is(err, ErrNotFound):
		release, err = w.create(ctx)
	case err == nil:
		var now state
		if now, err = w.read(ctx, release); err == nil {
			var done bool
			if done, err = w.complete(ctx, now); done {
				return w.result, nil
			}
		}
		if errors.Is(err, ErrNotFound) {
			err = nil // another run has just replaced what this one meant to read: wait for it
		}
		if err == nil && release.Draft {
			err = w.findCommit(ctx)
		}
	}
	if err != nil {
		return Published{}, err
	}

	w.status("wait for the turn to publish")
	turnContext, turn, release, err := w.takeTurn(ctx, release.ID)
	if err != nil {
		return Published{}, err
	}
	defer turn.end(ctx)
	w.turn = turn
	if err := w.converge(turnContext, release); err != nil {
		return Published{}, cause(turnContext, err)
	}
	return w.result, nil
}

// converge brings the release to what it should be, and again if another hand,
// a person's for example, has changed it meanwhile.
func (w *publishing) converge(ctx context.Context, release apiRelease) error {
	for attempt := 1; ; attempt++ {
		now, err := w.read(ctx, release)
		if err != nil {
			return err
		}
		if done, err := w.complete(ctx, now); done || err != nil {
			return err
		}
		if attempt > 3 {
			return fmt.Errorf("publish %s: the release changes under this run's hands; let nothing else edit it, and run again", w.Tag)
		}
		if err := w.bring(ctx, now); err != nil {
			return err
		}
		if release, err = w.releaseByID(ctx, release.ID); err != nil {
			return err
		}
	}
}

// create makes the draft of a new release. What would stop its publication
// later is looked for before anything is uploaded.
func (w *publishing) create(ctx context.Context) (apiRelease, error) {
	repository, err := w.getRepository(ctx)
	if err != nil {
		return apiRelease{}, err
	}
	failed := &Error{Operation: "create the release " + w.Tag, URL: redact.URL(w.apiURL("releases"))}
	switch {
	case repository.Archived:
		failed.Err, failed.Advice = errors.New("the repository is archived"), "take the repository out of the archive"
		return apiRelease{}, failed
	case repository.Empty:
		failed.Err, failed.Advice = errors.New("the repository is empty"), "push a first commit to this repository"
		return apiRelease{}, failed
	}
	if err := w.findCommit(ctx); err != nil {
		return apiRelease{}, err
	}

	title := w.Title
	if title == "" {
		title = w.Tag
	}
	release, err := w.createDraft(ctx, w.Tag, title, w.Commit, w.Prerelease)
	var refused *Error
	if errors.As(err, &refused) && refused.Status == http.StatusConflict {
		return w.releaseByTag(ctx, w.Tag) // another run, or an attempt whose answer was lost, has made it
	}
	return release, err
}

// findCommit makes sure that the draft's tag is there or can be made. Forges look
// only when the draft is published, after all uploads.
func (w *publishing) findCommit(ctx context.Context) error {
	if w.Commit == "" || w.exists(ctx, "tags/", w.Tag) || w.exists(ctx, "git/commits/", w.Commit) || w.exists(ctx, "branches/", w.Commit) {
		return nil
	}
	return &Error{
		Operation: "create the release " + w.Tag, URL: redact.URL(w.apiURL("releases")),
		Err:    fmt.Errorf("neither the tag %s nor the commit %s is in the repository", w.Tag, w.Commit),
		Advice: "push one of them before publishing",
	}
}

// read adds the newest SHA256SUMS.txt to a release. Where there are two, a run
// died between renaming the new and deleting the old one.
func (w *publishing) read(ctx context.Context, release apiRelease) (state, error) {
	now := state{apiRelease: release, byName: group(release.Assets)}
	lists := now.byName[checksum.FileName]
	if len(lists) == 0 {
		return now, nil
	}
	text, err := w.readKnown(ctx, lists[len(lists)-1])
	if err != nil {
		return state{}, err
	}
	sums, err := checksum.Parse(bytes.NewReader(text))
	if err != nil {
		return state{}, fmt.Errorf("%w; the release %s has it: repair or delete this asset", err, w.Tag)
	}
	now.sums = sums
	return now, nil
}

// readKnown reads a small asset once.
func (w *publishing) readKnown(ctx context.Context, asset apiAsset) (content []byte, err error) {
	content, known := w.small[asset.ID]
	if !known {
		if content, err = w.readSmall(ctx, asset); err == nil {
			w.small[asset.ID] = content
		}
	}
	return content, err
}

// resolve finds the checksums that are missing of files that may be there. Of
// the others they are found while they are uploaded.
func (w *publishing) resolve(ctx context.Context, now state) error {
	for i := range w.Files {
		file := &w.Files[i]
		if file.SHA256 == "" && slices.ContainsFunc(now.Assets, func(a apiAsset) bool {
			return a.Size == file.Size && (a.Name == file.Name || isUploadOf(file.Name, a.Name))
		}) {
			w.status("hash %s, to compare it with the release's", file.Name)
			info, err := os.Stat(file.Path)
			if err != nil {
				return err
			}
			if err := hash(ctx, file); err != nil {
				return err
			}
			w.seen[file.Name] = info
		}
	}
	return nil
}

// listed reports whether SHA256SUMS.txt and the server's sizes say that the one
// asset of this name is this file.
func (s state) listed(file File) bool {
	assets := s.byName[file.Name]
	return len(assets) == 1 && assets[0].Size == file.Size && file.SHA256 != "" && s.sums[file.Name] == file.SHA256
}

// kept is the lines of SHA256SUMS.txt that stay true: of assets that are there,
// and not about to be replaced.
func (w *publishing) kept(now state) checksum.Sums {
	sums := checksum.Sums{}
	for name, sum := range now.sums {
		if len(now.byName[name]) == 1 {
			sums[name] = sum
		}
	}
	for _, file := range w.Files {
		if !now.listed(file) {
			delete(sums, file.Name)
		}
	}
	return sums
}

// union is the checksums of what is there and stays, and of what is published.
func (w *publishing) union(now state) checksum.Sums {
	sums := w.kept(now)
	for _, file := range w.Files {
		sums[file.Name] = file.SHA256
	}
	return sums
}

// files lists what sums lists, with the sizes of the assets.
func (w *publishing) files(sums checksum.Sums, now state) []File {
	var files []File
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		if i := slices.IndexFunc(w.Files, func(f File) bool { return f.Name == name }); i >= 0 {
			files = append(files, w.Files[i])
		} else {
			files = append(files, File{Name: name, Size: now.byName[name][0].Size, SHA256: sums[name]})
		}
	}
	return files
}

// complete tells whether the release is as it should be, and then what it is.
func (w *publishing) complete(ctx context.Context, now state) (bool, error) {
	if err := w.resolve(ctx, now); err != nil {
		return false, err
	}
	if now.Draft || w.Prerelease && !now.apiRelease.Prerelease {
		return false, nil
	}
	for name, same := range now.byName {
		if len(same) > 1 || strings.HasPrefix(name, temporaryPrefix) {
			return false, nil
		}
		if strings.HasPrefix(name, ticketPrefix) && w.turn == nil {
			return false, nil // with the turn, it is this run's own or one of those that wait for it
		}
	}
	for _, file := range w.Files {
		if !now.listed(file) {
			return false, nil
		}
	}
	sums := w.union(now)
	lists, err := w.lists(sums)
	if err != nil {
		return false, err
	}
	for _, list := range lists {
		if same, err := w.sameContent(ctx, now, list); err != nil || !same {
			return false, err
		}
	}
	files := w.files(sums, now)
	if w.Notes != nil && !hasNotes(now.apiRelease.Notes, w.Notes(w.release(now.apiRelease), files)) {
		return false, nil
	}
	w.conclude(now, files)
	return true, nil
}

// conclude notes what the release is now.
func (w *publishing) conclude(now state, files []File) {
	w.result.Release, w.result.Files = w.release(now.apiRelease), files
	for _, file := range w.Files {
		if !slices.Contains(w.result.Uploaded, file.Name) && !slices.Contains(w.result.Replaced, file.Name) {
			w.result.Unchanged = append(w.result.Unchanged, file.Name)
		}
	}
}

// bring makes the release what it should be. The order of its steps is in the
// package's documentation.
func (w *publishing) bring(ctx context.Context, now state) error {
	moves, err := w.plan(ctx, now)
	if err != nil {
		return err
	}
	kept := w.kept(now)
	if err := w.askCheck(ctx, now, kept); err != nil {
		return err
	}
	if err := w.stage(ctx, now.ID, moves); err != nil {
		return err
	}
	w.status("bring the release up to date")
	if err := w.withdrawLines(ctx, now, kept); err != nil {
		return err
	}
	if err := w.switchAssets(ctx, now, moves); err != nil {
		return err
	}
	release, err := w.releaseByID(ctx, now.ID)
	if err != nil {
		return err
	}
	if now, err = w.read(ctx, release); err != nil {
		return err
	}
	for name, sum := range w.kept(now) {
		if !w.publishes(name) && kept[name] != sum {
			return nil // another hand has added this line: look again, and check it
		}
	}
	sums := w.union(now)
	if err := w.publishSums(ctx, now, sums); err != nil {
		return err
	}
	if err := w.publishRelease(ctx, now, w.files(sums, now)); err != nil {
		return err
	}
	return w.cleanUp(ctx, now)
}

// askCheck asks whether this release may be changed.
func (w *publishing) askCheck(ctx context.Context, now state, kept checksum.Sums) error {
	if w.Check == nil {
		return nil
	}
	versions := func(ctx context.Context, name string) (contents [][]byte, err error) {
		assets := slices.Clone(now.byName[name])
		slices.Reverse(assets)
		for _, asset := range now.Assets {
			if isUploadOf(name, asset.Name) && asset.Size <= smallSize { // it may be anybody's
				assets = append(assets, asset)
			}
		}
		for _, asset := range assets {
			content, err := w.readKnown(ctx, asset)
			if err != nil {
				return nil, err
			}
			contents = append(contents, content)
		}
		return contents, nil
	}
	return w.Check(ctx, Before{Release: w.release(now.apiRelease), Listed: now.sums, Kept: kept, Versions: versions})
}

// A move is what has to happen behind an asset's name.
type move struct {
	name   string
	file   *File     // to upload, if it is not there in any form
	staged *apiAsset // to be renamed
	old    []apiAsset
}

// plan compares what is there with what should be. Names that need nothing are
// not in it.
func (w *publishing) plan(ctx context.Context, now state) ([]*move, error) {
	var moves []*move
	for i := range w.Files {
		file := &w.Files[i]
		if now.listed(*file) {
			continue
		}
		same := now.byName[file.Name]
		present, err := w.find(ctx, now, *file, same)
		if err != nil {
			return nil, err
		}
		if present != nil {
			if len(same) > 1 {
				moves = append(moves, &move{name: file.Name, old: without(same, *present)})
			}
			continue
		}
		if err := w.checkFollows(ctx, now, *file, same); err != nil {
			return nil, err
		}
		if len(same) > 0 && w.config.Replace == ReplaceNever {
			return nil, &Error{
				Operation: "publish", Asset: file.Name, URL: redact.URL(w.apiURL(releasePath(now.ID))),
				Err:    errors.New("the release has an asset of this name with other bytes"),
				Advice: "use another tag, or allow to replace it",
			}
		}
		staged, err := w.find(ctx, now, *file, slices.DeleteFunc(slices.Clone(now.Assets), func(a apiAsset) bool {
			return !isUploadOf(file.Name, a.Name)
		}))
		if err != nil {
			return nil, err
		}
		next := &move{name: file.Name, staged: staged, old: same}
		if staged == nil {
			next.file = file
		}
		moves = append(moves, next)
		w.note(file.Name, len(same) > 0)
	}
	for _, name := range slices.Sorted(maps.Keys(now.byName)) {
		same := now.byName[name]
		if len(same) > 1 && !isOurs(name) && !w.publishes(name) && name != checksum.FileName {
			moves = append(moves, &move{name: name, old: same[:len(same)-1]})
		}
	}
	return moves, nil
}

// checkFollows makes sure that a file was made from the asset that it replaces.
func (w *publishing) checkFollows(ctx context.Context, now state, file File, same []apiAsset) (err error) {
	if file.Follows == "" {
		return nil
	}
	there := FollowsNone
	if len(same) > 0 {
		there = now.sums[file.Name]
		if there == "" || len(same) > 1 {
			if there, err = w.readBack(ctx, same[len(same)-1]); err != nil {
				return err
			}
		}
	}
	if there != file.Follows {
		return &Error{Operation: "publish", Asset: file.Name, URL: redact.URL(w.apiURL(releasePath(now.ID))), Err: ErrChanged}
	}
	return nil
}

func (w *publishing) publishes(name string) bool {
	return slices.ContainsFunc(w.Files, func(f File) bool { return f.Name == name })
}

func (w *publishing) note(name string, replaced bool) {
	switch {
	case slices.Contains(w.result.Uploaded, name) || slices.Contains(w.result.Replaced, name):
	case replaced:
		w.result.Replaced = append(w.result.Replaced, name)
	default:
		w.result.Uploaded = append(w.result.Uploaded, name)
	}
}

func without(assets []apiAsset, one apiAsset) []apiAsset {
	return slices.DeleteFunc(slices.Clone(assets), func(a apiAsset) bool { return a.ID == one.ID })
}

// find returns the one of these assets that holds the file's bytes, or nil.
// Forges have no checksums: an upload's temporary name tells, and so does a
// line with another sum; else the asset is read back, which costs less than
// to send it again and proves more.
func (w *publishing) find(ctx context.Context, now state, file File, assets []apiAsset) (*apiAsset, error) {
	for _, asset := range slices.Backward(assets) {
		if asset.Size != file.Size || file.SHA256 == "" {
			continue
		}
		if asset.Name == temporaryName(file.Name, file.SHA256) && w.config.VerifyUploads == VerifySize {
			return &asset, nil
		}
		if sum, ok := now.sums[asset.Name]; ok && len(assets) == 1 && sum != file.SHA256 {
			continue
		}
		w.status("read %s back, to compare it", asset.Name)
		sum, err := w.readBack(ctx, asset)
		var refused *Error
		if errors.As(err, &refused) && refused.Status/100 == 4 {
			continue // an asset that cannot be read proves nothing
		}
		if err != nil {
			return nil, err
		}
		if sum == file.SHA256 {
			return &asset, nil
		}
	}
	return nil, nil
}

// stage uploads what is not there yet, under temporary names.
func (w *publishing) stage(ctx context.Context, release int64, moves []*move) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(w.config.Parallel)
	w.status("upload")
	for _, move := range moves {
		if move.file != nil {
			group.Go(func() error { return w.stageFile(ctx, release, move) })
		}
	}
	return group.Wait()
}

// stageFile uploads one file. A missing checksum is found beside it.
func (w *publishing) stageFile(ctx context.Context, release int64, move *move) error {
	file := *move.file
	before := w.seen[file.Name]
	if before == nil {
		var err error
		if before, err = os.Stat(file.Path); err != nil {
			return fmt.Errorf("upload %s: %w", file.Name, err)
		}
	}
	hashing, stop := context.WithCancel(ctx)
	defer stop()
	sum := make(chan error, 1)
	go func() { sum <- hash(hashing, move.file) }()
	hashed := sync.OnceValue(func() error { return <-sum })
	asset, err := w.upload(ctx, release, w.fileUpload(file, func() (string, error) {
		err := hashed()
		return move.file.SHA256, err
	}))
	if err != nil {
		stop()
		_ = hashed() // nobody needs it now
		return err
	}
	if err := hashed(); err != nil {
		return err
	}
	if err := unchanged(file.Path, before); err != nil {
		// Its name says what it is not: the next run must not take it for that.
		return errors.Join(err, w.deleteAsset(ctx, release, asset))
	}
	move.staged = &asset
	return nil
}

// unchanged makes sure that nothing has written to a file, or put another in its
// place.
func unchanged(path string, before os.FileInfo) error {
	now, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(before, now) || now.Size() != before.Size() || !now.ModTime().Equal(before.ModTime()) {
		return fmt.Errorf("%s has been written to while it was being published: let nothing do that, and run again", path)
	}
	return nil
}

// withdrawLines takes the lines out of SHA256SUMS.txt that the next step would
// make wrong. What is left is signed, too: a run that goes on from there must be
// able to tell that no other hand has written it.
func (w *publishing) withdrawLines(ctx context.Context, now state, kept checksum.Sums) error {
	if lists := now.byName[checksum.FileName]; len(lists) > 1 {
		// The name may lead to any of them, and the older ones are about to be wrong.
		if err := w.deleteAssets(ctx, now.ID, lists[:len(lists)-1]); err != nil {
			return err
		}
	}
	if len(kept) == len(now.sums) {
		return nil
	}
	return w.publishSums(ctx, now, kept)
}

// switchAssets gives uploads the names of their assets, and deletes the assets
// that had them.
func (w *publishing) switchAssets(ctx context.Context, now state, moves []*move) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(w.config.Parallel)
	for _, move := range moves {
		group.Go(func() error {
			if err := w.turn.hold(ctx); err != nil {
				return err
			}
			if move.staged != nil {
				if err := w.renameAsset(ctx, now.ID, *move.staged, move.name); err != nil {
					return err
				}
			}
			return w.deleteAssets(ctx, now.ID, move.old)
		})
	}
	return group.Wait()
}

func (w *publishing) deleteAssets(ctx context.Context, release int64, assets []apiAsset) error {
	for _, asset := range assets {
		if err := w.deleteAsset(ctx, release, asset); err != nil {
			return err
		}
	}
	return nil
}

// publishSums makes SHA256SUMS.txt the list of these checksums, and replaces
// the files that sign it.
func (w *publishing) publishSums(ctx context.Context, now state, sums checksum.Sums) error {
	lists, err := w.lists(sums)
	if err != nil {
		return err
	}
	var changed []smallFile
	for _, list := range lists {
		same, err := w.sameContent(ctx, now, list)
		if err != nil {
			return err
		}
		if !same {
			changed = append(changed, list)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(now.byName)) {
		w.config.noteSignature(name, lists)
	}
	return w.replaceSmall(ctx, now, changed)
}

// sameContent tells whether the one asset of this name has this content.
func (w *publishing) sameContent(ctx context.Context, now state, file smallFile) (bool, error) {
	same := now.byName[file.name]
	if len(same) != 1 || same[0].Size != int64(len(file.content)) {
		return false, nil
	}
	there, err := w.readKnown(ctx, same[0])
	return bytes.Equal(there, file.content), err
}

// replaceSmall puts files into the place of the assets with their names: all
// are uploaded, then all are renamed, then all old ones are deleted.
func (w *publishing) replaceSmall(ctx context.Context, now state, files []smallFile) error {
	staged := make([]apiAsset, len(files))
	for i, file := range files {
		upload := bytesUpload(file.name, file.content)
		if left := now.byName[upload.name]; len(left) > 0 && left[0].Size == upload.size {
			staged[i] = left[0]
			w.small[left[0].ID], w.taken[left[0].ID] = file.content, true
			continue
		}
		asset, err := w.upload(ctx, now.ID, upload)
		if err != nil {
			return err
		}
		staged[i] = asset
		w.small[asset.ID] = file.content
	}
	if err := w.turn.hold(ctx); err != nil {
		return err
	}
	for i, file := range files {
		if err := w.renameAsset(ctx, now.ID, staged[i], file.name); err != nil {
			return err
		}
	}
	for _, file := range files {
		if err := w.deleteAssets(ctx, now.ID, now.byName[file.name]); err != nil {
			return err
		}
	}
	return nil
}

// publishOperation begins the name of the request that makes the draft a
// release, and with it the tag.
const publishOperation = "publish the release "

// publishRelease edits the notes and makes the draft a release.
func (w *publishing) publishRelease(ctx context.Context, now state, files []File) error {
	operation, edit, needed := "edit the release "+w.Tag, releaseEdit{}, false
	if w.Notes != nil {
		if block := w.Notes(w.release(now.apiRelease), files); !hasNotes(now.apiRelease.Notes, block) {
			edit.Notes, needed = mergeNotes(now.apiRelease.Notes, block), true
		}
	}
	if w.Prerelease && !now.apiRelease.Prerelease {
		edit.Prerelease, needed = &w.Prerelease, true
	}
	if now.Draft {
		operation, needed = publishOperation+w.Tag, true
		edit.Draft, edit.Target = new(bool), w.Commit
	}
	if !needed {
		return nil
	}
	if err := w.turn.hold(ctx); err != nil {
		return err
	}
	c := w.client
	if now.Draft {
		// Forges answer 500 also where they mean "not allowed", often without a
		// word. That is not worth the long waits of a server in trouble.
		c.budget = newBudget(min(20*time.Second, w.config.RetryBudget))
	}
	return c.editRelease(ctx, operation, now.ID, edit)
}

// cleanUp deletes uploads that nobody needs any more: a repeated upload of this
// run, or those of a run that died.
func (w *publishing) cleanUp(ctx context.Context, now state) error {
	for _, asset := range now.Assets {
		if !w.taken[asset.ID] && strings.HasPrefix(asset.Name, temporaryPrefix) {
			if err := w.deleteAsset(ctx, now.ID, asset); err != nil {
				return err
			}
		}
	}
	return nil
}
