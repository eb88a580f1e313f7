package main

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	cacheAddress = nginxAddress + ":8080"

	// mostOfOrigin is how much of an initrd a cache may fetch for all its clients.
	mostOfOrigin = 1.1
)

// loadThroughCache has a fleet load its initrd at once through nginx, with the
// configuration of the documentation.
func (b *bench) loadThroughCache(ctx context.Context) error {
	if err := b.switchTo(tag + "-fleet"); err != nil {
		return err
	}
	ours, err := b.startOurs(ctx, "--files-url", "http://"+cacheAddress)
	if err != nil {
		return err
	}
	defer stop(ours)
	cache, err := b.startCache(ctx)
	if err != nil {
		return err
	}
	defer stop(cache)
	addresses, err := scriptAddresses(ctx, "http://"+ourAddress+"/netboot.ipxe?mac=")
	if err != nil {
		return err
	}
	want := crc32.NewIEEE()
	if _, err := io.Copy(want, random(fleetInitrd)); err != nil {
		return err
	}
	say("%d machines load their initrd through nginx", fleetSize)
	begin := time.Now()
	var machines errgroup.Group
	for range fleetSize {
		machines.Go(func() error {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			sum := crc32.NewIEEE()
			if err := fetch(ctx, &http.Client{Transport: transport}, addresses["initrd"], sum); err != nil {
				return err
			}
			if sum.Sum32() != want.Sum32() {
				return fmt.Errorf("%s is not what it should be", addresses["initrd"])
			}
			return nil
		})
	}
	if err := machines.Wait(); err != nil {
		return err
	}
	took := time.Since(begin)
	sent, err := b.sentToCache(ctx)
	if err != nil {
		return err
	}
	part := sent / fleetInitrd
	b.limit(fmt.Sprintf("%d through a cache: fetched, at most %.1f initrds", fleetSize, mostOfOrigin), fmt.Sprintf("%.3f", part), part >= 1 && part <= mostOfOrigin)
	fmt.Printf("%d machines loaded an initrd of %d MB through nginx in %.1f s\n", fleetSize, fleetInitrd/1_000_000, took.Seconds())
	return nil
}

// startCache starts nginx as the documentation has it, but for addresses and folders.
func (b *bench) startCache(ctx context.Context) (*exec.Cmd, error) {
	content, err := os.ReadFile(b.cache)
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(b.folder, "cache")
	return b.startNginxWith(ctx, cacheAddress, folder, strings.NewReplacer(
		"listen 8080;", "listen "+cacheAddress+";", "allow 10.20.30.0/24;", "allow 127.0.0.0/8;",
		"server 10.20.30.2:80;", "server "+ourAddress+":80;", "/var/cache/nginx", folder, "/var/log/nginx", folder,
	).Replace(string(content)))
}

// sentToCache returns how many bytes of images the boot server has sent.
func (b *bench) sentToCache(ctx context.Context) (float64, error) {
	var metrics strings.Builder
	if err := fetch(ctx, http.DefaultClient, "http://127.0.0.1:8077/metrics", &metrics); err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(metrics.String(), "\nnetboot_cache_sent_bytes_total ")
	value, _, _ := strings.Cut(after, "\n")
	return strconv.ParseFloat(value, 64)
}
