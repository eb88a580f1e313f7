// Publish-sdk uploads a file to a release with the Go SDK of Gitea, which is what
// scripts/bench/publish compares with:
//
//	publish-sdk URL OWNER/NAME RELEASE-ID FILE
//
// The token is in the environment's TOKEN.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"code.gitea.io/sdk/gitea"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "publish-sdk:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) != 4 {
		return fmt.Errorf("usage: publish-sdk URL OWNER/NAME RELEASE-ID FILE")
	}
	owner, name, _ := strings.Cut(arguments[1], "/")
	release, err := strconv.ParseInt(arguments[2], 10, 64)
	if err != nil {
		return err
	}
	client, err := gitea.NewClient(arguments[0], gitea.SetToken(os.Getenv("TOKEN")))
	if err != nil {
		return err
	}
	file, err := os.Open(arguments[3])
	if err != nil {
		return err
	}
	defer file.Close()
	_, _, err = client.CreateReleaseAttachment(owner, name, release, file, filepath.Base(arguments[3]))
	return err
}
