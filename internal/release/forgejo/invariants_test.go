package forgejo_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/release"
)

// A reader is somebody without a token who knows a tag's addresses.
type reader struct {
	server, repository, tag string
	known                   []string // assets that must be there from now on
	complete                []string // what the release must have when it appears
	seen                    bool     // it has appeared
	midway                  bool     // there was a moment with an asset that had no line
}

func (r *reader) get(path string) (int, []byte, error) {
	response, err := http.Get(r.server + path)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

// look reads everything that the tag leads to, and finds what must never be.
func (r *reader) look() error {
	status, body, err := r.get("/api/v1/repos/" + r.repository + "/releases/tags/" + r.tag)
	if err != nil {
		return err
	}
	if status == http.StatusNotFound && !r.seen {
		return nil
	}
	if status != http.StatusOK {
		return fmt.Errorf("the release: %d", status)
	}
	var found struct{ Assets []struct{ Name string } }
	if err := json.Unmarshal(body, &found); err != nil {
		return err
	}
	if !r.seen {
		r.seen = true
		r.known = append(slices.Clone(r.complete), checksum.FileName)
	}
	for _, name := range r.known {
		if !slices.ContainsFunc(found.Assets, func(a struct{ Name string }) bool { return a.Name == name }) {
			return fmt.Errorf("the release is there without %s: %s", name, body)
		}
		if status, _, err := r.get(r.download(name)); err != nil || status != http.StatusOK {
			return fmt.Errorf("%s by its name: %d %w", name, status, err)
		}
	}
	_, text, err := r.get(r.download(checksum.FileName))
	if err != nil {
		return err
	}
	sums, err := checksum.Parse(bytes.NewReader(text))
	if err != nil {
		return err
	}
	for name, want := range sums {
		status, content, err := r.get(r.download(name))
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("%s has a line and is not there: %d %w", name, status, err)
		}
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != want {
			return fmt.Errorf("the line of %s is wrong", name)
		}
	}
	r.midway = r.midway || len(sums) < len(r.known)-1
	return nil
}

func (r *reader) download(name string) string {
	return "/" + r.repository + "/releases/download/" + r.tag + "/" + name
}

// Invariants 1 and 2: a reader looks at everything after every single request
// of a publication, first of a new release, then of one that adds and replaces.
func TestReaderNeverSeesHalf(t *testing.T) {
	t.Parallel()
	for _, ahead := range []bool{false, true} {
		t.Run(fmt.Sprintf("ahead=%v", ahead), func(t *testing.T) {
			t.Parallel()
			requireReaderNeverSeesHalf(t, ahead)
		})
	}
}

func requireReaderNeverSeesHalf(t *testing.T, ahead bool) {
	config := newRepository(t, false)
	var mutex sync.Mutex
	looks := 0
	watcher := &reader{server: config.URL, repository: config.Repository, tag: "boot-v1"}
	gate := newGate(t, config.URL)
	gate.after = func(int, *http.Response) error {
		mutex.Lock()
		defer mutex.Unlock()
		looks++
		assert.NoError(t, watcher.look())
		return nil
	}
	config.URL = gate.URL
	store := open(t, config)

	files := []release.File{newFile(t, "a.tar.gz", content(1, 5000)), newFile(t, "b.iso", content(2, 5000)), newFile(t, "c.img.zst", content(3, 70))}
	for _, file := range files {
		watcher.complete = append(watcher.complete, file.Name)
	}
	p := publication{Tag: "boot-v1", Commit: "main", Files: files, Notes: notes, Ahead: ahead, Sign: func(sums []byte) (map[string][]byte, error) {
		return map[string][]byte{checksum.FileName + ".sig": append([]byte("signed "), sums...)}, nil
	}}
	_, err := publish(t.Context(), store, p)
	require.NoError(t, err)
	require.True(t, watcher.seen)
	require.False(t, watcher.midway)
	_, first := rawAssets(t, config, "boot-v1")

	// The same size: nothing but the bytes tells the difference.
	b, c := newFile(t, "b.iso", content(4, 5000)), newFile(t, "c.img.zst", content(5, 71))
	d := newFile(t, "d.img.zst", content(6, 500))
	p.Files = []release.File{b, c, d}
	published, err := publish(t.Context(), store, p)
	require.NoError(t, err)
	assert.Equal(t, []string{"b.iso", "c.img.zst"}, published.Replaced)
	assert.Equal(t, []string{"d.img.zst"}, published.Uploaded)
	assert.True(t, watcher.midway, "replacing must take lines out first")
	found := requireWhole(t, store, "boot-v1", files[0], b, c, d)
	assert.Equal(t, "signed "+string(download(t, store, found, checksum.FileName)), string(download(t, store, found, checksum.FileName+".sig")))
	names, second := rawAssets(t, config, "boot-v1")
	slices.Sort(names)
	assert.Equal(t, []string{checksum.FileName, checksum.FileName + ".sig", "a.tar.gz", "b.iso", "c.img.zst", "d.img.zst"}, names)
	assert.Equal(t, first["a.tar.gz"], second["a.tar.gz"], "what has not changed stays the same asset")
	assert.Greater(t, looks, 40)
	t.Logf("%d looks", looks)
}

