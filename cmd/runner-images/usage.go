package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageError is a command line that cannot be understood.
type usageError struct {
	err  error
	help string // the command that shows how it is meant, or "" where the error says all
}

func (e *usageError) Error() string {
	if e.help == "" {
		return e.err.Error()
	}
	return e.err.Error() + "; see " + e.help
}

func (e *usageError) Unwrap() error { return e.err }

// addCobras adds cobra's own commands, help and completion, which else come too late for
// their errors to be usage errors. Help of a command that is not there is one.
func addCobras(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Args = func(_ *cobra.Command, topic []string) error {
				found, rest, err := root.Find(topic)
				if err != nil {
					return err
				}
				return noArguments(found, rest)
			}
		case "completion":
			cmd.Args = noArguments
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() } // without it, there is nothing to check Args for
		}
	}
}

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
	if !cmd.HasAvailableSubCommands() {
		return fmt.Errorf("%s takes no arguments besides its flags, and %q is one", cmd.CommandPath(), given[0])
	}
	cmd.SuggestionsMinimumDistance = mistypedLetters
	if meant := cmd.SuggestionsFor(given[0]); len(meant) > 0 {
		return fmt.Errorf("%s has no command %q%s", cmd.CommandPath(), given[0], but("", meant))
	}
	var commands []string
	for _, child := range cmd.Commands() {
		if child.IsAvailableCommand() && child.Name() != "completion" {
			commands = append(commands, child.Name())
		}
	}
	return fmt.Errorf("%s has no command %q; it has %s", cmd.CommandPath(), given[0], strings.Join(commands, ", "))
}

// mistypedLetters is how many letters may differ in a name that is suggested.
const mistypedLetters = 2

// but is the end of a sentence about a name that is not there: what may have been meant.
func but(prefix string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return ", but " + prefix + strings.Join(names, " and "+prefix)
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

// validArguments is for commands that take some of their ValidArgs.
func validArguments(cmd *cobra.Command, given []string) error {
	for _, argument := range given {
		if !slices.Contains(cmd.ValidArgs, argument) {
			return fmt.Errorf("%s does not know %q; it knows %s", cmd.CommandPath(), argument, strings.Join(cmd.ValidArgs, ", "))
		}
	}
	return nil
}

// errNoStateDir is for the commands of the boot server.
var errNoStateDir = errors.New("--state-dir is missing: give the folder with the staged releases, for example --state-dir /var/lib/netboot")

// flagError says in our words what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	// After a mistyped command come flags that the one above it does not have.
	if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 {
		return noArguments(cmd, cmd.Flags().Args())
	}
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
	)
	switch {
	case errors.As(err, &unknown):
		return unknownFlag(cmd, unknown)
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

// unknownFlag says which flag may have been meant.
func unknownFlag(cmd *cobra.Command, unknown *pflag.NotExistError) error {
	// The flags as commands of one, so that cobra looks for both in the same way.
	flags := cobra.Command{SuggestionsMinimumDistance: mistypedLetters}
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		flags.AddCommand(&cobra.Command{Use: flag.Name, Hidden: flag.Hidden, Run: func(*cobra.Command, []string) {}})
	})
	short := unknown.GetSpecifiedShortnames() // -release-tag is many short ones
	name, dashes := short, "-"
	if short == "" {
		name, dashes = unknown.GetSpecifiedName(), "--"
	}
	meant := flags.SuggestionsFor(name)
	switch {
	case short != "" && len(meant) > 0: // -version
		return fmt.Errorf("there is no flag -%s%s", short, but("--", meant))
	case slices.ContainsFunc(cmd.Commands(), func(child *cobra.Command) bool { return child.Name() == name }): // --plan
		return fmt.Errorf("there is no flag %s%s, but a command: %s %[2]s", dashes, name, cmd.CommandPath())
	case short == "":
		return fmt.Errorf("there is no flag --%s%s", name, but("--", meant))
	}
	return fmt.Errorf("there is no flag -%s; flags have two dashes and whole words", unknown.GetSpecifiedName())
}
