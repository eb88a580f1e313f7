package report_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/report"
)

// readOutputs reads the file GITHUB_OUTPUT as a runner does, and refuses a delimiter
// that is used twice.
func readOutputs(t *testing.T, text string) map[string]string {
	t.Helper()
	outputs, seen := map[string]string{}, map[string]bool{}
	for text != "" {
		first, rest, ok := strings.Cut(text, "\n")
		require.True(t, ok, "%q", text)
		name, end, ok := strings.Cut(first, "<<")
		require.True(t, ok, "%q", first)
		require.False(t, seen[end], "the delimiter %s is used twice", end)
		require.Greater(t, len(end), 20)
		seen[end] = true
		value, rest, ok := strings.Cut(rest, "\n"+end+"\n")
		require.True(t, ok, "%s has no end", name)
		outputs[name], text = value, rest
	}
	return outputs
}

func inActions(files map[string]string) (*report.Report, *bytes.Buffer) {
	out := new(bytes.Buffer)
	values := map[string]string{"GITHUB_ACTIONS": "true"}
	for name, path := range files {
		values[name] = path
	}
	return report.New(report.Options{Out: out, Getenv: environment(values)}), out
}

// A value cannot end itself and set another output: no one knows the delimiter.
func TestOutputsCannotBeForged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "outputs")
	r, _ := inActions(map[string]string{"GITHUB_OUTPUT": path})
	forged := "boot-v1\n_GitHubActionsFileCommandDelimeter_\nrelease_url<<X\nhttps://evil.example\nX"
	require.NoError(t, r.Outputs(report.Output{Name: "release_tag", Value: forged}))
	first, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"release_tag": forged}, readOutputs(t, string(first)))
	require.NoError(t, r.Outputs(report.Output{Name: "release_tag", Value: forged}))
	both, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Len(t, readOutputs(t, string(both)), 1, "all runs have delimiters of their own")
	assert.True(t, strings.HasPrefix(string(both), string(first)))
}

func TestFilesThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	for why, path := range map[string]string{
		"no such device or address": pipe, // nobody reads from it
		"no such file or directory": filepath.Join(t.TempDir(), "absent", "file"),
		"is a directory":            t.TempDir(),
		"no space left on device":   "/dev/full",
	} {
		r, out := inActions(map[string]string{"GITHUB_OUTPUT": path, "GITHUB_STEP_SUMMARY": path})
		err := r.Outputs(report.Output{Name: "release_tag", Value: "boot-v1"})
		require.ErrorContains(t, err, "the outputs of this step are not set")
		require.ErrorContains(t, err, "GITHUB_OUTPUT")
		require.ErrorContains(t, err, path)
		require.ErrorContains(t, err, why)
		r.Summary("# Released")
		assert.Regexp(t, `^::warning::there is no job summary: the runner's GITHUB_STEP_SUMMARY cannot be written to: .*`+why+"\n$", out.String())
	}
}

// What a server says is shown without what a terminal or a log would obey.
func TestControlCharactersAreNotShown(t *testing.T) {
	t.Parallel()
	summary := filepath.Join(t.TempDir(), "summary")
	outputs := filepath.Join(t.TempDir(), "outputs")
	r, out := inActions(map[string]string{"GITHUB_OUTPUT": outputs, "GITHUB_STEP_SUMMARY": summary})
	hostile := "a\x1b[2Jb\r::stop-commands::x\u202ec\x00\u009b31md"
	const harmless = "ab::stop-commands::xcd"
	r.Line("%s", hostile)
	r.Notice("%s", hostile)
	r.Warning("%s", hostile)
	r.Result(hostile + "\n")
	r.Group(hostile)()
	progress := r.Progress(hostile)
	progress.Bytes("x", 1, 1)
	progress.Close()
	assert.Equal(t, strings.Join([]string{
		harmless, "::notice::" + harmless, "::warning::" + harmless, harmless, "::group::" + harmless, "::endgroup::",
		harmless + " x: 1 B in 0s", "",
	}, "\n"), out.String())
	r.Summary(hostile)
	written, err := os.ReadFile(summary)
	require.NoError(t, err)
	assert.Equal(t, harmless+"\n", string(written))
	require.NoError(t, r.Outputs(report.Output{Name: "release_url", Value: hostile}))
	written, err = os.ReadFile(outputs)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"release_url": harmless}, readOutputs(t, string(written)))
}

// A line that becomes a command once the control characters are gone is none.
func TestHiddenCommandsAreInert(t *testing.T) {
	t.Parallel()
	r, out := inActions(nil)
	r.Line("\x1b[0m::set-env::x\n\u200e##[error]y")
	assert.Equal(t, "> ::set-env::x\n> ##[error]y\n", out.String())
}

// A value that was written by half would have the runner refuse the step. The limit on
// the size of files (ulimit -f) stands for a disk that becomes full.
func TestHalfAnOutputIsTakenBack(t *testing.T) {
	if path := os.Getenv("REPORT_TEST_HALF"); path != "" {
		signal.Ignore(syscall.SIGXFSZ)
		r, _ := inActions(map[string]string{"GITHUB_OUTPUT": path})
		err := r.Outputs(report.Output{Name: "assets", Value: strings.Repeat("x", 4096)})
		require.ErrorContains(t, err, "file too large")
		return
	}
	path := filepath.Join(t.TempDir(), "outputs")
	before := strings.Repeat("earlier\n", 60) // 480 of 512 bytes
	require.NoError(t, os.WriteFile(path, []byte(before), 0o600))
	self, err := os.Executable()
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), "sh", "-c", "ulimit -f 1; exec \"$0\" -test.run '^TestHalfAnOutputIsTakenBack$'", self)
	command.Env = append(os.Environ(), "REPORT_TEST_HALF="+path)
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, before, string(after))
}

// What an address has of secrets is shown neither when a run fails nor when it succeeds.
func TestAddressesAreRedacted(t *testing.T) {
	t.Parallel()
	r, out := inActions(nil)
	r.Group("Build 1 image of git+https://me:s3cret@forge.example/x")()
	r.Line("x: git+https://me:s3cret@forge.example/x#iso")
	r.Error(errors.New("there is no flake \"git+https://s3cret@forge.example/x?private_token=s3cret\""))
	progress := r.Progress("build")
	progress.Status("evaluating git+https://me:s3cret@forge.example/x")
	progress.Close()
	r.Result("git+https://me:s3cret@forge.example/x\n")
	assert.NotContains(t, out.String(), "s3cret")
	assert.Contains(t, out.String(), "x: git+https://***@forge.example/x#iso\n")
}
