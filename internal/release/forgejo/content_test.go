package forgejo_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/forgejo"
)

// 200 assets in one release, as a fleet with an image a machine has them.
func TestManyAssets(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	gate := newGate(t, config.URL)
	config.URL = gate.URL
	var files []release.File
	for i := range 200 {
		files = append(files, newFile(t, fmt.Sprintf("machine-%03d.img.zst", i), content(byte(i), 100+i)))
	}
	result := published(t, config, files...)
	assert.Len(t, result.Uploaded, 200)
	assert.Len(t, result.Files, 200)
	again := published(t, config, files...)
	assert.Len(t, again.Unchanged, 200)
	assert.Len(t, gate.uploads(), 200)
}

// inForgeAndFolder tests what both kinds of stores promise.
func inForgeAndFolder(t *testing.T, private bool, test func(t *testing.T, config forgejo.Config)) {
	t.Helper()
	for name, configure := range map[string]func(t *testing.T) forgejo.Config{
		"forge":  func(t *testing.T) forgejo.Config { return newRepository(t, private) },
		"folder": func(t *testing.T) forgejo.Config { return forgejo.Config{URL: "file://" + t.TempDir()} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, configure(t))
		})
	}
}

// Tags and names that addresses must escape.
func TestNamesThatNeedEscaping(t *testing.T) {
	t.Parallel()
	inForgeAndFolder(t, true, func(t *testing.T, config forgejo.Config) {
		store := open(t, config)
		for _, tag := range []string{"boot/v1", "boot-v1+100%#ü&x=1"} {
			files := []release.File{
				newFile(t, "image 100%#1 ü&a=b+c;d'e.iso", content(1, 10)),
				newFile(t, "x.img.zst", content(2, 10)),
			}
			_, err := publish(t.Context(), store, publication{Tag: tag, Commit: "main", Files: files, Notes: notes})
			require.NoError(t, err, tag)
			requireWhole(t, store, tag, files...)
			again, err := publish(t.Context(), store, publication{Tag: tag, Files: files, Notes: notes})
			require.NoError(t, err)
			assert.Len(t, again.Unchanged, 2)
		}
		latest, err := store.Latest(t.Context(), "boot/")
		require.NoError(t, err)
		assert.Equal(t, "boot/v1", latest.Tag)
	})
}

// The tag may be made at a branch, of whatever name, or at a commit.
func TestTagIsMadeAt(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	g := gitea(t)
	require.Equal(t, http.StatusCreated, g.API(t, http.MethodPost, "/repos/"+config.Repository+"/contents/new", map[string]any{
		"content": "", "branch": "main", "new_branch": "images/next", "message": "next",
	}, nil))
	commit := func(of string) string {
		var found struct {
			Commit struct{ ID, SHA string } // of a branch, of a tag
		}
		require.Equal(t, http.StatusOK, g.API(t, http.MethodGet, "/repos/"+config.Repository+of, nil, &found))
		return found.Commit.ID + found.Commit.SHA
	}
	main, next := commit("/branches/main"), commit("/branches/images%2Fnext")
	require.NotEqual(t, main, next)
	store := open(t, config)
	for tag, at := range map[string]string{"boot-v1": "", "boot-v2": "images/next", "boot-v3": next, "boot-v4": main} {
		_, err := publish(t.Context(), store, publication{Tag: tag, Commit: at, Files: []release.File{newFile(t, "a.iso", nil)}})
		require.NoError(t, err)
		want := next
		if at == "" || at == main {
			want = main
		}
		assert.Equal(t, want, commit("/tags/"+tag), tag)
	}
}

// Where a signature is made anew each time, it follows the list that it is for.
func TestSignatureFollowsTheList(t *testing.T) {
	t.Parallel()
	inForgeAndFolder(t, false, func(t *testing.T, config forgejo.Config) {
		var said []string
		config.Log = func(message string) { said = append(said, message) }
		store := open(t, config)
		p := publication{Tag: "boot-v1", Commit: "main", Sign: sign, Files: []release.File{newFile(t, "a.iso", content(1, 10))}}
		_, err := publish(t.Context(), store, p)
		require.NoError(t, err)
		p.Files = []release.File{newFile(t, "a.iso", content(2, 10))}
		_, err = publish(t.Context(), store, p)
		require.NoError(t, err)
		requireSigned(t, store)
		assert.Empty(t, said)

		p.Sign, p.Files = nil, []release.File{newFile(t, "b.iso", content(2, 10))}
		_, err = publish(t.Context(), store, p)
		require.NoError(t, err)
		require.Len(t, said, 1)
		assert.Contains(t, said[0], "SHA256SUMS.txt.sig")

		p.Sign = func([]byte) (map[string][]byte, error) { return map[string][]byte{"../x": nil}, nil }
		_, err = publish(t.Context(), store, p)
		require.ErrorContains(t, err, `"../x"`)
		p.Sign = func([]byte) (map[string][]byte, error) { return map[string][]byte{"b.iso": nil}, nil }
		_, err = publish(t.Context(), store, p)
		require.ErrorContains(t, err, "a published file is named b.iso, too")
		p.Sign = func([]byte) (map[string][]byte, error) { return nil, assert.AnError }
		_, err = publish(t.Context(), store, p)
		require.ErrorIs(t, err, assert.AnError)
	})
}

