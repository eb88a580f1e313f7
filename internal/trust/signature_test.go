package trust_test

import (
	"crypto/dsa" //lint:ignore SA1019 a key of this kind must be refused
	"crypto/rand"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/trust"
)

const (
	tag      = "boot-v2026.02.28"
	sums     = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  ec-runner-x86_64-iso-boot-v2026.02.28.iso\n"
	identity = "release@every.channel"
)

// kinds are the keys that ssh-keygen is asked for, one for each algorithm that
// it signs with and that needs no hardware.
var kinds = map[string][]string{
	"ed25519":     {"-t", "ed25519"},
	"ecdsa-256":   {"-t", "ecdsa", "-b", "256"},
	"ecdsa-384":   {"-t", "ecdsa", "-b", "384"},
	"ecdsa-521":   {"-t", "ecdsa", "-b", "521"},
	"rsa":         {"-t", "rsa", "-b", "2048"},
	"rsa-in-pem":  {"-t", "rsa", "-b", "2048", "-m", "PEM"},
	"ec-in-pem":   {"-t", "ecdsa", "-m", "PEM"},
	"ec-in-pkcs8": {"-t", "ecdsa", "-m", "PKCS8"},
}

// keygen runs the real ssh-keygen with message on its standard input.
func keygen(t *testing.T, message string, args ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "ssh-keygen", args...)
	command.Stdin = strings.NewReader(message)
	out, err := command.CombinedOutput()
	return string(out), err
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

func parseKey(t *testing.T, path string) trust.Key {
	t.Helper()
	key, err := trust.ParseKey(read(t, path))
	require.NoError(t, err)
	return key
}

func allow(t *testing.T, lines string) trust.AllowedSigners {
	t.Helper()
	signers, err := trust.ParseAllowedSigners(strings.NewReader(lines))
	require.NoError(t, err)
	return signers
}

// keygenVerifies is the check of someone who has only OpenSSH.
func keygenVerifies(t *testing.T, allowed, tag, message string, armored []byte) (string, error) {
	t.Helper()
	return keygen(t, message, "-Y", "verify", "-f", write(t, allowed), "-I", identity,
		"-n", "runner-images/"+tag+"@every.channel", "-s", write(t, string(armored)))
}

func TestSignaturesAreThoseOfOpenSSH(t *testing.T) {
	t.Parallel()
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := lab.SSHKey(t, kind...)
			key := parseKey(t, path)
			line := identity + " " + read(t, path+".pub")

			listed, err := keygen(t, "", "-l", "-f", path+".pub")
			require.NoError(t, err, listed)
			assert.Contains(t, listed, key.Fingerprint())
			assert.Equal(t, strings.TrimSpace(read(t, path+".pub")), key.AuthorizedKey())

			// Signed here, checked by ssh-keygen.
			ours, err := key.Sign(tag, []byte(sums))
			require.NoError(t, err)
			out, err := keygenVerifies(t, line, tag, sums, ours)
			require.NoError(t, err, out)
			assert.Contains(t, out, "Good")
			again, err := key.Sign(tag, []byte(sums))
			require.NoError(t, err)
			assert.Equal(t, string(ours), string(again), "signing twice gives the same bytes")

			// And not for other content, nor for another tag.
			_, err = keygenVerifies(t, line, tag, sums+" ", ours)
			require.Error(t, err)
			_, err = keygenVerifies(t, line, "boot-v2026.03.07", sums, ours)
			require.Error(t, err)

			// Signed by ssh-keygen, checked here.
			message := write(t, sums)
			out, err = keygen(t, "", "-Y", "sign", "-f", path, "-n", trust.Namespace(tag), message)
			require.NoError(t, err, out)
			signer, err := allow(t, line).Verify(tag, []byte(sums), []byte(read(t, message+".sig")), time.Now())
			require.NoError(t, err)
			assert.Equal(t, trust.Signer{Principals: identity, Fingerprint: key.Fingerprint()}, signer)
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	path := lab.SSHKey(t)
	other := lab.SSHKey(t)
	key := parseKey(t, path)
	signers := allow(t, identity+" "+read(t, path+".pub"))
	armored, err := key.Sign(tag, []byte(sums))
	require.NoError(t, err)

	_, err = signers.Verify("boot-v2026.03.07", []byte(sums), armored, time.Now())
	require.ErrorIs(t, err, trust.ErrWrongTag)
	assert.ErrorContains(t, err, `for "boot-v2026.02.28" and not for "boot-v2026.03.07"`)

	message := write(t, sums)
	out, err := keygen(t, "", "-Y", "sign", "-f", path, "-n", "file", message)
	require.NoError(t, err, out)
	_, err = signers.Verify(tag, []byte(sums), []byte(read(t, message+".sig")), time.Now())
	require.ErrorIs(t, err, trust.ErrWrongTag)
	assert.ErrorContains(t, err, `its namespace is "file"`)

	_, err = signers.Verify(tag, []byte(strings.Replace(sums, "e3", "f3", 1)), armored, time.Now())
	assert.ErrorContains(t, err, "does not fit the content")
	assert.NotErrorIs(t, err, trust.ErrWrongTag)

	_, err = allow(t, identity+" "+read(t, other+".pub")).Verify(tag, []byte(sums), armored, time.Now())
	require.ErrorIs(t, err, trust.ErrNotAllowed)
	assert.ErrorContains(t, err, key.Fingerprint())

	for name, bad := range map[string]string{
		"empty":             "",
		"another PEM block": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"cut short":         string(armored[:len(armored)/2]),
		"no signature":      "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n",
	} {
		_, err := signers.Verify(tag, []byte(sums), []byte(bad), time.Now())
		assert.ErrorContains(t, err, "not a signature", name)
	}
}

