package trust_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/signerverifier"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/trust"
)

func day(month time.Month, n int) time.Time { return time.Date(2026, month, n, 0, 0, 0, 0, time.UTC) }

// snapshot makes a snapshot and reads it back.
func snapshot(t *testing.T, key trust.Key, p trust.Publication) trust.SignedSnapshot {
	t.Helper()
	p.Tag = tag
	content, err := p.Snapshot(t.Context(), key)
	require.NoError(t, err)
	signed, err := key.Snapshot(t.Context(), tag, content)
	require.NoError(t, err)
	read, err := trust.ParseSnapshot(tag, content)
	require.NoError(t, err)
	assert.Equal(t, signed, read)
	return trust.SignedSnapshot{Snapshot: signed, Content: content}
}

func after(serial int64) func() (int64, error) {
	return func() (int64, error) { return serial, nil }
}

func TestSerials(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	first := snapshot(t, key, trust.Publication{New: checksum.Sums{bundle: oneSum}, Now: day(2, 1)})
	assert.Equal(t, trust.Snapshot{
		Tag: tag, Published: day(2, 1), Files: map[string]trust.Version{bundle: {oneSum, day(2, 1).Unix()}},
	}, first.Snapshot)
	published := []trust.SignedSnapshot{first}

	t.Run("the same again", func(t *testing.T) {
		t.Parallel()
		again := snapshot(t, key, trust.Publication{New: checksum.Sums{bundle: oneSum}, Signed: published, Now: day(3, 1)})
		assert.Equal(t, string(first.Content), string(again.Content))
	})
	t.Run("a file beside it", func(t *testing.T) {
		t.Parallel()
		more := snapshot(t, key, trust.Publication{New: checksum.Sums{iso: otherSum}, Kept: checksum.Sums{bundle: oneSum}, Signed: published, Now: day(3, 1)})
		assert.Equal(t, day(2, 1).Unix(), more.Serial(oneSum))
		assert.Equal(t, day(3, 1).Unix(), more.Serial(otherSum))
		assert.Equal(t, day(3, 1), more.Published)
	})
	t.Run("other bytes", func(t *testing.T) {
		t.Parallel()
		other := snapshot(t, key, trust.Publication{New: checksum.Sums{bundle: otherSum}, Signed: published, Now: day(3, 1)})
		assert.Equal(t, day(3, 1).Unix(), other.Serial(otherSum))
		assert.Zero(t, other.Serial(oneSum))
	})
	t.Run("a clock in the past", func(t *testing.T) {
		t.Parallel()
		other := snapshot(t, key, trust.Publication{New: checksum.Sums{bundle: otherSum}, Signed: published, Now: day(1, 1)})
		assert.Equal(t, day(2, 1).Unix()+1, other.Serial(otherSum))
		other = snapshot(t, key, trust.Publication{New: checksum.Sums{bundle: otherSum}, After: after(day(4, 1).Unix()), Now: day(1, 1)})
		assert.Equal(t, day(4, 1).Unix()+1, other.Serial(otherSum))
	})
	t.Run("published before there were serials", func(t *testing.T) {
		t.Parallel()
		built, later := ciBuild(), ciBuild()
		later.Run.Finished = later.Run.Finished.Add(time.Hour)
		old := trust.Publication{New: checksum.Sums{sdImage: strings.Repeat("ab", 32)}, Kept: checksum.Sums{bundle: oneSum, "by-hand": strings.Repeat("cd", 32)}, Builds: []trust.Build{later, built}, Now: day(3, 1)}
		made := snapshot(t, key, old)
		assert.Equal(t, built.Run.Finished.Unix(), made.Serial(oneSum))
		assert.Zero(t, made.Serial(strings.Repeat("cd", 32)), "nothing tells when it was made, and it may have been brought back")
	})
	t.Run("nothing has a serial", func(t *testing.T) {
		t.Parallel()
		content, err := trust.Publication{Tag: tag, Kept: checksum.Sums{bundle: oneSum}, Now: day(3, 1)}.Snapshot(t.Context(), key)
		require.NoError(t, err)
		assert.Nil(t, content)
	})
	t.Run("no clock", func(t *testing.T) {
		t.Parallel()
		_, err := trust.Publication{Tag: tag, New: checksum.Sums{bundle: oneSum}, Now: time.Time{}}.Snapshot(t.Context(), key)
		require.NoError(t, err, "it counts from 1")
		_, err = trust.Publication{Tag: tag, New: checksum.Sums{bundle: oneSum}, After: after(1<<53 - 1), Now: day(3, 1)}.Snapshot(t.Context(), key)
		require.ErrorContains(t, err, "no serial is left after 9007199254740991")
	})
}