func requireSigned(t *testing.T, store *release.Store) {
	t.Helper()
	found, err := store.Release(t.Context(), "boot-v1")
	require.NoError(t, err)
	sums := download(t, store, found, "SHA256SUMS.txt")
	assert.Equal(t, "signed\n"+string(sums), string(download(t, store, found, "SHA256SUMS.txt.sig")))
}

// What is composed from the release is composed again from what other runs have
// published meanwhile: each adds to it, and none is lost.
func TestRunsThatAddToOneFile(t *testing.T) {
	t.Parallel()
	inForgeAndFolder(t, false, func(t *testing.T, config forgejo.Config) {
		store := open(t, config)
		add := func(line string) error {
			_, err := store.Update(t.Context(), "boot-v1", func(ctx context.Context, there release.Snapshot) (release.Content, error) {
				contents, err := there.Contents(ctx, "lines.jsonl")
				if err != nil {
					return release.Content{}, err
				}
				lines := ""
				if len(contents) > 0 {
					lines = string(contents[0])
				}
				if !strings.Contains(lines, line) {
					lines += line + "\n"
				}
				return release.Content{Commit: "main", Files: []release.File{{Name: "lines.jsonl", Content: []byte(lines)}}}, nil
			})
			return err
		}
		require.NoError(t, add("first"))
		var runs errgroup.Group
		for i := range 3 {
			runs.Go(func() error { return add(fmt.Sprintf("line %d", i)) })
		}
		require.NoError(t, runs.Wait())
		found, err := store.Release(t.Context(), "boot-v1")
		require.NoError(t, err)
		lines := strings.Fields(strings.ReplaceAll(string(download(t, store, found, "lines.jsonl")), "line ", "line"))
		assert.Equal(t, "first", lines[0])
		assert.ElementsMatch(t, []string{"first", "line0", "line1", "line2"}, lines)
	})
}

// A publication may be refused, as the release is under the lease: then nothing
// has changed, and other runs are not met half-way.
func TestRefusedByCompose(t *testing.T) {
	t.Parallel()
	inForgeAndFolder(t, false, func(t *testing.T, config forgejo.Config) {
		store := open(t, config)
		a, b, other := newFile(t, "a.iso", content(1, 10)), newFile(t, "b.iso", content(2, 10)), newFile(t, "a.iso", content(3, 10))
		run := func(check func(there release.Snapshot) error, files ...release.File) error {
			_, err := publish(t.Context(), store, publication{
				Tag: "boot-v1", Commit: "main", Files: files, Sign: sign,
				Check: func(_ context.Context, there release.Snapshot) error { return check(there) },
			})
			return err
		}
		require.ErrorIs(t, run(func(there release.Snapshot) error {
			assert.Empty(t, there.Release.Tag)
			return assert.AnError
		}, a, b), assert.AnError)
		_, err := store.Release(t.Context(), "boot-v1")
		require.ErrorIs(t, err, release.ErrNotFound, "not even a draft was made")

		require.NoError(t, run(func(release.Snapshot) error { return nil }, a, b))
		whole, err := store.Release(t.Context(), "boot-v1")
		require.NoError(t, err)
		checks := 0
		require.ErrorIs(t, run(func(there release.Snapshot) error {
			checks++
			assert.Equal(t, whole, there.Release)
			assert.Equal(t, checksum.Sums{"a.iso": a.SHA256, "b.iso": b.SHA256}, there.Listed)
			assert.Equal(t, checksum.Sums{"b.iso": b.SHA256}, there.Others([]release.File{other}))
			for file, want := range map[*release.File]bool{&a: true, &b: true, &other: false} {
				has, err := there.Has(t.Context(), file)
				require.NoError(t, err)
				assert.Equal(t, want, has, file.Name)
			}
			requireContents(t, there, "SHA256SUMS.txt.sig", "signed\n"+string(there.Listed.Bytes()))
			requireContents(t, there, "SHA256SUMS.txt.asc")
			return assert.AnError
		}, other), assert.AnError)
		assert.Equal(t, 2, checks, "without and with the lease")
		after, err := store.Release(t.Context(), "boot-v1")
		require.NoError(t, err)
		assert.Equal(t, whole, after)
	})
}

