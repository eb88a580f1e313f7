package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// AllowedSigners are the keys whose signatures count, as an allowed_signers file
// lists them (ssh-keygen(1), ALLOWED SIGNERS).
type AllowedSigners []allowedSigner

// An allowedSigner is one line of the file.
type allowedSigner struct {
	unreadable  error // why the line counts for nobody; the rest is empty then
	principals  string
	key         ssh.PublicKey
	namespaces  string // a pattern list; empty for any
	validAfter  time.Time
	validBefore time.Time
}

// ParseAllowedSigners reads an allowed_signers file: a line is principals,
// options, key type and key. The options namespaces, valid-after and
// valid-before mean what they mean to ssh-keygen. A line that cannot be read
// counts for nobody and leaves the others as they are, as with ssh-keygen; see
// Unreadable. That is also a line with cert-authority, since certificates are not
// supported, and one with an RSA key of less than 2048 bits. A file without a
// single key that counts is an error.
func ParseAllowedSigners(r io.Reader) (AllowedSigners, error) {
	var signers AllowedSigners
	readable, number := 0, 0
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("read allowed signers: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		signer, err := parseAllowedSigner(line)
		if err != nil {
			signer = allowedSigner{unreadable: fmt.Errorf("allowed signers line %d: %w", number, err)}
		} else {
			readable++
		}
		signers = append(signers, signer)
	}
	switch {
	case len(signers) == 0:
		return nil, errors.New("the list of allowed signers is empty; it takes lines like: release@example.org ssh-ed25519 AAAA…")
	case readable == 0:
		return nil, errors.Join(signers.Unreadable()...)
	}
	return signers, nil
}

// Unreadable returns, for each line that counts for nobody, an error that says why.
func (a AllowedSigners) Unreadable() []error {
	var errs []error
	for _, line := range a {
		if line.unreadable != nil {
			errs = append(errs, line.unreadable)
		}
	}
	return errs
}

// Only returns the signers that are listed under this principal, as ssh-keygen
// finds them with -I: a line's principals are a list of patterns. It is an error
// if there is none.
func (a AllowedSigners) Only(principal string) (AllowedSigners, error) {
	var (
		only   AllowedSigners
		listed []string
	)
	for _, line := range a {
		switch {
		case line.unreadable != nil:
		case matchPatternList(principal, line.principals):
			only = append(only, line)
		default:
			listed = append(listed, line.principals)
		}
	}
	if len(only) == 0 {
		return nil, fmt.Errorf("no line of the allowed signers is for %q; they list %q", principal, slices.Compact(listed))
	}
	return only, nil
}

// AtAnyTime returns the same signers without the limits of valid-after and
// valid-before, for what was verified within them before.
func (a AllowedSigners) AtAnyTime() AllowedSigners {
	without := slices.Clone(a)
	for i := range without {
		without[i].validAfter, without[i].validBefore = time.Time{}, time.Time{}
	}
	return without
}

func parseAllowedSigner(line string) (allowedSigner, error) {
	principals, rest, err := cutPrincipals(line)
	if err != nil {
		return allowedSigner{}, err
	}
	if err := checkPrincipals(principals); err != nil {
		return allowedSigner{}, err
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(rest))
	if err != nil {
		return allowedSigner{}, fmt.Errorf("want principals, options, key type and key; for example: release@example.org ssh-ed25519 AAAA…: %w", err)
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return allowedSigner{}, errors.New("certificates are not supported; list the key that signs")
	}
	if err := checkStrength(key); err != nil {
		return allowedSigner{}, err
	}
	signer := allowedSigner{principals: principals, key: key}
	for _, option := range options {
		if err := signer.set(option); err != nil {
			return allowedSigner{}, err
		}
	}
	if !signer.validAfter.IsZero() && !signer.validBefore.IsZero() && !signer.validBefore.After(signer.validAfter) {
		return allowedSigner{}, errors.New("valid-before is not later than valid-after")
	}
	return signer, nil
}

// cutPrincipals splits off the first field, which may stand in double quotes.
func cutPrincipals(line string) (principals, rest string, err error) {
	if quoted, ok := strings.CutPrefix(line, `"`); ok {
		principals, rest, ok = strings.Cut(quoted, `"`)
		if !ok {
			return "", "", errors.New("the quote around the principals does not end")
		}
		return principals, rest, nil
	}
	end := strings.IndexAny(line, " \t")
	if end < 0 {
		return "", "", errors.New("only one field; want principals, key type and key")
	}
	return line[:end], line[end:], nil
}

