package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	askingMachines = 2000
	askingTime     = 10 * time.Second
	slowestAnswer  = time.Second

	// iPXE closes a connection by which it asks for nothing more.
	keptOpen = 10 * time.Second
)

// askForScripts has a fleet ask for its scripts as after a power cut, twice: the second
// time the server knows the machines. Each has an address of its own.
func (b *bench) askForScripts(ctx context.Context) error {
	ours, err := b.startOurs(ctx)
	if err != nil {
		return err
	}
	defer stop(ours)
	for _, what := range []string{"for the first time", "once more"} {
		say("%d machines ask for their script in %s, %s", askingMachines, askingTime, what)
		var mu sync.Mutex
		var slowest time.Duration
		var refused atomic.Int64
		var machines sync.WaitGroup
		for number := range askingMachines {
			machines.Go(func() {
				time.Sleep(askingTime * time.Duration(number) / askingMachines)
				took, err := ask(ctx, number)
				if err != nil {
					say("machine %d: %v", number, err)
					refused.Add(1)
				}
				mu.Lock()
				slowest = max(slowest, took)
				mu.Unlock()
			})
		}
		machines.Wait()
		b.limit(fmt.Sprintf("%d scripts, %s: refused, none", askingMachines, what), fmt.Sprint(refused.Load()), refused.Load() == 0)
		b.limit(fmt.Sprintf("%d scripts, %s: slowest, below %s", askingMachines, what, slowestAnswer), slowest.Round(time.Millisecond).String(), slowest < slowestAnswer)
	}
	memory, err := peakMemory(ours)
	if err != nil {
		return err
	}
	fmt.Printf("peak memory with %d machines and their connections: %.1f MiB\n", askingMachines, float64(memory)/(1<<20))
	return nil
}

// ask asks as iPXE does, for the script that has it describe its machine and for that of
// its release, and returns how long the slower answer took. The connection stays open for
// a while.
func ask(ctx context.Context, number int) (slower time.Duration, err error) {
	local := net.IPv4(127, 1, byte(number>>8), byte(number))
	begin := time.Now()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: local}}).DialContext(ctx, "tcp", ourAddress+":80")
	if err != nil {
		return time.Since(begin), err
	}
	defer conn.Close()
	from := bufio.NewReader(conn)
	for _, path := range []string{"/netboot.ipxe", fmt.Sprintf("/netboot.ipxe?mac=02-00-00-01-%02x-%02x&arch=x86_64&platform=efi", number>>8, number&0xff)} {
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: boot\r\n\r\n", path); err != nil {
			return slower, err
		}
		response, err := http.ReadResponse(from, nil)
		if err != nil {
			return slower, err
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			return slower, err
		}
		if response.StatusCode != http.StatusOK {
			return slower, fmt.Errorf("%s: %s", path, response.Status)
		}
		slower, begin = max(slower, time.Since(begin)), time.Now()
	}
	time.Sleep(keptOpen)
	return slower, nil
}
