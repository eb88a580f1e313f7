package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageError is a command line that cannot be understood.
type usageError struct {
	err  error
	help string // the command that shows how it is meant
}

func (e *usageError) Error() string { return e.err.Error() + "; see " + e.help }
func (e *usageError) Unwrap() error { return e.err }

// asUsage makes the errors about arguments and flags usage errors, for a command and
// all below it.
func asUsage(cmd *cobra.Command) {
	wrap := func(cmd *cobra.Command, err error) error {
		if err == nil {
			return nil
		}
		return &usageError{err, cmd.CommandPath() + " --help"}
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return wrap(cmd, flagError(cmd, err)) })
	if args := cmd.Args; args != nil {
		cmd.Args = func(cmd *cobra.Command, given []string) error { return wrap(cmd, args(cmd, given)) }
	}
	for _, child := range cmd.Commands() {
		asUsage(child)
	}
}

// noArguments is for commands that take none, or only another command.
func noArguments(cmd *cobra.Command, given []string) error {
	if len(given) == 0 {
		return nil
	}
	var commands []string
	for _, child := range cmd.Commands() {
		if child.IsAvailableCommand() && child.Name() != "completion" {
			commands = append(commands, child.Name())
		}
	}
	if len(commands) > 0 {
		return fmt.Errorf("%s has no command %q; it has %s", cmd.CommandPath(), given[0], strings.Join(commands, ", "))
	}
	return fmt.Errorf("%s takes no arguments besides its flags, and %q is one", cmd.CommandPath(), given[0])
}

// someArguments is for commands that take at least one argument: what that is, and a
// command line that has it.
func someArguments(what, example string) cobra.PositionalArgs {
	return func(_ *cobra.Command, given []string) error {
		if len(given) == 0 {
			return fmt.Errorf("no %s is given; for example: %s", what, example)
		}
		return nil
	}
}

// errNoStateDir is for the commands of the boot server.
var errNoStateDir = errors.New("--state-dir is missing: give the folder with the staged releases, for example --state-dir /var/lib/netboot")

// flagError says in our words what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
	)
	switch {
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			return fmt.Errorf("there is no flag -%s; flags have two dashes and whole words", name)
		}
		similar := ""
		cmd.Flags().VisitAll(func(flag *pflag.Flag) {
			if letters.Replace(flag.Name) == letters.Replace(name) {
				similar = ", but --" + flag.Name
			}
		})
		return fmt.Errorf("there is no flag --%s%s", name, similar)
	case errors.As(err, &missing):
		return fmt.Errorf("--%s has no value: %s", missing.GetFlag().Name, missing.GetFlag().Usage)
	case errors.As(err, &invalid):
		want := map[string]string{
			"int": "takes a whole number", "bool": "takes true or false", "duration": "takes a time, for example 720h or 90m",
		}[invalid.GetFlag().Value.Type()]
		if want == "" {
			want = invalid.Unwrap().Error()
		}
		return fmt.Errorf("--%s %q: %s", invalid.GetFlag().Name, invalid.GetValue(), want)
	}
	return err
}

// letters leaves out of a flag's name what may have been typed otherwise.
var letters = strings.NewReplacer("-", "", "_", "")