// checkPrincipals refuses what ssh-keygen takes for principals that nobody is
// called by: then the key counts for nobody, whatever the rest of the line says.
// An option in their place would be lost, and with it the limit that it sets.
func checkPrincipals(principals string) error {
	name, _, _ := strings.Cut(strings.ToLower(principals), "=")
	if slices.Contains([]string{"cert-authority", "namespaces", "valid-after", "valid-before"}, name) {
		return fmt.Errorf("the line begins with the option %q; principals come first, for example: release@example.org %[1]s ssh-ed25519 AAAA…", principals)
	}
	for pattern := range strings.SplitSeq(principals, ",") {
		if pattern != "" && !strings.HasPrefix(pattern, "!") {
			return nil
		}
	}
	return fmt.Errorf("the principals %q name nobody; give who signs, for example release@example.org", principals)
}

func (s *allowedSigner) set(option string) error {
	name, quoted, _ := strings.Cut(option, "=")
	name = strings.ToLower(name)
	if name == "cert-authority" {
		return errors.New("cert-authority is not supported; list the key that signs instead of the authority")
	}
	if name != "namespaces" && name != "valid-after" && name != "valid-before" {
		return fmt.Errorf("unknown option %q; ssh-keygen(1) has namespaces, valid-after and valid-before", option)
	}
	if len(quoted) < 2 || !strings.HasPrefix(quoted, `"`) || !strings.HasSuffix(quoted, `"`) {
		return fmt.Errorf(`option %q: want the value in double quotes, for example namespaces="runner-images/*@every.channel"`, option)
	}
	value := strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
	switch name {
	case "namespaces":
		if s.namespaces != "" || value == "" {
			return fmt.Errorf("option %q: want it once and not empty", option)
		}
		s.namespaces = value
		return nil
	case "valid-after":
		return setTime(&s.validAfter, option, value)
	default:
		return setTime(&s.validBefore, option, value)
	}
}

func setTime(to *time.Time, option, value string) error {
	if !to.IsZero() {
		return fmt.Errorf("option %q: given twice", option)
	}
	zone, digits := time.Local, value
	for _, suffix := range []string{"Z", "UTC"} {
		if n := len(value) - len(suffix); n > 0 && strings.EqualFold(value[n:], suffix) {
			zone, digits = time.UTC, value[:n]
		}
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(digits) != len(layout) {
			continue
		}
		if parsed, err := time.ParseInLocation(layout, digits, zone); err == nil {
			*to = parsed
			return nil
		}
	}
	return fmt.Errorf("option %q: want YYYYMMDD or YYYYMMDDHHMM[SS], with a Z for UTC", option)
}

// find returns who the key belongs to, if a line allows it for the namespace at
// that time.
func (a AllowedSigners) find(key ssh.PublicKey, namespace string, at time.Time) (Signer, error) {
	fingerprint := ssh.FingerprintSHA256(key)
	why := "the allowed signers do not list this key"
	for _, line := range a {
		if line.unreadable != nil || !bytes.Equal(line.key.Marshal(), key.Marshal()) {
			continue
		}
		switch {
		case line.namespaces != "" && !matchPatternList(namespace, line.namespaces):
			why = fmt.Sprintf("its line allows namespaces=%q only, and the signature's is %q", line.namespaces, namespace)
		case !line.validAfter.IsZero() && at.Before(line.validAfter):
			why = "its line says valid-after " + line.validAfter.Format(time.RFC3339)
		case !line.validBefore.IsZero() && at.After(line.validBefore):
			why = "its line says valid-before " + line.validBefore.Format(time.RFC3339)
		default:
			return Signer{Principals: line.principals, Fingerprint: fingerprint}, nil
		}
	}
	err := fmt.Errorf("%w: made with the key %s, but %s", ErrNotAllowed, fingerprint, why)
	if unreadable := a.Unreadable(); len(unreadable) > 0 {
		err = fmt.Errorf("%w (%w)", err, unreadable[0]) // which may be its line
	}
	return Signer{}, err
}

// matchPatternList reports whether s matches a comma-separated list of patterns,
// with * for any characters, ? for one, and ! before a pattern that rules s out
// whatever the others are (ssh_config(5), PATTERNS).
func matchPatternList(s, list string) bool {
	matched := false
	for pattern := range strings.SplitSeq(list, ",") {
		pattern, negated := strings.CutPrefix(pattern, "!")
		if !matchPattern(s, pattern) {
			continue
		}
		if negated {
			return false
		}
		matched = true
	}
	return matched
}

func matchPattern(s, pattern string) bool {
	expression := regexp.QuoteMeta(pattern)
	expression = strings.ReplaceAll(expression, `\*`, `.*`)
	expression = strings.ReplaceAll(expression, `\?`, `.`)
	// (?s) makes a newline a character like any other.
	matched, err := regexp.MatchString(`(?s)\A`+expression+`\z`, s)
	return err == nil && matched
}
