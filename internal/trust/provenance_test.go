package trust_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protojson"

	"every.channel/runner-images/internal/checksum"
	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/trust"
)

var update = flag.Bool("update", false, "write testdata/statement.json anew")

const (
	bundle   = "ec-runner-x86_64-netboot-boot-v2026.02.28.tar.gz"
	iso      = "ec-runner-x86_64-iso-boot-v2026.02.28.iso"
	sdImage  = "ec-runner-aarch64-sdimage-boot-v2026.02.28.img.zst"
	oneSum   = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	otherSum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
)

// ciBuild is what a workflow run at a forge tells.
func ciBuild() trust.Build {
	const flake = "git+https://forge.example/every-channel/every.channel?ref=refs/tags/boot-v2026.02.28&rev=5b2f3c1de0a9484c7e6f10b7a3fd2c9e8817a6d4"
	return trust.Build{
		Tag:        tag,
		Subjects:   checksum.Sums{bundle: oneSum, iso: otherSum},
		Repository: "https://forge.example/every-channel/every.channel",
		Commit:     "5b2f3c1de0a9484c7e6f10b7a3fd2c9e8817a6d4",
		Ref:        "refs/tags/boot-v2026.02.28",
		Workflow:   "deploy-runner-images",
		Inputs:     map[string]string{"build_x86_64_iso": "true", "release_tag": ""},
		ModTime:    time.Date(2026, 2, 28, 0, 0, 0, 0, time.UTC),
		Flake: trust.Flake{
			URL:      flake,
			Revision: "5b2f3c1de0a9484c7e6f10b7a3fd2c9e8817a6d4",
			NARHash:  "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
			Inputs: []trust.Input{
				{
					Name: "nixpkgs", URL: "github:NixOS/nixpkgs/b18a4b905f8d028dc4476412e6d6891728695379",
					Revision: "b18a4b905f8d028dc4476412e6d6891728695379", NARHash: "sha256-gwrPcFf/rDjHPaVflbDZ040ZDmBTRj/7+s8ZmE2SaIM=",
				},
				{Name: "source", URL: "path:/srv/source", NARHash: "sha256-LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="},
			},
		},
		Images: []trust.Image{
			{
				Name: "ec-runner-x86_64-netboot", Installable: ".#nixosConfigurations.ec-runner-x86_64-netboot.config.system.build.netboot",
				Asset: bundle, Derivation: "/nix/store/0c5g8vyj1xyn3s7hkkvrcf7h5mh0qkpd-netboot.drv",
				Output: "/nix/store/7wvh6p3s0k5d2z1f9b8c4x6y0q3r5a1n-netboot", NARHash: "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=",
			},
			{
				Name: "ec-runner-x86_64-iso", Installable: ".#nixosConfigurations.ec-runner-x86_64-iso.config.system.build.isoImage",
				Asset: iso, Derivation: "/nix/store/9a2b7c5d3f1g8h6j4k0l2m9n7p5q3r1s-nixos.iso.drv",
				Output: "/nix/store/1r3q5p7n9m2l0k4j6h8g1f3d5c7b2a9x-nixos.iso", NARHash: "sha256-LCa0a2j/xo/5m0U8HTBBNBNCLXBkg7+g+YpeiGJm564=",
			},
		},
		Builder:  "https://forge.example",
		Versions: map[string]string{"nix": "2.26.3", "runner-images": "1.0.0"},
		Run: trust.Run{
			URL:      "https://forge.example/every-channel/every.channel/actions/runs/17",
			Started:  time.Date(2026, 2, 28, 12, 0, 0, 0, time.UTC),
			Finished: time.Date(2026, 2, 28, 12, 9, 30, 0, time.UTC),
		},
	}
}

func newKey(t *testing.T) trust.Key {
	t.Helper()
	return parseKey(t, lab.SSHKey(t))
}

func attest(t *testing.T, b trust.Build, key *trust.Key) trust.Attestation {
	t.Helper()
	attestation, err := trust.Attest(t.Context(), b, key)
	require.NoError(t, err)
	return attestation
}

