package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// inherited is a number that descriptors given to this process lie below: shells
// count those of <(command) down from 63, the launcher begins at 3.
const inherited = 256

// closeToOthers shuts this process's memory, environment and descriptors to other
// processes of its user (PR_SET_DUMPABLE in prctl(2): no ptrace, and the files of
// /proc/PID belong to root), and keeps what it starts from inheriting a descriptor
// with a secret.
func closeToOthers() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("other processes of this user can read the secrets of this one: PR_SET_DUMPABLE: %w", err)
	}
	for descriptor := 3; descriptor < inherited; descriptor++ {
		unix.CloseOnExec(descriptor)
	}
	return nil
}

// wiper returns a function that overwrites the secrets where the kernel put the
// environment at the start: /proc/PID/environ shows that memory to root, whatever
// is unset later. It must be called before closeToOthers, and does its best: who
// cannot write there is closed to others all the same.
func wiper() func() {
	content, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return func() {}
	}
	memory, err := os.OpenFile("/proc/self/mem", os.O_WRONLY, 0)
	if err != nil {
		return func() {}
	}
	return func() {
		defer memory.Close()
		start, err := environmentStart()
		if err != nil {
			return
		}
		for setting := range bytes.SplitAfterSeq(content, []byte{0}) {
			if name, value, ok := bytes.Cut(setting, []byte("=")); ok && isPrivate(string(name)) {
				_, _ = memory.WriteAt(make([]byte, len(value)), start+int64(len(name)+1))
			}
			start += int64(len(setting))
		}
	}
}

// environmentStart returns the address of the environment that this process was
// started with, env_start of proc_pid_stat(5).
func environmentStart() (int64, error) {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, err
	}
	// "pid (name) state …", and a name may have spaces and brackets; state is the
	// third field, env_start the fiftieth.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 48 {
		return 0, fmt.Errorf("/proc/self/stat has %d fields after the name", len(fields))
	}
	return strconv.ParseInt(string(fields[47]), 10, 64)
}
