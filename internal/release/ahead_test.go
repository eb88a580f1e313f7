package release_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/release"
)

// updateAhead uploads the files one after the other before it composes them.
func updateAhead(ctx context.Context, m *memory, content release.Content) (release.Published, error) {
	return m.store().UpdateAhead(ctx, "v1", release.Content{}, func(ctx context.Context, upload release.UploadAhead) error {
		for _, file := range content.Files {
			if _, err := upload(ctx, file); err != nil {
				return err
			}
		}
		return nil
	}, func(context.Context, release.Snapshot) (release.Content, error) { return content, nil })
}

func requireUploaded(t *testing.T, ctx context.Context, upload release.UploadAhead, file release.File) {
	t.Helper()
	uploaded, err := upload(ctx, file)
	require.NoError(t, err)
	assert.Equal(t, sumOf(file.Content), uploaded.SHA256)
}

func TestUpdateAhead(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	a, b, c := file("a.iso", "a"), file("b.iso", "b"), file("c.jsonl", "c")
	whole := contentOf(a, b, c)
	compose := func(context.Context, release.Snapshot) (release.Content, error) { return whole, nil }
	published, err := m.store().UpdateAhead(t.Context(), "v1", release.Content{Title: "One"}, func(ctx context.Context, upload release.UploadAhead) error {
		assert.Empty(t, m.verbs, "nothing is written before there is something to upload")
		requireUploaded(t, ctx, upload, b)
		assert.Equal(t, []string{"create", "lease", "upload b.iso"}, m.verbs, "it is uploaded when it is whole")
		requireUploaded(t, ctx, upload, a)
		return nil
	}, compose)
	require.NoError(t, err)
	assert.Equal(t, []string{"a.iso", "b.iso", "c.jsonl"}, published.Uploaded)
	assert.Equal(t, "One", published.Release.Title)
	requireRelease(t, m, a, b, c)
	assert.Equal(t, []string{
		"create", "lease", "upload b.iso", "upload a.iso", "upload c.jsonl", "rename a.iso", "rename b.iso", "rename c.jsonl",
		"upload SHA256SUMS.txt", "upload SHA256SUMS.txt.sig", "rename SHA256SUMS.txt", "rename SHA256SUMS.txt.sig", "edit",
	}, m.verbs)

	m.verbs = nil
	published, err = updateAhead(t.Context(), m, whole)
	require.NoError(t, err)
	assert.Equal(t, []string{"a.iso", "b.iso", "c.jsonl"}, published.Unchanged)
	assert.Empty(t, m.verbs, "nothing is written, not even a lease taken")

	other := file("a.iso", "x") // of the same size
	published, err = updateAhead(t.Context(), m, contentOf(other, b))
	require.NoError(t, err)
	assert.Equal(t, []string{"a.iso"}, published.Replaced)
	assert.Equal(t, []string{"b.iso"}, published.Unchanged)
	assert.Equal(t, []string{"lease", "upload a.iso", "upload SHA256SUMS.txt"}, m.verbs[:3])
	requireRelease(t, m, other, b, c)
}

// Where not all can be made, or what was made is refused, nothing stays of what was
// uploaded ahead: no draft that this run has made, and nothing beside what was there.
func TestWhatWasUploadedAheadIsTakenBack(t *testing.T) {
	t.Parallel()
	a, b := file("a.iso", "a"), file("b.iso", "b")
	failure := errors.New("the image cannot be packaged")
	for name, fails := range map[string]struct{ made, composed error }{
		"made":     {made: failure},
		"composed": {composed: failure},
	} {
		for _, there := range []string{"nothing", "a release", "a draft", "an empty draft"} {
			t.Run(name+"/"+there, func(t *testing.T) {
				t.Parallel()
				m := newMemory(t)
				switch there {
				case "a release":
					_, err := update(t, m, contentOf(b))
					require.NoError(t, err)
				case "a draft", "an empty draft":
					m.found = &release.Release{Tag: "v1", Draft: true}
					if there == "a draft" {
						m.add("by-hand.txt", []byte("hello"))
					}
				}
				m.verbs = nil
				var before []release.Asset
				if m.found != nil {
					before = slices.Clone(m.found.Assets)
				}
				_, err := m.store().UpdateAhead(t.Context(), "v1", release.Content{}, func(ctx context.Context, upload release.UploadAhead) error {
					requireUploaded(t, ctx, upload, a)
					return fails.made
				}, func(context.Context, release.Snapshot) (release.Content, error) {
					return contentOf(a), fails.composed
				})
				require.ErrorIs(t, err, failure)
				assert.Contains(t, m.verbs, "upload a.iso")
				assert.Empty(t, m.lease, "the lease has ended")
				if there == "nothing" {
					assert.Nil(t, m.found)
					return
				}
				require.NotNil(t, m.found, "somebody else has made it")
				assert.ElementsMatch(t, before, m.found.Assets)
			})
		}
	}
}