// file returns the content of provenance.intoto.jsonl with these lines.
func file(t *testing.T, key *trust.Key, builds ...trust.Build) []byte {
	t.Helper()
	var content []byte
	for _, b := range builds {
		var err error
		content, err = trust.MergeProvenance(t.Context(), content, attest(t, b, key), key)
		require.NoError(t, err)
	}
	return content
}

// The statement is held against the types that in-toto publishes, which know no
// other fields than the specification's, and against their own validation.
func TestStatementIsValid(t *testing.T) {
	t.Parallel()
	text, err := ciBuild().Statement()
	require.NoError(t, err)

	statement, predicate := &intoto.Statement{}, &slsa.Provenance{}
	require.NoError(t, protojson.Unmarshal(text, statement))
	require.NoError(t, statement.Validate())
	fields, err := statement.GetPredicate().MarshalJSON()
	require.NoError(t, err)
	require.NoError(t, protojson.Unmarshal(fields, predicate))
	require.NoError(t, predicate.Validate())

	var shown bytes.Buffer
	require.NoError(t, json.Indent(&shown, text, "", "  "))
	shown.WriteByte('\n')
	if *update {
		require.NoError(t, os.WriteFile("testdata/statement.json", shown.Bytes(), 0o644))
	}
	want, err := os.ReadFile("testdata/statement.json")
	require.NoError(t, err)
	assert.Equal(t, string(want), shown.String(), "after a change that is meant: go test ./internal/provenance -update")
}

func TestStatementDiffersInTheRunOnly(t *testing.T) {
	t.Parallel()
	first, err := ciBuild().Statement()
	require.NoError(t, err)
	again, err := ciBuild().Statement()
	require.NoError(t, err)
	assert.Equal(t, string(first), string(again))

	later := ciBuild()
	later.Run = trust.Run{URL: later.Run.URL + "8", Started: later.Run.Started.Add(time.Hour), Finished: later.Run.Finished.Add(time.Hour)}
	second, err := later.Statement()
	require.NoError(t, err)
	assert.NotEqual(t, string(first), string(second))
	assert.Equal(t, withoutRun(t, first), withoutRun(t, second))
}

