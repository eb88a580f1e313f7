package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/disk"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/trust"
)

// attest makes the line of provenance of the files.
func (m *making) attest(ctx context.Context) error {
	defer m.parts.begin("provenance")()
	build, err := m.describe()
	if err != nil {
		return err
	}
	m.line, err = trust.Attest(ctx, build, m.Key)
	return err
}

// list writes the small files that prove what was packaged into the plan's folder, and
// SHA256SUMS.txt of all files. It returns all that it lists.
func (d Deployment) list(ctx context.Context, packaged []artifact.Artifact, proofs []release.File) ([]artifact.Artifact, error) {
	root, err := disk.OpenFolder(d.Plan.OutputDir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	files := slices.Clone(packaged)
	for _, proof := range proofs {
		file := artifact.Artifact{Name: proof.Name, Path: filepath.Join(d.Plan.OutputDir, proof.Name), Size: int64(len(proof.Content))}
		sum := sha256.Sum256(proof.Content)
		file.SHA256 = hex.EncodeToString(sum[:])
		if err := writeOutput(ctx, root, d.Plan, proof.Name, proof.Content); err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, d.writeSums(ctx, root, files)
}

// describe completes what was known of the run before it began.
func (m *making) describe() (build trust.Build, err error) {
	build = m.About
	build.Tag = m.Plan.ReleaseTag
	build.ModTime = m.ModTime.UTC()
	build.Flake = flakeOf(m.source.Metadata, build)
	if m.source.Dirty {
		build.Commit = "" // what was built is not what is committed
	}
	build.Versions = maps.Clone(build.Versions)
	if build.Versions == nil {
		build.Versions = map[string]string{}
	}
	build.Versions["nix"] = m.source.version
	if build.Subjects, err = artifact.Sums(m.packaged); err != nil {
		return build, err
	}
	for _, a := range m.packaged {
		build.Images = append(build.Images, trust.Image{
			Name: a.Image.Name, Installable: a.Image.Installable, Asset: a.Name,
			Derivation: a.Derivation, Output: a.Output, NARHash: m.closures[a.Output].NARHash,
		})
	}
	build.Run.Finished = time.Now().UTC()
	return build, nil
}

// flakeOf returns a flake as provenance records it. A checkout of the build's
// repository on this machine gets the URL under which others find it.
func flakeOf(source nix.Metadata, build trust.Build) trust.Flake {
	flake := trust.Flake{URL: lasting(source.LockedURL), Revision: source.Revision, NARHash: source.NARHash}
	local := strings.HasPrefix(source.LockedURL, "git+file:") || strings.HasPrefix(source.LockedURL, "path:")
	if local && source.Revision != "" && source.Revision == build.Commit && strings.HasPrefix(build.Repository, "http") {
		flake.URL = inRepository(source.LockedURL, build)
	}
	for _, input := range source.Inputs {
		flake.Inputs = append(flake.Inputs, trust.Input(input))
	}
	return flake
}

// inRepository is the address of the build's commit in its repository.
func inRepository(locked string, build trust.Build) string {
	address := "git+" + build.Repository + "?"
	if _, parameters, ok := strings.Cut(locked, "?"); ok {
		if values, err := url.ParseQuery(parameters); err == nil && values.Get("dir") != "" {
			address += "dir=" + values.Get("dir") + "&"
		}
	}
	if build.Ref != "" {
		address += "ref=" + build.Ref + "&"
	}
	return address + "rev=" + build.Commit
}

// lasting leaves out of a flake's locked URL what other fields have, or what differs
// from one copy of the same source to the next.
func lasting(locked string) string {
	address, parameters, ok := strings.Cut(locked, "?")
	if !ok {
		return locked
	}
	var kept []string
	for parameter := range strings.SplitSeq(parameters, "&") {
		name, _, _ := strings.Cut(parameter, "=")
		if name != "lastModified" && name != "narHash" && name != "revCount" {
			kept = append(kept, parameter)
		}
	}
	if len(kept) == 0 {
		return address
	}
	return address + "?" + strings.Join(kept, "&")
}

// writeSums lists the files in SHA256SUMS.txt in their folder, and signs that if
// there is a key.
func (d Deployment) writeSums(ctx context.Context, root *os.Root, files []artifact.Artifact) error {
	sums, err := artifact.Sums(files)
	if err != nil {
		return err
	}
	if d.Key == nil {
		// The signature and the snapshot of an earlier run are not for this list.
		for _, stale := range []string{trust.SignatureFileName, trust.SnapshotFileName} {
			if err := root.Remove(stale); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	} else {
		armored, err := d.Key.Sign(d.Plan.ReleaseTag, sums.Bytes())
		if err != nil {
			return err
		}
		if err := writeOutput(ctx, root, d.Plan, trust.SignatureFileName, armored); err != nil {
			return err
		}
	}
	return writeOutput(ctx, root, d.Plan, checksum.FileName, sums.Bytes())
}
