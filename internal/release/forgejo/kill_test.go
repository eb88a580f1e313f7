package forgejo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/forgejo"
)

// childVariable makes the test binary publish what its value says, and end.
const childVariable = "FORGEJO_TEST_CHILD"

// A childRun is a publication of another process.
type childRun struct {
	URL, Repository, Token, CAFile string
	Tag                            string
	Files                          []release.File

	FakeClock bool // waits take no time
	Ahead     bool

	// KillAt makes the process kill itself at a moment of a publication into a
	// folder: progress, notes or sign.
	KillAt string
}

func runChild(text string) error {
	var run childRun
	if err := json.Unmarshal([]byte(text), &run); err != nil {
		return err
	}
	config := forgejo.Config{URL: run.URL, Repository: run.Repository, Token: run.Token, CAFile: run.CAFile}
	if run.FakeClock {
		config = impatient(config)
	}
	store, err := openStore(config)
	if err != nil {
		return err
	}
	kill := func(moment string) {
		if moment == run.KillAt {
			self, _ := os.FindProcess(os.Getpid())
			_ = self.Kill()
			time.Sleep(time.Minute) // it takes a moment to die
		}
	}
	_, err = publish(context.Background(), store, publication{
		Tag: run.Tag, Commit: "main", Files: run.Files, Ahead: run.Ahead,
		Progress: func(string, int64, int64) { kill("progress") },
		Notes: func(files []release.File) string {
			kill("notes")
			return notes(files)
		},
		Sign: func(sums []byte) (map[string][]byte, error) {
			kill("sign")
			return sign(sums)
		},
	})
	return err
}

func sign(sums []byte) (map[string][]byte, error) {
	return map[string][]byte{checksum.FileName + ".sig": append([]byte("signed\n"), sums...)}, nil
}

// checkSigned makes sure that what stays beside these files stands in a list that
// was signed, even if a run has died between the two.
func checkSigned(files []release.File) func(ctx context.Context, there release.Snapshot) error {
	return func(ctx context.Context, there release.Snapshot) error {
		others := there.Others(files)
		lists, err := there.Contents(ctx, checksum.FileName)
		if err != nil {
			return err
		}
		signatures, err := there.Contents(ctx, checksum.FileName+".sig")
		if err != nil {
			return err
		}
		for _, list := range lists {
			signed := slices.ContainsFunc(signatures, func(s []byte) bool { return string(s) == "signed\n"+string(list) })
			sums, err := checksum.Parse(bytes.NewReader(list))
			if err != nil {
				return err
			}
			maps.DeleteFunc(sums, func(name, sum string) bool { return others[name] != sum })
			if signed && len(sums) == len(others) {
				return nil
			}
		}
		if len(others) == 0 {
			return nil
		}
		return fmt.Errorf("nothing signs %v: %q, %q", others, lists, signatures)
	}
}

// child returns the test binary as the process of a run.
func child(t *testing.T, run childRun, environment ...string) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(run)
	require.NoError(t, err)
	program, err := os.Executable()
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), program)
	command.Env = append(append(os.Environ(), childVariable+"="+string(text)), environment...)
	return command
}

// asset is what a killed run has left, or a whole one has made.
type asset struct {
	ID   int64
	Name string
	Size int64
}

func assetsOf(t *testing.T, config forgejo.Config, tag string) (draft bool, assets []asset) {
	t.Helper()
	var found struct {
		Draft  bool
		Assets []asset
	}
	status := gitea(t).API(t, http.MethodGet, "/repos/"+config.Repository+"/releases/tags/"+tag, nil, &found)
	require.Contains(t, []int{http.StatusOK, http.StatusNotFound}, status)
	return found.Draft, found.Assets
}

