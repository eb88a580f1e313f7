package forgejo

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"unicode"
)

var (
	markup = regexp.MustCompile(`(?is)<title>(.*?)</title>`)
	blanks = regexp.MustCompile(`\s+`)

	// noTarget is what forges say of a commit that is not there. ("The target couldn't
	// be found." is what Forgejo says of anything else.)
	noTarget = regexp.MustCompile(`(?i)\btarget ".*" not found|object does not exist`)
)

// serverWords finds the part of an answer that is for people: the message of the API's
// JSON, the title of a page such as a proxy sends, or the text as it is; in one
// line, so that it cannot pass for a command of Actions in a log.
func serverWords(contentType string, body []byte, token string) string {
	var message struct {
		Message string   `json:"message"`
		Errors  []string `json:"errors"`
	}
	text := string(body)
	if json.Unmarshal(body, &message) == nil {
		text = strings.Join(append([]string{message.Message}, message.Errors...), " ")
	} else if title := markup.FindStringSubmatch(text); title != nil {
		text = title[1]
	} else if strings.Contains(contentType, "html") {
		text = ""
	}
	if token != "" {
		text = strings.ReplaceAll(text, token, "***")
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, text)
	text = strings.TrimSpace(blanks.ReplaceAllString(text, " "))
	const enough = 300
	if runes := []rune(text); len(runes) > enough {
		text = string(runes[:enough]) + "…"
	}
	return text
}

// advice is what to do about an answer. publishes is true for the request that makes
// a tag.
func advice(refused *refusal, publishes bool) string {
	status, words, fromForge := refused.status, refused.words, refused.fromForge
	lower := strings.ToLower(words)
	has := func(part string) bool { return strings.Contains(lower, part) }
	if has("protected") { // with 422, or with 500
		return "this tag is protected: let the token's user create it (repository settings, Tags), or use another tag"
	}
	if has("is archived") { // with 403, 423, or with 500
		return "take the repository out of the archive"
	}
	switch status {
	case http.StatusUnauthorized:
		return "give a token that this forge knows and that has not expired"
	case http.StatusForbidden:
		return forbiddenAdvice(lower, fromForge, refused.reads)
	case http.StatusNotFound:
		if noTarget.MatchString(words) {
			return "push the commit to this repository, or its tag, before publishing"
		}
		return "it is not there, or the token cannot see it"
	case http.StatusConflict:
		return "another release holds this tag; run again, or look at the releases of this repository"
	case http.StatusRequestEntityTooLarge:
		return tooLargeAdvice(lower, fromForge)
	case http.StatusBadRequest:
		if has("type") || has("extension") {
			return "ask the forge's administrator to add this type to ALLOWED_TYPES in [repository.release]"
		}
	case http.StatusUnprocessableEntity:
		switch {
		case has("empty"):
			return "push a first commit to this repository"
		case has("tag name is not valid"):
			return "use a tag that git allows, for example boot-v2026.02.28"
		case has("type") || has("extension"):
			return "ask the forge's administrator to add this type to ALLOWED_TYPES in [repository.release]"
		}
	}
	if status >= 500 && publishes {
		return "run again later, what has been uploaded is kept; if it stays so, look whether the tag is protected (repository settings, Tags)"
	}
	if status == http.StatusTooManyRequests || status >= 500 {
		return "the forge or a proxy before it is in trouble: run again later, what has been uploaded is kept"
	}
	return ""
}

func forbiddenAdvice(words string, fromForge, reads bool) string {
	switch {
	case strings.Contains(words, "scope") && reads:
		return "make a token with the scope read:repository, or write:repository to publish"
	case strings.Contains(words, "scope"):
		return "make a token with the scope write:repository"
	case !fromForge:
		return "something before the forge, a proxy or a firewall, refuses this request"
	case reads:
		return "the token's user needs permission to read this repository's releases"
	}
	return "the token's user needs permission to write to this repository's releases"
}

func tooLargeAdvice(words string, fromForge bool) string {
	switch {
	case strings.Contains(words, "quota"):
		return "delete old releases or packages, or ask the forge's administrator for a larger quota"
	case fromForge && strings.Contains(words, "limit"):
		return "ask the forge's administrator to raise FILE_MAX_SIZE in [repository.release]"
	case fromForge:
		return "the file is over the forge's size limit or the account's quota"
	}
	return "a proxy before the forge may be the one that limits (nginx: client_max_body_size), " +
		"or the forge's limit or the account's quota is reached"
}

// networkAdvice is what to do about a request that got no answer.
func networkAdvice(err error) string {
	switch {
	case isAny[*tls.CertificateVerificationError](err):
		return "give the certificate of the authority that the forge's certificate is from as ca_file, or add it to the system's certificates"
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the forge speaks plain HTTP at this address: use http:// or another port"
	case errors.Is(err, errRedirects):
		return "check the forge's address"
	case errors.Is(err, errProxyWantsPassword):
		return "give them in the proxy's address (https_proxy=http://user:password@host:port), or name the forge's host in no_proxy"
	case isAny[*proxyError](err):
		return "check the forge's address, and https_proxy and no_proxy in the environment"
	case isAny[*net.OpError](err) || isAny[*net.DNSError](err):
		return "check the forge's address and the network"
	}
	return ""
}

// networkError takes the address out of a request's error: after a redirect it
// can be one that is secret.
func networkError(err error) error {
	var inRequest *url.Error
	if errors.As(err, &inRequest) {
		return inRequest.Err
	}
	return err
}
