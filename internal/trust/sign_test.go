package trust_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/lab"
)

func TestMaySign(t *testing.T) {
	t.Parallel()
	key, other := parseKey(t, lab.SSHKey(t)), parseKey(t, lab.SSHKey(t))
	list := checksum.Sums{bundle: oneSum, iso: otherSum}
	shorter := checksum.Sums{iso: otherSum}
	signed := func(list checksum.Sums) []byte {
		armored, err := key.Sign(tag, list.Bytes())
		require.NoError(t, err)
		return armored
	}
	foreign, err := other.Sign(tag, list.Bytes())
	require.NoError(t, err)
	ofAnotherTag, err := key.Sign("boot-v1", list.Bytes())
	require.NoError(t, err)
	for name, c := range map[string]struct {
		others            checksum.Sums
		lists, signatures [][]byte
		may               bool
	}{
		"nothing stays":        {nil, nil, nil, true},
		"all is signed":        {list, [][]byte{list.Bytes()}, [][]byte{signed(list)}, true},
		"some of it stays":     {shorter, [][]byte{list.Bytes()}, [][]byte{signed(list)}, true},
		"a run died between":   {shorter, [][]byte{shorter.Bytes(), list.Bytes()}, [][]byte{signed(list)}, true},
		"its signature waits":  {shorter, [][]byte{shorter.Bytes()}, [][]byte{signed(list), signed(shorter)}, true},
		"not signed":           {list, [][]byte{list.Bytes()}, nil, false},
		"no list":              {list, nil, [][]byte{signed(list)}, false},
		"a line was added":     {list, [][]byte{list.Bytes(), shorter.Bytes()}, [][]byte{signed(shorter)}, false},
		"other bytes":          {checksum.Sums{iso: oneSum}, [][]byte{list.Bytes()}, [][]byte{signed(list)}, false},
		"another key":          {list, [][]byte{list.Bytes()}, [][]byte{foreign}, false},
		"another tag":          {list, [][]byte{list.Bytes()}, [][]byte{ofAnotherTag}, false},
		"a list that is none":  {list, [][]byte{[]byte("no sums")}, [][]byte{signed(list)}, false},
		"a signature is none":  {list, [][]byte{list.Bytes()}, [][]byte{[]byte("no signature")}, false},
		"a signature of other": {list, [][]byte{list.Bytes()}, [][]byte{signed(shorter)}, false},
	} {
		err := key.MaySign(tag, c.others, c.lists, c.signatures)
		if c.may {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorContains(t, err, "the release "+tag+" has files that are not signed with this key", name)
		for file := range c.others {
			assert.ErrorContains(t, err, file, name)
		}
	}
}
