package trust

import (
	"bytes"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"every.channel/runner-images/internal/checksum"
)

// SignatureFileName is the name of the asset that holds the signature of
// SHA256SUMS.txt.
const SignatureFileName = checksum.FileName + ".sig"

// ErrUnsigned is the error of a release without the signature that it must have.
var ErrUnsigned = errors.New("not signed")

// ErrWrongTag is the error of a signature that was made for another tag than the one it is
// shown for: an old release served again, or a file in the wrong place.
var ErrWrongTag = errors.New("signed for another tag")

// ErrNotAllowed is the error of a signature that was made by a key that the allowed signers
// do not list, or do not list for this use or this day.
var ErrNotAllowed = errors.New("not signed by an allowed signer")

const namespacePrefix, namespaceSuffix = "runner-images/", "@every.channel"

// Namespace returns the namespace of the signatures in a tag's release, as
// `ssh-keygen -Y` takes it with -n.
func Namespace(tag string) string {
	return namespacePrefix + tag + namespaceSuffix
}

// A Key is a private SSH key in memory. It is never written anywhere, and
// printing it shows its fingerprint only.
type Key struct {
	signer ssh.Signer
}

// ParseKey reads a private key (ed25519, ECDSA or RSA) as ssh-keygen writes it,
// or in PEM as PKCS #1, PKCS #8 or SEC 1. No error has a part of the text in it.
func ParseKey(text string) (Key, error) {
	raw, err := ssh.ParseRawPrivateKey([]byte(text))
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return Key{}, errors.New("the private key is encrypted and nobody is there to type its passphrase; " +
			"make a key for signing without one: ssh-keygen -t ed25519 -N '' -f signing_key")
	}
	if err != nil && isDSA(text) {
		return Key{}, errors.New("DSA keys are not accepted by OpenSSH any more; make one with ssh-keygen -t ed25519")
	}
	if err != nil {
		// The parser's words are left out: nothing promises that they do not
		// cite what they could not read.
		return Key{}, errors.New("not a private SSH key; give the whole text of the file that ssh-keygen wrote, " +
			"from -----BEGIN OPENSSH PRIVATE KEY----- to -----END OPENSSH PRIVATE KEY-----")
	}
	signer, err := ssh.NewSignerFromKey(raw)
	if err != nil {
		return Key{}, errors.New("this kind of private key cannot sign; make one with ssh-keygen -t ed25519")
	}
	if err := checkStrength(signer.PublicKey()); err != nil {
		return Key{}, err
	}
	return Key{signer}, nil
}

// leastRSA is how many bits an RSA key must have (NIST SP 800-131A, revision 2).
const leastRSA = 2048

func checkStrength(key ssh.PublicKey) error {
	wrapped, _ := key.(ssh.CryptoPublicKey)
	if wrapped == nil {
		return nil
	}
	if public, ok := wrapped.CryptoPublicKey().(*rsa.PublicKey); ok && public.N.BitLen() < leastRSA {
		return fmt.Errorf("this RSA key has %d bits, and less than %d are not safe; make one with ssh-keygen -t ed25519", public.N.BitLen(), leastRSA)
	}
	return nil
}

// isDSA recognises a key of a kind that the parser does not know any more.
func isDSA(text string) bool {
	block, _ := pem.Decode([]byte(text))
	return block != nil && (block.Type == "DSA PRIVATE KEY" || bytes.Contains(block.Bytes, []byte("ssh-dss")))
}

// Fingerprint returns the SHA-256 fingerprint of the public key as ssh-keygen -l
// prints it: "SHA256:…".
func (k Key) Fingerprint() string {
	return ssh.FingerprintSHA256(k.signer.PublicKey())
}

// AuthorizedKey returns the public key in the form that allowed_signers takes
// after the principal: "ssh-ed25519 AAAA…".
func (k Key) AuthorizedKey() string {
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(k.signer.PublicKey())))
}

// Allowed returns the list of allowed signers that has this key alone.
func (k Key) Allowed() AllowedSigners {
	return AllowedSigners{{principals: k.Fingerprint(), key: k.signer.PublicKey()}}
}

// String returns the fingerprint, so that a key that is printed by mistake gives
// nothing away.
func (k Key) String() string { return k.Fingerprint() }

// GoString is String, for %#v.
func (k Key) GoString() string { return k.Fingerprint() }

// Sign returns the armored signature of message for the release of tag, as
// `ssh-keygen -Y sign` writes it into a .sig file. The same key, tag and message
// give the same bytes, for ECDSA too (RFC 6979), so that publishing again what
// is published changes nothing.
func (k Key) Sign(tag string, message []byte) ([]byte, error) {
	// No source of randomness is what asks ECDSA for the deterministic nonce;
	// ed25519 and RSA signatures do not use one.
	signed, err := sshsig.SignWithRand(bytes.NewReader(message), nil, k.signer, sshsig.HashSHA512, Namespace(tag))
	if err != nil {
		return nil, fmt.Errorf("sign with the key %s: %w", k.Fingerprint(), err)
	}
	return sshsig.Armor(signed), nil
}

// A Signer is who made a signature.
type Signer struct {
	Principals  string `json:"principals"`  // as the allowed signers list them
	Fingerprint string `json:"fingerprint"` // "SHA256:…"
}

// Verify checks the armored signature of message for the release of tag, at a
// time that must lie within the key's validity, and returns who made it. The
// error wraps ErrWrongTag or ErrNotAllowed where that is what is wrong.
func (a AllowedSigners) Verify(tag string, message, armored []byte, at time.Time) (Signer, error) {
	parsed, err := sshsig.Unarmor(armored)
	if err != nil {
		return Signer{}, fmt.Errorf("not a signature as ssh-keygen -Y sign writes it: %w", err)
	}
	if err := checkNamespace(tag, parsed.Namespace); err != nil {
		return Signer{}, err
	}
	signer, err := a.find(parsed.PublicKey, parsed.Namespace, at)
	if err != nil {
		return Signer{}, err
	}
	if err := sshsig.Verify(bytes.NewReader(message), parsed, parsed.PublicKey, parsed.HashAlgorithm, Namespace(tag)); err != nil {
		return Signer{}, fmt.Errorf("the signature by %s does not fit the content, one of them was changed: %w", signer.Principals, err)
	}
	return signer, nil
}

func checkNamespace(tag, namespace string) error {
	if namespace == Namespace(tag) {
		return nil
	}
	if other, ok := cutNamespace(namespace); ok {
		return fmt.Errorf("%w: for %q and not for %q; this may be an old release under a new name", ErrWrongTag, other, tag)
	}
	return fmt.Errorf("%w: its namespace is %q and not %q; sign with ssh-keygen -Y sign -n %[3]q", ErrWrongTag, namespace, Namespace(tag))
}

// cutNamespace returns the tag of a namespace that Namespace made.
func cutNamespace(namespace string) (tag string, ok bool) {
	rest, before := strings.CutPrefix(namespace, namespacePrefix)
	tag, after := strings.CutSuffix(rest, namespaceSuffix)
	return tag, before && after
}
