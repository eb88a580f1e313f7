package trust_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/crypto/ssh"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/trust"
)

// FuzzParseProvenance reads what a server may send in place of provenance. Nothing that
// was not signed by the key is proved.
func FuzzParseProvenance(f *testing.F) {
	statement, err := ciBuild().Statement()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(statement)
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"keyid":"","sig":"AAAA"}]}`))
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"%%","signatures":null}` + "\n{\nnull"))
	key := fuzzKey(f)
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, line := range trust.ParseProvenance(content) {
			_, err := line.Verify(t.Context(), tag, key.Allowed(), time.Now())
			assert.Error(t, err)
		}
		kept, left := key.KeepProvenance(t.Context(), tag, content, nil)
		assert.Empty(t, kept)
		assert.LessOrEqual(t, left, bytes.Count(content, []byte("\n"))+1)
		kept, left = key.KeepProvenance(t.Context(), tag, content, []checksum.Sums{{trust.ProvenanceFileName: trust.SumOf(content)}})
		assert.Equal(t, content, kept)
		assert.Zero(t, left)
	})
}

// FuzzParseSnapshot does the same for a snapshot: what can be read has serials in their
// range, and is not signed.
func FuzzParseSnapshot(f *testing.F) {
	key := fuzzKey(f)
	p := trust.Publication{Tag: tag, New: checksum.Sums{bundle: oneSum}, Now: time.Unix(1772236800, 0)}
	content, err := p.Snapshot(f.Context(), key)
	if err != nil {
		f.Fatal(err)
	}
	good := string(content)
	f.Add([]byte(strings.Replace(good, `"sig":"`, `"sig":"A`, 2)))
	f.Add([]byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		snapshot, err := trust.ParseSnapshot(tag, content)
		if err != nil {
			return
		}
		assert.Equal(t, tag, snapshot.Tag)
		for name, version := range snapshot.Files {
			assert.Positive(t, version.Serial, name)
			assert.LessOrEqual(t, version.Serial, int64(1)<<53-1, name)
		}
	})
}

// FuzzParseAllowedSigners reads what a person may write: a list that can be read allows
// the key that it lists, or says of which lines it makes nothing.
func FuzzParseAllowedSigners(f *testing.F) {
	key := fuzzKey(f)
	armored, err := key.Sign(tag, []byte(sums))
	if err != nil {
		f.Fatal(err)
	}
	for _, line := range []string{
		identity + " " + key.AuthorizedKey(),
		`"` + identity + `" namespaces="git,*" ` + key.AuthorizedKey(),
		identity + ` valid-after="20260101Z",valid-before="20270101123000" ` + key.AuthorizedKey(),
		identity + " cert-authority " + key.AuthorizedKey(),
		"# comment\n\n!nobody ssh-ed25519 AAAA\r\n" + identity,
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		signers, err := trust.ParseAllowedSigners(strings.NewReader(lines))
		if err != nil {
			return
		}
		assert.Less(t, len(signers.Unreadable()), len(signers))
		signer, err := signers.Verify(tag, []byte(sums), armored, time.Now())
		if err == nil {
			assert.Contains(t, lines, strings.Fields(key.AuthorizedKey())[1])
			only, err := signers.Only(identity)
			if err == nil {
				_, _ = only.Verify(tag, []byte(sums), armored, time.Now())
			}
			assert.NotEmpty(t, signer.Principals)
		}
		_, err = signers.Verify("boot-v0", []byte(sums), armored, time.Now())
		assert.ErrorIs(t, err, trust.ErrWrongTag)
	})
}

// fuzzKey is the same each time, so that a failure can be run again.
func fuzzKey(f *testing.F) trust.Key {
	f.Helper()
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		f.Fatal(err)
	}
	key, err := trust.ParseKey(string(pem.EncodeToMemory(block)))
	if err != nil {
		f.Fatal(err)
	}
	return key
}
