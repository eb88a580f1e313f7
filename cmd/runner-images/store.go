package main

import (
	"strings"

	"github.com/spf13/pflag"

	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/folder"
	"every.channel/runner-images/internal/release/forgejo"
	"every.channel/runner-images/internal/report"
)

// storeFlags are what a command that reaches a forge takes besides inputs.
type storeFlags struct {
	caFile string
}

func (f *storeFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.caFile, "ca-file", "", "certificates (PEM) to trust besides the system's, for a forge with its own authority")
}

// open opens the plan's forge or folder of releases.
func (f storeFlags) open(r *report.Report, p plan.Plan, token string) (*release.Store, error) {
	return openStore(r, forgejo.Config{
		URL:           p.ForgeURL,
		Repository:    p.Repository,
		Token:         token,
		CAFile:        f.caFile,
		VerifyUploads: release.VerifyUploads(p.VerifyUploads),
	})
}

// openStore opens the backend that the address is for, with a report of what it
// waits for.
func openStore(r *report.Report, config forgejo.Config) (*release.Store, error) {
	r.Mask(config.Token)
	config.UserAgent = "runner-images/" + version()
	config.Log = func(message string) { r.Line("%s", message) }
	if scheme, _, _ := strings.Cut(config.URL, ":"); strings.EqualFold(scheme, "file") {
		return folder.Open(config.URL, config.Log)
	}
	return forgejo.Open(config)
}
