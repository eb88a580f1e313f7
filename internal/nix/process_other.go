//go:build unix && !linux

package nix

import "syscall"

func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// killTree kills a process group.
func killTree(leader int) {
	_ = syscall.Kill(-leader, syscall.SIGKILL)
}
