package trust_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/trust"
)

// A line that cannot be read leaves the others as they are, before and after it:
// ssh-keygen reads the same file.
func TestAnUnreadableLineLeavesTheOthers(t *testing.T) {
	t.Parallel()
	path := lab.SSHKey(t)
	public := strings.TrimSpace(read(t, path+".pub"))
	other := strings.TrimSpace(read(t, lab.SSHKey(t, "-t", "ecdsa")+".pub"))
	armored, err := parseKey(t, path).Sign(tag, []byte(sums))
	require.NoError(t, err)

	for line, why := range map[string]string{
		identity:                                            "only one field",
		identity + " ssh-ed25519":                           "want principals, options, key type and key",
		identity + " ssh-ed25519 AAAA":                      "want principals, options, key type and key",
		identity + " sk-unknown@example.org AAAA":           "want principals, options, key type and key",
		identity + " restrict " + other:                     `unknown option "restrict"`,
		identity + " restrict " + public:                    `unknown option "restrict"`,
		identity + ` valid-before="tomorrow" ` + public:     "want YYYYMMDD",
		identity + ` namespaces=git ` + other:               "double quotes",
		identity + ` namespaces="git ` + other:              "want principals",
		identity + ` cert-authority ` + other:               "cert-authority is not supported",
		`"` + identity + " " + other:                        "quote around the principals",
		"!somebody " + other:                                "name nobody",
		"nobody@example.org ssh-ed25519 AAAA":               "want principals, options, key type and key",
		`valid-before="20200101" ` + other:                  "principals come first",
		identity + " ecdsa-sha2-nistp256 AAAA" + other[20:]: "want principals, options, key type and key",
	} {
		for _, lines := range []string{line + "\n" + identity + " " + public, identity + " " + public + "\n" + line} {
			out, err := keygenVerifies(t, lines, tag, sums, armored)
			require.NoError(t, err, "ssh-keygen with %s: %s", lines, out)
			signers, err := trust.ParseAllowedSigners(strings.NewReader(lines))
			require.NoError(t, err, lines)
			_, err = signers.Verify(tag, []byte(sums), armored, time.Now())
			require.NoError(t, err, lines)
			require.Len(t, signers.Unreadable(), 1, lines)
			assert.ErrorContains(t, signers.Unreadable()[0], why, lines)
			assert.ErrorContains(t, signers.Unreadable()[0], "allowed signers line ")
		}
		// Alone it counts for nobody, and neither does it beside another's key.
		_, err := trust.ParseAllowedSigners(strings.NewReader(line))
		require.ErrorContains(t, err, why, line)
		_, err = allow(t, line+"\n"+identity+" "+other).Verify(tag, []byte(sums), armored, time.Now())
		require.ErrorIs(t, err, trust.ErrNotAllowed)
		assert.ErrorContains(t, err, "(allowed signers line 1: ", "it may be the one that was meant")
	}
}

// Only is ssh-keygen's -I.
func TestOnlyThePrincipalThatIsAskedFor(t *testing.T) {
	t.Parallel()
	path := lab.SSHKey(t)
	public := strings.TrimSpace(read(t, path+".pub"))
	other := strings.TrimSpace(read(t, lab.SSHKey(t, "-t", "ecdsa")+".pub"))
	armored, err := parseKey(t, path).Sign(tag, []byte(sums))
	require.NoError(t, err)

	for lines, good := range map[string]bool{
		identity + " " + public:                                                true,
		"git@every.channel " + public:                                          false,
		"git@every.channel " + public + "\n" + identity + " " + other:          false,
		"git@every.channel " + public + "\n" + identity + " " + public:         true,
		"*@every.channel " + public:                                            true,
		"*@every.channel,!" + identity + " " + public:                          false,
		"git@every.channel," + identity + " " + public:                         true,
		`"git@every.channel,` + identity + `" namespaces="git" ` + public:      false,
		"restrict\n" + identity + " " + public:                                 true,
		strings.ToUpper(identity) + " " + public + "\n" + "x@y.z " + other:     false,
		identity + " restrict " + public + "\ngit@every.channel " + public:     false,
		"git@every.channel " + public + "\n" + identity + " restrict " + other: false,
	} {
		out, keygenErr := keygenVerifies(t, lines, tag, sums, armored)
		signers, err := trust.ParseAllowedSigners(strings.NewReader(lines))
		require.NoError(t, err)
		signers, err = signers.Only(identity)
		if err == nil {
			_, err = signers.Verify(tag, []byte(sums), armored, time.Now())
		}
		assert.Equal(t, good, keygenErr == nil, "ssh-keygen with %s: %s", lines, out)
		assert.Equal(t, good, err == nil, "here with %s: %v", lines, err)
	}
	_, err = allow(t, "git@every.channel "+public).Only(identity)
	assert.EqualError(t, err, `no line of the allowed signers is for "`+identity+`"; they list ["git@every.channel"]`)
}

func TestShortRSAKeys(t *testing.T) {
	t.Parallel()
	short, long := lab.SSHKey(t, "-t", "rsa", "-b", "2047"), lab.SSHKey(t, "-t", "rsa", "-b", "2048")
	const why = "this RSA key has 2047 bits, and less than 2048 are not safe; make one with ssh-keygen -t ed25519"
	_, err := trust.ParseKey(read(t, short))
	require.EqualError(t, err, why)
	_, err = trust.ParseAllowedSigners(strings.NewReader(identity + " " + read(t, short+".pub")))
	require.EqualError(t, err, "allowed signers line 1: "+why)

	armored, err := parseKey(t, long).Sign(tag, []byte(sums))
	require.NoError(t, err)
	both := identity + " " + strings.TrimSpace(read(t, short+".pub")) + "\n" + identity + " " + read(t, long+".pub")
	_, err = allow(t, both).Verify(tag, []byte(sums), armored, time.Now())
	require.NoError(t, err)

	// Signed with the short one, by someone who may use it.
	message := write(t, sums)
	out, err := keygen(t, "", "-Y", "sign", "-f", short, "-n", trust.Namespace(tag), message)
	require.NoError(t, err, out)
	_, err = allow(t, both).Verify(tag, []byte(sums), []byte(read(t, message+".sig")), time.Now())
	require.ErrorIs(t, err, trust.ErrNotAllowed)
}
