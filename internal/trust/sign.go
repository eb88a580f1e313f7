package trust

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"every.channel/runner-images/internal/checksum"
)

// SignedLists returns those of the lists that this key has signed for the tag. Lists
// and signatures are all that a release has of SHA256SUMS.txt and its signature: a
// run that died between replacing the two has left both of each.
func (k Key) SignedLists(tag string, lists, signatures [][]byte) []checksum.Sums {
	var signed []checksum.Sums
	for _, list := range lists {
		sums, err := checksum.Parse(bytes.NewReader(list))
		if err != nil {
			continue
		}
		if slices.ContainsFunc(signatures, func(armored []byte) bool {
			_, err := k.Allowed().Verify(tag, list, armored, time.Now())
			return err == nil
		}) {
			signed = append(signed, sums)
		}
	}
	return signed
}

// MaySign returns an error if a new signature of the release of tag would vouch
// for files that this key has not signed. Others are the lines of SHA256SUMS.txt
// that a publication keeps: whoever can write to the forge can write there, too, so
// without this check the next run of the publisher would sign what nobody of his
// has made. Lists and signatures are those of SignedLists.
func (k Key) MaySign(tag string, others checksum.Sums, lists, signatures [][]byte) error {
	if len(others) == 0 { // as in a new release
		return nil
	}
	if slices.ContainsFunc(k.SignedLists(tag, lists, signatures), func(sums checksum.Sums) bool { return covers(sums, others) }) {
		return nil
	}
	return fmt.Errorf("the release %s has files that are not signed with this key, and a new signature would vouch for them: %q; check them and publish them with the key, too, or delete them from the release",
		tag, slices.Sorted(maps.Keys(others)))
}

// KeepProvenance returns what of a release's provenance a new signature may vouch
// for: all of it, if a list that this key has signed has its checksum; else the lines
// that the key has signed itself. It also returns how many lines it has left out.
func (k Key) KeepProvenance(ctx context.Context, tag string, content []byte, signed []checksum.Sums) (kept []byte, left int) {
	if slices.ContainsFunc(signed, func(sums checksum.Sums) bool { return sums[ProvenanceFileName] == SumOf(content) }) {
		return content, 0
	}
	for line := range bytes.Lines(content) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		attestation, err := parseLine(line)
		if err != nil || !attestation.madeWith(ctx, tag, &k) {
			left++
			continue
		}
		kept = append(append(kept, line...), '\n')
	}
	return kept, left
}

// Builds returns what this key has signed of a release's provenance.
func (k Key) Builds(ctx context.Context, tag string, provenance []byte) []Build {
	var builds []Build
	for _, line := range ParseProvenance(provenance) {
		if line.madeWith(ctx, tag, &k) {
			builds = append(builds, line.Build)
		}
	}
	return builds
}