// So it is after an interruption, which ends the context as well.
func TestInterruptedWhileMakingAhead(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := m.store().UpdateAhead(ctx, "v1", release.Content{}, func(ctx context.Context, upload release.UploadAhead) error {
		requireUploaded(t, ctx, upload, file("a.iso", "a"))
		cancel()
		<-ctx.Done()
		_, err := upload(ctx, file("b.iso", "b"))
		return err
	}, nil)
	require.ErrorIs(t, err, context.Canceled)
	assert.Nil(t, m.found)
	assert.Empty(t, m.lease)
}

// Of an interruption before anything was made, nothing is said to stay.
func TestInterruptedWhileMakingTheRelease(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	m := newMemory(t)
	m.before = func(verb string) error {
		if verb != "create" {
			return nil
		}
		cancel()
		return ctx.Err()
	}
	store := m.store()
	store.Log = func(message string) { t.Error(message) }
	_, err := store.UpdateAhead(ctx, "v1", release.Content{}, func(ctx context.Context, upload release.UploadAhead) error {
		_, err := upload(ctx, file("a.iso", "a"))
		return err
	}, nil)
	require.ErrorIs(t, err, context.Canceled)
	assert.Nil(t, m.found)
}

// What the backend cannot take is tried by the next run, which finds the rest.
func TestUploadAheadThatFails(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	a, b := file("a.iso", "a"), file("b.iso", "b")
	m.before = func(verb string) error {
		if verb == "upload b.iso" {
			return errDied
		}
		return nil
	}
	_, err := updateAhead(t.Context(), m, contentOf(a, b))
	require.ErrorIs(t, err, errDied)
	require.NotNil(t, m.found)
	assert.Len(t, m.found.Assets, 1)
	m.before, m.verbs = nil, nil
	_, err = updateAhead(t.Context(), m, contentOf(a, b))
	require.NoError(t, err)
	assert.NotContains(t, m.verbs, "upload a.iso")
	requireRelease(t, m, a, b)
}

// A run that another one has taken for dead takes nothing back: that is the other's.
func TestUploadAheadWithALostLease(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	m.lost = errors.New("another run has taken over")
	_, err := updateAhead(t.Context(), m, contentOf(file("a.iso", "a")))
	require.ErrorIs(t, err, m.lost)
	assert.Equal(t, []string{"create", "lease", "upload a.iso"}, m.verbs)
}

// So it is if it is interrupted after that, and if it only finds out when it would take
// back: after the machine has slept, for example.
func TestLostLeaseIsNoLeaseToTakeBack(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(m *memory, upload func() error, interrupt func()) error{
		"and then interrupted": func(m *memory, upload func() error, interrupt func()) error {
			m.lost = errors.New("another run has taken over")
			defer interrupt()
			return upload()
		},
		"not noticed yet": func(m *memory, _ func() error, _ func()) error {
			m.hold = errors.New("another run has taken over")
			return errors.New("the image cannot be packaged")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMemory(t)
			ctx, interrupt := context.WithCancel(t.Context())
			_, err := m.store().UpdateAhead(ctx, "v1", release.Content{}, func(ctx context.Context, upload release.UploadAhead) error {
				requireUploaded(t, ctx, upload, file("a.iso", "a"))
				m.verbs = nil
				return lose(m, func() error {
					_, err := upload(ctx, file("b.iso", "b"))
					return err
				}, interrupt)
			}, nil)
			require.Error(t, err)
			for _, verb := range m.verbs {
				assert.Equal(t, "upload b.iso", verb)
			}
		})
	}
}

// Several files become whole at once: each is uploaded beside the others.
func TestUploadsAheadAtOnce(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	files := []release.File{file("a.iso", "a"), file("b.iso", "b"), file("c.iso", "c")}
	var uploading sync.WaitGroup
	uploading.Add(len(files))
	m.before = func(verb string) error {
		if strings.HasSuffix(verb, ".iso") && strings.HasPrefix(verb, "upload ") {
			uploading.Done()
			uploading.Wait() // until all are under way
		}
		return nil
	}
	store := m.store()
	store.Parallel = len(files)
	_, err := store.UpdateAhead(t.Context(), "v1", release.Content{}, func(ctx context.Context, upload release.UploadAhead) error {
		group, ctx := errgroup.WithContext(ctx) // whose context ends before the run does
		for _, file := range files {
			group.Go(func() error {
				_, err := upload(ctx, file)
				return err
			})
		}
		return group.Wait()
	}, func(context.Context, release.Snapshot) (release.Content, error) { return contentOf(files...), nil })
	require.NoError(t, err)
	requireRelease(t, m, files...)
}

