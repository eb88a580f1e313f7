package trust

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"every.channel/runner-images/internal/checksum"
)

// MaySign returns an error if a new signature of the release of tag would vouch
// for files that this key has not signed. Others are the lines of SHA256SUMS.txt
// that a publication keeps: whoever can write to the forge can write there, too, so
// without this check the next run of the publisher would sign what nobody of his
// has made. Lists and signatures are all that the release has of SHA256SUMS.txt and
// its signature: a run that died between replacing the two has left both of each.
func (k Key) MaySign(tag string, others checksum.Sums, lists, signatures [][]byte) error {
	if len(others) == 0 {
		return nil // as in a new release
	}
	for _, list := range lists {
		sums, err := checksum.Parse(bytes.NewReader(list))
		if err != nil || !covers(sums, others) {
			continue
		}
		for _, armored := range signatures {
			if _, err := k.Allowed().Verify(tag, list, armored, time.Now()); err == nil {
				return nil
			}
		}
	}
	return fmt.Errorf("the release %s has files that are not signed with this key, and a new signature would vouch for them: %q; check them and publish them with the key, too, or delete them from the release",
		tag, slices.Sorted(maps.Keys(others)))
}
