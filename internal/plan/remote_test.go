package plan_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"every.channel/runner-images/internal/plan"
)

func TestFromRemote(t *testing.T) {
	t.Parallel()
	aliases := map[string]string{
		"office":             "forge.example",
		"forge.example-work": "forge.example",
		"near":               "192.0.2.7",
		"behind.example":     "192.0.2.7",
		"apart.example":      "ssh.apart.example",
	}
	sshHost := func(name string) string {
		if host, ok := aliases[name]; ok {
			return host
		}
		return name
	}
	for remote, want := range map[string][2]string{
		"https://forge.example/every/channel.git":      {"https://forge.example", "every/channel"},
		"http://127.0.0.1:3000/every/channel":          {"http://127.0.0.1:3000", "every/channel"},
		"https://forge.example:8443/every/channel.git": {"https://forge.example:8443", "every/channel"},
		"https://me:pw@forge.example/every/channel/":   {"https://forge.example", "every/channel"},
		"https://forge.example/every/channel.git/":     {"https://forge.example", "every/channel"},
		"https://forge.example//every//channel.git":    {"https://forge.example", "every/channel"},
		"HTTPS://Forge.Example/Every/Channel.git":      {"https://forge.example", "Every/Channel"},
		"git+https://forge.example/every/channel":      {"https://forge.example", "every/channel"},
		"https://[2001:db8::1]:3000/every/channel.git": {"https://[2001:db8::1]:3000", "every/channel"},
		"https://forge.example/every/channel.wiki.git": {"https://forge.example", "every/channel.wiki"},
		"https://forge.example:443/every/channel.git":  {"https://forge.example", "every/channel"},
		"https://forge.example/every/.git":             {},
		"https://forge.example/channel.git":            {},
		"https://forge.example/":                       {},
		"https://forge.example:x/every/channel":        {},
		"https:///every/channel":                       {},

		// A forge under a path.
		"https://forge.example/git/every/channel.git":   {"https://forge.example/git", "every/channel"},
		"https://forge.example/a/b/every/channel":       {"https://forge.example/a/b", "every/channel"},
		"https://me:pw@forge.example/git/every/channel": {"https://forge.example/git", "every/channel"},

		"ssh://git@forge.example/every/channel.git":     {"https://forge.example", "every/channel"},
		"ssh://git@forge.example:2222/every/channel":    {"https://forge.example", "every/channel"},
		"git+ssh://git@forge.example/every/channel":     {"https://forge.example", "every/channel"},
		"ssh+git://git@forge.example/every/channel":     {"https://forge.example", "every/channel"},
		"ssh://git@[::1]:2222/a/b.git":                  {"https://[::1]", "a/b"},
		"ssh://git@[2001:DB8::1]/a/b.git":               {"https://[2001:db8::1]", "a/b"},
		"git://forge.example/every/channel.git":         {"https://forge.example", "every/channel"},
		"git@forge.example:every/channel.git":           {"https://forge.example", "every/channel"},
		"git@forge.example:/every/channel.git":          {"https://forge.example", "every/channel"},
		"git@forge.example:every/channel.git/":          {"https://forge.example", "every/channel"},
		"git@Forge.Example:Every/Channel.git":           {"https://forge.example", "Every/Channel"},
		"forge.example:every/channel":                   {"https://forge.example", "every/channel"},
		"git@[2001:db8::1]:a/b.git":                     {"https://[2001:db8::1]", "a/b"},
		"[2001:db8::1]:a/b.git":                         {"https://[2001:db8::1]", "a/b"},
		"[git@forge.example:2222]:every/channel.git":    {"https://forge.example", "every/channel"},
		"git@[forge.example:2222]:every/channel.git":    {"https://forge.example", "every/channel"},
		"git@[forge.example]:every/channel.git":         {"https://forge.example", "every/channel"},
		"git@office:every/channel.git":                  {"https://forge.example", "every/channel"},
		"ssh://git@office:22/every/channel.git":         {"https://forge.example", "every/channel"},
		"git@forge.example-work:every/channel.git":      {"https://forge.example", "every/channel"},
		"git@near:every/channel.git":                    {"https://192.0.2.7", "every/channel"},
		"git@behind.example:every/channel.git":          {"https://behind.example", "every/channel"},
		"git@apart.example:every/channel.git":           {"https://apart.example", "every/channel"},
		"https://office/every/channel.git":              {"https://office", "every/channel"},
		"git@forge.example:~me/channel.git":             {},
		"git@forge.example:srv/git/every/channel.git":   {},
		"ssh://git@forge.example/srv/every/channel.git": {},
		"ssh://git@forge.example/channel.git":           {},
		"":                                              {},
		".":                                             {},
		"../channel":                                    {},
		"/srv/git/a:b":                                  {},
		"/srv/[git]:/a/b":                               {},
		"file:///srv/git/every/channel.git":             {},
		"git@[2001:db8::1:a/b.git":                      {},
	} {
		server, repository := plan.FromRemote(remote, sshHost)
		assert.Equal(t, want, [2]string{server, repository}, remote)
	}
}
