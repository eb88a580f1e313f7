// Publish-known publishes packaged files, of which the checksums are known, as
// the deploy command does after packaging; scripts/bench/publish measures it:
//
//	publish-known URL OWNER/NAME SHA256SUMS FILE…
//
// It prints the seconds from the first byte of the uploads to the last. The token
// is in the environment's TOKEN.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/forge"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "publish-known:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string) error {
	if len(arguments) < 4 {
		return fmt.Errorf("usage: publish-known URL OWNER/NAME SHA256SUMS FILE…")
	}
	store, err := forge.Open(forge.Config{URL: arguments[0], Repository: arguments[1], Token: os.Getenv("TOKEN")})
	if err != nil {
		return err
	}
	list, err := os.Open(arguments[2])
	if err != nil {
		return err
	}
	defer list.Close()
	sums, err := checksum.Parse(list)
	if err != nil {
		return err
	}
	var files []forge.File
	for _, path := range arguments[3:] {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		name := filepath.Base(path)
		files = append(files, forge.File{Name: name, Path: path, Size: info.Size(), SHA256: sums[name]})
	}
	var mutex sync.Mutex
	var first, last time.Time
	_, err = store.Publish(ctx, forge.Publication{Tag: "bench", Files: files, Progress: func(string, int64, int64) {
		mutex.Lock()
		defer mutex.Unlock()
		last = time.Now()
		if first.IsZero() {
			first = last
		}
	}})
	fmt.Printf("%.3f\n", last.Sub(first).Seconds())
	return err
}
