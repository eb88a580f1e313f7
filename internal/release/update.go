package release

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/checksum"
)

// changesOfOthers is how often Update begins again because another hand has
// changed the release meanwhile.
const changesOfOthers = 3

// Update brings the release of a tag to what compose returns, given a snapshot of
// what is there, so that no reader ever sees half of it. Compose is called on a
// first look without the lease, where an error of it counts only if there is no
// release yet, and again under the lease and whenever another hand has changed
// the release. Its context ends when the lease is lost.
func (s *Store) Update(ctx context.Context, tag string, compose func(ctx context.Context, there Snapshot) (Content, error)) (Published, error) {
	u, err := s.begin(tag, compose)
	if err != nil {
		return Published{}, err
	}
	return u.run(ctx, nil)
}

func (s *Store) begin(tag string, compose func(ctx context.Context, there Snapshot) (Content, error)) (*update, error) {
	if err := CheckTag(tag); err != nil {
		return nil, fmt.Errorf("release_tag %q: %w", tag, err)
	}
	transaction, err := s.Backend.Begin(tag)
	if err != nil {
		return nil, err
	}
	return &update{
		store: s, Transaction: transaction, tag: tag, compose: compose,
		slots: make(chan struct{}, s.parallel()), ahead: ahead{begun: map[string]string{}},
		files: map[fileKey]*seenFile{}, small: map[string][]byte{}, stored: map[string]string{}, taken: map[Asset]bool{},
	}, nil
}

// update is one run of Update.
type update struct {
	Transaction
	store   *Store
	tag     string
	compose func(ctx context.Context, there Snapshot) (Content, error)
	content Content // what compose has returned last

	ahead ahead
	slots chan struct{} // of uploads ahead that run at once

	lease    Lease           // nil on the first look
	held     context.Context // ends when the lease is lost
	composed bool            // under the lease

	files  map[fileKey]*seenFile
	small  map[string][]byte // contents of small assets that are known, by ID
	stored map[string]string // checksums of assets that were read back, by ID
	taken  map[Asset]bool    // small uploads of a run that died which this one has put into their place
	result Published
}

// composeError is an error of compose.
type composeError struct{ error }

func (e composeError) Unwrap() error { return e.error }

// run publishes what compose returns, after the uploads of makeAhead if that is set.
func (u *update) run(ctx context.Context, makeAhead func() error) (Published, error) {
	defer func() {
		if u.lease != nil {
			u.lease.End(ctx)
		}
	}()
	if makeAhead != nil {
		if err := makeAhead(); err != nil {
			u.takeBack(ctx)
			return Published{}, err
		}
	}
	if u.lease == nil {
		if done, err := u.firstLook(ctx); done || err != nil {
			return u.result, err
		}
		if err := u.takeLease(ctx); err != nil {
			return Published{}, err
		}
	}
	if err := u.converge(u.held); err != nil {
		u.takeBack(ctx)
		return Published{}, cause(u.held, err)
	}
	return u.result, nil
}

// takeLease takes the lease of the release. The run that had it may have taken its
// draft away: then this one makes another.
func (u *update) takeLease(ctx context.Context) error {
	u.content.status("wait for the lease of the release")
	for attempt := 0; ; attempt++ {
		held, lease, err := u.Lease(ctx)
		if err == nil {
			u.held, u.lease = held, lease
			return nil
		}
		if !errors.Is(err, ErrNotFound) || attempt == changesOfOthers {
			return err
		}
		if err := u.create(ctx); err != nil {
			return err
		}
	}
}

// create makes the release as a draft.
func (u *update) create(ctx context.Context) error {
	if err := u.Check(ctx, u.draft()); err != nil {
		return err
	}
	made, err := u.Create(ctx, u.draft())
	u.ahead.created = made || ctx.Err() != nil // the backend may have made it all the same
	return err
}

// cause returns why a context has ended, if that is why err came: a lost lease,
// for example, in place of "context canceled".
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// firstLook finds out without the lease whether there is something to do, and
// makes sure that there is a release to take the lease of.
func (u *update) firstLook(ctx context.Context) (done bool, err error) {
	release, err := u.Find(ctx)
	if errors.Is(err, ErrNotFound) {
		if _, err := u.look(ctx, Release{}); err != nil {
			return false, err
		}
		return false, u.create(ctx)
	}
	if err != nil {
		return false, err
	}
	done, err = u.compare(ctx, release)
	var refused composeError
	switch {
	case ctx.Err() == nil && (errors.As(err, &refused) || errors.Is(err, ErrNotFound)):
		return false, nil // what this run has met may be another one's half-way work: the lease decides
	case done || err != nil || !release.Draft:
		return done, err
	}
	return false, u.Check(ctx, u.draft())
}

