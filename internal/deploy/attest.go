package deploy

import (
	"bytes"
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

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/forge"
	"every.channel/runner-images/internal/nix"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/provenance"
	"every.channel/runner-images/internal/report"
	"every.channel/runner-images/internal/signature"
)

// attest says where the files came from.
func (d Deployment) attest(ctx context.Context, source nix.Metadata, results []nix.Result, files []forge.File) (provenance.Attestation, error) {
	build, err := d.describe(ctx, source, results, files)
	if err != nil {
		return provenance.Attestation{}, err
	}
	return provenance.Attest(ctx, build, d.Key)
}

// list writes into the plan's folder where the files came from, as one more file
// of the release, and SHA256SUMS.txt of all of them. What the release says already
// stays, so far as it is true.
func (d Deployment) list(ctx context.Context, packaged []forge.File, line provenance.Attestation) ([]forge.File, error) {
	var published []byte
	if d.Plan.Publish {
		var err error
		if published, err = readAsset(ctx, d.Store, d.Plan.ReleaseTag, provenance.FileName); err != nil {
			return nil, err
		}
	}
	attested, err := writeProvenance(ctx, d.Plan.OutputDir, published, []provenance.Attestation{line}, d.Key)
	if err != nil {
		return nil, err
	}
	files := append(slices.Clone(packaged), attested)
	return files, writeSums(ctx, d.Plan.OutputDir, d.Plan.ReleaseTag, files, d.Key)
}

// describe completes what was known of the run before it began.
func (d Deployment) describe(ctx context.Context, source nix.Metadata, results []nix.Result, files []forge.File) (provenance.Build, error) {
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
	outputs := make([]string, len(results))
	for i, result := range results {
		outputs[i] = result.Output
	}
	infos, err := d.Nix.PathInfo(ctx, outputs...)
	if err != nil {
		return build, err
	}
	build.Subjects = checksum.Sums{}
	for i, file := range files { // one for each result
		build.Subjects[file.Name] = file.SHA256
		build.Images = append(build.Images, provenance.Image{
			Name: results[i].Name, Installable: results[i].Installable, Asset: file.Name,
			Derivation: results[i].Derivation, Output: results[i].Output, NARHash: infos[i].NARHash,
		})
	}
	build.Run.Finished = time.Now().UTC()
	return build, nil
}

// flakeOf returns a flake in the words of provenance. One in a folder of this
// machine that is a checkout of the build's repository is named as others can
// get it.
func flakeOf(source nix.Metadata, build provenance.Build) provenance.Flake {
	flake := provenance.Flake{URL: lasting(source.LockedURL), Revision: source.Revision, NARHash: source.NARHash}
	local := strings.HasPrefix(source.LockedURL, "git+file:") || strings.HasPrefix(source.LockedURL, "path:")
	if local && source.Revision != "" && source.Revision == build.Commit && strings.HasPrefix(build.Repository, "http") {
		flake.URL = inRepository(source.LockedURL, build)
	}
	for _, input := range source.Inputs {
		flake.Inputs = append(flake.Inputs, provenance.Input(input))
	}
	return flake
}

// inRepository is the address of the build's commit in its repository.
func inRepository(locked string, build provenance.Build) string {
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
func writeProvenance(ctx context.Context, folder string, content []byte, lines []provenance.Attestation, key *signature.Key) (forge.File, error) {
	follows := forge.FollowsNone
	if content != nil {
		sum := sha256.Sum256(content)
		follows = hex.EncodeToString(sum[:])
	}
	var err error
	for _, line := range lines {
		if content, err = provenance.Merge(ctx, content, line, key); err != nil {
			return forge.File{}, err
		}
	}
	file := forge.File{Name: provenance.FileName, Path: filepath.Join(folder, provenance.FileName), Follows: follows}
	file.Size = int64(len(content))
	file.SHA256, err = checksum.WriteFile(ctx, file.Path, content)
	return file, err
}

// writeSums lists the files in SHA256SUMS.txt in their folder, and signs that if
// there is a key.
func writeSums(ctx context.Context, folder, tag string, files []forge.File, key *signature.Key) error {
	sums := checksum.Sums{}
	for _, file := range files {
		sums[file.Name] = file.SHA256
	}
	signed := filepath.Join(folder, signature.SumsFileName)
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
		if _, err := checksum.WriteFile(ctx, signed, armored); err != nil {
			return err
		}
	}
	_, err := checksum.WriteFile(ctx, filepath.Join(folder, checksum.FileName), sums.Bytes())
	return err
}

