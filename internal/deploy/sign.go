package deploy

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/plan"
	"every.channel/runner-images/internal/release"
	"every.channel/runner-images/internal/trust"
)

// signWith returns what signs a publication's SHA256SUMS.txt; nil without a key.
func signWith(key *trust.Key, tag string) func(sums []byte) (map[string][]byte, error) {
	if key == nil {
		return nil
	}
	return func(sums []byte) (map[string][]byte, error) {
		armored, err := key.Sign(tag, sums)
		return map[string][]byte{trust.SignatureFileName: armored}, err
	}
}

// checkTrust makes sure that those who look for the release's signature can trust
// it after the publication of these files, too.
func checkTrust(ctx context.Context, there release.Snapshot, key *trust.Key, tag string, files []release.File) error {
	if key == nil {
		return checkStays(ctx, there, tag, files)
	}
	lists, err := there.Contents(ctx, checksum.FileName)
	if err != nil {
		return err
	}
	signatures, err := there.Contents(ctx, trust.SignatureFileName)
	if err != nil {
		return err
	}
	return key.MaySign(tag, there.Others(files), lists, signatures)
}

// checkStays makes sure that a publication without the key changes nothing of a
// release that is signed: those who look for the signature would refuse all of it.
func checkStays(ctx context.Context, there release.Snapshot, tag string, files []release.File) error {
	if !isSigned(there.Release) {
		return nil
	}
	stays := there.Others(files)
	for i := range files {
		same, err := there.Has(ctx, &files[i])
		if err != nil {
			return err
		}
		if !same {
			return fmt.Errorf("the release %s is signed, and with another %s its signature would not hold any more; give %s, or delete %s from the release first",
				tag, files[i].Name, plan.SigningKey, trust.SignatureFileName)
		}
		stays[files[i].Name] = files[i].SHA256
	}
	for _, name := range slices.Sorted(maps.Keys(there.Listed)) {
		if _, same := stays[name]; !same {
			return fmt.Errorf("the release %s is signed, and without %s, which is gone, its signature would not hold any more; publish that again, give %s, or delete %s from the release first",
				tag, name, plan.SigningKey, trust.SignatureFileName)
		}
	}
	return nil
}

// isSigned reports whether a release has a signature.
func isSigned(r release.Release) bool { return hasAsset(r, trust.SignatureFileName) }

func hasAsset(r release.Release, name string) bool {
	return slices.ContainsFunc(r.Assets, func(a release.Asset) bool { return a.Name == name })
}
