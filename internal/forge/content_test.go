package forge_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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

// Tags and names that addresses must escape.
func TestNamesThatNeedEscaping(t *testing.T) {
	t.Parallel()
	for name, configure := range map[string]func(t *testing.T) forge.Config{
		"forge":  func(t *testing.T) forge.Config { return newRepository(t, true) },
		"folder": func(t *testing.T) forge.Config { return forge.Config{URL: "file://" + t.TempDir()} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := open(t, configure(t))
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
	for name, configure := range map[string]func(t *testing.T) forge.Config{
		"forge":  func(t *testing.T) forge.Config { return newRepository(t, false) },
		"folder": func(t *testing.T) forge.Config { return forge.Config{URL: "file://" + t.TempDir()} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := configure(t)
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