// Every line is read by ssh-keygen too: what it accepts is accepted here, and
// what it refuses is refused.
func TestAllowedSignersAreReadAsOpenSSHReadsThem(t *testing.T) {
	t.Parallel()
	path := lab.SSHKey(t)
	public := strings.TrimSpace(read(t, path+".pub"))
	other := strings.TrimSpace(read(t, lab.SSHKey(t, "-t", "ecdsa")+".pub"))
	armored, err := parseKey(t, path).Sign(tag, []byte(sums))
	require.NoError(t, err)
	year := time.Now().Year()

	for lines, good := range map[string]bool{
		identity + " " + public: true,
		"\n  # a comment\n\n" + identity + "\t" + public + " a comment of two words\r\n":                      true,
		identity + " " + other + "\n*@every.channel " + public:                                                true,
		`"` + identity + `,somebody@example.org" ` + public:                                                   true,
		identity + ` namespaces="runner-images/*@every.channel" ` + public:                                    true,
		identity + ` NAMESPACES="git,runner-images/boot-v????.02.28@every.channel" ` + public:                 true,
		identity + ` namespaces="git,file" ` + public:                                                         false,
		identity + ` namespaces="*,!runner-images/boot-v2026.*" ` + public:                                    false,
		identity + ` namespaces="runner-images/boot-v2026.02.28@every.channe" ` + public:                      false,
		identity + ` namespaces="runner-images/boot-v2026.02.28@every.channel" ` + public:                     true,
		identity + ` namespaces="runner-images.boot-v2026.02.28@every.channel" ` + public:                     false,
		identity + ` namespaces=git ` + public:                                                                false,
		identity + ` namespaces="git ` + public:                                                               false,
		identity + ` namespaces="git",namespaces="*" ` + public:                                               false,
		identity + ` namespaces="git" ` + public + "\n" + identity + " " + public:                             true,
		identity + fmt.Sprintf(` valid-after="%d0101" `, year-1) + public:                                     true,
		identity + fmt.Sprintf(` valid-after="%d0101Z",valid-before="%d01011200Z" `, year-1, year+2) + public: true,
		identity + fmt.Sprintf(` valid-before="%d0101123000Z" `, year-1) + public:                             false,
		identity + fmt.Sprintf(` valid-after="%d010112Z" `, year-1) + public:                                  false,
		identity + fmt.Sprintf(` valid-after="%d0101" `, year+2) + public:                                     false,
		identity + fmt.Sprintf(` valid-after="%d0101",valid-before="%d0101" `, year-1, year-2) + public:       false,
		identity + ` valid-before="tomorrow" ` + public:                                                       false,
		identity + ` no-touch-required ` + public:                                                             false,
		identity + ` cert-authority ` + public:                                                                false,
		identity + " " + other:                                                                                false,
		public:                                                                                                false,
		identity:                                                                                              false,
		`namespaces="git" ` + public:                                                                          false,
		`namespaces="git file" ` + public:                                                                     false,
		`VALID-BEFORE="20200101" ` + public:                                                                   false,
		`cert-authority ` + public:                                                                            false,
		"!" + identity + " " + public:                                                                         false,
		`"" ` + public:                                                                                        false,
		`"` + identity + " " + public:                                                                         false,
		"# " + strings.Repeat("x", 70000) + "\n" + identity + " " + public:                                    true,
		"  " + identity + "   " + strings.TrimRight(public, "="):                                              true,
		"# nothing\n": false,
	} {
		out, keygenErr := keygenVerifies(t, lines, tag, sums, armored)
		signers, err := trust.ParseAllowedSigners(strings.NewReader(lines))
		if err == nil {
			_, err = signers.Verify(tag, []byte(sums), armored, time.Now())
		}
		assert.Equal(t, good, keygenErr == nil, "ssh-keygen with %s: %s", lines, out)
		assert.Equal(t, good, err == nil, "here with %s: %v", lines, err)
	}
}