// Invariant 3: a run is killed when the server has answered its first request,
// its second, and so on until one comes through; each time a second run
// completes the found, and uploads nothing that is there.
func TestKilledAfterEachRequest(t *testing.T) {
	t.Parallel()
	const lanes = 2 // at once, each with every second request
	kinds := []string{"new", "replacing", "checksums unknown", "new, ahead", "replacing, ahead"}
	for i := range len(kinds) * lanes {
		kind, lane := kinds[i%len(kinds)], i/len(kinds)
		t.Run(fmt.Sprintf("%s/%d", kind, lane), func(t *testing.T) {
			t.Parallel()
			replacing, ahead := strings.HasPrefix(kind, "replacing"), strings.HasSuffix(kind, "ahead")
			config := newRepository(t, false)
			server := config.URL
			old := []release.File{newFile(t, "a.tar.gz", content(1, 5000)), newFile(t, "b.iso", content(2, 700)), newFile(t, "c.img.zst", content(3, 10))}
			files := []release.File{newFile(t, "a.tar.gz", content(4, 5000)), newFile(t, "b.iso", content(5, 800)), newFile(t, "d.img.zst", content(6, 20))}
			whole, given := files, files
			if kind == "checksums unknown" {
				given = slices.Clone(files)
				for i := range given {
					given[i].SHA256 = ""
				}
			}
			if replacing {
				whole = append(slices.Clone(files), old[2])
			}

			for n := lane + 1; ; n += lanes {
				tag := fmt.Sprintf("boot-v%d", n)
				publish := func(url string, files []release.File) (*release.Store, error) {
					config.URL = url
					clock := &fakeClock{time: time.Now()}
					store := open(t, config.WithClock(clock.now, clock.wait))
					_, err := publish(t.Context(), store, publication{Tag: tag, Commit: "main", Files: files, Notes: notes, Check: checkSigned(files), Sign: sign, Ahead: ahead})
					return store, err
				}
				if replacing {
					_, err := publish(server, old)
					require.NoError(t, err)
				}

				gate := newGate(t, server)
				run := child(t, childRun{URL: gate.URL, Repository: config.Repository, Token: config.Token, Tag: tag, Files: given, Ahead: ahead})
				started, dead := make(chan struct{}), make(chan struct{})
				gate.set(func(call int, _ *http.Response) error {
					if call < n {
						return nil
					}
					if call == n {
						<-started
						_ = run.Process.Kill()
					}
					<-dead // nobody is there to take this answer
					return nil
				})
				var output strings.Builder
				run.Stderr = &output
				require.NoError(t, run.Start())
				close(started)
				err := run.Wait()
				close(dead)
				if err == nil {
					require.Greater(t, n, 15)
					return
				}
				require.ErrorContains(t, err, "signal: killed", "%s", output.String())

				gate.Close() // what was under way has come through, or not
				watcher := &reader{server: server, repository: config.Repository, tag: tag}
				require.NoError(t, watcher.look(), "killed after request %d", n)
				_, left := assetsOf(t, config, tag)

				second := newGate(t, server)
				store, err := publish(second.URL, given)
				require.NoError(t, err, "killed after request %d", n)
				found := requireWhole(t, store, tag, whole...)
				assert.Equal(t, "boot-v"+fmt.Sprint(n), found.Title)
				assert.Equal(t, notesOf(whole), found.Notes)
				sums := download(t, store, found, checksum.FileName)
				assert.Equal(t, "signed\n"+string(sums), string(download(t, store, found, checksum.FileName+".sig")))
				draft, assets := assetsOf(t, config, tag)
				assert.False(t, draft)
				assert.Len(t, assets, len(whole)+2, "killed after request %d: %v", n, assets)

				for i, file := range files {
					temporary := temporaryName(file.Name, given[i].SHA256)
					was := slices.IndexFunc(left, func(a asset) bool { return a.Name == temporary && a.Size == file.Size })
					is := slices.IndexFunc(assets, func(a asset) bool { return a.Name == file.Name })
					survived := slices.IndexFunc(left, func(a asset) bool { return a.ID == assets[is].ID })
					again := slices.ContainsFunc(second.uploads(), func(name string) bool { return strings.HasSuffix(name, "-"+file.Name) })
					assert.Equal(t, was < 0 && survived < 0, again, "killed after request %d: uploads of %s", n, file.Name)
				}
				second.Close()
			}
		})
	}
}

func notesOf(files []release.File) string {
	sorted := slices.SortedFunc(slices.Values(files), func(a, b release.File) int { return strings.Compare(a.Name, b.Name) })
	return "<!-- runner-images -->\n" + notes(sorted) + "<!-- /runner-images -->\n"
}

// A folder is whole whenever the run that writes it is killed.
func TestKilledWhileWritingAFolder(t *testing.T) {
	t.Parallel()
	for i := range 6 {
		moment, ahead := []string{"progress", "sign", "notes"}[i/2], i%2 == 1
		t.Run(fmt.Sprintf("%s/ahead=%v", moment, ahead), func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			store := open(t, forgejo.Config{URL: "file://" + folder})
			old := []release.File{newFile(t, "a.tar.gz", content(1, 5<<20)), newFile(t, "b.iso", content(2, 70))}
			files := []release.File{newFile(t, "a.tar.gz", content(3, 5<<20)), newFile(t, "c.iso", content(4, 70))}
			kill := func(files []release.File) {
				err := child(t, childRun{URL: "file://" + folder, Tag: "boot-v1", Files: files, KillAt: moment, Ahead: ahead}).Run()
				require.ErrorContains(t, err, "signal: killed")
			}
			p := publication{Tag: "boot-v1", Commit: "main", Notes: notes, Check: checkSigned(files), Sign: sign, Ahead: ahead}

			kill(old)
			_, err := store.Release(t.Context(), "boot-v1")
			require.ErrorIs(t, err, release.ErrNotFound)
			_, err = store.Latest(t.Context(), "")
			require.ErrorIs(t, err, release.ErrNotFound)
			p.Files = old
			_, err = publish(t.Context(), store, p)
			require.NoError(t, err)
			requireWhole(t, store, "boot-v1", old...)

			kill(files)
			requireTrueLines(t, store)
			p.Files = files
			_, err = publish(t.Context(), store, p)
			require.NoError(t, err)
			found := requireWhole(t, store, "boot-v1", files[0], old[1], files[1])
			assert.Len(t, found.Assets, 5)
			hidden, err := filepath.Glob(filepath.Join(folder, "boot-v1", ".uploading-*"))
			require.NoError(t, err)
			assert.Empty(t, hidden)
		})
	}
}

// requireTrueLines checks that no line of SHA256SUMS.txt is wrong.
func requireTrueLines(t *testing.T, store *release.Store) {
	t.Helper()
	found, err := store.Release(t.Context(), "boot-v1")
	require.NoError(t, err)
	sums, err := checksum.Parse(strings.NewReader(string(download(t, store, found, checksum.FileName))))
	require.NoError(t, err)
	for name, want := range sums {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, download(t, store, found, name), 0o600))
		sum, _, err := checksum.File(t.Context(), path)
		require.NoError(t, err)
		assert.Equal(t, want, sum, name)
	}
}
