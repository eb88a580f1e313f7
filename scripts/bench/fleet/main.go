// Fleet is the clients of scripts/bench/netboot: it starts the boot server and
// its peers, has many machines load from them, and compares.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

const (
	initrdSize = 700_000_000 // bytes
	kernelSize = 14_000_000
	ipxeSize   = 32_000_000 // larger than any iPXE, so that it takes a while
	tag        = "boot-bench"

	manyClients = 100
	window      = time.Second // of a turn with many clients

	fleetSize   = 200
	fleetInitrd = 40_000_000 // bytes

	leastOfNginx   = 0.95
	leastOfDnsmasq = 1.0

	// One block at a time both servers do little but wake up, which takes Go's runtime
	// longer.
	leastBlockByBlock = 0.9

	mostMemory = 64 << 20 // bytes

	allParts = "http,tftp,fleet,scripts,cache"
)

func main() {
	var b bench
	flag.StringVar(&b.folder, "folder", "", "a folder to work in")
	flag.StringVar(&b.server, "server", "", "the program runner-images")
	flag.StringVar(&b.nginx, "nginx", "", "the program nginx")
	flag.StringVar(&b.cache, "cache", "", "the configuration of nginx as a cache")
	flag.StringVar(&b.dnsmasq, "dnsmasq", "", "the program dnsmasq")
	flag.IntVar(&b.turns, "turns", 20, "how often each is measured")
	flag.StringVar(&b.parts, "parts", allParts, "what to measure")
	flag.Parse()
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

type bench struct {
	folder, server, nginx, cache, dnsmasq, parts string

	turns  int
	missed []string // limits
}

func (b *bench) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	say("making an initrd of %d MB", initrdSize/1_000_000)
	if err := b.stage(ctx); err != nil {
		return err
	}
	parts := map[string]func(context.Context) error{
		"http": b.compareHTTP, "tftp": b.compareTFTP, "fleet": b.bootFleet, "scripts": b.askForScripts, "cache": b.loadThroughCache,
	}
	for name := range strings.SplitSeq(b.parts, ",") {
		part, ok := parts[name]
		if !ok {
			return fmt.Errorf("there is no part %q; known are %s", name, allParts)
		}
		if err := part(ctx); err != nil {
			return err
		}
	}
	if len(b.missed) > 0 {
		return errors.New("missed: " + strings.Join(b.missed, "; "))
	}
	return nil
}

// limit prints a figure and notes whether it is as it should be.
func (b *bench) limit(what, figure string, ok bool) {
	verdict := "ok"
	if !ok {
		verdict = "MISSED"
		b.missed = append(b.missed, what+": "+figure)
	}
	fmt.Printf("%-52s %14s  %s\n", what, figure, verdict)
}

func say(format string, arguments ...any) { fmt.Fprintf(os.Stderr, format+"\n", arguments...) }

// compare prints the rates of both servers, and notes whether ours is at least a
// part of the peer's. The median of the turns' ratios counts: what else the
// machine does meets both servers of a turn alike.
func (b *bench) compare(what, unit string, ours []float64, peer string, peers []float64, least float64) {
	ratios := make([]float64, len(ours))
	for turn := range ours {
		ratios[turn] = ours[turn] / peers[turn]
	}
	fmt.Printf("%s: median %.2f %s, %s %.2f; fastest %.2f, %s %.2f\n", what, median(ours), unit, peer, median(peers), slices.Max(ours), peer, slices.Max(peers))
	b.limit(fmt.Sprintf("%s: ours / %s, at least %.2f", what, peer, least), fmt.Sprintf("%.3f", median(ratios)), median(ratios) >= least)
}

func median(figures []float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	return sorted[len(sorted)/2]
}

// The folders that the servers serve.
func (b *bench) stateDir() string { return filepath.Join(b.folder, "state") }
func (b *bench) ipxeDir() string  { return filepath.Join(b.folder, "ipxe") }

// stage makes the release, and the same initrd where nginx serves it.
func (b *bench) stage(ctx context.Context) error {
	dir, err := state.Create(b.stateDir())
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // only its lock is open
	for _, release := range []struct {
		tag    string
		initrd int64
	}{{tag, initrdSize}, {tag + "-fleet", fleetInitrd}} {
		incoming, err := dir.Incoming(release.tag, "a benchmark")
		if err != nil {
			return err
		}
		if err := incoming.Bundle(machine.X86_64, "bundle.tar.gz", strings.Repeat("0", 64)); err != nil {
			return err
		}
		for name, content := range map[string]io.Reader{
			state.Kernel: random(kernelSize),
			state.Initrd: random(release.initrd),
			state.Script: strings.NewReader("#!ipxe\nkernel kernel init=/init initrd=initrd\ninitrd initrd\nboot\n"),
		} {
			if err := incoming.Write(ctx, machine.X86_64, name, content); err != nil {
				return err
			}
		}
		if _, err := incoming.Commit(); err != nil {
			return err
		}
	}
	if _, err := dir.Switch(tag); err != nil {
		return err
	}
	if err := os.MkdirAll(b.ipxeDir(), 0o755); err != nil {
		return err
	}
	ipxe, err := os.Create(filepath.Join(b.ipxeDir(), "ipxe.efi"))
	if err != nil {
		return err
	}
	_, err = io.Copy(ipxe, random(ipxeSize))
	return errors.Join(err, ipxe.Close())
}

// random returns a file's content that is the same each time.
func random(size int64) io.Reader {
	return bufio.NewReaderSize(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), 1<<20)
}

// switchTo has the server serve another release.
func (b *bench) switchTo(tag string) error {
	dir, err := state.Open(b.stateDir())
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // only its lock is open
	_, err = dir.Switch(tag)
	return err
}
