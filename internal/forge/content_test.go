package forge_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/forge"
)

// 200 assets in one release, as a fleet with an image a machine has them.
func TestManyAssets(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	gate := newGate(t, config.URL)
	config.URL = gate.URL
	var files []forge.File
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
func inForgeAndFolder(t *testing.T, private bool, test func(t *testing.T, config forge.Config)) {
	t.Helper()
	for name, configure := range map[string]func(t *testing.T) forge.Config{
		"forge":  func(t *testing.T) forge.Config { return newRepository(t, private) },
		"folder": func(t *testing.T) forge.Config { return forge.Config{URL: "file://" + t.TempDir()} },
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
	inForgeAndFolder(t, true, func(t *testing.T, config forge.Config) {
		store := open(t, config)
		for _, tag := range []string{"boot/v1", "boot-v1+100%#ü&x=1"} {
			files := []forge.File{
				newFile(t, "image 100%#1 ü&a=b+c;d'e.iso", content(1, 10)),
				newFile(t, "x.img.zst", content(2, 10)),
			}
			_, err := store.Publish(t.Context(), forge.Publication{Tag: tag, Commit: "main", Files: files, Notes: notes})
			require.NoError(t, err, tag)
			requireWhole(t, store, tag, files...)
			again, err := store.Publish(t.Context(), forge.Publication{Tag: tag, Files: files, Notes: notes})
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
		_, err := store.Publish(t.Context(), forge.Publication{Tag: tag, Commit: at, Files: []forge.File{newFile(t, "a.iso", nil)}})
		require.NoError(t, err)
		want := next
		if at == "" || at == main {
			want = main
		}
		assert.Equal(t, want, commit("/tags/"+tag), tag)
	}
}

func TestNotes(t *testing.T) {
	t.Parallel()
	const begin, end = "<!-- runner-images -->", "<!-- /runner-images -->"
	for _, test := range []struct{ notes, want string }{
		{"", begin + "\nblock\n" + end + "\n"},
		{" \n", begin + "\nblock\n" + end + "\n"},
		{"hello", "hello\n\n" + begin + "\nblock\n" + end + "\n"},
		{"hello\n\n\n", "hello\n\n" + begin + "\nblock\n" + end + "\n"},
		{begin + "\nold\n" + end, begin + "\nblock\n" + end},
		{"a" + begin + "\r\nold\r\n" + end + "b\r\nc", "a" + begin + "\nblock\n" + end + "b\r\nc"},
		{"stray " + begin + " text", "stray " + begin + " text\n\n" + begin + "\nblock\n" + end + "\n"},
		{end + " text", end + " text\n\n" + begin + "\nblock\n" + end + "\n"},
		{begin + " text " + begin + "\nold\n" + end, begin + " text " + begin + "\nblock\n" + end},
	} {
		got := forge.MergeNotes(test.notes, "block\n")
		assert.Equal(t, test.want, got, "%q", test.notes)
		assert.Equal(t, got, forge.MergeNotes(got, "block"), "again: %q", test.notes)
		assert.True(t, forge.HasNotes(got, "block"))
		assert.True(t, forge.HasNotes(strings.ReplaceAll(got, "\n", "\r\n"), "block"), "as a form writes it: %q", got)
		assert.False(t, forge.HasNotes(got, "another"))
		assert.False(t, forge.HasNotes(test.notes, "block"))
	}
}

// Where a signature is made anew each time, it follows the list that it is for.
func TestSignatureFollowsTheList(t *testing.T) {
	t.Parallel()
	inForgeAndFolder(t, false, func(t *testing.T, config forge.Config) {
		var said []string
		config.Log = func(message string) { said = append(said, message) }
		store := open(t, config)
		p := forge.Publication{Tag: "boot-v1", Commit: "main", Sign: sign, Files: []forge.File{newFile(t, "a.iso", content(1, 10))}}
		_, err := store.Publish(t.Context(), p)
		require.NoError(t, err)
		p.Files = []forge.File{newFile(t, "a.iso", content(2, 10))}
		_, err = store.Publish(t.Context(), p)
		require.NoError(t, err)
		requireSigned(t, store)
		assert.Empty(t, said)

		p.Sign, p.Files = nil, []forge.File{newFile(t, "b.iso", content(2, 10))}
		_, err = store.Publish(t.Context(), p)
		require.NoError(t, err)
		require.Len(t, said, 1)
		assert.Contains(t, said[0], "SHA256SUMS.txt.sig")

		p.Sign = func([]byte) (map[string][]byte, error) { return map[string][]byte{"../x": nil}, nil }
		_, err = store.Publish(t.Context(), p)
		require.ErrorContains(t, err, `"../x"`)
		p.Sign = func([]byte) (map[string][]byte, error) { return map[string][]byte{"b.iso": nil}, nil }
		_, err = store.Publish(t.Context(), p)
		require.ErrorContains(t, err, "a published file is named b.iso, too")
		p.Sign = func([]byte) (map[string][]byte, error) { return nil, assert.AnError }
		_, err = store.Publish(t.Context(), p)
		require.ErrorIs(t, err, assert.AnError)
	})
}

func requireSigned(t *testing.T, store forge.Store) {
	t.Helper()
	release, err := store.Release(t.Context(), "boot-v1")
	require.NoError(t, err)
	sums := download(t, store, release, "SHA256SUMS.txt")
	assert.Equal(t, "signed\n"+string(sums), string(download(t, store, release, "SHA256SUMS.txt.sig")))
}

// A file that was made from an asset replaces that asset and no other.
func TestFollows(t *testing.T) {
	t.Parallel()
	for _, config := range []forge.Config{newRepository(t, false), {URL: "file://" + t.TempDir()}} {
		store := open(t, config)
		var versions [3]forge.File
		for i := range versions {
			versions[i] = newFile(t, "a.jsonl", content(byte(i), 100))
		}
		publish := func(file forge.File, follows string) error {
			file.Follows = follows
			_, err := store.Publish(t.Context(), forge.Publication{Tag: "boot-v1", Commit: "main", Files: []forge.File{file}})
			return err
		}
		require.ErrorIs(t, publish(versions[0], versions[1].SHA256), forge.ErrChanged, "there is none")
		require.NoError(t, publish(versions[0], forge.FollowsNone))
		require.ErrorIs(t, publish(versions[1], forge.FollowsNone), forge.ErrChanged)
		requireWhole(t, store, "boot-v1", versions[0])
		require.NoError(t, publish(versions[1], versions[0].SHA256))
		require.NoError(t, publish(versions[1], versions[0].SHA256), "the same bytes again")
		require.ErrorIs(t, publish(versions[2], versions[0].SHA256), forge.ErrChanged)
		requireWhole(t, store, "boot-v1", versions[1])
	}
}

// A publication may be refused, as the release is in its turn: then nothing has
// changed, and other runs are not met half-way.
func TestCheck(t *testing.T) {
	t.Parallel()
	inForgeAndFolder(t, false, func(t *testing.T, config forge.Config) {
		store := open(t, config)
		a, b, other := newFile(t, "a.iso", content(1, 10)), newFile(t, "b.iso", content(2, 10)), newFile(t, "a.iso", content(3, 10))
		publish := func(check func(before forge.Before) error, files ...forge.File) error {
			_, err := store.Publish(t.Context(), forge.Publication{
				Tag: "boot-v1", Commit: "main", Files: files, Sign: sign,
				Check: func(_ context.Context, before forge.Before) error { return check(before) },
			})
			return err
		}
		checks := 0
		require.NoError(t, publish(func(before forge.Before) error {
			checks++
			assert.Empty(t, before.Listed)
			return nil
		}, a, b))
		assert.Equal(t, 1, checks)
		whole, err := store.Release(t.Context(), "boot-v1")
		require.NoError(t, err)
		require.ErrorIs(t, publish(func(before forge.Before) error {
			assert.Equal(t, whole, before.Release)
			assert.Equal(t, checksum.Sums{"a.iso": a.SHA256, "b.iso": b.SHA256}, before.Listed)
			assert.Equal(t, checksum.Sums{"b.iso": b.SHA256}, before.Kept)
			requireVersions(t, before, "SHA256SUMS.txt.sig", "signed\n"+string(before.Listed.Bytes()))
			requireVersions(t, before, "SHA256SUMS.txt.asc")
			return assert.AnError
		}, other), assert.AnError)
		after, err := store.Release(t.Context(), "boot-v1")
		require.NoError(t, err)
		assert.Equal(t, whole, after)

		// The second run comes while the first one is asked, and sees all of it.
		second := make(chan error)
		require.NoError(t, publish(func(forge.Before) error {
			go func() {
				second <- publish(func(before forge.Before) error {
					assert.Equal(t, checksum.Sums{"a.iso": other.SHA256, "b.iso": b.SHA256}, before.Kept)
					requireVersions(t, before, "SHA256SUMS.txt", string(before.Kept.Bytes()))
					requireVersions(t, before, "SHA256SUMS.txt.sig", "signed\n"+string(before.Kept.Bytes()))
					return nil
				}, newFile(t, "c.iso", content(4, 10)))
			}()
			time.Sleep(300 * time.Millisecond) // so that it would come too early
			return nil
		}, other))
		require.NoError(t, <-second)
		requireSigned(t, store)
	})
}

func requireVersions(t *testing.T, before forge.Before, name string, want ...string) {
	t.Helper()
	versions, err := before.Versions(t.Context(), name)
	assert.NoError(t, err)
	var got []string
	for _, version := range versions {
		got = append(got, string(version))
	}
	assert.Equal(t, want, got, name)
}

// A line that another hand adds after the check is not signed unchecked.
func TestCheckAgainAfterAnotherHand(t *testing.T) {
	t.Parallel()
	config := newRepository(t, false)
	store := open(t, config)
	p := forge.Publication{Tag: "boot-v1", Commit: "main", Files: []forge.File{newFile(t, "a.iso", content(1, 10))}, Sign: sign}
	_, err := store.Publish(t.Context(), p)
	require.NoError(t, err)

	evil := newFile(t, "evil.iso", content(2, 10))
	var listed []checksum.Sums
	p.Files = []forge.File{newFile(t, "b.iso", content(3, 10))}
	p.Check = func(_ context.Context, before forge.Before) error {
		listed = append(listed, before.Kept)
		if before.Kept["evil.iso"] != "" {
			return assert.AnError
		}
		list := maps.Clone(before.Listed)
		list["evil.iso"] = evil.SHA256
		attach(t, config, "boot-v1", "evil.iso", content(2, 10))
		attach(t, config, "boot-v1", "SHA256SUMS.txt", list.Bytes())
		return nil
	}
	_, err = store.Publish(t.Context(), p)
	require.ErrorIs(t, err, assert.AnError)
	assert.Len(t, listed, 2)
	release, err := store.Release(t.Context(), "boot-v1")
	require.NoError(t, err)
	assert.NotContains(t, string(download(t, store, release, "SHA256SUMS.txt.sig")), "evil.iso")
}

// attach adds an asset by hand.
func attach(t *testing.T, config forge.Config, tag, name string, content []byte) {
	t.Helper()
	var release struct{ ID int64 }
	require.Equal(t, http.StatusOK, gitea(t).API(t, http.MethodGet, "/repos/"+config.Repository+"/releases/tags/"+tag, nil, &release))
	address := fmt.Sprintf("%s/api/v1/repos/%s/releases/%d/assets?name=%s", config.URL, config.Repository, release.ID, name)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, bytes.NewReader(content))
	require.NoError(t, err)
	request.Header.Set("Authorization", "token "+config.Token)
	request.Header.Set("Content-Type", "application/octet-stream")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusCreated, response.StatusCode)
}