func TestAllowedSignersErrorsCiteTheLine(t *testing.T) {
	t.Parallel()
	public := parseKey(t, lab.SSHKey(t)).AuthorizedKey()
	for line, want := range map[string]string{
		identity + " cert-authority " + public:         "cert-authority is not supported",
		identity + " ssh-ed25519 AAAA":                 "want principals, options, key type and key",
		identity + ` valid-after="20261301" ` + public: "want YYYYMMDD",
		identity + ` restrict ` + public:               `unknown option "restrict"`,
		`valid-before="20200101" ` + public:            "principals come first",
		"!somebody,!nobody " + public:                  "name nobody",
	} {
		_, err := trust.ParseAllowedSigners(strings.NewReader("# keys\n" + line + "\n"))
		assert.ErrorContains(t, err, "allowed signers line 2: ", line)
		assert.ErrorContains(t, err, want, line)
	}
}

func TestValidityIsAskedAtTheGivenTime(t *testing.T) {
	t.Parallel()
	key := parseKey(t, lab.SSHKey(t))
	signers := allow(t, identity+` valid-after="20260101Z",valid-before="20270101Z" `+key.AuthorizedKey())
	armored, err := key.Sign(tag, []byte(sums))
	require.NoError(t, err)

	_, err = signers.Verify(tag, []byte(sums), armored, time.Date(2026, 2, 28, 0, 0, 0, 0, time.UTC))
	require.NoError(t, err)
	for year, want := range map[int]string{2025: "valid-after 2026-01-01T00:00:00Z", 2028: "valid-before 2027-01-01T00:00:00Z"} {
		_, err = signers.Verify(tag, []byte(sums), armored, time.Date(year, 2, 28, 0, 0, 0, 0, time.UTC))
		require.ErrorIs(t, err, trust.ErrNotAllowed)
		assert.ErrorContains(t, err, want)
	}
}

func TestParseKeyTakesTheTextAsASecretStoreGivesIt(t *testing.T) {
	t.Parallel()
	text := read(t, lab.SSHKey(t))
	want, err := trust.ParseKey(text)
	require.NoError(t, err)
	for name, changed := range map[string]string{
		"no newline at the end": strings.TrimSpace(text),
		"carriage returns":      strings.ReplaceAll(text, "\n", "\r\n"),
		"space around it":       "\n  \n" + text + "\n\n",
	} {
		key, err := trust.ParseKey(changed)
		require.NoError(t, err, name)
		assert.Equal(t, want.Fingerprint(), key.Fingerprint(), name)
	}
}

func TestParseKeyErrorsSayWhatToDoAndNothingOfTheKey(t *testing.T) {
	t.Parallel()
	plain := read(t, lab.SSHKey(t))
	lines := strings.Split(plain, "\n")
	encrypted := filepath.Join(t.TempDir(), "key")
	out, err := keygen(t, "", "-q", "-t", "ed25519", "-N", "a passphrase", "-f", encrypted)
	require.NoError(t, err, out)
	encryptedPEM := filepath.Join(t.TempDir(), "key")
	out, err = keygen(t, "", "-q", "-t", "ecdsa", "-m", "PEM", "-N", "a passphrase", "-f", encryptedPEM)
	require.NoError(t, err, out)

	for name, c := range map[string]struct{ text, want string }{
		"empty":          {"", "not a private SSH key"},
		"a public key":   {read(t, encrypted+".pub"), "not a private SSH key"},
		"a line missing": {strings.Join(append(lines[:2:2], lines[3:]...), "\n"), "not a private SSH key"},
		"on one line":    {strings.ReplaceAll(plain, "\n", " "), "not a private SSH key"},
		"encrypted":      {read(t, encrypted), "encrypted"},
		"encrypted PEM":  {read(t, encryptedPEM), "encrypted"},
		"DSA":            {dsaKey(t), "DSA"},
	} {
		_, err := trust.ParseKey(c.text)
		require.ErrorContains(t, err, c.want, name)
		for _, line := range strings.Fields(c.text) {
			if len(line) > 20 {
				assert.NotContains(t, err.Error(), line, name)
			}
		}
	}
}

func TestPrintingAKeyShowsItsFingerprintOnly(t *testing.T) {
	t.Parallel()
	key := parseKey(t, lab.SSHKey(t))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		assert.Equal(t, key.Fingerprint(), fmt.Sprintf(verb, key), verb)
	}
}

// dsaKey returns a DSA key in PEM, which today's ssh-keygen may not make.
func dsaKey(t *testing.T) string {
	t.Helper()
	var key dsa.PrivateKey
	require.NoError(t, dsa.GenerateParameters(&key.Parameters, rand.Reader, dsa.L1024N160))
	require.NoError(t, dsa.GenerateKey(&key, rand.Reader))
	der, err := asn1.Marshal(struct {
		Version       int
		P, Q, G, Y, X *big.Int
	}{0, key.P, key.Q, key.G, key.Y, key.X})
	require.NoError(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "DSA PRIVATE KEY", Bytes: der}))
}
