package main

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/release/folder"
	"every.channel/runner-images/internal/trust"
)

// TestTrust runs sessions about signed releases. They have three more commands:
//
//	release STORE TAG BUNDLE KEY BUILT
//
// publishes a netboot bundle in a folder of releases as version 0.1 did, without a
// snapshot, signed with a key ("" for none), with provenance that says when it was
// built ("" for none).
//
//	provenance TAG FILE KEY BUILT
//
// writes provenance.intoto.jsonl of a file, signed with a key, as deploy does.
//
//	stage STORE STATE [FLAG...]
//
// runs netboot stage with the signers in the file $SIGNERS (allowed_signers by
// default).
func TestTrust(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/trust",
		RequireExplicitExec: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"release": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(publishRelease(t, ts, args[0], args[1], ts.MkAbs(args[2]), args[3], args[4]))
			},
			"provenance": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(writeProvenance(t, ts, args[0], args[1], args[2], args[3]))
			},
			"stage": func(ts *testscript.TestScript, negated bool, args []string) {
				command := []string{
					"netboot", "stage", "--forge-url", "file://" + ts.MkAbs(args[0]), "--state-dir", args[1],
					"--allowed-signers", cmp.Or(ts.Getenv("SIGNERS"), "allowed_signers"),
				}
				if err := ts.Exec("runner-images", append(command, args[2:]...)...); (err != nil) != negated {
					ts.Fatalf("stage %q: %v", args, err)
				}
			},
		},
	})
}

func publishRelease(t *testing.T, ts *testscript.TestScript, releases, tag, bundle, keyFile, built string) error {
	t.Helper()
	store, err := folder.Open("file://"+ts.MkAbs(releases), nil)
	if err != nil {
		return err
	}
	file := release.File{Name: filepath.Base(bundle), Path: bundle}
	if file.SHA256, file.Size, err = checksum.File(t.Context(), bundle); err != nil {
		return err
	}
	content := release.Content{Files: []release.File{file}}
	var key *trust.Key
	if keyFile != "" {
		parsed, err := trust.ParseKey(ts.ReadFile(keyFile))
		if err != nil {
			return err
		}
		key = &parsed
		content.Sign = func(sums []byte) (map[string][]byte, error) {
			armored, err := key.Sign(tag, sums)
			return map[string][]byte{trust.SignatureFileName: armored}, err
		}
	}
	if built != "" {
		statement, err := provenanceFile(t, tag, file, key, built)
		if err != nil {
			return err
		}
		content.Files = append(content.Files, statement)
	}
	_, err = store.Update(t.Context(), tag, func(context.Context, release.Snapshot) (release.Content, error) { return content, nil })
	return err
}

func writeProvenance(t *testing.T, ts *testscript.TestScript, tag, made, keyFile, built string) error {
	t.Helper()
	key, err := trust.ParseKey(ts.ReadFile(keyFile))
	if err != nil {
		return err
	}
	file := release.File{Name: made}
	if file.SHA256, _, err = checksum.File(t.Context(), ts.MkAbs(made)); err != nil {
		return err
	}
	written, err := provenanceFile(t, tag, file, &key, built)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(written.Path)
	if err != nil {
		return err
	}
	return os.WriteFile(ts.MkAbs(trust.ProvenanceFileName), content, 0o600)
}

func provenanceFile(t *testing.T, tag string, made release.File, key *trust.Key, built string) (release.File, error) {
	t.Helper()
	finished, err := time.Parse(time.DateOnly, built)
	require.NoError(t, err)
	attestation, err := trust.Attest(t.Context(), trust.Build{
		Tag: tag, Subjects: checksum.Sums{made.Name: made.SHA256}, Run: trust.Run{Finished: finished},
	}, key)
	if err != nil {
		return release.File{}, err
	}
	content, err := trust.MergeProvenance(t.Context(), nil, attestation, key)
	if err != nil {
		return release.File{}, err
	}
	file := release.File{Name: trust.ProvenanceFileName, Path: filepath.Join(t.TempDir(), trust.ProvenanceFileName)}
	if err := os.WriteFile(file.Path, content, 0o600); err != nil {
		return release.File{}, err
	}
	file.SHA256, file.Size, err = checksum.File(t.Context(), file.Path)
	return file, err
}
