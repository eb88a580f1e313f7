// Measure runs shell commands in turns, each turn in the other order than the one
// before, so that what else the machine does meets all of them alike. It prints a
// line for each: its name, the shortest and the median time in seconds, the most
// memory in KiB that one of its processes has used, and the seconds of each turn
// with spaces between them; between the others there are tabs. Further arguments
// are NAME=COMMAND.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	turns := flag.Int("turns", 5, "how often each command runs")
	before := flag.String("before", "true", "a command that runs before each of them and is not measured")
	flag.Parse()
	if err := run(*turns, *before, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

func run(turns int, before string, commands []string) error {
	seconds := map[string][]float64{}
	memory := map[string]int64{}
	for turn := range turns {
		order := slices.Clone(commands)
		if turn%2 == 1 {
			slices.Reverse(order)
		}
		for _, argument := range order {
			name, command, ok := strings.Cut(argument, "=")
			if !ok {
				return fmt.Errorf("%q: want NAME=COMMAND", argument)
			}
			if err := shell(before).Run(); err != nil {
				return fmt.Errorf("%s: %w", before, err)
			}
			process := shell(command)
			begin := time.Now()
			if err := process.Run(); err != nil {
				return fmt.Errorf("%s: %w", command, err)
			}
			took := time.Since(begin).Seconds()
			fmt.Fprintf(os.Stderr, "%d of %d: %s %.2f s\n", turn+1, turns, name, took)
			seconds[name] = append(seconds[name], took)
			// Of the shell and whatever it has waited for. It begins with what this
			// program uses itself, which is little.
			if usage, ok := process.ProcessState.SysUsage().(*syscall.Rusage); ok {
				memory[name] = max(memory[name], usage.Maxrss)
			}
		}
	}
	for _, argument := range commands {
		name, _, _ := strings.Cut(argument, "=")
		sorted := slices.Sorted(slices.Values(seconds[name]))
		all := strings.Trim(fmt.Sprintf("%.3f", seconds[name]), "[]")
		fmt.Printf("%s\t%.3f\t%.3f\t%d\t%s\n", name, sorted[0], sorted[turns/2], memory[name], all)
	}
	return nil
}

func shell(command string) *exec.Cmd {
	process := exec.Command("sh", "-c", command)
	process.Stderr = os.Stderr
	return process
}
