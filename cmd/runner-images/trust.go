package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/pflag"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/netboot/state"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/trust"
	"every.channel/runner-images/internal/verify"
)

// trustFlag is the flag for whose signature a release must have.
type trustFlag struct {
	file string
}

func (t *trustFlag) addFlag(flags *pflag.FlagSet) {
	flags.Var((*signersFile)(&t.file), "allowed-signers", "refuse what is not signed by one of the keys in this `file` (ssh-keygen(1), ALLOWED SIGNERS)")
}

// signersFile is a flag that cannot be empty: an empty variable in a script must
// not turn the check off in silence.
type signersFile string

func (f *signersFile) String() string { return string(*f) }
func (f *signersFile) Type() string   { return "string" }

func (f *signersFile) Set(path string) error {
	if path == "" {
		return errors.New("give the path of the file, or leave the flag out to believe what is not signed")
	}
	*f = signersFile(path)
	return nil
}

// signers reads the file. It returns nil where no signature is asked for.
func (t trustFlag) signers() (trust.AllowedSigners, error) {
	if t.file == "" {
		return nil, nil
	}
	file, err := os.Open(t.file)
	if err != nil {
		return nil, t.bad(err)
	}
	defer file.Close()
	signers, err := trust.ParseAllowedSigners(file)
	if err != nil {
		return nil, t.bad(err)
	}
	return signers, nil
}

func (t trustFlag) bad(err error) error {
	return plan.InputErrors{{Input: "allowed_signers", Value: t.file, Why: fmt.Sprintf("cannot be used (%v)", err)}}
}

// stagedTrust decides which releases a boot server believes.
type stagedTrust struct {
	ctx      context.Context
	dir      *state.Dir // nil: nothing has been staged
	signers  trust.AllowedSigners
	goesBack bool // to an older release, on purpose
}

// verify is a stage.Stager's Verify.
func (t stagedTrust) verify(tag string, sums []byte, file func(name string) ([]byte, error)) error {
	proof, err := verify.Prove(t.ctx, tag, sums, file, t.signers, time.Now())
	if err != nil || t.goesBack {
		return err
	}
	return t.notOlder(proof)
}

// notOlder refuses a release that was built before the current one. That is all
// that tells an old release, which is truly signed for its own tag, from the
// latest one: whoever serves the releases says which is the latest.
func (t stagedTrust) notOlder(proof verify.Proof) error {
	tag, current, err := t.current()
	if err != nil || current.Built.IsZero() {
		return err
	}
	const remedy = "to go back to it on purpose, add --allow-downgrade"
	switch {
	case proof.Built.IsZero():
		return fmt.Errorf("no signed provenance says when it was built, so it may be older than %s, which is current; %s", tag, remedy)
	case proof.Built.Before(current.Built):
		return fmt.Errorf("it was built on %s, before %s, which is current and was built on %s: it may be an old release that is served again; %s",
			proof.Built.UTC().Format(time.RFC3339), tag, current.Built.UTC().Format(time.RFC3339), remedy)
	}
	return nil
}

// current returns what is proved of the current release. That is nothing if there
// is none, or if it was staged without a signature that counts.
func (t stagedTrust) current() (tag string, proof verify.Proof, err error) {
	if t.dir == nil {
		return "", verify.Proof{}, nil
	}
	snapshot, err := t.dir.OpenCurrent()
	if errors.Is(err, state.ErrNotStaged) {
		return "", verify.Proof{}, nil
	}
	if err != nil {
		return "", verify.Proof{}, err
	}
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	tag = snapshot.Release.Tag
	sums, err := snapshot.Proof(checksum.FileName)
	if errors.Is(err, fs.ErrNotExist) {
		return tag, verify.Proof{}, nil
	}
	if err != nil {
		return tag, verify.Proof{}, err
	}
	proof, err = verify.Prove(t.ctx, tag, sums, snapshot.Proof, t.signers, time.Now())
	if err != nil {
		return tag, verify.Proof{}, nil // whatever is wrong with it, it says nothing of its age
	}
	return tag, proof, nil
}