// sign returns what a publication asks to sign its SHA256SUMS.txt; nil without a
// key. The list may have the files and, with these sums, the others that were
// signed before; lines that have come since then must be those of another run
// with the key.
func sign(ctx context.Context, store forge.Store, key *signature.Key, tag string, files []forge.File, others checksum.Sums) func(sums []byte) (map[string][]byte, error) {
	if key == nil {
		return nil
	}
	return func(sums []byte) (map[string][]byte, error) {
		listed, err := checksum.Parse(bytes.NewReader(sums))
		if err != nil {
			return nil, err
		}
		isKnown := func(name, sum string) bool { return isAmong(files, name) || others[name] == sum }
		if maps.DeleteFunc(listed, isKnown); len(listed) > 0 {
			if others, err = signedBefore(ctx, store, tag, files, key); err != nil {
				return nil, err
			}
		}
		if maps.DeleteFunc(listed, isKnown); len(listed) > 0 {
			return nil, unsignedOthers(tag, listed)
		}
		armored, err := key.Sign(tag, sums)
		return map[string][]byte{signature.SumsFileName: armored}, err
	}
}

// signedBefore returns the release's lines in SHA256SUMS.txt for other files than
// those to publish, which all have to be signed with the key: a publication keeps
// them, and its signature vouches for them anew. Whoever can write to the forge
// can write there, too, so without this check the next run of the publisher would
// sign what nobody of his has made.
func signedBefore(ctx context.Context, store forge.Store, tag string, files []forge.File, key *signature.Key) (checksum.Sums, error) {
	content, err := readAsset(ctx, store, tag, checksum.FileName)
	if err != nil {
		return nil, err
	}
	listed, err := checksum.Parse(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	others := maps.Clone(listed)
	maps.DeleteFunc(others, func(name, _ string) bool { return isAmong(files, name) })
	if len(others) == 0 {
		return nil, nil // as in a new release
	}
	armored, err := readAsset(ctx, store, tag, signature.SumsFileName)
	if err != nil {
		return nil, err
	}
	isSigned := func(list []byte) bool {
		_, err := key.Allowed().Verify(tag, list, armored, time.Now())
		return err == nil
	}
	// The second list is the signed one where an earlier run has added the same
	// files, and died before it had signed them.
	if isSigned(content) || isSigned(others.Bytes()) {
		return others, nil
	}
	// The third, where it died when it had signed what stays while it replaces them.
	staying, err := withoutChanged(ctx, listed, files)
	if err != nil {
		return nil, err
	}
	if isSigned(staying.Bytes()) {
		return others, nil
	}
	// A publication drops the lines of files that are gone.
	release, err := store.Release(ctx, tag)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(others, func(name, _ string) bool {
		return !slices.ContainsFunc(release.Assets, func(a forge.Asset) bool { return a.Name == name })
	})
	if len(others) > 0 {
		return nil, unsignedOthers(tag, others)
	}
	return nil, nil
}

// withoutChanged returns the lines that stay true when the files are published.
func withoutChanged(ctx context.Context, listed checksum.Sums, files []forge.File) (checksum.Sums, error) {
	staying := maps.Clone(listed)
	for _, file := range files {
		sum, ok := listed[file.Name]
		if !ok {
			continue
		}
		if file.SHA256 == "" { // else it would be found during the upload
			var err error
			if file.SHA256, _, err = checksum.File(ctx, file.Path); err != nil {
				return nil, err
			}
		}
		if sum != file.SHA256 {
			delete(staying, file.Name)
		}
	}
	return staying, nil
}

func unsignedOthers(tag string, sums checksum.Sums) error {
	return fmt.Errorf("the release %s has files that are not signed with this key, and a new signature would vouch for them: %q; check them and publish them with the key, too, or delete them from the release",
		tag, slices.Sorted(maps.Keys(sums)))
}

func isAmong(files []forge.File, name string) bool {
	return slices.ContainsFunc(files, func(f forge.File) bool { return f.Name == name })
}

// staysSigned says whether the release is signed and will be after a publication
// without the key, which is only so if it changes nothing. If it would change a
// signed release, that is an error: those who look for the signature would refuse
// all of it.
func staysSigned(ctx context.Context, r *report.Report, store forge.Store, p plan.Plan, files []forge.File) (bool, error) {
	signed, err := readAsset(ctx, store, p.ReleaseTag, signature.SumsFileName)
	if err != nil || signed == nil {
		return false, err
	}
	content, err := readAsset(ctx, store, p.ReleaseTag, checksum.FileName)
	if err != nil {
		return false, err
	}
	published, err := checksum.Parse(strings.NewReader(string(content)))
	if err != nil {
		return false, err
	}
	progress := r.Progress("hash")
	defer progress.Close()
	for i := range files {
		file := &files[i]
		if file.SHA256 == "" { // else it would be found during the upload
			file.SHA256, file.Size, err = checksum.FileWithProgress(ctx, file.Path, func(done int64) { progress.Bytes(file.Name, done, file.Size) })
			if err != nil {
				return false, err
			}
		}
		if published[file.Name] != file.SHA256 {
			return false, fmt.Errorf("the release %s is signed, and with another %s its signature would not hold any more; give %s, or delete %s from the release first",
				p.ReleaseTag, file.Name, plan.SigningKey, signature.SumsFileName)
		}
	}
	return true, nil
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