func withoutRun(t *testing.T, statement []byte) map[string]any {
	t.Helper()
	var fields map[string]any
	require.NoError(t, json.Unmarshal(statement, &fields))
	delete(fields["predicate"].(map[string]any)["runDetails"].(map[string]any), "metadata")
	return fields
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	byHand := trust.Build{
		Tag:      tag,
		Subjects: checksum.Sums{sdImage: oneSum},
		Inputs:   map[string]string{},
		Images:   []trust.Image{{Name: "ec-runner-aarch64-sdimage", Installable: "/srv/flake#sd", Asset: sdImage}},
		Flake:    trust.Flake{URL: "path:/srv/flake", NARHash: "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},
		Versions: map[string]string{"nix": "2.26.3"},
	}
	sha256Git := ciBuild()
	sha256Git.Commit = oneSum
	for _, build := range []trust.Build{ciBuild(), byHand, sha256Git} {
		list := trust.ParseProvenance(file(t, nil, build))
		require.Len(t, list, 1)
		assert.Equal(t, build, list[0].Build)
		assert.Equal(t, build, attest(t, build, nil).Build)
	}
}

func TestStatementKeepsSecretsOut(t *testing.T) {
	t.Parallel()
	b := ciBuild()
	b.Repository = "https://someone:hunter2@forge.example/every-channel/every.channel"
	b.Flake.URL = "git+https://hunter2@forge.example/every-channel/every.channel?rev=5b2f"
	b.Flake.Inputs[0].URL = "git+ssh://git:hunter2@forge.example/x"
	b.Flake.Inputs[1].URL = "git+ssh://git@forge.example/x"
	b.Images[0].Installable = "git+https://hunter2@forge.example/x#netboot"
	b.Inputs = map[string]string{
		"nix_args":    "--option access-tokens forge.example=hunter2",
		"flake":       "git+https://hunter2@forge.example/x",
		"nix_copy_to": "s3://images?region=eu",
	}
	statement, err := b.Statement()
	require.NoError(t, err)
	assert.NotContains(t, string(statement), "hunter2")

	read := attest(t, b, nil).Build
	assert.Equal(t, "https://forge.example/every-channel/every.channel", read.Repository)
	assert.Equal(t, "git+ssh://forge.example/x", read.Flake.Inputs[0].URL)
	assert.Equal(t, "git+ssh://git@forge.example/x", read.Flake.Inputs[1].URL)
	assert.Equal(t, "git+https://forge.example/x#netboot", read.Images[0].Installable)
	assert.Equal(t, "s3://images?region=eu", read.Inputs["nix_copy_to"])
}

// What is not known to be harmless is not recorded, under whatever name it comes.
func TestStatementRecordsWhatIsKnownToBeHarmless(t *testing.T) {
	t.Parallel()
	b := ciBuild()
	b.Repository = "HTTPS://hunter2@forge.example/x"
	b.Run.URL = "https://hunter2@forge.example/x/actions/runs/17?token=hunter2"
	b.Flake.URL = "git+https://forge.example/x?ref=refs/tags/boot-v1&rev=5b2f&private_token=hunter2"
	b.Flake.Inputs[0].URL = "https://storage.example/x.tar.gz?X-Amz-Credential=hunter2&X-Amz-Signature=hunter2"
	b.Flake.Inputs[1].URL = "git+ssh://hunter2@forge.example/x"
	b.Images[0].Installable = "https://forge.example/x.tar.gz?access_token=hunter2#netboot"
	b.Inputs = map[string]string{
		"nix_args":    "--impure --argstr password hunter2 --option substitute false",
		"images":      "a https://forge.example/x.tar.gz?private_token=hunter2#netboot\nb .#iso",
		"nix_copy_to": "s3://images?region=eu&profile=hunter2",
		"new_input":   "hunter2",
	}
	statement, err := b.Statement()
	require.NoError(t, err)
	assert.NotContains(t, string(statement), "hunter2")

	read := attest(t, b, nil).Build
	assert.Equal(t, "git+https://forge.example/x?ref=refs/tags/boot-v1&rev=5b2f", read.Flake.URL)
	assert.Equal(t, "https://forge.example/x.tar.gz#netboot", read.Images[0].Installable)
	assert.Equal(t, map[string]string{
		"nix_args":    "--impure *** *** *** --option substitute false",
		"images":      "a https://forge.example/x.tar.gz#netboot\nb .#iso",
		"nix_copy_to": "s3://images?region=eu",
		"new_input":   "***",
	}, read.Inputs)
}

func TestStatementOfNothingIsAnError(t *testing.T) {
	t.Parallel()
	b := ciBuild()
	b.Subjects = nil
	_, err := b.Statement()
	require.ErrorIs(t, err, intoto.ErrSubjectRequired)

	b.Subjects = checksum.Sums{bundle: "e3b0"}
	_, err = b.Statement()
	require.ErrorIs(t, err, intoto.ErrIncorrectDigestLength)
}

// An envelope is checked with nothing but OpenSSH and coreutils: the signature
// is over "DSSEv1", and the type and the payload, each after its length.
func TestOpenSSHVerifiesTheEnvelope(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, trust.ProvenanceFileName), file(t, &key, ciBuild()), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "allowed_signers"), []byte("release@every.channel "+key.AuthorizedKey()+"\n"), 0o600))
	const script = `
		line=$(head -n 1 provenance.intoto.jsonl)
		echo "$line" | sed 's/.*"payload":"\([^"]*\)".*/\1/' | base64 -d > statement.json
		echo "$line" | cut -d '"' -f 18 | base64 -d > statement.sig
		{ printf 'DSSEv1 28 application/vnd.in-toto+json %d ' "$(stat -c %s statement.json)"; cat statement.json; } |
			ssh-keygen -Y verify -f allowed_signers -I release@every.channel -n "runner-images/$1@every.channel" -s statement.sig`
	run := func(tag string) (string, error) {
		command := exec.CommandContext(t.Context(), "sh", "-euc", script, "sh", tag)
		command.Dir = dir
		out, err := command.CombinedOutput()
		return string(out), err
	}
	out, err := run(tag)
	require.NoError(t, err, out)
	assert.Contains(t, out, "Good")
	assert.Contains(t, out, key.Fingerprint())

	_, err = run("boot-v2026.03.07")
	require.Error(t, err)
}

