// Publish-known publishes packaged files, of which the checksums are known, as
// the deploy command does after packaging; scripts/bench/publish measures it:
//
//	publish-known URL OWNER/NAME SHA256SUMS FILE…
//
// It prints the seconds from the first request that uploads a file to the answer
// to the last one. The token is in the environment's TOKEN.
package main

import (
	"context"
	"fmt"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"sync"
	"time"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/forgejo"
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
	store, err := forgejo.Open(forgejo.Config{URL: arguments[0], Repository: arguments[1], Token: os.Getenv("TOKEN")})
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
	var files []release.File
	for _, path := range arguments[3:] {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		name := filepath.Base(path)
		files = append(files, release.File{Name: name, Path: path, Size: info.Size(), SHA256: sums[name]})
	}
	var uploads stopwatch
	ctx = httptrace.WithClientTrace(ctx, uploads.trace())
	_, err = store.Update(ctx, "bench", func(context.Context, release.Snapshot) (release.Content, error) {
		return release.Content{Files: files}, nil
	})
	fmt.Printf("%.3f\n", uploads.last.Sub(uploads.first).Seconds())
	return err
}

// A stopwatch takes the time of the requests that upload large files. These alone
// ask for leave to send their body.
type stopwatch struct {
	mutex       sync.Mutex
	asked       int
	left        int // of them, how many have not been answered
	first, last time.Time
}

func (s *stopwatch) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		WroteHeaderField: func(name string, _ []string) {
			s.mutex.Lock()
			defer s.mutex.Unlock()
			if name != "Expect" {
				return
			}
			if s.asked++; s.asked == 1 {
				s.first = time.Now()
			}
			s.left += 2 // the leave, and the answer
		},
		GotFirstResponseByte: func() {
			s.mutex.Lock()
			defer s.mutex.Unlock()
			if s.left > 0 {
				s.left--
				s.last = time.Now()
			}
		},
	}
}
