package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/trust"
)

// addInputs gives a command a flag for each of the named inputs, or for all.
func addInputs(cmd *cobra.Command, names ...string) {
	for _, input := range plan.Inputs() {
		if len(names) > 0 && !slices.Contains(names, input.Name) {
			continue
		}
		description := strings.ToLower(input.Description[:1]) + input.Description[1:] // as the other flags' begin
		if input.Secret {
			cmd.Flags().String(input.Flag()+"-file", "", description+" (a file that holds it; or the variable "+input.Variable()+")")
			continue
		}
		if input.Default != "" {
			description += fmt.Sprintf(" (default %s)", input.Default)
		}
		if input.Boolean {
			cmd.Flags().Var(new(booleanText), input.Flag(), description)
			cmd.Flags().Lookup(input.Flag()).NoOptDefVal = "true"
			continue
		}
		cmd.Flags().String(input.Flag(), "", description)
	}
	cmd.Flags().SortFlags = false
}

// booleanText is a flag that looks like a boolean and keeps what was typed: only
// the plan decides which values a boolean takes.
type booleanText string

func (b *booleanText) String() string         { return string(*b) }
func (b *booleanText) Set(value string) error { *b = booleanText(value); return nil }
func (b *booleanText) Type() string           { return "bool" }

// givenInputs returns the inputs as they were given: by a flag, else by the
// environment.
func givenInputs(r *report.Report, flags *pflag.FlagSet) (map[string]string, error) {
	given := map[string]string{}
	for _, input := range plan.Inputs() {
		given[input.Name] = variable(input.Variable())
		if flag := flags.Lookup(input.Flag()); flag != nil && flag.Changed {
			given[input.Name] = flag.Value.String()
		}
		if !input.Secret {
			continue
		}
		// A newline at its end is no part of it: secrets are often stored with one.
		given[input.Name] = strings.TrimSpace(given[input.Name])
		if file := flags.Lookup(input.Flag() + "-file"); file != nil && file.Changed {
			secret, err := readSecret(r, input, file.Value.String())
			if err != nil {
				return nil, err
			}
			given[input.Name] = secret
		}
	}
	if given[plan.Token] == "" {
		given[plan.Token] = tokenFromEnvironment()
	}
	return given, nil
}

// readSecret reads a secret from a file. The newline that editors put at its
// end is not part of it. It warns of a file that others can read, and reads
// it: a container's secrets are often mounted so.
func readSecret(r *report.Report, input plan.Input, path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", plan.InputErrors{{Input: input.Name + "_file", Value: path, Why: fmt.Sprintf("cannot be read (%v)", err)}}
	}
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		r.Warning("%s_file %q: other users of this machine can read it (mode %#o); let its owner alone do that: chmod 600", input.Name, path, info.Mode().Perm())
	}
	secret := strings.TrimSpace(string(content))
	if secret == "" {
		return "", plan.InputErrors{{Input: input.Name + "_file", Value: path, Why: "is empty"}}
	}
	return secret, nil
}

// signingKey returns the key to sign with, or nil if none was given.
func signingKey(r *report.Report, given map[string]string) (*trust.Key, error) {
	text := given[plan.SigningKey]
	if text == "" {
		return nil, nil
	}
	r.Mask(text)
	key, err := trust.ParseKey(text)
	if err != nil {
		return nil, plan.InputErrors{{Input: plan.SigningKey, Value: "***", Why: err.Error()}}
	}
	return &key, nil
}

// tokenFromEnvironment returns the token that a runner, or someone at a
// terminal, has put into the environment. GITHUB_TOKEN counts in a runner only:
// at a terminal it is a token for another server, which must not be sent here.
func tokenFromEnvironment() string {
	for _, name := range []string{"FORGEJO_TOKEN", "GITEA_TOKEN"} {
		if token := strings.TrimSpace(variable(name)); token != "" {
			return token
		}
	}
	if inRunner() {
		return strings.TrimSpace(variable("GITHUB_TOKEN"))
	}
	return ""
}

func inRunner() bool { return os.Getenv("GITHUB_ACTIONS") == "true" }