func TestSnapshotsThatAreNotBelieved(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	good := snapshot(t, key, trust.Publication{New: checksum.Sums{bundle: oneSum}, Now: day(2, 1)}).Content

	_, err := other.Snapshot(t.Context(), tag, good)
	require.ErrorIs(t, err, trust.ErrNotAllowed)
	for _, read := range []func(string, []byte) (trust.Snapshot, error){
		trust.ParseSnapshot,
		func(tag string, content []byte) (trust.Snapshot, error) {
			return key.Snapshot(t.Context(), tag, content)
		},
	} {
		_, err = read("boot-v2026.03.07", good)
		require.ErrorIs(t, err, trust.ErrWrongTag)
		_, err = read(tag, file(t, &key, ciBuild()))
		require.ErrorContains(t, err, "another kind of statement")
		_, err = read(tag, []byte("{"))
		require.ErrorContains(t, err, "snapshot.intoto.jsonl: not an envelope")
	}

	// The bare signature is for no tag, and so for nothing here.
	bare := envelopeOf(t, good)
	bare.Signatures = bare.Signatures[1:]
	content, err := json.Marshal(bare)
	require.NoError(t, err)
	_, err = key.Snapshot(t.Context(), tag, content)
	require.ErrorIs(t, err, trust.ErrUnsigned)

	for _, serial := range []string{"0", "-1", "1.5", "1e30", `"1"`, "null"} {
		changed := envelopeOf(t, good)
		payload := strings.Replace(string(payloadOf(t, changed)), `:1769904000}`, ":"+serial+"}", 1)
		require.Contains(t, payload, ":"+serial+"}")
		changed.Payload = base64.StdEncoding.EncodeToString([]byte(payload))
		content, err := json.Marshal(changed)
		require.NoError(t, err)
		_, err = trust.ParseSnapshot(tag, content)
		require.ErrorContains(t, err, "is not a whole number from 1 to 9007199254740991", serial)
		_, err = key.Snapshot(t.Context(), tag, content)
		require.Error(t, err)
	}
}

// Envelopes are checked by the DSSE library with its own ed25519 verifier, and with
// one that names the key as the library does by itself, as cosign has it. Both know
// nothing of SSH.
func TestOtherToolsVerifyEnvelopes(t *testing.T) {
	t.Parallel()
	private, err := os.ReadFile(lab.SSHKey(t))
	require.NoError(t, err)
	key, err := trust.ParseKey(string(private))
	require.NoError(t, err)
	raw, err := ssh.ParseRawPrivateKey(private)
	require.NoError(t, err)
	public := raw.(*ed25519.PrivateKey).Public().(ed25519.PublicKey)
	foreign, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)

	for name, content := range map[string][]byte{
		trust.ProvenanceFileName: file(t, &key, ciBuild()),
		trust.SnapshotFileName:   snapshot(t, key, trust.Publication{New: checksum.Sums{bundle: oneSum}, Now: day(2, 1)}).Content,
	} {
		envelope := envelopeOf(t, content)
		require.Len(t, envelope.Signatures, 2, name)
		armored, err := base64.StdEncoding.DecodeString(envelope.Signatures[0].Sig)
		require.NoError(t, err)
		assert.True(t, strings.HasPrefix(string(armored), "-----BEGIN SSH SIGNATURE-----"), "the one for the tag comes first")
		for _, verifier := range []struct{ good, bad dsse.Verifier }{
			{libraryVerifier(t, public), libraryVerifier(t, foreign)},
			{bareVerifier{public}, bareVerifier{foreign}},
		} {
			check, err := dsse.NewEnvelopeVerifier(verifier.good)
			require.NoError(t, err)
			_, err = check.Verify(t.Context(), &envelope)
			require.NoError(t, err, name)

			check, err = dsse.NewEnvelopeVerifier(verifier.bad)
			require.NoError(t, err)
			_, err = check.Verify(t.Context(), &envelope)
			require.Error(t, err, name)
		}
	}
}

// libraryVerifier is the library's own, with its own name of the key.
func libraryVerifier(t *testing.T, public ed25519.PublicKey) dsse.Verifier {
	t.Helper()
	verifier, err := signerverifier.NewED25519SignerVerifierFromSSLibKey(&signerverifier.SSLibKey{
		KeyType: signerverifier.ED25519KeyType, KeyID: "0123456789abcdef",
		KeyVal: signerverifier.KeyVal{Public: hex.EncodeToString(public)},
	})
	require.NoError(t, err)
	return verifier
}

// bareVerifier names no key, as sigstore's wrapper around a public key does.
type bareVerifier struct{ public ed25519.PublicKey }

func (v bareVerifier) KeyID() (string, error)   { return "", nil }
func (v bareVerifier) Public() crypto.PublicKey { return v.public }

func (v bareVerifier) Verify(_ context.Context, data, sig []byte) error {
	if !ed25519.Verify(v.public, data, sig) {
		return assert.AnError
	}
	return nil
}
