package main

import (
	"os"
	"strings"
)

// private are the variables that hideSecrets took out of the environment.
var private = map[string]string{}

// hideSecrets keeps the inputs and the runner's tokens from other processes: from
// those of the same user, which could read this one's memory, and from those that
// this one starts, now or later. They are left to variable.
func hideSecrets() error {
	wipe := wiper()
	err := closeToOthers()
	for _, setting := range os.Environ() {
		name, value, _ := strings.Cut(setting, "=")
		if isPrivate(name) {
			private[name] = value
			_ = os.Unsetenv(name) // a name that the environment had is one that it takes
		}
	}
	wipe()
	return err
}

// isPrivate says whether a variable is the inputs' or the runner's own. Others,
// such as NIX_CONFIG with its access tokens, are for whatever is started.
func isPrivate(name string) bool {
	if strings.HasPrefix(name, "INPUT_") || strings.HasPrefix(name, "ACTIONS_") || name == "GH_TOKEN" {
		return true
	}
	forge, _, _ := strings.Cut(name, "_")
	return strings.HasSuffix(name, "TOKEN") && (forge == "FORGEJO" || forge == "GITEA" || forge == "GITHUB")
}

// variable returns a variable of the environment, also one that was taken out.
func variable(name string) string {
	if value, ok := private[name]; ok {
		return value
	}
	return os.Getenv(name)
}