// Invariant 4.
func TestSameBytesAgainWriteNothing(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	gate := newGate(t, config.URL)
	config.URL = gate.URL
	store := open(t, config)
	p := publication{
		Tag: "boot-v1", Commit: "main", Notes: notes, Prerelease: true,
		Files: []release.File{newFile(t, "a.tar.gz", content(1, 1<<20)), newFile(t, "b.iso", nil)},
		Sign: func(sums []byte) (map[string][]byte, error) {
			return map[string][]byte{checksum.FileName + ".sig": sums}, nil
		},
	}
	_, err := publish(t.Context(), store, p)
	require.NoError(t, err)
	before := len(gate.writes())

	p.Progress = func(name string, _, _ int64) { assert.Fail(t, name+" is not uploaded") }
	var said []string
	p.Status = func(what string) { said = append(said, what) }
	p.Files[0].SHA256 = "" // so that only its bytes can tell
	published, err := publish(t.Context(), store, p)
	require.NoError(t, err)
	assert.Equal(t, []string{"a.tar.gz", "b.iso"}, published.Unchanged)
	assert.Equal(t, []string{"hash a.tar.gz, to compare it with the release's"}, said)
	assert.Empty(t, gate.writes()[before:])

	ahead := p
	ahead.Ahead = true
	published, err = publish(t.Context(), store, ahead)
	require.NoError(t, err)
	assert.Equal(t, []string{"a.tar.gz", "b.iso"}, published.Unchanged)
	assert.Empty(t, gate.writes()[before:])

	// Other notes alone are an edit, and no upload.
	p.Notes = func([]release.File) string { return "another text" }
	published, err = publish(t.Context(), store, p)
	require.NoError(t, err)
	assert.Equal(t, []string{"a.tar.gz", "b.iso"}, published.Unchanged)
	assert.Contains(t, published.Release.Notes, "another text")
	assert.Len(t, gate.uploads(), 2)
}

// Invariant 5, with the same bytes and with others.
func TestRunsAtOnce(t *testing.T) {
	t.Parallel()
	for i := range 4 {
		same, ahead := i/2 == 0, i%2 == 1
		t.Run(fmt.Sprintf("same=%v, ahead=%v", same, ahead), func(t *testing.T) {
			t.Parallel()
			config := newRepository(t, false)
			watcher := &reader{server: config.URL, repository: config.Repository, tag: "boot-v1", complete: []string{"a.tar.gz", "b.iso"}}
			gate := newGate(t, config.URL)
			var mutex sync.Mutex
			gate.before = func(n int, w http.ResponseWriter, r *http.Request) bool {
				mutex.Lock() // one request at a time, from all runs, and a look after each
				defer mutex.Unlock()
				gate.forward(n, w, r)
				assert.NoError(t, watcher.look())
				return true
			}
			config.URL = gate.URL
			const runs = 3
			var sets [runs][]release.File
			var group errgroup.Group
			for i := range runs {
				seed := byte(1)
				if !same {
					seed = byte(i)
				}
				sets[i] = []release.File{newFile(t, "a.tar.gz", content(seed, 1<<20)), newFile(t, "b.iso", content(seed+100, 1000))}
				group.Go(func() error {
					_, err := publish(t.Context(), open(t, config), publication{Tag: "boot-v1", Commit: "main", Files: sets[i], Notes: notes, Ahead: ahead})
					return err
				})
			}
			require.NoError(t, group.Wait())
			names, _ := rawAssets(t, config, "boot-v1")
			slices.Sort(names)
			assert.Equal(t, []string{checksum.FileName, "a.tar.gz", "b.iso"}, names)
			store := open(t, config)
			found, err := store.Release(t.Context(), "boot-v1")
			require.NoError(t, err)
			last := slices.IndexFunc(sets[:], func(files []release.File) bool {
				return strings.Contains(string(download(t, store, found, checksum.FileName)), files[0].SHA256)
			})
			require.GreaterOrEqual(t, last, 0)
			requireWhole(t, store, "boot-v1", sets[last]...)
			if same {
				assert.Len(t, gate.uploads(), 2, "runs with the same bytes upload them once")
			}
		})
	}
}

