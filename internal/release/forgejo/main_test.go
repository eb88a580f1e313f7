package forgejo_test

import (
	"context"
	"fmt"
	"os"
	"testing"
)

var (
	testContext, endTests = context.WithCancel(context.Background())
	testFolder            string
)

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(childVariable); ok {
		if err := runChild(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if testFolder, err = os.MkdirTemp("", "forgejo-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(testFolder)
	defer endTests()
	code := m.Run()
	stopShared()
	return code
}

// stopShared ends the shared Gitea, if a test has started it.
func stopShared() {
	if sharedStarted.Load() {
		if gitea, err := shared(); err == nil {
			gitea.Stop()
		}
	}
}
