package nix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const defaultGrace = 10 * time.Second

// command prepares a run of nix in a folder, or in this process's if empty.
func (n Nix) command(folder string, args ...string) *exec.Cmd {
	// Flakes are experimental to Nix, so they have to be asked for.
	args = append([]string{"--extra-experimental-features", "nix-command flakes"}, args...)
	command := exec.Command(n.program(), args...)
	command.Dir = folder
	command.Env = n.Env
	return command
}

// output runs nix and returns what it prints on stdout. An error has what it
// printed on stderr.
func (n Nix) output(ctx context.Context, folder string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	command := n.command(folder, args...)
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := n.run(ctx, command); err != nil {
		switch {
		case ctx.Err() != nil:
			return nil, err
		case stderr.Len() == 0:
			return nil, fmt.Errorf("nix %s: %w", args[0], err)
		}
		return nil, fmt.Errorf("nix %s: %s", args[0], errorText(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// errorText returns what nix printed from its first error on, without the warnings
// before it. The first error may be that of a program that nix runs, such as git.
func errorText(stderr string) string {
	stderr = plain(stderr)
	if at := firstError.FindStringIndex(stderr); at != nil {
		stderr = stderr[at[0]:]
	} else if at := strings.Index(stderr, "error:"); at >= 0 {
		stderr = stderr[at:]
	}
	return strings.TrimSpace(strings.TrimPrefix(stderr, "error:"))
}

// firstError is where an error of nix, git or ssh begins.
var firstError = regexp.MustCompile(`(?m)^(error|fatal|ERROR|remote|ssh|[^\s:]+@[^\s:]+): `)

// run starts a command and waits for its end. When ctx is done, it asks the
// whole process group to end, and after a while kills it and all that came of
// it. The child does not outlive this process either.
func (n Nix) run(ctx context.Context, command *exec.Cmd) error {
	if err := ctx.Err(); err != nil {
		return stopped(ctx)
	}
	command.SysProcAttr = ownGroup()
	// A daemon that nix leaves behind, such as a master connection of ssh, may
	// hold the pipes for longer than nix runs.
	command.WaitDelay = time.Second

	started, ended := make(chan error, 1), make(chan struct{})
	var result error // of the command, once it has ended
	go func() {
		// What ends the child at its parent's death is bound to the thread that
		// started it, so this one stays with it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := command.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		result = command.Wait()
		close(ended)
	}()
	if err := <-started; err != nil {
		return err
	}

	select {
	case <-ended:
		if errors.Is(result, exec.ErrWaitDelay) {
			return nil // nix itself succeeded
		}
		return result
	case <-ctx.Done():
	}
	group := command.Process.Pid
	_ = syscall.Kill(-group, syscall.SIGTERM) // fails if it has just ended
	grace := n.Grace
	if grace == 0 {
		grace = defaultGrace
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-ended:
		awaitGroup(group, timer.C)
	case <-timer.C:
		killTree(group)
		<-ended
	}
	return stopped(ctx)
}

// awaitGroup waits for what a process has left of its group, such as a git that
// ignores the signal to end, and kills that when the time is up.
func awaitGroup(group int, timeUp <-chan time.Time) {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for syscall.Kill(-group, 0) == nil { // fails when no process is left
		select {
		case <-look.C:
		case <-timeUp:
			_ = syscall.Kill(-group, syscall.SIGKILL)
			return
		}
	}
}

func stopped(ctx context.Context) error {
	return fmt.Errorf("nix was stopped: %w", context.Cause(ctx))
}