func TestVerify(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	content := file(t, &key, ciBuild())
	line := trust.ParseProvenance(content)[0]

	signer, err := line.Verify(t.Context(), tag, key.Allowed(), time.Now())
	require.NoError(t, err)
	assert.Equal(t, key.Fingerprint(), signer.Fingerprint)

	_, err = line.Verify(t.Context(), "boot-v2026.03.07", key.Allowed(), time.Now())
	require.ErrorIs(t, err, trust.ErrWrongTag)

	_, err = line.Verify(t.Context(), tag, other.Allowed(), time.Now())
	require.ErrorIs(t, err, trust.ErrNotAllowed)

	unsigned := trust.ParseProvenance(file(t, nil, ciBuild()))[0]
	_, err = unsigned.Verify(t.Context(), tag, key.Allowed(), time.Now())
	require.ErrorIs(t, err, trust.ErrUnsigned)

	changed := envelopeOf(t, content)
	changed.Payload = base64.StdEncoding.EncodeToString(bytes.Replace(payloadOf(t, changed), []byte(oneSum), []byte(otherSum), 1))
	_, err = lineOf(t, changed).Verify(t.Context(), tag, key.Allowed(), time.Now())
	require.ErrorContains(t, err, "does not fit the content")

	// A statement about one tag in an envelope that is signed for another.
	elsewhere := envelopeOf(t, content)
	signed, err := key.Sign("boot-v2026.03.07", dsse.PAE(elsewhere.PayloadType, payloadOf(t, elsewhere)))
	require.NoError(t, err)
	elsewhere.Signatures = []dsse.Signature{{KeyID: key.Fingerprint(), Sig: base64.StdEncoding.EncodeToString(signed)}}
	_, err = lineOf(t, elsewhere).Verify(t.Context(), "boot-v2026.03.07", key.Allowed(), time.Now())
	require.ErrorIs(t, err, trust.ErrWrongTag)
	assert.ErrorContains(t, err, "the statement is about")
}

func envelopeOf(t *testing.T, line []byte) dsse.Envelope {
	t.Helper()
	var envelope dsse.Envelope
	require.NoError(t, json.Unmarshal(line, &envelope))
	return envelope
}

func payloadOf(t *testing.T, envelope dsse.Envelope) []byte {
	t.Helper()
	payload, err := envelope.DecodeB64Payload()
	require.NoError(t, err)
	return payload
}

func lineOf(t *testing.T, envelope dsse.Envelope) trust.Attestation {
	t.Helper()
	line, err := json.Marshal(envelope)
	require.NoError(t, err)
	list := trust.ParseProvenance(line)
	require.Len(t, list, 1)
	return list[0]
}

func TestParsePassesOverOtherAttestations(t *testing.T) {
	t.Parallel()
	var envelope dsse.Envelope
	require.NoError(t, json.Unmarshal(file(t, nil, ciBuild()), &envelope))
	statement := string(payloadOf(t, envelope))
	wrap := func(payloadType, payload string) string {
		line, err := json.Marshal(dsse.Envelope{PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString([]byte(payload))})
		require.NoError(t, err)
		return string(line)
	}
	const inTotoType = "application/vnd.in-toto+json"
	others := strings.Join([]string{
		"", "{", "null", "[]", `{"a":1}`,
		wrap("application/vnd.novulz+cbor", "x"),
		wrap(inTotoType, "x"),
		wrap(inTotoType, "{}"),
		wrap(inTotoType, strings.Replace(statement, "https://slsa.dev/provenance/v1", "https://spdx.dev/Document", 1)),
		wrap(inTotoType, strings.Replace(statement, "https://every.channel/runner-images/build/v1", "https://example.org/other", 1)),
		`{"payloadType":"` + inTotoType + `","payload":"%%","signatures":[]}`,
	}, "\n")
	assert.Empty(t, trust.ParseProvenance([]byte(others)))

	content, err := trust.MergeProvenance(t.Context(), []byte(others), attest(t, ciBuild(), nil), nil)
	require.NoError(t, err)
	assert.Len(t, trust.ParseProvenance(content), 1)
	assert.Equal(t, strings.TrimPrefix(others, "\n"), strings.Join(strings.Split(string(content), "\n")[:10], "\n"), "they stay in the file")
}