// compare looks at the release and reports whether it is as it should be.
func (u *update) compare(ctx context.Context, release Release) (bool, error) {
	now, err := u.look(ctx, release)
	if err != nil {
		return false, err
	}
	return u.complete(ctx, now)
}

// look reads what is there, and composes what should be.
func (u *update) look(ctx context.Context, release Release) (state, error) {
	if release.Tag != "" {
		if err := release.checkNames(); err != nil {
			return state{}, err
		}
	}
	now, err := u.read(ctx, release)
	if err != nil {
		return state{}, err
	}
	there := Snapshot{Release: release.visible(), Listed: maps.Clone(now.sums), update: u, now: now}
	content, err := u.compose(ctx, there)
	if err != nil {
		return state{}, composeError{err}
	}
	return now, u.take(ctx, now, content)
}

// take makes content what the release should be.
func (u *update) take(ctx context.Context, now state, content Content) error {
	content.Files = slices.Clone(content.Files) // missing checksums are filled in
	for i, file := range content.Files {
		content.Files[i] = file.known()
	}
	if err := content.check(u.tag); err != nil {
		return err
	}
	u.content = content
	for i := range content.Files {
		if err := u.resolve(ctx, now, &content.Files[i]); err != nil {
			return err
		}
	}
	return nil
}

func (u *update) draft() Draft {
	draft := Draft{Title: u.content.Title, Commit: u.content.Commit, Prerelease: u.content.Prerelease}
	if draft.Title == "" {
		draft.Title = u.tag
	}
	return draft
}

// converge brings the release to what it should be, and again if another hand,
// a person's for example, has changed it meanwhile.
func (u *update) converge(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		release, err := u.Find(ctx)
		if err != nil {
			return err
		}
		now, err := u.look(ctx, release)
		if err != nil {
			return err
		}
		u.composed = true
		if done, err := u.complete(ctx, now); done || err != nil {
			return err
		}
		if attempt > changesOfOthers {
			return fmt.Errorf("publish %s: %w", u.tag, errKeepsChanging)
		}
		if err := u.bring(ctx, now); err != nil {
			return err
		}
	}
}

// kept is the lines of SHA256SUMS.txt that stay true: of assets that are there,
// and not about to be replaced.
func (u *update) kept(now state) checksum.Sums {
	sums := now.stay()
	for _, file := range u.content.Files {
		if !now.listed(file) {
			delete(sums, file.Name)
		}
	}
	return sums
}

// union is the checksums of what is there and stays, and of what is published.
func (u *update) union(now state) checksum.Sums {
	sums := u.kept(now)
	for _, file := range u.content.Files {
		sums[file.Name] = file.SHA256
	}
	return sums
}

// listedFiles is what sums lists, with the sizes of the assets.
func (u *update) listedFiles(sums checksum.Sums, now state) []File {
	var files []File
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		if i := slices.IndexFunc(u.content.Files, func(f File) bool { return f.Name == name }); i >= 0 {
			files = append(files, u.content.Files[i])
		} else {
			files = append(files, File{Name: name, Size: now.byName[name][0].Size, SHA256: sums[name]})
		}
	}
	return files
}

// complete reports whether the release is as it should be, and then notes what it
// is.
func (u *update) complete(ctx context.Context, now state) (bool, error) {
	if now.Draft || u.content.Prerelease && !now.Prerelease || now.Unfinished && u.lease == nil {
		return false, nil
	}
	for name, same := range now.byName {
		if len(same) > 1 || strings.HasPrefix(name, temporaryPrefix) {
			return false, nil
		}
	}
	for _, file := range u.content.Files {
		if has, err := u.has(ctx, now, file); err != nil || !has {
			return false, err
		}
	}
	sums := u.union(now)
	lists, err := u.content.lists(sums)
	if err != nil {
		return false, err
	}
	if changed, err := u.differing(ctx, now, lists); err != nil || len(changed) > 0 {
		return false, err
	}
	files := u.listedFiles(sums, now)
	if u.content.Notes != nil && !hasNotes(now.Notes, u.content.Notes(files)) {
		return false, nil
	}
	u.result.Release, u.result.Files = now.visible(), files
	for _, file := range u.content.Files {
		if !slices.Contains(u.result.Uploaded, file.Name) && !slices.Contains(u.result.Replaced, file.Name) {
			u.result.Unchanged = append(u.result.Unchanged, file.Name)
		}
	}
	return true, nil
}