// Of two runs with the same bytes the later one waits for the lease of the other, and
// then uploads nothing; or makes the release itself, if the other one fails and takes
// its draft away.
func TestRunsAtOnceThatUploadAhead(t *testing.T) {
	t.Parallel()
	for _, firstFails := range []bool{false, true} {
		m := newMemory(t)
		a := file("a.iso", "a")
		waits := make(chan struct{})
		var second errgroup.Group
		failure := errors.New("the image cannot be packaged")
		compose := func(context.Context, release.Snapshot) (release.Content, error) { return contentOf(a), nil }
		_, err := m.store().UpdateAhead(t.Context(), "v1", release.Content{}, func(ctx context.Context, upload release.UploadAhead) error {
			requireUploaded(t, ctx, upload, a)
			second.Go(func() error {
				other := release.Content{Status: func(string) { // it is about to wait for the lease
					select {
					case <-waits:
					default:
						close(waits)
					}
				}}
				_, err := m.store().UpdateAhead(t.Context(), "v1", other, func(ctx context.Context, upload release.UploadAhead) error {
					_, err := upload(ctx, a)
					return err
				}, compose)
				return err
			})
			<-waits
			if firstFails {
				return failure
			}
			return nil
		}, compose)
		uploads := 1
		if firstFails {
			require.ErrorIs(t, err, failure)
			uploads = 2
		} else {
			require.NoError(t, err)
		}
		require.NoError(t, second.Wait())
		requireRelease(t, m, a)
		sent := slices.DeleteFunc(slices.Clone(m.verbs), func(verb string) bool { return verb != "upload a.iso" })
		assert.Len(t, sent, uploads)
	}
}

// A missing checksum is found beside the upload, which is not read back then; a release
// that may have the file is compared with it.
func TestFilesWithoutChecksumsAhead(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	path := filepath.Join(t.TempDir(), "a.iso")
	require.NoError(t, os.WriteFile(path, []byte("hello"), 0o600))
	given := release.File{Name: "a.iso", Path: path, Size: 5}
	for _, want := range [][]string{{"create", "lease", "upload a.iso", "rename a.iso", "upload SHA256SUMS.txt", "rename SHA256SUMS.txt", "edit"}, nil} {
		m.verbs = nil
		var whole release.File
		_, err := m.store().UpdateAhead(t.Context(), "v1", release.Content{Status: func(what string) {
			assert.NotContains(t, what, "read")
		}}, func(ctx context.Context, upload release.UploadAhead) (err error) {
			whole, err = upload(ctx, given)
			return err
		}, func(context.Context, release.Snapshot) (release.Content, error) {
			assert.Equal(t, sumOf([]byte("hello")), whole.SHA256)
			return release.Content{Files: []release.File{whole}}, nil
		})
		require.NoError(t, err)
		assert.Equal(t, want, m.verbs)
	}
}

// A file that is another one than when it was packaged is not published, nor uploaded,
// whatever its size is, and whether its checksum was made then or not.
func TestFileThatChangesBeforeItsUpload(t *testing.T) {
	t.Parallel()
	for _, sum := range []string{sumOf([]byte("hello")), ""} {
		m := newMemory(t)
		path := filepath.Join(t.TempDir(), "a.iso")
		require.NoError(t, os.WriteFile(path, []byte("hello"), 0o600))
		info, err := os.Stat(path)
		require.NoError(t, err)
		packaged := release.File{Name: "a.iso", Path: path, Size: 5, SHA256: sum, Info: info}
		other := filepath.Join(filepath.Dir(path), "other")
		require.NoError(t, os.WriteFile(other, []byte("jello"), 0o600))
		require.NoError(t, os.Rename(other, path))
		_, err = updateAhead(t.Context(), m, contentOf(packaged))
		require.ErrorContains(t, err, path+" has been written to while it was being published")
		if m.found != nil {
			assert.Empty(t, m.found.Assets)
		}
		_, err = update(t, m, contentOf(packaged))
		require.ErrorContains(t, err, path+" has been written to")
	}
}
