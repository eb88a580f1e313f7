package nix

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// killTree kills a process group's leader, its group and all its descendants:
// Nix gives each builder a session of its own.
func killTree(leader int) {
	descendants := childrenOf(leader)
	_ = syscall.Kill(-leader, syscall.SIGKILL)
	for _, process := range descendants {
		_ = syscall.Kill(process, syscall.SIGKILL)
	}
}

// childrenOf returns a process's children and theirs.
func childrenOf(process int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	children := map[int][]int{}
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended
		}
		// "pid (name) state parent …", and a name may have spaces and brackets.
		fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		if err != nil || len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(string(fields[1])); err == nil {
			children[parent] = append(children[parent], child)
		}
	}
	found := append([]int(nil), children[process]...)
	for next := 0; next < len(found); next++ {
		found = append(found, children[found[next]]...)
	}
	return found
}