// Invariant 6.
func TestDraftOfAPerson(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	g := gitea(t)
	require.Equal(t, http.StatusCreated, g.API(t, http.MethodPost, "/repos/"+config.Repository+"/releases", map[string]any{
		"tag_name": "boot-v1", "name": "The March images", "body": "Thanks to all.\r\n\r\nRead this first.", "draft": true, "prerelease": true,
	}, nil))
	store := open(t, config)
	p := publication{Tag: "boot-v1", Commit: "main", Title: "ours", Files: []release.File{newFile(t, "a.iso", content(1, 10))}, Notes: notes}
	lost := p
	lost.Commit = strings.Repeat("0", 40)
	_, err := publish(t.Context(), store, lost)
	require.ErrorContains(t, err, "neither the tag boot-v1 nor the commit 000", "found out before anything is uploaded")

	published, err := publish(t.Context(), store, p)
	require.NoError(t, err)
	found := published.Release
	assert.False(t, found.Draft)
	assert.True(t, found.Prerelease)
	assert.Equal(t, "The March images", found.Title)
	assert.Contains(t, found.Notes, "Thanks to all.\r\n\r\nRead this first.\n\n<!-- runner-images -->\n| a.iso")

	var id struct{ ID int64 }
	require.Equal(t, http.StatusOK, g.API(t, http.MethodGet, "/repos/"+config.Repository+"/releases/tags/boot-v1", nil, &id))
	require.Equal(t, http.StatusOK, g.API(t, http.MethodPatch, fmt.Sprintf("/repos/%s/releases/%d", config.Repository, id.ID), map[string]any{
		"body": strings.Replace(found.Notes, "Thanks to all.", "Thanks to many.", 1) + "\nAnd last.",
	}, nil))
	p.Files = []release.File{newFile(t, "a.iso", content(2, 10))}
	published, err = publish(t.Context(), store, p)
	require.NoError(t, err)
	assert.Contains(t, published.Release.Notes, "Thanks to many.")
	assert.Contains(t, published.Release.Notes, "And last.")
	assert.Equal(t, 1, strings.Count(published.Release.Notes, "| a.iso |"))
	assert.Contains(t, published.Release.Notes, p.Files[0].SHA256)
}

// A run that was killed leaves a ticket; a run that was cancelled takes it away.
func TestCancelledRunLeavesNoTicket(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	gate := newGate(t, config.URL)
	ctx, cancel := context.WithCancel(t.Context())
	gate.before = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
		if isFileUpload(r) {
			_, _ = bufio.NewReader(r.Body).Peek(1)
			cancel()
			hangUp(r)
			return true
		}
		return false
	}
	config.URL = gate.URL
	_, err := publish(ctx, open(t, config), publication{Tag: "boot-v1", Commit: "main", Files: []release.File{newFile(t, "a.iso", content(1, 2<<20))}})
	require.ErrorIs(t, err, context.Canceled)
	names, _ := rawAssets(t, config, "boot-v1")
	assert.Empty(t, names)
}

// So does one that was cancelled before it knew that it had a ticket.
func TestRunCancelledWhileItQueuesLeavesNoTicket(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	gate := newGate(t, config.URL)
	ctx, cancel := context.WithCancel(t.Context())
	gate.before = once(func(r *http.Request) bool { return strings.HasPrefix(r.URL.Query().Get("name"), "publishing-") },
		func(_ http.ResponseWriter, r *http.Request) {
			gate.forward(0, httptest.NewRecorder(), r)
			cancel()
			<-r.Context().Done()
		})
	config.URL = gate.URL
	_, err := publish(ctx, open(t, config), publication{Tag: "boot-v1", Commit: "main", Files: []release.File{newFile(t, "a.iso", content(1, 10))}})
	require.ErrorIs(t, err, context.Canceled)
	names, _ := rawAssets(t, config, "boot-v1")
	assert.Empty(t, names)
}

