// Package redact takes out of text and addresses, before they are shown, logged or
// recorded, what may be secret, and what would act on a terminal or a log. It is the
// only place that decides what that is.
package redact

import (
	"net/url"
	"regexp"
	"strings"
)

// hidden stands for what was taken out.
const hidden = "***"

// URL returns an address as it may be shown: its scheme, host and path. A user, a
// query or a fragment may be or have a secret.
func URL(address *url.URL) string {
	shown := url.URL{Scheme: address.Scheme, Opaque: address.Opaque, Host: address.Host, Path: address.Path}
	if strings.Contains(shown.Opaque, "@") {
		return hidden
	}
	return shown.String()
}

// Address is URL for an address that was not parsed yet. What cannot be parsed is
// hidden, and so is what has a user before a host without a scheme.
func Address(address string) string {
	parsed, err := url.Parse(address)
	if err != nil || !strings.Contains(address, "://") && strings.Contains(address, "@") {
		return hidden
	}
	return URL(parsed)
}

// Text returns a text as it may be shown: with *** in the place of the users,
// passwords and secret parameters of the addresses in it, and of all of a text
// that gives access tokens. The user of an address that is not of the web stays if
// it has no password, since ssh://git@ needs it.
func Text(text string) string {
	if strings.Contains(strings.ToLower(text), "access-token") {
		return hidden
	}
	text = userWithoutScheme.ReplaceAllString(withoutUsers(text), "${1}"+hidden+"@")
	return secretParameter.ReplaceAllString(text, "${1}"+hidden)
}

// secretNames are in the names of an address's parameters that have secrets:
// https://cache.example?secret-key=…, …?access_token=…, …?X-Amz-Signature=….
const secretNames = `token|secret|passw|credential|sig|key`

var secretParameter = regexp.MustCompile(`(?i)([?&][^=&\s#]*(?:` + secretNames + `)[^=&\s#]*=)[^&\s#]+`)

// userWithoutScheme is a user with a password before a host, in an address as scp takes it
// or one whose "://" is not whole. The password may have "@" in it.
var userWithoutScheme = regexp.MustCompile(`(^|[\s/"'])[^\s/:@"'?#&=]*:[^\s/"']+@`)

// anyUser is what an address may have before its host, up to the last "@": it is
// also found in an address that cannot be parsed.
var anyUser = regexp.MustCompile(`://.*@`)

func withoutUsers(text string) string {
	if !strings.Contains(text, "://") {
		return text
	}
	certain := true
	redacted := word.ReplaceAllStringFunc(text, func(word string) string {
		shown, ok := withoutUser(word)
		certain = certain && ok
		return shown
	})
	if certain {
		return redacted
	}
	return anyUser.ReplaceAllLiteralString(text, "://"+hidden+"@")
}

var word = regexp.MustCompile(`\S+`)

// withoutUser takes the user out of an address. It reports whether it is certain
// where that ends: a password may have spaces, slashes and "@" in it.
func withoutUser(word string) (shown string, certain bool) {
	scheme, rest, isAddress := strings.Cut(word, "://")
	if !isAddress {
		return word, !strings.Contains(word, "@")
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority, after := rest[:end], rest[end:]
	path, _, _ := strings.Cut(after, "?")
	if strings.Contains(path, "@") || strings.Contains(authority, ":") && !strings.Contains(authority, "@") && strings.Contains(after, "@") {
		return word, false
	}
	at := strings.LastIndex(authority, "@")
	lower := strings.ToLower(scheme)
	web := strings.HasSuffix(lower, "http") || strings.HasSuffix(lower, "https")
	if at < 0 || !web && !strings.Contains(authority[:at], ":") {
		return word, true
	}
	return scheme + "://" + hidden + authority[at:] + after, true
}
