package forgejo_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/release"
)

// releaseExists reports whether the server has a release for the tag, a draft too.
func releaseExists(t *testing.T, repository, tag string) bool {
	t.Helper()
	status := gitea(t).API(t, http.MethodGet, "/repos/"+repository+"/releases/tags/"+tag, nil, nil)
	require.Contains(t, []int{http.StatusOK, http.StatusNotFound}, status)
	return status == http.StatusOK
}

// Where not all images can be packaged, or somebody interrupts that, no draft stays of
// what was uploaded meanwhile, and a release that was there is as it was.
func TestPackagingFailsAfterAnUpload(t *testing.T) {
	t.Parallel()
	failure := errors.New("the image cannot be packaged")
	for i := range 4 {
		there, interrupted := i/2 == 1, i%2 == 1
		t.Run(fmt.Sprintf("there=%v, interrupted=%v", there, interrupted), func(t *testing.T) {
			t.Parallel()
			config := newRepository(t, false)
			old := newFile(t, "b.iso", content(2, 100))
			store := open(t, config)
			if there {
				_, err := publish(t.Context(), store, publication{Tag: "boot-v1", Commit: "main", Files: []release.File{old}, Notes: notes})
				require.NoError(t, err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, err := store.UpdateAhead(ctx, "boot-v1", release.Content{Commit: "main"}, func(ctx context.Context, upload release.UploadAhead) error {
				_, err := upload(ctx, newFile(t, "a.iso", content(1, 2<<20)))
				require.NoError(t, err)
				names, _ := rawAssets(t, config, "boot-v1")
				assert.Contains(t, strings.Join(names, " "), "-a.iso", "it is there before the others are packaged")
				if interrupted {
					cancel()
					return context.Cause(ctx)
				}
				return failure
			}, nil)
			if !there {
				assert.False(t, releaseExists(t, config.Repository, "boot-v1"))
			} else {
				names, _ := rawAssets(t, config, "boot-v1")
				assert.ElementsMatch(t, []string{"b.iso", checksum.FileName}, names)
				requireWhole(t, store, "boot-v1", old)
			}
			if interrupted {
				require.ErrorIs(t, err, context.Canceled)
			} else {
				require.ErrorIs(t, err, failure)
			}
		})
	}
}

// A run waits with its uploads for the lease of another one, and then finds what that
// has uploaded: in the release, or in the draft, if that one has failed.
func TestRunThatWaitsWithItsUploads(t *testing.T) {
	t.Parallel()
	failure := errors.New("the image cannot be packaged")
	for _, firstFails := range []bool{false, true} {
		t.Run(fmt.Sprintf("fails=%v", firstFails), func(t *testing.T) {
			t.Parallel()
			config := newRepository(t, false)
			gate := newGate(t, config.URL)
			config.URL = gate.URL
			file := newFile(t, "a.iso", content(1, 2<<20))
			var second errgroup.Group
			_, err := open(t, config).UpdateAhead(t.Context(), "boot-v1", release.Content{Commit: "main"}, func(ctx context.Context, upload release.UploadAhead) error {
				_, err := upload(ctx, file)
				require.NoError(t, err)
				waiting := config
				var once sync.Once
				waits := make(chan struct{})
				waiting.Log = func(string) { once.Do(func() { close(waits) }) } // "another run is publishing this release"
				second.Go(func() error {
					_, err := publish(t.Context(), open(t, waiting), publication{Tag: "boot-v1", Commit: "main", Files: []release.File{file}, Ahead: true})
					return err
				})
				<-waits
				if firstFails {
					return failure
				}
				return nil
			}, func(context.Context, release.Snapshot) (release.Content, error) {
				return release.Content{Commit: "main", Files: []release.File{file}}, nil
			})
			if firstFails {
				require.ErrorIs(t, err, failure)
			} else {
				require.NoError(t, err)
			}
			require.NoError(t, second.Wait())
			requireWhole(t, open(t, config), "boot-v1", file)
			names, _ := rawAssets(t, config, "boot-v1")
			assert.ElementsMatch(t, []string{"a.iso", checksum.FileName}, names)
			assert.Len(t, gate.uploads(), 1)
		})
	}
}

// A draft that another run takes away in the moment in which this one asks for its
// lease is made again.
func TestDraftThatGoesBeforeItsLease(t *testing.T) {
	t.Parallel()
	for _, ahead := range []bool{false, true} {
		t.Run(fmt.Sprintf("ahead=%v", ahead), func(t *testing.T) {
			t.Parallel()
			config := newRepository(t, false)
			gate := newGate(t, config.URL)
			gate.before = once(func(r *http.Request) bool { return strings.HasPrefix(r.URL.Query().Get("name"), "publishing-") },
				func(w http.ResponseWriter, r *http.Request) {
					path := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/api/v1"), "/assets")
					assert.Equal(t, http.StatusNoContent, gitea(t).API(t, http.MethodDelete, path, nil, nil))
					gate.forward(0, w, r)
				})
			config.URL = gate.URL
			file := newFile(t, "a.iso", content(1, 10))
			_, err := publish(t.Context(), open(t, config), publication{Tag: "boot-v1", Commit: "main", Files: []release.File{file}, Ahead: ahead})
			require.NoError(t, err)
			requireWhole(t, open(t, config), "boot-v1", file)
		})
	}
}

// A draft that somebody else has made, just before this run would have, is not taken back
// with what this run has uploaded. One that it has made itself is, also if the answer was lost.
func TestDraftOfSomebodyElseStays(t *testing.T) {
	t.Parallel()
	isCreation := func(r *http.Request) bool {
		return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/releases")
	}
	for status, stays := range map[int]bool{http.StatusConflict: true, http.StatusBadGateway: false} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			config := newRepository(t, false)
			gate := newGate(t, config.URL)
			gate.before = once(isCreation, func(w http.ResponseWriter, _ *http.Request) {
				created, err := gitea(t).Call(t.Context(), http.MethodPost, "/repos/"+config.Repository+"/releases",
					map[string]any{"tag_name": "boot-v1", "target_commitish": "main", "draft": true}, nil)
				assert.NoError(t, err)
				assert.Equal(t, http.StatusCreated, created)
				w.WriteHeader(status)
			})
			config.URL = gate.URL
			failure := errors.New("the image cannot be packaged")
			_, err := open(t, config).UpdateAhead(t.Context(), "boot-v1", release.Content{Commit: "main"}, func(ctx context.Context, upload release.UploadAhead) error {
				_, err := upload(ctx, newFile(t, "a.iso", []byte("a")))
				return errors.Join(failure, err)
			}, nil)
			require.EqualError(t, err, failure.Error())
			assert.Equal(t, stays, releaseExists(t, config.Repository, "boot-v1"))
		})
	}
}
