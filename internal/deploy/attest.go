package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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
	"every.channel/runner-images/internal/forge"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/trust"
)

// attest says where the files came from.
func (d Deployment) attest(ctx context.Context, source nix.Metadata, artifacts []artifact.Artifact) (trust.Attestation, error) {
	build, err := d.describe(ctx, source, artifacts)
	if err != nil {
		return trust.Attestation{}, err
	}
	return trust.Attest(ctx, build, d.Key)
}

// list writes into the plan's folder where the files came from, as one more file
// of the release, and SHA256SUMS.txt of all of them. What the release says already
// stays, so far as it is true.
func (d Deployment) list(ctx context.Context, packaged []artifact.Artifact, line trust.Attestation) ([]forge.File, error) {
	var published []byte
	if d.Plan.Publish {
		var err error
		if published, err = readAsset(ctx, d.Store, d.Plan.ReleaseTag, trust.ProvenanceFileName); err != nil {
			return nil, err
		}
	}
	attested, err := writeProvenance(ctx, d.Plan.OutputDir, published, []trust.Attestation{line}, d.Key)
	if err != nil {
		return nil, err
	}
	files := append(toPublish(packaged), attested)
	return files, writeSums(ctx, d.Plan.OutputDir, d.Plan.ReleaseTag, files, d.Key)
}

// describe completes what was known of the run before it began.
func (d Deployment) describe(ctx context.Context, source nix.Metadata, artifacts []artifact.Artifact) (trust.Build, error) {
	build := d.About
	build.Tag = d.Plan.ReleaseTag
	build.ModTime = d.ModTime.UTC()
	build.Flake = flakeOf(source, build)
	if source.Dirty {
		build.Commit = "" // what was built is not what is committed
	}
	version, err := d.Nix.Version(ctx)
	if err != nil {
		return build, err
	}
	build.Versions = maps.Clone(build.Versions)
	if build.Versions == nil {
		build.Versions = map[string]string{}
	}
	build.Versions["nix"] = version
	var outputs []string
	for _, a := range artifacts {
		outputs = append(outputs, a.Output)
	}
	known, err := d.Nix.PathInfo(ctx, outputs...)
	if err != nil {
		return build, err
	}
	if build.Subjects, err = artifact.Sums(artifacts); err != nil {
		return build, err
	}
	for _, a := range artifacts {
		build.Images = append(build.Images, trust.Image{
			Name: a.Image.Name, Installable: a.Image.Installable, Asset: a.Name,
			Derivation: a.Derivation, Output: a.Output, NARHash: known[a.Output].NARHash,
		})
	}
	build.Run.Finished = time.Now().UTC()
	return build, nil
}

// flakeOf returns a flake in the words of provenance. One in a folder of this
// machine that is a checkout of the build's repository is named as others can
// get it.
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

// lasting leaves out of a flake's locked address what is said elsewhere, or
// differs from one copy of the same source to the next.
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

// writeProvenance adds lines to the published provenance, in a file of the
// folder.
func writeProvenance(ctx context.Context, folder string, content []byte, lines []trust.Attestation, key *trust.Key) (forge.File, error) {
	follows := forge.FollowsNone
	if content != nil {
		sum := sha256.Sum256(content)
		follows = hex.EncodeToString(sum[:])
	}
	var err error
	for _, line := range lines {
		if content, err = trust.MergeProvenance(ctx, content, line, key); err != nil {
			return forge.File{}, err
		}
	}
	file := forge.File{Name: trust.ProvenanceFileName, Path: filepath.Join(folder, trust.ProvenanceFileName), Follows: follows}
	file.Size = int64(len(content))
	file.SHA256, err = disk.WriteFile(ctx, file.Path, content)
	return file, err
}

// writeSums lists the files in SHA256SUMS.txt in their folder, and signs that if
// there is a key.
func writeSums(ctx context.Context, folder, tag string, files []forge.File, key *trust.Key) error {
	sums := checksum.Sums{}
	for _, file := range files {
		sums[file.Name] = file.SHA256
	}
	signed := filepath.Join(folder, trust.SignatureFileName)
	if key == nil {
		// The signature of an earlier run is not for this list.
		if err := os.Remove(signed); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	} else {
		armored, err := key.Sign(tag, sums.Bytes())
		if err != nil {
			return err
		}
		if _, err := disk.WriteFile(ctx, signed, armored); err != nil {
			return err
		}
	}
	_, err := disk.WriteFile(ctx, filepath.Join(folder, checksum.FileName), sums.Bytes())
	return err
}

// readAsset returns the content of a small file of a release, or nil if there is
// no such file or no such release. A file that goes between the look at the
// release and its download is being replaced: it looks again.
func readAsset(ctx context.Context, store forge.Store, tag, name string) (content []byte, err error) {
	const enough = 3
	for range enough {
		release, lookErr := store.Release(ctx, tag)
		if errors.Is(lookErr, forge.ErrNotFound) {
			return nil, nil
		}
		if lookErr != nil {
			return nil, lookErr
		}
		i := slices.IndexFunc(release.Assets, func(a forge.Asset) bool { return a.Name == name })
		if i < 0 {
			return nil, nil
		}
		content, err = readSmall(ctx, store, tag, release.Assets[i])
		if !errors.Is(err, forge.ErrNotFound) {
			return content, err
		}
	}
	return nil, err
}

func readSmall(ctx context.Context, store forge.Store, tag string, asset forge.Asset) ([]byte, error) {
	const limit = 16 << 20
	if asset.Size > limit {
		return nil, fmt.Errorf("%s in the release %s has %d bytes: it is not what its name says", asset.Name, tag, asset.Size)
	}
	content, err := store.Open(ctx, asset, 0)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	return io.ReadAll(io.LimitReader(content, limit))
}
