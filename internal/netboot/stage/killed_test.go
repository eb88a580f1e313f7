package stage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/stage"
	"every.channel/runner-images/internal/netboot/state"
	"every.channel/runner-images/internal/release/folder"
)

// The test's own program stages the latest release when these say so.
const (
	childState    = "STAGE_TEST_STATE"
	childReleases = "STAGE_TEST_RELEASES"
)

func TestMain(m *testing.M) {
	if os.Getenv(childState) == "" {
		os.Exit(m.Run())
	}
	if err := stageLatest(os.Getenv(childState), os.Getenv(childReleases)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func stageLatest(stateDir, releases string) (err error) {
	store, err := folder.Open("file://"+releases, nil)
	if err != nil {
		return err
	}
	dir, err := state.Create(stateDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	_, err = stage.Stager{Dir: dir, Store: store, Keep: 1}.Release(context.Background(), "")
	return err
}

func child(t *testing.T, s *site, program ...string) *exec.Cmd {
	t.Helper()
	itself, err := os.Executable()
	require.NoError(t, err)
	program = append(program, itself)
	command := exec.CommandContext(t.Context(), program[0], program[1:]...)
	command.Env = append(os.Environ(), childState+"="+s.dir.Path(), childReleases+"="+s.folder)
	return command
}

// requireServable checks that what is current is whole, by what it says of itself.
func requireServable(t *testing.T, dir *state.Dir) (tag string) {
	t.Helper()
	snapshot, err := dir.OpenCurrent()
	require.NoError(t, err)
	defer snapshot.Close()
	require.NotEmpty(t, snapshot.Release.Bundles)
	for architecture, bundle := range snapshot.Release.Bundles {
		for _, name := range state.FileNames() {
			file, err := snapshot.Open(architecture, name)
			require.NoError(t, err)
			sum, size, err := checksum.File(t.Context(), file.Name())
			require.NoError(t, errors.Join(err, file.Close()))
			require.Equal(t, bundle.Files[name], state.File{SHA256: sum, Size: size})
		}
	}
	return snapshot.Release.Tag
}

// A stage that is killed, whenever, leaves something whole to serve: what was
// there or what was coming. The next one ends as if nothing had been.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.publish("boot-v0", machine.X86_64, machine.AArch64)
	began := time.Now()
	require.NoError(t, child(t, s).Run())
	whole := time.Since(began)
	seed := uint64(time.Now().UnixNano())
	t.Logf("a whole stage took %s, seed %d", whole, seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := 1; i <= 5; i++ {
		before, after := fmt.Sprintf("boot-v%d", i-1), fmt.Sprintf("boot-v%d", i)
		s.publish(after, machine.X86_64, machine.AArch64)
		for range 3 {
			command := child(t, s)
			require.NoError(t, command.Start())
			time.AfterFunc(time.Duration(random.Int64N(int64(whole))), func() { _ = command.Process.Kill() })
			_ = command.Wait() // killed or, where the machine was fast, done
			assert.Contains(t, []string{before, after}, requireServable(t, s.dir))
		}
		out, err := child(t, s).CombinedOutput()
		require.NoError(t, err, "%s", out)
		requireCurrent(t, s.dir, after, machine.X86_64, machine.AArch64)
	}
	entries, err := os.ReadDir(filepath.Join(s.dir.Path(), "releases"))
	require.NoError(t, err)
	assert.Len(t, entries, 2, "the current release, the previous one, and no left-overs")
}

// On a disk that is full the download does not stay in the way.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.publish("boot-v1")
	arguments := []string{"--mount"}
	if os.Geteuid() != 0 {
		arguments = append(arguments, "--user", "--map-root-user")
	}
	mount := `mount -t tmpfs -o size=512k none "$` + childState + `"; "$0" && exit 9; find "$` + childState + `" -type f ! -name .lock`
	out, err := child(t, s, append([]string{lab.Tool(t, "boot", "unshare")}, append(arguments, "sh", "-ec", mount)...)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "no space left on device")
	assert.NotContains(t, string(out), ".partial\n")
}