func TestMerge(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	later := func(b trust.Build) trust.Build {
		b.Run.URL, b.Run.Finished = b.Run.URL+"8", b.Run.Finished.Add(time.Hour)
		return b
	}
	changed := ciBuild()
	changed.Subjects = checksum.Sums{bundle: otherSum, iso: otherSum}
	part := ciBuild()
	part.Subjects = checksum.Sums{iso: otherSum}
	more := ciBuild()
	more.Subjects = checksum.Sums{sdImage: oneSum}

	for name, c := range map[string]struct {
		published []trust.Build
		by        *trust.Key
		added     trust.Build
		want      []trust.Build
	}{
		"the first":               {nil, nil, ciBuild(), []trust.Build{ciBuild()}},
		"the same bytes again":    {[]trust.Build{ciBuild()}, &key, later(ciBuild()), []trust.Build{ciBuild()}},
		"a part of it again":      {[]trust.Build{ciBuild()}, &key, later(part), []trust.Build{ciBuild()}},
		"other bytes":             {[]trust.Build{ciBuild()}, &key, later(changed), []trust.Build{later(changed)}},
		"another image":           {[]trust.Build{ciBuild()}, &key, later(more), []trust.Build{ciBuild(), later(more)}},
		"all after a part":        {[]trust.Build{part, more}, &key, later(ciBuild()), []trust.Build{more, later(ciBuild())}},
		"signed by another key":   {[]trust.Build{ciBuild()}, &other, later(ciBuild()), []trust.Build{later(ciBuild())}},
		"not signed before":       {[]trust.Build{ciBuild()}, nil, later(ciBuild()), []trust.Build{later(ciBuild())}},
		"part signed, by another": {[]trust.Build{ciBuild(), more}, &other, later(ciBuild()), []trust.Build{more, later(ciBuild())}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content, err := trust.MergeProvenance(t.Context(), file(t, c.by, c.published...), attest(t, c.added, &key), &key)
			require.NoError(t, err)
			var got []trust.Build
			for _, attestation := range trust.ParseProvenance(content) {
				got = append(got, attestation.Build)
			}
			assert.Equal(t, c.want, got)
			assert.Equal(t, len(c.want), bytes.Count(content, []byte("\n")))
			assert.True(t, bytes.HasSuffix(content, []byte("\n")))
		})
	}
	t.Run("without a key a signed line stays", func(t *testing.T) {
		t.Parallel()
		published := file(t, &key, ciBuild())
		content, err := trust.MergeProvenance(t.Context(), published, attest(t, later(ciBuild()), nil), nil)
		require.NoError(t, err)
		assert.Equal(t, string(published), string(content))
	})
}

// A statement may be anybody's: one with a name that could lead elsewhere is not read.
func TestNamesInAStatementAreChecked(t *testing.T) {
	t.Parallel()
	require.Len(t, trust.ParseProvenance(unchecked(t, ciBuild())), 1)
	for name, change := range map[string]func(*trust.Build){
		"image's folder":       func(b *trust.Build) { b.Images[0].Name = "../../../home/planted" },
		"image's dot":          func(b *trust.Build) { b.Images[0].Name = ".." },
		"image's option":       func(b *trust.Build) { b.Images[0].Name = "--option" },
		"no image's name":      func(b *trust.Build) { b.Images[0].Name = "" },
		"asset":                func(b *trust.Build) { b.Images[0].Asset = "/etc/passwd" },
		"installable's option": func(b *trust.Build) { b.Images[0].Installable = "--impure" },
		"subject":              func(b *trust.Build) { b.Subjects = checksum.Sums{"a/b": oneSum} },
	} {
		b := ciBuild()
		change(&b)
		assert.Empty(t, trust.ParseProvenance(unchecked(t, b)), name)
	}
}

// unchecked writes a line as anybody can, without this package's own checks.
func unchecked(t *testing.T, b trust.Build) []byte {
	t.Helper()
	statement, err := b.Statement()
	require.NoError(t, err)
	line, err := json.Marshal(dsse.Envelope{
		PayloadType: "application/vnd.in-toto+json", Payload: base64.StdEncoding.EncodeToString(statement), Signatures: []dsse.Signature{},
	})
	require.NoError(t, err)
	return line
}
