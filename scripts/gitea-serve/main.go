// Gitea-serve runs a Gitea on loopback, with everything it keeps in the folder
// given as its argument, until it is interrupted:
//
//	go run ./scripts/gitea-serve FOLDER [REPOSITORY]
//
// When the server answers, it prints four lines for a script to read: URL,
// USER, PASSWORD and TOKEN, each as NAME=value. The token may write to the
// user's repositories. A repository that is named is made first, with one
// commit.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"every.channel/runner-images/internal/lab"
)

func main() {
	if len(os.Args) < 2 || len(os.Args) > 3 {
		fmt.Fprintln(os.Stderr, "usage: go run ./scripts/gitea-serve FOLDER [REPOSITORY]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "gitea-serve:", err)
		os.Exit(1)
	}
}

func run(directory string, repositories []string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	gitea, err := lab.RunGitea(ctx, directory, lab.WithActions())
	if err != nil {
		return err
	}
	defer gitea.Stop()
	for _, name := range repositories {
		if err := gitea.NewRepository(ctx, name, false); err != nil {
			return err
		}
	}
	token, err := gitea.NewToken(ctx, "write:repository", "write:user")
	if err != nil {
		return err
	}
	fmt.Printf("URL=%s\nUSER=%s\nPASSWORD=%s\nTOKEN=%s\n", gitea.URL, gitea.User, gitea.Password, token)
	select {
	case <-ctx.Done():
		return nil
	case <-gitea.Ended():
		return errors.New("the server ended by itself; see gitea.log in " + directory)
	}
}