// bring makes the release what it should be. The order of its steps is in the
// package's documentation.
func (u *update) bring(ctx context.Context, now state) error {
	moves, err := u.plan(ctx, now)
	if err != nil {
		return err
	}
	kept := u.kept(now)
	if err := u.uploadAll(ctx, moves); err != nil {
		return err
	}
	u.content.status("bring the release up to date")
	if err := u.withdrawLines(ctx, now, kept); err != nil {
		return err
	}
	if err := u.switchAll(ctx, moves); err != nil {
		return err
	}
	release, err := u.Find(ctx)
	if err != nil {
		return err
	}
	if now, err = u.read(ctx, release); err != nil {
		return err
	}
	for name, sum := range u.kept(now) {
		if !u.content.has(name) && kept[name] != sum {
			return nil // another hand has added this line: look again, and compose again
		}
	}
	sums := u.union(now)
	if err := u.publishSums(ctx, now, sums); err != nil {
		return err
	}
	if err := u.publishRelease(ctx, now, u.listedFiles(sums, now)); err != nil {
		return err
	}
	return u.cleanUp(ctx, now)
}

// A move is what has to happen behind an asset's name.
type move struct {
	Switch
	file *File     // to upload, if it is not there in any form
	seen *seenFile // what is known of it; nil if it is in memory
}

