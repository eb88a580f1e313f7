package main

import (
	"cmp"
	"os"
	"strconv"
	"strings"

	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/folder"
	"every.channel/runner-images/internal/release/forgejo"
	"every.channel/runner-images/internal/report"
)

// openPlanned opens the plan's forge or folder of releases.
func openPlanned(r *report.Report, p plan.Plan, token string) (*release.Store, error) {
	return openStore(r, forgejo.Config{
		URL:           p.ForgeURL,
		Repository:    p.Repository,
		Token:         token,
		CAFile:        p.CAFile,
		Run:           runNumber(p),
		VerifyUploads: release.VerifyUploads(p.VerifyUploads),
	})
}

// runNumber returns the number of the run of Actions in the repository that the plan
// publishes to, or 0 if it is not a run of this repository.
func runNumber(p plan.Plan) int64 {
	isOwn := strings.EqualFold(p.Repository, os.Getenv("GITHUB_REPOSITORY")) &&
		strings.EqualFold(p.ForgeURL, strings.TrimRight(os.Getenv("GITHUB_SERVER_URL"), "/"))
	number, err := strconv.ParseInt(os.Getenv("GITHUB_RUN_NUMBER"), 10, 64)
	if !inRunner() || !isOwn || err != nil {
		return 0
	}
	return number
}

// openStore opens the backend that the address is for, with a report of what it
// waits for. Nothing is asked of it yet: an error is about what was given.
func openStore(r *report.Report, config forgejo.Config) (*release.Store, error) {
	r.Mask(config.Token)
	config.CAFile = cmp.Or(config.CAFile, certificatesOfNix())
	config.UserAgent = "runner-images/" + version()
	config.Log = func(message string) { r.Line("%s", message) }
	store, err := openBackend(config)
	if err != nil {
		return nil, &usageError{err: err}
	}
	return store, nil
}

func openBackend(config forgejo.Config) (*release.Store, error) {
	if scheme, _, _ := strings.Cut(config.URL, ":"); !strings.EqualFold(scheme, "file") {
		return forgejo.Open(config)
	}
	store, err := folder.Open(config.URL, config.Log)
	if err == nil {
		store.VerifyUploads = config.VerifyUploads
	}
	return store, err
}

// certificatesOfNix returns the file with certificates that Nix and its git trust,
// if the environment names one that is there. (SSL_CERT_FILE, which they read as
// well, takes the place of the system's certificates.)
func certificatesOfNix() string {
	file := os.Getenv("NIX_SSL_CERT_FILE")
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}

// useProxyForAll has all_proxy hold where the variables for one protocol say nothing,
// as it does for curl, and with it for Nix and git. net/http does not read it.
func useProxyForAll() {
	all := cmp.Or(os.Getenv("all_proxy"), os.Getenv("ALL_PROXY"))
	if all == "" {
		return
	}
	for _, names := range [][2]string{{"http_proxy", "HTTP_PROXY"}, {"https_proxy", "HTTPS_PROXY"}} {
		if os.Getenv(names[0]) == "" && os.Getenv(names[1]) == "" {
			_ = os.Setenv(names[0], all) // fails for names and values that none of these has
		}
	}
}