// A lease that is renewed is waited for, however long; one that is not renewed
// for half a minute is not, nor are others behind it.
func TestTicketOfAnotherRun(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	p := publication{Tag: "boot-v1", Commit: "main", Files: []release.File{newFile(t, "a.iso", content(1, 10))}}
	_, err := publish(t.Context(), open(t, config), p)
	require.NoError(t, err)

	g := gitea(t)
	var release, ticket struct{ ID int64 }
	require.Equal(t, http.StatusOK, g.API(t, http.MethodGet, "/repos/"+config.Repository+"/releases/tags/boot-v1", nil, &release))
	assets := fmt.Sprintf("/repos/%s/releases/%d/assets", config.Repository, release.ID)
	require.Equal(t, http.StatusCreated, g.API(t, http.MethodPost, assets+"?name=publishing-0-0-SHA256SUMS.txt", "alive", &ticket))
	for _, dead := range []string{"1", "2", "3"} {
		require.Equal(t, http.StatusCreated, g.API(t, http.MethodPost, assets+"?name=publishing-"+dead+"-0-SHA256SUMS.txt", "dead", nil))
	}

	clock := &fakeClock{time: time.Now()}
	start, last, forgotten := clock.time, clock.time, false
	clock.onWait = func() {
		if !forgotten { // the waiting run is taken for dead, and gets in line anew
			forgotten = true
			_, left := assetsOf(t, config, "boot-v1")
			own := slices.IndexFunc(left, func(a asset) bool {
				return strings.HasPrefix(a.Name, "publishing-") && len(a.Name) > len("publishing-0-0-SHA256SUMS.txt")
			})
			assert.Equal(t, http.StatusNoContent, g.API(t, http.MethodDelete, fmt.Sprintf("%s/%d", assets, left[own].ID), nil, nil))
		}
		if now := clock.now(); now.Sub(start) < 5*time.Minute && now.Sub(last) > 20*time.Second {
			last = now
			status := g.API(t, http.MethodPatch, fmt.Sprintf("%s/%d", assets, ticket.ID),
				map[string]string{"name": fmt.Sprintf("publishing-0-%d-SHA256SUMS.txt", now.Unix())}, nil)
			assert.Equal(t, http.StatusCreated, status, "the live run's ticket is gone")
		}
	}
	_, err = publish(t.Context(), open(t, config.WithClock(clock.now, clock.wait)), p)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, clock.now().Sub(start), 5*time.Minute)
	assert.InDelta(t, 30, clock.now().Sub(last).Seconds(), 5)
	names, _ := rawAssets(t, config, "boot-v1")
	assert.ElementsMatch(t, []string{"a.iso", checksum.FileName}, names)
}

// A run that others took for dead stops, and touches nothing.
func TestLostLease(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false).WithRenewal(20 * time.Millisecond)
	g := gitea(t)
	gate := newGate(t, config.URL)
	gate.before = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
		if !isFileUpload(r) {
			return false
		}
		names, ids := rawAssets(t, config, "boot-v1")
		assets := strings.TrimPrefix(r.URL.Path, "/api/v1")
		assert.Equal(t, http.StatusNoContent, g.API(t, http.MethodDelete, fmt.Sprintf("%s/%d", assets, ids[names[0]]), nil, nil))
		hangUp(r)
		return true
	}
	config.URL = gate.URL
	_, err := publish(t.Context(), open(t, config), publication{Tag: "boot-v1", Commit: "main", Files: []release.File{newFile(t, "a.iso", content(1, 10))}})
	require.ErrorContains(t, err, "another run has taken over")
	names, _ := rawAssets(t, config, "boot-v1")
	assert.Empty(t, names)
}

// A run looks at SHA256SUMS.txt in the moment in which another one replaces it.
func TestChecksumsReplacedDuringTheFirstLook(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	p := publication{Tag: "boot-v1", Commit: "main", Files: []release.File{newFile(t, "a.iso", content(1, 10))}, Notes: notes}
	direct := open(t, config)
	_, err := publish(t.Context(), direct, p)
	require.NoError(t, err)

	other := p
	other.Files = []release.File{newFile(t, "b.iso", content(2, 10))}
	gate := newGate(t, config.URL)
	gate.before = once(func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/attachments/") },
		func(w http.ResponseWriter, r *http.Request) {
			_, err := publish(context.Background(), direct, other)
			assert.NoError(t, err)
			gate.forward(0, w, r)
		})
	config.URL = gate.URL
	p.Files = []release.File{newFile(t, "a.iso", content(3, 20))}
	_, err = publish(t.Context(), open(t, config), p)
	require.NoError(t, err)
	requireWhole(t, direct, "boot-v1", p.Files[0], other.Files[0])
}
