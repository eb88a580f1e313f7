package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/assert"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"runner-images": main})
}

// TestScripts runs the sessions at a terminal in testdata/script.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			for _, who := range []string{"AUTHOR", "COMMITTER"} {
				env.Setenv("GIT_"+who+"_NAME", "Tester")
				env.Setenv("GIT_"+who+"_EMAIL", "tester@forge.example")
			}
			return nil
		},
	})
}

func TestFromRemote(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string][2]string{
		"https://forge.example/every/channel.git":    {"https://forge.example", "every/channel"},
		"http://127.0.0.1:3000/every/channel":        {"http://127.0.0.1:3000", "every/channel"},
		"https://me:pw@forge.example/every/channel/": {"https://forge.example", "every/channel"},
		"ssh://git@forge.example:2222/every/channel": {"https://forge.example", "every/channel"},
		"git@forge.example:every/channel.git":        {"https://forge.example", "every/channel"},
		"forge.example:every/channel":                {"https://forge.example", "every/channel"},
		"":                                           {},
		"../channel":                                 {},
		"/srv/git/a:b":                               {},
	} {
		server, repository := fromRemote(remote)
		assert.Equal(t, want, [2]string{server, repository}, remote)
	}
}
