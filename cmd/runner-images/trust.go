package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/netboot/stage"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/trust"
	"every.channel/runner-images/internal/verify"
)

// trustFlag is the flag for whose signature a release must have.
type trustFlag struct {
	file      string
	principal string
}

func (t *trustFlag) addFlag(flags *pflag.FlagSet) {
	flags.Var((*signersFile)(&t.file), "allowed-signers", "refuse what is not signed by one of the keys in this `file` (ssh-keygen(1), ALLOWED SIGNERS)")
	flags.StringVar(&t.principal, "signer", "", "believe only keys that --allowed-signers lists under this `principal` (as ssh-keygen's -I; default: under any)")
}

// validate finds flags that do not go together.
func (t trustFlag) validate() error {
	if t.principal != "" && t.file == "" {
		return errors.New("--signer: it chooses among the lines of --allowed-signers; give that too")
	}
	return nil
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
func (t trustFlag) signers(r *report.Report) (trust.AllowedSigners, error) {
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
	for _, unreadable := range signers.Unreadable() {
		r.Warning("%s: %v; the other lines count", t.file, unreadable)
	}
	if t.principal == "" {
		return signers, nil
	}
	if signers, err = signers.Only(t.principal); err != nil {
		return nil, plan.InputErrors{{Input: "signer", Value: t.principal, Why: err.Error()}}
	}
	return signers, nil
}

func (t trustFlag) bad(err error) error {
	return plan.InputErrors{{Input: "allowed_signers", Value: t.file, Why: fmt.Sprintf("cannot be used (%v)", err)}}
}

// stagedTrust decides which releases a boot server believes.
type stagedTrust struct {
	ctx     context.Context
	signers trust.AllowedSigners
}

// verify is a stage.Stager's Verify.
func (t stagedTrust) verify(tag string, sums []byte, file func(name string) ([]byte, error)) (stage.Proof, error) {
	return t.prove(t.signers, tag, sums, file)
}

// verifyStaged is a stage.Stager's VerifyStaged.
func (t stagedTrust) verifyStaged(tag string, sums []byte, file func(name string) ([]byte, error)) (stage.Proof, error) {
	proof, err := t.prove(t.signers.AtAnyTime(), tag, sums, file)
	if errors.Is(err, trust.ErrUnsigned) {
		err = fmt.Errorf("%w: %w", stage.ErrUnproved, err)
	}
	return proof, err
}

func (t stagedTrust) prove(signers trust.AllowedSigners, tag string, sums []byte, file func(name string) ([]byte, error)) (stage.Proof, error) {
	proof, err := verify.Prove(t.ctx, tag, sums, file, signers, time.Now())
	if err != nil {
		return stage.Proof{}, err
	}
	if len(proof.Mixed) > 0 {
		return stage.Proof{}, fmt.Errorf("%s is not the one that %s lists: it is being published, or files of two publications are mixed; stage it again in a moment",
			strings.Join(proof.Mixed, " and "), checksum.FileName)
	}
	if _, listed := proof.Listed[trust.SnapshotFileName]; listed && proof.Snapshot == nil {
		return stage.Proof{}, fmt.Errorf("%s lists %s, which is not there: it is being published, or somebody hides it; stage it again in a moment", checksum.FileName, trust.SnapshotFileName)
	}
	return stage.Proof{Serial: proof.Serial, Published: proof.Published()}, nil
}
