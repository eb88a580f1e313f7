package release_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/release"
)

// memory is a backend in memory: the verbs and nothing else. As a server does, it
// keeps two assets of one name until the old one is removed.
type memory struct {
	t     *testing.T
	mutex sync.Mutex
	found *release.Release
	bytes map[string][]byte // of assets, by ID
	last  int
	lease chan struct{}

	// before, if set, is called before each verb. Its error is the verb's, and
	// nothing is done.
	before func(verb string) error

	verbs   []string // that change something
	spoiled bool     // somebody has exchanged bytes, so lines are false
	lost    error    // why a lease ends, at the next upload
	hold    error    // what Hold finds
}

var _ release.Backend = (*memory)(nil)

func newMemory(t *testing.T) *memory {
	return &memory{t: t, bytes: map[string][]byte{}, lease: make(chan struct{}, 1)}
}

func (m *memory) store() *release.Store { return &release.Store{Backend: m, Parallel: 1} }

// verb notes a verb that changes something, and checks what readers see.
func (m *memory) verb(name string) error {
	if m.before != nil {
		if err := m.before(name); err != nil {
			return err
		}
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.requireTrueLines()
	m.verbs = append(m.verbs, name)
	return nil
}

// requireTrueLines checks the promise to readers: every line of SHA256SUMS.txt is
// true of each asset that has its name.
func (m *memory) requireTrueLines() {
	if m.found == nil || m.found.Draft || m.spoiled {
		return
	}
	for _, list := range m.found.Assets {
		if list.Name != checksum.FileName {
			continue
		}
		sums, err := checksum.Parse(bytes.NewReader(m.bytes[list.ID]))
		assert.NoError(m.t, err)
		for name, sum := range sums {
			for _, asset := range m.found.Assets {
				if asset.Name == name {
					assert.Equal(m.t, sum, sumOf(m.bytes[asset.ID]), "after %v: %s", m.verbs, name)
				}
			}
		}
	}
}

func (m *memory) Release(_ context.Context, tag string) (release.Release, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.found == nil || m.found.Tag != tag {
		return release.Release{}, fmt.Errorf("release %s: %w", tag, release.ErrNotFound)
	}
	found := *m.found
	found.Assets = slices.Clone(found.Assets)
	return found, nil
}

func (m *memory) Latest(ctx context.Context, prefix string) (release.Release, error) {
	if m.found == nil || !strings.HasPrefix(m.found.Tag, prefix) {
		return release.Release{}, release.ErrNotFound
	}
	return m.Release(ctx, m.found.Tag)
}

func (m *memory) Open(_ context.Context, asset release.Asset, offset int64) (io.ReadCloser, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	for _, a := range slices.Backward(m.found.Assets) {
		if a.ID == asset.ID || asset.ID == "" && a.Name == asset.Name {
			return io.NopCloser(bytes.NewReader(m.bytes[a.ID][offset:])), nil
		}
	}
	return nil, fmt.Errorf("download %s: %w", asset.Name, release.ErrNotFound)
}

func (m *memory) Begin(tag string) (release.Transaction, error) {
	return &memoryTransaction{memory: m, tag: tag}, nil
}

// add attaches an asset, as another hand may do.
func (m *memory) add(name string, content []byte) release.Asset {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.last++
	asset := release.Asset{Name: name, Size: int64(len(content)), ID: fmt.Sprint(m.last)}
	m.bytes[asset.ID] = content
	m.found.Assets = append(m.found.Assets, asset)
	return asset
}

// remove removes an asset, as another hand may do.
func (m *memory) remove(id string) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.found.Assets = slices.DeleteFunc(m.found.Assets, func(a release.Asset) bool { return a.ID == id })
}

type memoryTransaction struct {
	*memory
	tag  string
	lose context.CancelCauseFunc
}

func (t *memoryTransaction) Find(ctx context.Context) (release.Release, error) {
	if t.before != nil {
		if err := t.before("find"); err != nil {
			return release.Release{}, err
		}
	}
	return t.Release(ctx, t.tag)
}

func (t *memoryTransaction) Check(context.Context, release.Draft) error {
	if t.before != nil {
		return t.before("check")
	}
	return nil
}

func (t *memoryTransaction) Create(_ context.Context, draft release.Draft) (made bool, err error) {
	if err := t.verb("create"); err != nil {
		return false, err
	}
	t.mutex.Lock()
	t.found = &release.Release{Tag: t.tag, Title: draft.Title, Prerelease: draft.Prerelease, Draft: true}
	t.mutex.Unlock()
	return true, nil
}

func (t *memoryTransaction) Lease(ctx context.Context) (context.Context, release.Lease, error) {
	if err := t.verb("lease"); err != nil {
		return nil, nil, err
	}
	select {
	case t.lease <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	if _, err := t.Release(ctx, t.tag); err != nil {
		<-t.lease
		return nil, nil, err
	}
	ctx, t.lose = context.WithCancelCause(ctx)
	return ctx, t, nil
}

func (t *memoryTransaction) Hold(context.Context) error { return t.hold }

func (t *memoryTransaction) Discard(context.Context) error {
	if err := t.verb("discard"); err != nil {
		return err
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.found = nil
	return nil
}

func (t *memoryTransaction) End(context.Context) {
	t.lose(context.Canceled)
	<-t.lease
}

func (t *memoryTransaction) Upload(ctx context.Context, upload release.Upload) (release.Asset, error) {
	if err := t.verb("upload " + upload.Asset); err != nil {
		return release.Asset{}, err
	}
	if t.lost != nil {
		t.lose(t.lost)
		<-ctx.Done()
		return release.Asset{}, ctx.Err()
	}
	body, err := upload.Open()
	if err != nil {
		return release.Asset{}, err
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	upload.Progress(int64(len(content)))
	return t.add(upload.Name, content), err
}

func (t *memoryTransaction) Switch(_ context.Context, switches ...release.Switch) error {
	for _, s := range switches {
		if s.Upload.Name == "" {
			continue
		}
		if err := t.verb("rename " + s.Name); err != nil {
			return err
		}
		t.mutex.Lock()
		i := slices.IndexFunc(t.found.Assets, func(a release.Asset) bool { return a.ID == s.Upload.ID })
		t.found.Assets[i].Name = s.Name
		t.mutex.Unlock()
	}
	for _, s := range switches {
		for _, old := range s.Old {
			if err := t.verb("remove " + old.Name); err != nil {
				return err
			}
			t.remove(old.ID)
		}
	}
	return nil
}

func (t *memoryTransaction) Remove(_ context.Context, asset release.Asset) error {
	err := t.verb("remove " + asset.Name)
	if err == nil {
		t.remove(asset.ID)
	}
	return err
}

func (t *memoryTransaction) Edit(_ context.Context, edit release.Edit) error {
	if err := t.verb("edit"); err != nil {
		return err
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if edit.Notes != nil {
		t.found.Notes = *edit.Notes
	}
	t.found.Prerelease = t.found.Prerelease || edit.Prerelease
	t.found.Draft = t.found.Draft && !edit.Publish
	return nil
}

// errDied stands for the death of a run.
var errDied = errors.New("the run died")

// dieAt lets the run die before its nth verb that changes something, and the end
// of its lease is all that comes after.
func dieAt(n int) func(verb string) error {
	verbs := 0
	return func(verb string) error {
		if verb != "find" && verb != "check" {
			verbs++
		}
		if verbs >= n {
			return errDied
		}
		return nil
	}
}
