package main

import (
	"bufio"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// compareHTTP has one client load the initrd, and then a hundred.
func (b *bench) compareHTTP(ctx context.Context) error {
	ours, err := b.startOurs(ctx)
	if err != nil {
		return err
	}
	nginx, err := b.startNginx(ctx)
	if err != nil {
		return err
	}
	defer stop(ours, nginx)
	servers := map[string]*exec.Cmd{ourAddress: ours, nginxAddress: nginx}
	for _, clients := range []int{1, manyClients} {
		rates, work := map[string][]float64{}, map[string]float64{}
		for turn := range b.turns {
			for address, server := range servers { // in an order that changes
				before, err := processorTime(server)
				if err != nil {
					return err
				}
				rate, gigabytes, err := throughput(ctx, address, clients)
				if err != nil {
					return err
				}
				after, err := processorTime(server)
				if err != nil {
					return err
				}
				rates[address] = append(rates[address], rate)
				work[address] += (after - before).Seconds() / gigabytes
			}
			say("HTTP, %d of %d, clients: %d: ours %.2f GB/s, nginx %.2f GB/s", turn+1, b.turns, clients, rates[ourAddress][turn], rates[nginxAddress][turn])
		}
		what := fmt.Sprintf("HTTP, clients: %d", clients)
		b.compare(what, "GB/s", rates[ourAddress], "nginx", rates[nginxAddress], leastOfNginx)
		fmt.Printf("%s: processor time for a GB %.2f s, nginx %.2f s\n", what, work[ourAddress]/float64(b.turns), work[nginxAddress]/float64(b.turns))
	}
	memory, err := peakMemory(ours)
	if err != nil {
		return err
	}
	b.limit("peak memory with 100 clients, less than 64 MiB", fmt.Sprintf("%.1f MiB", float64(memory)/(1<<20)), memory < mostMemory)
	return nil
}

// throughput returns how many GB a second clients get of the initrd, and how many
// GB that were: one client loads it once, many load it over and over.
func throughput(ctx context.Context, address string, clients int) (rate, gigabytes float64, err error) {
	begin := time.Now()
	if clients == 1 {
		gigabytes, err = loadOnce(ctx, address)
	} else {
		gigabytes, err = loadOften(ctx, address, clients, begin.Add(window))
	}
	return gigabytes / time.Since(begin).Seconds(), gigabytes, err
}

// loadOnce has curl load the initrd. A client in Go has threads of its own that
// look for work while it waits, on the processors that the server needs: a lone
// one makes a server in Go, which does the same, up to a fifth slower.
func loadOnce(ctx context.Context, address string) (gigabytes float64, err error) {
	curl := exec.CommandContext(ctx, "curl", "--silent", "--show-error", "--fail", "--output", "/dev/null", "--write-out", "%{size_download}", "http://"+address+"/initrd")
	curl.Stderr = os.Stderr
	size, err := curl.Output()
	if err != nil {
		return 0, fmt.Errorf("curl: %w", err)
	}
	if string(size) != strconv.Itoa(initrdSize) {
		return 0, fmt.Errorf("curl: %s bytes of %d", size, initrdSize)
	}
	return float64(initrdSize) / 1e9, nil
}

// loadOften has clients load the initrd over and over until a time.
func loadOften(ctx context.Context, address string, clients int, until time.Time) (gigabytes float64, err error) {
	var loaded atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range clients {
		group.Go(func() error {
			conn, err := net.Dial("tcp", address+":80")
			if err != nil {
				return err
			}
			defer conn.Close()
			buffer := make([]byte, 256<<10)
			for ctx.Err() == nil {
				if err := load(conn, &loaded, buffer, until); err != nil || time.Now().After(until) {
					return err
				}
			}
			return ctx.Err()
		})
	}
	err = group.Wait()
	return float64(loaded.Load()) / 1e9, err
}

// load loads the initrd, no longer than until a time.
func load(conn net.Conn, loaded *atomic.Int64, buffer []byte, until time.Time) error {
	if _, err := io.WriteString(conn, "GET /initrd HTTP/1.1\r\nHost: boot\r\n\r\n"); err != nil {
		return err
	}
	from := bufio.NewReader(conn)
	response, err := http.ReadResponse(from, nil)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK || response.ContentLength != initrdSize {
		return fmt.Errorf("%s, %d bytes", response.Status, response.ContentLength)
	}
	left := initrdSize - int64(from.Buffered())
	loaded.Add(int64(from.Buffered()))
	for left > 0 {
		n, err := conn.Read(buffer[:min(int64(len(buffer)), left)])
		left -= int64(n)
		loaded.Add(int64(n))
		if err != nil {
			return err
		}
		if time.Now().After(until) {
			return nil
		}
	}
	return nil
}

// bootFleet has machines ask all at once, as after a power cut. Each checks what
// it gets.
func (b *bench) bootFleet(ctx context.Context) error {
	ours, err := b.startOurs(ctx)
	if err != nil {
		return err
	}
	defer stop(ours)
	release := tag + "-fleet"
	want := map[string]uint32{}
	for name, size := range map[string]int64{"kernel": kernelSize, "initrd": fleetInitrd} {
		hash := crc32.NewIEEE()
		if _, err := io.Copy(hash, random(size)); err != nil {
			return err
		}
		want[name] = hash.Sum32()
	}
	boot := func(ctx context.Context, number int) error {
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		mac := fmt.Sprintf("02-00-00-00-%02x-%02x", number/256, number%256)
		const first = "http://" + ourAddress + "/netboot.ipxe"
		if err := fetch(ctx, client, first, io.Discard); err != nil {
			return err
		}
		addresses, err := scriptAddresses(ctx, first+"?mac="+mac+"&arch=x86_64&platform=efi")
		if err != nil {
			return err
		}
		for name, sum := range want {
			if !strings.Contains(addresses[name], "/r/"+release+"/") {
				return fmt.Errorf("the %s is at %q", name, addresses[name])
			}
			hash := crc32.NewIEEE()
			if err := fetch(ctx, client, addresses[name], hash); err != nil {
				return err
			}
			if hash.Sum32() != sum {
				return fmt.Errorf("%s is not what it should be", name)
			}
		}
		return nil
	}
	if err := b.switchTo(release); err != nil {
		return err
	}
	say("%d machines boot", fleetSize)
	begin := time.Now()
	var failed atomic.Int64
	var machines errgroup.Group
	for number := range fleetSize {
		machines.Go(func() error {
			if err := boot(ctx, number); err != nil {
				say("machine %d: %v", number, err)
				failed.Add(1)
			}
			return nil
		})
	}
	_ = machines.Wait()
	b.limit(fmt.Sprintf("%d machines at once: failed, none", fleetSize), fmt.Sprint(failed.Load()), failed.Load() == 0)
	fmt.Printf("%d machines loaded script, kernel and initrd in %.1f s\n", fleetSize, time.Since(begin).Seconds())
	return nil
}

// fetch writes what is at an address.
func fetch(ctx context.Context, client *http.Client, address string, to io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", address, response.Status)
	}
	_, err = io.Copy(to, response.Body)
	return err
}

// scriptAddresses returns where the script at an address has the kernel and the initrd.
func scriptAddresses(ctx context.Context, address string) (map[string]string, error) {
	var script strings.Builder
	if err := fetch(ctx, http.DefaultClient, address, &script); err != nil {
		return nil, err
	}
	base, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	addresses := map[string]string{}
	for _, line := range regexp.MustCompile(`(?m)^(kernel|initrd) (?:--timeout \d+ )?(\S+)`).FindAllStringSubmatch(script.String(), -1) {
		file, err := base.Parse(line[2])
		if err != nil {
			return nil, err
		}
		addresses[line[1]] = file.String()
	}
	return addresses, nil
}
