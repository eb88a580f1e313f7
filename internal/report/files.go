package report

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// An Output is an output of the action's step, which later steps read.
type Output struct{ Name, Value string }

// Outputs sets all outputs of the action's step, or none if that fails. At a
// terminal it does nothing.
//
// They are not set by package githubactions: it panics where the file cannot be
// written to, and ends every value with the same line, which a value may have too.
func (r *Report) Outputs(outputs ...Output) error {
	var text strings.Builder
	for _, output := range outputs {
		end := "end_" + rand.Text()
		fmt.Fprintf(&text, "%s<<%s\n%s\n%s\n", output.Name, end, r.clean(output.Value), end)
	}
	if err := r.command(r.getenv("GITHUB_OUTPUT"), text.String()); err != nil {
		return fmt.Errorf("the outputs of this step are not set, so later steps would find them empty: the runner's GITHUB_OUTPUT cannot be written to: %w", err)
	}
	return nil
}

// Summary adds Markdown to the job's summary, where the runner has one. A summary
// that cannot be written is a warning: nothing depends on it.
func (r *Report) Summary(markdown string) {
	if err := r.command(r.getenv("GITHUB_STEP_SUMMARY"), r.clean(markdown)+"\n"); err != nil {
		r.Warning("there is no job summary: the runner's GITHUB_STEP_SUMMARY cannot be written to: %v", err)
	}
}

// command adds text to one of the runner's files, if this is an action and the runner
// has it.
func (r *Report) command(path, text string) error {
	if r.action == nil || path == "" {
		return nil
	}
	return appendWhole(path, text)
}

// appendWhole adds text to a file, or leaves the file as it was: a runner refuses a
// file whose last value has no end.
func appendWhole(path, text string) error {
	// A pipe that nobody reads from would keep the run here for ever.
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if _, err = io.WriteString(file, text); err != nil && info.Mode().IsRegular() {
		_ = file.Truncate(info.Size()) // as far as that is possible
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}
