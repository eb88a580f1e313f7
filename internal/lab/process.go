package lab

import (
	"errors"
	"os/exec"
	"runtime"
	"syscall"
)

// startProcess starts a server in a process group of its own. The server dies
// with this process, also when this one is killed, and with the call of stop,
// which waits for its end. The channel is closed when it has ended by itself
// or by stop.
func startProcess(command *exec.Cmd) (stop func(), ended <-chan struct{}, err error) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, done := make(chan error), make(chan struct{})
	go func() {
		// The signal at the parent's death is bound to the thread that started
		// the child, so this one stays with it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		started <- err
		if err == nil {
			_ = command.Wait() // its exit code says nothing after a kill
			close(done)
		}
	}()
	if err := <-started; err != nil {
		return nil, nil, err
	}
	stop = func() {
		select {
		case <-done: // its id may be another process's by now
			return
		default:
		}
		if err := syscall.Kill(-command.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			panic(err)
		}
		<-done
	}
	return stop, done, nil
}