// A second run that comes while the first one has the lease composes from all that
// this one has published.
func TestSecondRunSeesTheFirstWhole(t *testing.T) {
	t.Parallel()
	inForgeAndFolder(t, false, func(t *testing.T, config forgejo.Config) {
		store := open(t, config)
		first := publication{Tag: "boot-v1", Commit: "main", Files: []release.File{newFile(t, "a.iso", content(1, 10))}, Sign: sign}
		_, err := publish(t.Context(), store, first)
		require.NoError(t, err)

		first.Files = []release.File{newFile(t, "a.iso", content(2, 10))}
		second := first
		second.Files = []release.File{newFile(t, "b.iso", content(3, 10))}
		ended, looks := make(chan error, 1), 0
		first.Check = func(_ context.Context, there release.Snapshot) error {
			if looks++; looks != 2 { // the first look has no lease
				return nil
			}
			looked := make(chan struct{})
			var last checksum.Sums
			second.Check = func(_ context.Context, there release.Snapshot) error {
				if last == nil {
					close(looked)
				}
				last = there.Others(second.Files)
				requireContents(t, there, "SHA256SUMS.txt", string(there.Listed.Bytes()))
				requireContents(t, there, "SHA256SUMS.txt.sig", "signed\n"+string(there.Listed.Bytes()))
				return nil
			}
			go func() {
				_, err := publish(t.Context(), store, second)
				assert.Equal(t, checksum.Sums{"a.iso": first.Files[0].SHA256}, last)
				ended <- err
			}()
			<-looked // what it meets without the lease is whole, because this run waits here
			return nil
		}
		_, err = publish(t.Context(), store, first)
		require.NoError(t, err)
		require.NoError(t, <-ended)
		requireSigned(t, store)
	})
}

func requireContents(t *testing.T, there release.Snapshot, name string, want ...string) {
	t.Helper()
	contents, err := there.Contents(t.Context(), name)
	assert.NoError(t, err)
	var got []string
	for _, content := range contents {
		got = append(got, string(content))
	}
	assert.Equal(t, want, got, name)
}

// A line that another hand adds after the check is not signed unchecked.
func TestComposeAgainAfterAnotherHand(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	store := open(t, config)
	p := publication{Tag: "boot-v1", Commit: "main", Files: []release.File{newFile(t, "a.iso", content(1, 10))}, Sign: sign}
	_, err := publish(t.Context(), store, p)
	require.NoError(t, err)

	evil := newFile(t, "evil.iso", content(2, 10))
	var listed []checksum.Sums
	p.Files = []release.File{newFile(t, "b.iso", content(3, 10))}
	p.Check = func(_ context.Context, there release.Snapshot) error {
		others := there.Others(p.Files)
		listed = append(listed, others)
		if others["evil.iso"] != "" {
			return assert.AnError
		}
		if len(listed) < 2 {
			return nil // without the lease
		}
		list := maps.Clone(there.Listed)
		list["evil.iso"] = evil.SHA256
		attach(t, config, "boot-v1", "evil.iso", content(2, 10))
		attach(t, config, "boot-v1", "SHA256SUMS.txt", list.Bytes())
		return nil
	}
	_, err = publish(t.Context(), store, p)
	require.ErrorIs(t, err, assert.AnError)
	assert.Len(t, listed, 3)
	found, err := store.Release(t.Context(), "boot-v1")
	require.NoError(t, err)
	assert.NotContains(t, string(download(t, store, found, "SHA256SUMS.txt.sig")), "evil.iso")
}

// attach adds an asset by hand.
func attach(t *testing.T, config forgejo.Config, tag, name string, content []byte) {
	t.Helper()
	var found struct{ ID int64 }
	require.Equal(t, http.StatusOK, gitea(t).API(t, http.MethodGet, "/repos/"+config.Repository+"/releases/tags/"+tag, nil, &found))
	address := fmt.Sprintf("%s/api/v1/repos/%s/releases/%d/assets?name=%s", config.URL, config.Repository, found.ID, name)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, bytes.NewReader(content))
	require.NoError(t, err)
	request.Header.Set("Authorization", "token "+config.Token)
	request.Header.Set("Content-Type", "application/octet-stream")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusCreated, response.StatusCode)
}