// plan compares what is there with what should be. Names that need nothing are
// not in it.
func (u *update) plan(ctx context.Context, now state) ([]*move, error) {
	var moves []*move
	for i := range u.content.Files {
		move, err := u.planFile(ctx, now, &u.content.Files[i])
		if err != nil {
			return nil, err
		}
		if move != nil {
			moves = append(moves, move)
			if move.file != nil || move.Upload.Name != "" {
				u.note(move.Name, len(now.byName[move.Name]) > 0)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(now.byName)) {
		same := now.byName[name]
		if len(same) > 1 && !isReserved(name) && !u.content.has(name) && name != checksum.FileName {
			moves = append(moves, &move{Switch: Switch{Name: name, Old: same[:len(same)-1]}})
		}
	}
	return moves, nil
}

func (u *update) planFile(ctx context.Context, now state, file *File) (*move, error) {
	if has, err := u.has(ctx, now, *file); err != nil || has {
		return nil, err
	}
	same := now.byName[file.Name]
	present, err := u.find(ctx, now, *file, same)
	switch {
	case err != nil:
		return nil, err
	case present != nil && len(same) > 1:
		others := slices.DeleteFunc(slices.Clone(same), func(a Asset) bool { return a == *present })
		return &move{Switch: Switch{Name: file.Name, Old: others}}, nil
	case present != nil:
		return nil, nil
	case len(same) > 0 && u.content.KeepOld:
		return nil, &Error{
			Operation: "publish", Asset: file.Name, URL: now.URL,
			Err:    errors.New("the release has an asset of this name with other bytes"),
			Advice: "use another tag, or allow to replace it",
		}
	}
	next := &move{Switch: Switch{Name: file.Name, Old: same}}
	uploaded, err := u.find(ctx, now, *file, slices.DeleteFunc(slices.Clone(now.Assets), func(a Asset) bool {
		return !isUploadOf(file.Name, a.Name)
	}))
	if err != nil {
		return nil, err
	}
	if uploaded != nil {
		next.Upload = *uploaded
	} else {
		next.file, next.seen = file, u.files[file.key()]
	}
	return next, nil
}

// note keeps what becomes of a file, for the result.
func (u *update) note(name string, replaced bool) {
	switch {
	case slices.Contains(u.result.Uploaded, name) || slices.Contains(u.result.Replaced, name):
	case replaced:
		u.result.Replaced = append(u.result.Replaced, name)
	default:
		u.result.Uploaded = append(u.result.Uploaded, name)
	}
}

// find returns the one of these assets that holds the file's bytes, or nil.
// Backends have no checksums: an upload's temporary name decides, and so does a
// line with another sum; else the asset is read back, which costs less than
// to send it again and proves more.
func (u *update) find(ctx context.Context, now state, file File, assets []Asset) (*Asset, error) {
	for _, asset := range slices.Backward(assets) {
		if asset.Size != file.Size || file.SHA256 == "" {
			continue
		}
		if asset.Name == temporaryName(file.Name, file.SHA256) && u.store.VerifyUploads != VerifySHA256 {
			return &asset, nil
		}
		if u.ahead.begun[asset.Name] == file.SHA256 {
			return &asset, nil // this run has hashed what it sent
		}
		if sum, ok := now.sums[asset.Name]; ok && len(assets) == 1 && sum != file.SHA256 {
			continue
		}
		sum, err := u.readBackKnown(ctx, asset)
		if err != nil {
			return nil, err
		}
		if sum == file.SHA256 {
			return &asset, nil
		}
	}
	return nil, nil
}

// has reports whether the release has the file as it should be. The list proves
// nothing of bytes that somebody has exchanged: a small file is compared with what is
// there, and with VerifySHA256 any asset that was there before this run is read back.
func (u *update) has(ctx context.Context, now state, file File) (bool, error) {
	if !now.listed(file) {
		return false, nil
	}
	asset := now.byName[file.Name][0]
	if file.Content != nil {
		there, err := u.readKnown(ctx, asset)
		return bytes.Equal(there, file.Content), err
	}
	ofThisRun := slices.Contains(u.result.Uploaded, file.Name) || slices.Contains(u.result.Replaced, file.Name)
	if u.store.VerifyUploads != VerifySHA256 || ofThisRun {
		return true, nil
	}
	sum, err := u.readBackKnown(ctx, asset)
	return sum == file.SHA256, err
}

// readBackKnown reads an asset back once. The checksum is empty of one that the
// server refuses to give: it proves nothing.
func (u *update) readBackKnown(ctx context.Context, asset Asset) (string, error) {
	if sum, known := u.stored[asset.ID]; known && asset.ID != "" {
		return sum, nil
	}
	u.content.status("read %s back, to compare it", asset.Name)
	sum, err := u.readBack(ctx, asset)
	var refused *Error
	if errors.As(err, &refused) && refused.Status/100 == 4 {
		sum, err = "", nil
	}
	if err == nil {
		u.stored[asset.ID] = sum
	}
	return sum, err
}

// uploadAll uploads what is not there yet, under temporary names.
func (u *update) uploadAll(ctx context.Context, moves []*move) error {
	group, ctx := u.group(ctx)
	u.content.status("upload")
	for _, move := range moves {
		if move.file != nil {
			group.Go(func() error { return u.uploadFile(ctx, move) })
		}
	}
	return group.Wait()
}

func (u *update) group(ctx context.Context) (*errgroup.Group, context.Context) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(u.store.parallel())
	return group, ctx
}

// uploadFile uploads one file. A missing checksum is found beside it.
func (u *update) uploadFile(ctx context.Context, move *move) error {
	if move.file.Content != nil {
		uploaded, err := u.Upload(ctx, contentUpload(*move.file))
		move.Upload = uploaded
		return err
	}
	file := *move.file
	before := cmp.Or(move.seen.info, file.Info)
	if before == nil {
		var err error
		if before, err = os.Stat(file.Path); err != nil {
			return fmt.Errorf("upload %s: %w", file.Name, err)
		}
	}
	hashing, stop := context.WithCancel(ctx)
	defer stop()
	hashed := make(chan error, 1)
	go func() {
		var err error
		if move.file.SHA256 == "" {
			err = hash(hashing, move.file)
		}
		hashed <- err
	}()
	sum := sync.OnceValues(func() (string, error) {
		err := <-hashed
		return move.file.SHA256, err
	})
	uploaded, err := u.Upload(ctx, u.fileUpload(file, before, sum))
	if err != nil {
		stop()
		_, _ = sum() // which nobody needs now
		return err
	}
	if _, err := sum(); err != nil {
		return err
	}
	if err := unchanged(file.Path, before); err != nil {
		// Its name has the checksum of other bytes: the next run must not use it.
		return errors.Join(err, u.Remove(ctx, uploaded))
	}
	move.Upload = uploaded
	move.seen.info, move.seen.sha256 = before, move.file.SHA256
	return nil
}

// withdrawLines takes the lines out of SHA256SUMS.txt that the next step would
// make wrong. What is left is signed, too: a run that goes on from there must be
// able to check that no other hand has written it.
func (u *update) withdrawLines(ctx context.Context, now state, kept checksum.Sums) error {
	if lists := now.byName[checksum.FileName]; len(lists) > 1 {
		// The name may lead to any of them, and the older ones are about to be wrong.
		if err := u.Switch(ctx, Switch{Name: checksum.FileName, Old: lists[:len(lists)-1]}); err != nil {
			return err
		}
	}
	if len(kept) == len(now.sums) {
		return nil
	}
	return u.publishSums(ctx, now, kept)
}

// switchAll gives uploads the names of their assets, and removes the assets that
// had them.
func (u *update) switchAll(ctx context.Context, moves []*move) error {
	group, ctx := u.group(ctx)
	for _, move := range moves {
		group.Go(func() error {
			if err := u.lease.Hold(ctx); err != nil {
				return err
			}
			return u.Switch(ctx, move.Switch)
		})
	}
	return group.Wait()
}

// publishSums makes SHA256SUMS.txt the list of these checksums, and replaces
// the files that sign it.
func (u *update) publishSums(ctx context.Context, now state, sums checksum.Sums) error {
	lists, err := u.content.lists(sums)
	if err != nil {
		return err
	}
	changed, err := u.differing(ctx, now, lists)
	if err != nil || len(changed) == 0 {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(now.byName)) {
		isNew := slices.ContainsFunc(lists, func(f File) bool { return f.Name == name })
		if !isNew && strings.HasPrefix(name, checksum.FileName+".") && u.store.Log != nil {
			u.store.Log(fmt.Sprintf("%s is about the old %s; sign it anew, or delete it", name, checksum.FileName))
		}
	}
	return u.replaceSmall(ctx, now, changed)
}

// differing is those of the files in memory that the release does not have.
func (u *update) differing(ctx context.Context, now state, files []File) (changed []File, err error) {
	for _, file := range files {
		same := now.byName[file.Name]
		if len(same) == 1 && same[0].Size == int64(len(file.Content)) {
			there, err := u.readKnown(ctx, same[0])
			if err != nil {
				return nil, err
			}
			if bytes.Equal(there, file.Content) {
				continue
			}
		}
		changed = append(changed, file)
	}
	return changed, nil
}

// replaceSmall puts files into the place of the assets with their names: all
// are uploaded, then all are renamed, then all old ones are deleted.
func (u *update) replaceSmall(ctx context.Context, now state, files []File) error {
	switches := make([]Switch, len(files))
	for i, file := range files {
		upload := contentUpload(file)
		switches[i] = Switch{Name: file.Name, Old: now.byName[file.Name]}
		if left := now.byName[upload.Name]; len(left) > 0 && left[0].Size == upload.Size {
			switches[i].Upload = left[0]
			u.taken[left[0]] = true
		} else {
			uploaded, err := u.Upload(ctx, upload)
			if err != nil {
				return err
			}
			switches[i].Upload = uploaded
		}
		u.small[switches[i].Upload.ID] = file.Content
	}
	if err := u.lease.Hold(ctx); err != nil {
		return err
	}
	return u.Switch(ctx, switches...)
}

// publishRelease edits the notes and makes the draft a release.
func (u *update) publishRelease(ctx context.Context, now state, files []File) error {
	edit := Edit{Publish: now.Draft, Prerelease: u.content.Prerelease && !now.Prerelease}
	if u.content.Notes != nil {
		if block := u.content.Notes(files); !hasNotes(now.Notes, block) {
			notes := mergeNotes(now.Notes, block)
			edit.Notes = &notes
		}
	}
	if edit == (Edit{}) {
		return nil
	}
	if edit.Publish {
		edit.Commit = u.content.Commit
	}
	if err := u.lease.Hold(ctx); err != nil {
		return err
	}
	return u.Edit(ctx, edit)
}

// cleanUp removes uploads that nobody needs any more: a repeated upload of this
// run, or those of a run that died.
func (u *update) cleanUp(ctx context.Context, now state) error {
	for _, asset := range now.Assets {
		if !u.taken[asset] && strings.HasPrefix(asset.Name, temporaryPrefix) {
			if err := u.Remove(ctx, asset); err != nil {
				return err
			}
		}
	}
	return nil
}
