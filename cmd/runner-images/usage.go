package main

import (
	"cmp"
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

// asUsage makes the errors of cobra's own parsing usage errors, for a command
// and all below it.
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

// noSuchCommand is for commands that only have others below them: what follows them
// should have been one of these.
func noSuchCommand(cmd *cobra.Command, given []string) error {
	if len(given) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = mistypedLetters
	return fmt.Errorf("unknown command %q for %q%s", given[0], cmd.CommandPath(), didYouMean("", cmd.SuggestionsFor(given[0])))
}

// mistypedLetters is how many letters may differ in a name that is suggested.
const mistypedLetters = 2

// flagError adds to an error of a command's flags what may have been meant.
func flagError(cmd *cobra.Command, err error) error {
	// After a mistyped command come flags that the one above it does not have.
	if cmd.HasSubCommands() && cmd.Flags().NArg() > 0 {
		return noSuchCommand(cmd, cmd.Flags().Args())
	}
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	// The flags as commands of one, so that cobra looks for both in the same way.
	flags := cobra.Command{SuggestionsMinimumDistance: mistypedLetters}
	cmd.Flags().VisitAll(func(flag *pflag.Flag) {
		flags.AddCommand(&cobra.Command{Use: flag.Name, Hidden: flag.Hidden, Run: func(*cobra.Command, []string) {}})
	})
	name := cmp.Or(unknown.GetSpecifiedShortnames(), unknown.GetSpecifiedName()) // -release-tag is many short ones
	return fmt.Errorf("%w%s", err, didYouMean("--", flags.SuggestionsFor(name)))
}

// didYouMean is the end of a sentence about a name that is not known.
func didYouMean(prefix string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return "; did you mean " + prefix + strings.Join(names, " or "+prefix) + "?"
}
