package deploy

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/forge"
	"every.channel/runner-images/internal/plan"
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

// checkSigned makes sure that the lines for other files than those to publish are
// signed with the key: a publication keeps them, and its signature vouches for
// them anew. Whoever can write to the forge can write there, too, so without this
// check the next run of the publisher would sign what nobody of his has made.
func checkSigned(ctx context.Context, before forge.Before, key *trust.Key, tag string, files []forge.File) error {
	others := withoutFiles(before.Kept, files)
	if len(others) == 0 {
		return nil // as in a new release
	}
	// A run that died between replacing the list and replacing the signature has
	// left both of each.
	lists, err := before.Versions(ctx, checksum.FileName)
	if err != nil {
		return err
	}
	signatures, err := before.Versions(ctx, trust.SignatureFileName)
	if err != nil {
		return err
	}
	for _, list := range lists {
		sums, err := checksum.Parse(bytes.NewReader(list))
		if err != nil || !contains(sums, others) {
			continue
		}
		for _, armored := range signatures {
			if _, err := key.Allowed().Verify(tag, list, armored, time.Now()); err == nil {
				return nil
			}
		}
	}
	return fmt.Errorf("the release %s has files that are not signed with this key, and a new signature would vouch for them: %q; check them and publish them with the key, too, or delete them from the release",
		tag, slices.Sorted(maps.Keys(others)))
}

// checkStays makes sure that a publication without the key changes nothing of a
// release that is signed: those who look for the signature would refuse all of it.
func checkStays(before forge.Before, tag string, files []forge.File) error {
	if !isSigned(before.Release) {
		return nil
	}
	for _, file := range files {
		if _, same := before.Kept[file.Name]; !same {
			return fmt.Errorf("the release %s is signed, and with another %s its signature would not hold any more; give %s, or delete %s from the release first",
				tag, file.Name, plan.SigningKey, trust.SignatureFileName)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before.Listed)) {
		if _, same := before.Kept[name]; !same {
			return fmt.Errorf("the release %s is signed, and without %s, which is gone, its signature would not hold any more; publish that again, give %s, or delete %s from the release first",
				tag, name, plan.SigningKey, trust.SignatureFileName)
		}
	}
	return nil
}

func withoutFiles(sums checksum.Sums, files []forge.File) checksum.Sums {
	others := maps.Clone(sums)
	for _, file := range files {
		delete(others, file.Name)
	}
	return others
}

func contains(sums, others checksum.Sums) bool {
	for name, sum := range others {
		if sums[name] != sum {
			return false
		}
	}
	return true
}

// isSigned says whether a release has a signature.
func isSigned(release forge.Release) bool {
	return slices.ContainsFunc(release.Assets, func(a forge.Asset) bool { return a.Name == trust.SignatureFileName })
}
