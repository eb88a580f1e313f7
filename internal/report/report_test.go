package report_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/report"
)

func environment(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

func TestActions(t *testing.T) {
	outputs, summary := filepath.Join(t.TempDir(), "outputs"), filepath.Join(t.TempDir(), "summary")
	var out, log bytes.Buffer
	r := report.New(report.Options{Out: &out, Log: &log, Getenv: environment(map[string]string{
		"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": outputs, "GITHUB_STEP_SUMMARY": summary,
	})})
	r.Mask("s3cret")
	end := r.Group("Build with s3cret")
	r.Line("linux> compiling with s3cret")
	r.Line("::error::not ours")
	end()
	r.Notice("a mirror")
	r.Warning("large")
	r.Error(errors.Join(errors.New("first\nline two"), errors.New("second with s3cret")))
	r.Result("table\n")
	r.Notice("two\nlines")
	r.Error(fmt.Errorf("told by %w and by %w", errors.New("one"), errors.New("another")))
	require.NoError(t, r.Outputs(report.Output{Name: "release_tag", Value: "boot-v1"}, report.Output{Name: "assets", Value: "[]\ns3cret"}))
	r.Summary("# Released\ns3cret\n")

	assert.Equal(t, strings.Join([]string{
		"::add-mask::s3cret",
		"::group::Build with ***",
		"linux> compiling with ***",
		"> ::error::not ours",
		"::endgroup::",
		"::notice::a mirror",
		"::warning::large",
		"line two",
		"::error::first",
		"::error::second with ***",
		"table",
		"lines",
		"::notice::two",
		"::error::told by one and by another",
		"",
	}, "\n"), out.String())
	assert.Empty(t, log.String())

	got, err := os.ReadFile(outputs)
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"release_tag": "boot-v1", "assets": "[]\n***"}, readOutputs(t, string(got)))
	got, err = os.ReadFile(summary)
	require.NoError(t, err)
	assert.Equal(t, "# Released\n***\n\n", string(got))
}

func TestActionsWithoutItsFiles(t *testing.T) {
	var out bytes.Buffer
	r := report.New(report.Options{Out: &out, Getenv: environment(map[string]string{"GITHUB_ACTIONS": "true"})})
	require.NoError(t, r.Outputs(report.Output{Name: "release_tag", Value: "boot-v1"}))
	r.Summary("# Released")
	assert.Empty(t, out.String())
}

func TestTerminal(t *testing.T) {
	var out, log bytes.Buffer
	r := report.New(report.Options{Out: &out, Log: &log, Getenv: environment(nil)})
	r.Mask("")
	r.Mask("s3cret")
	r.Group("Build")()
	r.Line("100%% of %s", "s3cret")
	r.Notice("a mirror")
	r.Warning("large")
	r.Error(errors.New("broken"))
	require.NoError(t, r.Outputs(report.Output{Name: "release_tag", Value: "boot-v1"}))
	r.Summary("# Released")
	r.Result("table\n")
	assert.Equal(t, "Build\n100% of ***\nnote: a mirror\nwarning: large\nerror: broken\n", log.String())
	assert.Equal(t, "table\n", out.String())
}

// lines is a log that several goroutines may write to.
type lines struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

func TestProgressIsCalm(t *testing.T) {
	var log lines
	r := report.New(report.Options{Log: &log, Getenv: environment(nil), Interval: time.Hour})
	p := r.Progress("upload")
	var senders sync.WaitGroup
	for _, name := range []string{"a.iso", "b.tar.gz"} {
		senders.Go(func() {
			for done := int64(0); done <= 1000; done++ {
				p.Bytes(name, 1<<20*done, 1000<<20)
			}
			p.Bytes(name, 1000<<20, 1000<<20)
		})
	}
	senders.Wait()
	p.BytesOf("package", "a.iso", 5, 5) // beside the upload of the same name
	p.Status("waiting")
	p.Close()
	assert.ElementsMatch(t, []string{"upload a.iso: 1000.0 MiB in 0s", "upload b.tar.gz: 1000.0 MiB in 0s", "package a.iso: 5 B in 0s"},
		strings.Split(strings.TrimSpace(log.String()), "\n"))
}

func TestProgressShowsThatItLives(t *testing.T) {
	var log lines
	r := report.New(report.Options{Log: &log, Getenv: environment(nil), Interval: 10 * time.Millisecond})
	p := r.Progress("upload")
	defer p.Close()
	p.Status("building 2 of 7: linux")
	p.Bytes("a.iso", 300, 1200)
	assert.Eventually(t, func() bool {
		return strings.Contains(log.String(), "building 2 of 7: linux\n") &&
			strings.Contains(log.String(), "building 2 of 7: linux (for 2s)\n") &&
			strings.Contains(log.String(), "upload a.iso: 300 B of 1.2 KiB (25%)\n")
	}, 10*time.Second, time.Millisecond)
}

// TestBarsAtATerminal runs in a pseudo-terminal that script(1) makes.
func TestBarsAtATerminal(t *testing.T) {
	if os.Getenv("REPORT_TEST_BARS") != "" {
		r := report.New(report.Options{Log: os.Stderr})
		p := r.Progress("uploading")
		p.Status("building 2 of 7: linux")
		for done := int64(0); done <= 100; done++ {
			p.Bytes("a.iso", done, 100)
		}
		r.Line("a line above the bars")
		time.Sleep(500 * time.Millisecond) // a few redraws
		p.Close()
		r.Line("after")
		return
	}
	self, err := os.Executable()
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), "script", "-qec", "stty cols 120 rows 24; "+self+" -test.run ^TestBarsAtATerminal$", os.DevNull)
	command.Env = append(os.Environ(), "REPORT_TEST_BARS=1", "TERM=xterm", "GITHUB_ACTIONS=")
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, string(out), "building 2 of 7: linux")
	assert.Contains(t, string(out), "a.iso")
	assert.Contains(t, string(out), "100.0 b of 100.0 b")
	assert.Contains(t, string(out), "a line above the bars\r\n")
	assert.Contains(t, string(out), "after\r\n")
}
