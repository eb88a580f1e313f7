package main

import (
	"github.com/spf13/pflag"

	"every.channel/runner-images/internal/forge"
	"every.channel/runner-images/internal/plan"
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
func (f storeFlags) open(r *report.Report, p plan.Plan, token string, replace forge.Replace) (forge.Store, error) {
	return openStore(r, forge.Config{
		URL:           p.ForgeURL,
		Repository:    p.Repository,
		Token:         token,
		CAFile:        f.caFile,
		Replace:       replace,
		VerifyUploads: forge.VerifyUploads(p.VerifyUploads),
	})
}

// openStore opens a store that says who asks, and tells the report what it waits
// for.
func openStore(r *report.Report, config forge.Config) (forge.Store, error) {
	r.Mask(config.Token)
	config.UserAgent = "runner-images/" + version()
	config.Log = func(message string) { r.Line("%s", message) }
	return forge.Open(config)
}
