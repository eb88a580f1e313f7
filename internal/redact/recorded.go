package redact

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Recorded returns an address, a flake or an installable as it may be recorded for
// everybody and for ever: with what is known to be harmless, and without the rest. Of
// a user only that of ssh://git@ stays, of the parameters those that say what is meant
// and not who may have it. What cannot be read as an address is ***.
func Recorded(address string) string {
	address = strings.ReplaceAll(Text(address), "://"+hidden+"@", "://")
	if strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return hidden
	}
	before, fragment, hasFragment := strings.Cut(address, "#")
	parsed, err := url.Parse(before)
	if err != nil {
		return hidden
	}
	if parsed.User != nil {
		parsed.User = harmlessUser(parsed)
	}
	place, _, hasQuery := strings.Cut(before, "?")
	if _, rest, ok := strings.Cut(place, "://"); ok {
		if at := strings.LastIndex(rest, "@"); at >= 0 {
			rest = rest[at+1:]
			if parsed.User != nil {
				rest = parsed.User.String() + "@" + rest
			}
		}
		place = strings.ToLower(parsed.Scheme) + "://" + rest
	} else if strings.Contains(place, "@") {
		return hidden // the user of an address as scp takes it
	}
	if hasQuery {
		place += harmlessParameters(parsed.RawQuery)
	}
	if hasFragment && attribute.MatchString(fragment) {
		place += "#" + fragment
	}
	return place
}

// harmlessUser returns the user that addresses of git's servers have in common.
func harmlessUser(address *url.URL) *url.Userinfo {
	_, hasPassword := address.User.Password()
	ssh := strings.HasSuffix(strings.ToLower(address.Scheme), "ssh")
	if ssh && !hasPassword && address.User.Username() == "git" {
		return address.User
	}
	return nil
}

// attribute is what stands after the # of an installable.
var attribute = regexp.MustCompile(`^[\pL\pN_.+":^,*'/=-]*$`)

// parameters are those of flakes (nix3-flake(1)) and of S3 stores (nix3-help-stores)
// that say which source or store is meant.
var parameters = []string{
	"allRefs", "dir", "host", "lastModified", "lfs", "narHash", "ref", "rev", "revCount", "shallow", "submodules",
	"compression", "region", "scheme",
}

var parameterValue = regexp.MustCompile(`^[\pL\pN_.+/%:=-]*$`)

func harmlessParameters(query string) string {
	var kept []string
	for parameter := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(parameter, "=")
		if slices.Contains(parameters, name) && parameterValue.MatchString(value) {
			kept = append(kept, parameter)
		}
	}
	if len(kept) == 0 {
		return ""
	}
	return "?" + strings.Join(kept, "&")
}

// RecordedWords is Recorded for each word of a text, such as the lines of a list of
// installables. The white space between them stays.
func RecordedWords(text string) string { return word.ReplaceAllStringFunc(text, Recorded) }

// switches are options of Nix that stand alone, and options those with one value that
// cannot be a secret.
var (
	switches = []string{
		"--accept-flake-config", "--fallback", "--impure", "--keep-failed", "--keep-going", "--no-sandbox", "--no-use-registries",
		"--no-write-lock-file", "--offline", "--print-build-logs", "--quiet", "--rebuild", "--refresh", "--repair", "--show-trace", "--verbose",
		"-L", "-k", "-v",
	}
	options = []string{
		"--cores", "--eval-system", "--extra-experimental-features", "--max-jobs", "--max-silent-time", "--system", "--timeout", "-j",
	}
	// settings are those of nix.conf(5), as --option and options of their own have them.
	settings = []string{
		"auto-optimise-store", "builders-use-substitutes", "cores", "experimental-features", "extra-experimental-features", "extra-platforms",
		"extra-system-features", "fallback", "keep-going", "max-jobs", "max-silent-time", "sandbox", "sandbox-fallback", "substitute", "system",
		"system-features", "timeout",
	}
)

var optionValue = regexp.MustCompile(`^[\pL\pN_. -]*$`)

// RecordedArguments returns arguments of nix as they may be recorded: options that are
// known to have no secret, and *** for each word of the others. How the words were
// quoted is lost. Words must be separated by white space.
func RecordedArguments(text string) string {
	words := strings.Fields(strings.NewReplacer(`"`, "", "'", "").Replace(text))
	var kept []string
	for len(words) > 0 {
		take := 1
		switch {
		case slices.Contains(switches, words[0]):
		case len(words) > 1 && slices.Contains(options, words[0]) && optionValue.MatchString(words[1]):
			take = 2
		case len(words) > 2 && words[0] == "--option" && slices.Contains(settings, words[1]) && optionValue.MatchString(words[2]):
			take = 3
		case len(words) > 2 && words[0] == "--override-input" && attribute.MatchString(words[1]):
			kept = append(kept, words[0], words[1], Recorded(words[2]))
			words = words[3:]
			continue
		default:
			kept = append(kept, hidden)
			words = words[1:]
			continue
		}
		kept = append(kept, words[:take]...)
		words = words[take:]
	}
	return strings.Join(kept, " ")
}
