package plan_test

import (
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/plan"
)

const sha = "0123456789abcdef0123456789abcdef01234567"

var push = plan.Context{
	Ref:        "refs/tags/boot-v2026.02.28",
	SHA:        sha,
	ServerURL:  "https://forge.example",
	Repository: "every/channel",
}

func branch() plan.Context {
	c := push
	c.Ref = "refs/heads/main"
	return c
}

func TestTagPushTakesAllDefaults(t *testing.T) {
	// What a push passes for the inputs of a dispatch.
	given := map[string]string{
		plan.ReleaseTag: "", plan.PublishRelease: "", plan.BuildX8664Netboot: "", plan.BuildX8664ISO: "",
	}
	p, err := plan.Make(given, push)
	require.NoError(t, err)
	assert.Equal(t, plan.Plan{
		ReleaseTag: "boot-v2026.02.28",
		Publish:    true,
		Flake:      ".",
		Images: []artifact.Image{
			{Name: "ec-runner-x86_64-netboot", Installable: ".#nixosConfigurations.ec-runner-x86_64-netboot.config.system.build.netboot"},
			{Name: "ec-runner-x86_64-iso", Installable: ".#nixosConfigurations.ec-runner-x86_64-iso.config.system.build.isoImage"},
		},
		NixArgs:       []string{},
		OutputDir:     "dist",
		ForgeURL:      "https://forge.example",
		Repository:    "every/channel",
		Commit:        sha,
		VerifyUploads: "size",
	}, p)
}

func TestJSON(t *testing.T) {
	p, err := plan.Make(map[string]string{plan.BuildX8664ISO: "false"}, push)
	require.NoError(t, err)
	got, err := json.Marshal(p)
	require.NoError(t, err)
	assert.JSONEq(t, `{
		"skipped": false, "reason": "", "release_tag": "boot-v2026.02.28", "publish": true, "flake": ".",
		"images": [{
			"name": "ec-runner-x86_64-netboot",
			"installable": ".#nixosConfigurations.ec-runner-x86_64-netboot.config.system.build.netboot"
		}]
	}`, string(got))
}

func TestReleaseTag(t *testing.T) {
	for name, test := range map[string]struct {
		given   string
		context plan.Context
		want    string
	}{
		"given":                     {"boot-v1", push, "boot-v1"},
		"given with space around":   {" boot-v1\n", push, "boot-v1"},
		"given with a folder":       {"images/boot-v1", push, "images/boot-v1"},
		"pushed boot tag":           {"", push, "boot-v2026.02.28"},
		"branch":                    {"", branch(), "boot-0123456"},
		"another tag":               {"", plan.Context{Ref: "refs/tags/v1.0", SHA: sha}, "boot-0123456"},
		"branch that looks like it": {"", plan.Context{Ref: "refs/heads/boot-v1", SHA: sha}, "boot-0123456"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := plan.Make(map[string]string{plan.ReleaseTag: test.given, plan.PublishRelease: "false"}, test.context)
			require.NoError(t, err)
			assert.Equal(t, test.want, p.ReleaseTag)
		})
	}
}

// TestTagsAsGitAllows holds the rules against the real git's.
func TestTagsAsGitAllows(t *testing.T) {
	for _, tag := range []string{
		"boot-v1", "boot-v2026.02.28", "a/b", "ä", "@", "a@b", "boot{1}", "boot-v1;x", "x.lockx", "a'b", `a"b`, "boot-v1+2",
		"boot v1", "boot\tv1", "boot\x7f", "boot~1", "boot^1", "boot:1", "boot?", "boot*", "boot[1", `boot\1`,
		"a..b", "a@{b", "a//b", "/a", "a/", "a.", ".a", "a/.b", "a.lock", "a.lock/b", "a/b.lock", "..",
	} {
		allowed := exec.CommandContext(t.Context(), "git", "check-ref-format", "refs/tags/"+tag).Run() == nil
		_, err := plan.Make(map[string]string{plan.ReleaseTag: tag}, push)
		assert.Equal(t, allowed, err == nil, "tag %q: %v", tag, err)
	}
	// git-tag(1) refuses these on its command line.
	for _, tag := range []string{"-a", "HEAD"} {
		_, err := plan.Make(map[string]string{plan.ReleaseTag: tag}, push)
		assert.ErrorContains(t, err, "git does not allow", "tag %q", tag)
	}
}

func TestImageChoice(t *testing.T) {
	p, err := plan.Make(map[string]string{
		plan.BuildX8664Netboot: "False", plan.BuildX8664ISO: "FALSE",
		plan.BuildAarch64Netboot: "true", plan.BuildAarch64SDImage: "True", plan.Flake: "git+https://forge.example/a/b",
	}, push)
	require.NoError(t, err)
	assert.Equal(t, []artifact.Image{
		{Name: "ec-runner-aarch64-netboot", Installable: "git+https://forge.example/a/b#nixosConfigurations.ec-runner-aarch64-netboot.config.system.build.netboot"},
		{Name: "ec-runner-aarch64-sdimage", Installable: "git+https://forge.example/a/b#nixosConfigurations.ec-runner-aarch64-sdimage.config.system.build.sdImage"},
	}, p.Images)
}

func TestImageLines(t *testing.T) {
	p, err := plan.Make(map[string]string{
		plan.Flake: "./images",
		plan.Images: `
			# two of ours, one from elsewhere, one built already
			kiosk      nixosConfigurations.kiosk.config.system.build.isoImage
			kiosk-pxe	#nixosConfigurations.kiosk.config.system.build.netboot
			other.iso  github:owner/repository#iso
			done       /nix/store/00000000000000000000000000000000-iso
			near       ./result
		`,
	}, push)
	require.NoError(t, err)
	assert.Equal(t, []artifact.Image{
		{Name: "kiosk", Installable: "./images#nixosConfigurations.kiosk.config.system.build.isoImage"},
		{Name: "kiosk-pxe", Installable: "./images#nixosConfigurations.kiosk.config.system.build.netboot"},
		{Name: "other.iso", Installable: "github:owner/repository#iso"},
		{Name: "done", Installable: "/nix/store/00000000000000000000000000000000-iso"},
		{Name: "near", Installable: "./result"},
	}, p.Images)
}

func TestNixArgsAreSplitAsAShellWould(t *testing.T) {
	p, err := plan.Make(map[string]string{plan.NixArgs: `--builders 'ssh://arm aarch64-linux' --option x "a b" --cores 2`}, push)
	require.NoError(t, err)
	assert.Equal(t, []string{"--builders", "ssh://arm aarch64-linux", "--option", "x", "a b", "--cores", "2"}, p.NixArgs)

	for given, want := range map[string]string{
		"--option x $HOME": `nix_args "--option x $HOME": a shell would replace $HOME, which is not done here; put it in single quotes if it is meant literally`,
		"--option x;y":     "nix_args \"--option x;y\": `;` is not a valid word; put it in quotes if it belongs to an argument",
	} {
		_, err := plan.Make(map[string]string{plan.NixArgs: given}, push)
		require.EqualError(t, err, want)
	}
}

func TestMirror(t *testing.T) {
	for serverURL, skipped := range map[string]bool{
		"https://codeberg.org":           true,
		"https://codeberg.org/":          true,
		"https://CodeBerg.org:443":       true,
		"http://codeberg.org:3000/":      true,
		"https://codeberg.org./":         true,
		"https://forge.example":          false,
		"https://notcodeberg.org":        false,
		"https://codeberg.org.example":   false,
		"https://example/codeberg.org":   false,
		"https://pages.codeberg.org":     false,
		"":                               false,
		"https://[::1]:3000":             false,
		"https://user:pw@codeberg.org/x": true,
	} {
		c := push
		c.ServerURL = serverURL
		p, err := plan.Make(map[string]string{plan.ForgeURL: "https://elsewhere.example", plan.ReleaseTag: "boot-v1"}, c)
		require.NoError(t, err, serverURL)
		assert.Equal(t, skipped, p.Skipped, serverURL)
		if skipped {
			assert.Equal(t, "codeberg.org only mirrors this repository (mirror_hosts): nothing is built or published there", p.Reason)
			assert.Empty(t, p.Images)
			assert.False(t, p.Publish)
		}
	}
}

func TestMirrorHosts(t *testing.T) {
	c := push
	for hosts, skipped := range map[string]bool{
		"forge.example":                          true,
		"codeberg.org, Forge.Example":            true,
		"codeberg.org\nhttps://forge.example:8/": true,
		"none":                                   false,
	} {
		p, err := plan.Make(map[string]string{plan.MirrorHosts: hosts}, c)
		require.NoError(t, err)
		assert.Equal(t, skipped, p.Skipped, hosts)
	}
}

func TestAMirrorStaysGreenWhateverTheInputs(t *testing.T) {
	c := push
	c.ServerURL = "https://codeberg.org"
	p, err := plan.Make(map[string]string{plan.PublishRelease: "perhaps"}, c)
	require.NoError(t, err)
	assert.True(t, p.Skipped)
}

func TestNixArgsThatBuildNothingHere(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"--store ssh-ng://me:secret@builder": `nix_args "--store": what is built must be in this machine's own store to be packaged; to build on another one, use --builders`,
		"-L --dry-run":                       `nix_args "--dry-run": builds nothing that could be packaged; runner-images plan tells what a run would do`,
	} {
		_, err := plan.Make(map[string]string{plan.NixArgs: given}, push)
		require.EqualError(t, err, want)
	}
}

func TestAllWrongInputsInOneGo(t *testing.T) {
	_, err := plan.Make(map[string]string{
		plan.ReleaseTag:     "boot v1",
		plan.PublishRelease: "yes",
		plan.Flake:          ".#netboot",
		plan.Images:         "kiosk\nthe:iso .#a\nx .#a\nx .#b\ny --impure",
		plan.NixArgs:        "--option 'a",
		plan.ForgeURL:       "ftp://forge.example",
		plan.Repository:     "channel",
		plan.VerifyUploads:  "md5",
	}, branch())
	var errs plan.InputErrors
	require.ErrorAs(t, err, &errs)
	assert.Equal(t, strings.Join([]string{
		`release_tag "boot v1": git does not allow spaces in a tag; use for example boot-v2026.02.28`,
		`publish_release "yes": takes true or false`,
		`verify_uploads "md5": takes size or sha256`,
		`forge_url "ftp://forge.example": takes an http, https or file address, for example https://forge.example`,
		`repository "channel": takes owner/name`,
		`flake ".#netboot": takes a flake without an attribute, for example "."; attributes go into images`,
		`nix_args "--option 'a": it ends within a quote or an expansion (` + "reached EOF without closing quote `'`" + `); close every quote`,
		`images "kiosk": a line is an image's name and its installable, for example my-iso .#nixosConfigurations.my-iso.config.system.build.isoImage`,
		`images "the:iso .#a": the name "the:iso" begins a file's name: use letters, digits and . _ + -`,
		`images "x .#b": the name "x" is already taken by another line`,
		`images "y --impure": an installable does not begin with a dash; options go into nix_args`,
	}, "\n"), err.Error())
}

func TestWhatPublishingNeeds(t *testing.T) {
	_, err := plan.Make(nil, plan.Context{})
	assert.EqualError(t, err, `release_tag "": there is no commit to name the release after; give a tag, for example boot-v2026.02.28
forge_url "": there is no forge to publish to; give its address, for example https://forge.example or file:///folder, or set publish_release to false
repository "": there is no repository to publish to; give owner/name`)

	_, err = plan.Make(map[string]string{plan.ReleaseTag: "boot-v1", plan.PublishRelease: "false"}, plan.Context{})
	assert.NoError(t, err)
	_, err = plan.Make(map[string]string{plan.ReleaseTag: "boot-v1", plan.ForgeURL: "file:///srv/releases"}, plan.Context{NeedToken: true})
	assert.NoError(t, err)

	c := push
	c.NeedToken = true
	_, err = plan.Make(nil, c)
	assert.ErrorContains(t, err, `token "": publishing needs a token`)
	_, err = plan.Make(map[string]string{plan.Token: "secret"}, c)
	assert.NoError(t, err)

	_, err = plan.Make(map[string]string{plan.ForgeURL: "https://me:secret@forge.example"}, c)
	assert.ErrorContains(t, err, `forge_url "https://forge.example": an address must not carry a user or a password`)
	assert.NotContains(t, err.Error(), "secret")
	_, err = plan.Make(map[string]string{plan.ForgeURL: "file://releases/x"}, c)
	assert.ErrorContains(t, err, `forge_url "file://releases/x": a folder of releases is given as`)
}

func TestWrongAddresses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ input, value, want string }{
		{plan.ForgeURL, "https://forge.example/?page=1", `forge_url "https://forge.example/?page=1": takes the server's address without ? and #, for example https://forge.example`},
		{plan.ForgeURL, "https://forge.example/#top", `forge_url "https://forge.example/#top": takes the server's address without ? and #, for example https://forge.example`},
		{plan.ForgeURL, "https://forge.example:x", `forge_url "https://forge.example:x": is not an address; use for example https://forge.example`},
		{plan.ForgeURL, "file:///", `forge_url "file:///": a folder of releases is given as file:// and its whole path, for example file:///srv/releases`},
		{plan.ForgeURL, "http://::1:3000", `forge_url "http://::1:3000": is not an address; use for example https://forge.example, or https://[2001:db8::1]:3000 for a host that is an IPv6 address`},
		{plan.ForgeURL, "http://2001:db8::1/", `forge_url "http://2001:db8::1/": is not an address; use for example https://forge.example, or https://[2001:db8::1]:3000 for a host that is an IPv6 address`},
		{plan.ForgeURL, "https://[::1", `forge_url "https://[::1": is not an address; use for example https://forge.example`},
		{plan.ForgeURL, "https://:3000", `forge_url "https://:3000": takes an http, https or file address, for example https://forge.example`},
		{plan.ForgeURL, "https://forge.example:0", `forge_url "https://forge.example:0": has a port that is none; use 1 to 65535, for example https://forge.example:3000`},
		{plan.ForgeURL, "https://forge.example:65536", `forge_url "https://forge.example:65536": has a port that is none; use 1 to 65535, for example https://forge.example:3000`},
		{plan.ForgeURL, "https://forge.example/api/v1", `forge_url "https://forge.example/api/v1": takes the address of the forge's start page, without /api/v1: https://forge.example`},
		{plan.ForgeURL, "https://forge.example/git/api/v1/", `forge_url "https://forge.example/git/api/v1/": takes the address of the forge's start page, without /api/v1: https://forge.example/git`},
		{plan.ForgeURL, "https://forge.example/api/v1/repos/every/channel", `forge_url "https://forge.example/api/v1/repos/every/channel": takes the address of the forge's start page, without /api/v1: https://forge.example`},
		{plan.ForgeURL, "https://forge.example/every/channel", `forge_url "https://forge.example/every/channel": takes the address of the forge's start page, without the repository: https://forge.example`},
		{plan.ForgeURL, "https://forge.example/git/Every/Channel.git/", `forge_url "https://forge.example/git/Every/Channel.git/": takes the address of the forge's start page, without the repository: https://forge.example/git`},
		{plan.ForgeURL, "https://forge.example/other/one.git", `forge_url "https://forge.example/other/one.git": takes the address of the forge's start page; the repository goes into repository as owner/name`},
		{plan.ForgeURL, "https://forge.example/git/API/swagger", `forge_url "https://forge.example/git/API/swagger": takes the address of the forge's start page, without /API/swagger: https://forge.example/git`},
		{plan.ForgeURL, "https://forge.example/user/login", `forge_url "https://forge.example/user/login": takes the address of the forge's start page, without /user/login: https://forge.example`},
		{plan.ForgeURL, "https://forge.example/Every/Channel/releases/tag/boot-v1", `forge_url "https://forge.example/Every/Channel/releases/tag/boot-v1": takes the address of the forge's start page, without the repository: https://forge.example`},
		{plan.ForgeURL, "https://forge.example/git/%2e%2e/", `forge_url "https://forge.example/git/%2e%2e/": has a path with // or dots in place of a name; use for example https://forge.example`},
		{plan.ForgeURL, "https://forge.example/a//b", `forge_url "https://forge.example/a//b": has a path with // or dots in place of a name; use for example https://forge.example`},
		{plan.ForgeURL, "https://forge..example", `forge_url "https://forge..example": has a host that is none; use for example https://forge.example`},
		{plan.ForgeURL, "https://..", `forge_url "https://..": has a host that is none; use for example https://forge.example`},
		{plan.ForgeURL, "https://*.example", `forge_url "https://*.example": has a host that is none; use for example https://forge.example`},
		{plan.ForgeURL, "https://forge.example;x", `forge_url "https://forge.example;x": has a host that is none; use for example https://forge.example`},
		{plan.ForgeURL, "file:///srv/what?", `forge_url "file:///srv/what?": has a ? or #, which end a path in an address; write %3F or %23 for it`},
		{plan.ReleaseTag, "refs/tags/boot-v1", `release_tag "refs/tags/boot-v1": takes the name of a tag alone: boot-v1`},
		{plan.ReleaseTag, "boot-v1\u200b", `release_tag "boot-v1\u200b": it has characters that nobody can see; use for example boot-v2026.02.28`},
		{plan.Repository, "every/channel.GIT/", `repository "every/channel.GIT/": takes owner/name: every/channel`},
		{plan.Repository, "every/channel.git", `repository "every/channel.git": takes owner/name: every/channel`},
		{plan.Repository, "/every/channel/", `repository "/every/channel/": takes owner/name: every/channel`},
		{plan.Repository, "https://forge.example/every/channel", `repository "https://forge.example/every/channel": takes owner/name; the forge's address goes into forge_url`},
		{plan.Repository, "git/every/channel", `repository "git/every/channel": takes owner/name`},
		{plan.Repository, "../..", `repository "../..": takes owner/name`},
		{plan.Repository, "./channel", `repository "./channel": takes owner/name`},
		{plan.Repository, "every/..", `repository "every/..": takes owner/name`},
		{plan.VerifyUploads, "MD5", `verify_uploads "MD5": takes size or sha256`},
		{plan.NixCopyTo, "bucket", `nix_copy_to "bucket": takes the address of a store, for example s3://bucket?region=eu-central-1, ssh-ng://host or file:///srv/cache`},
	} {
		_, err := plan.Make(map[string]string{c.input: c.value}, push)
		assert.EqualError(t, err, c.want)
	}
	for given, want := range map[string]string{
		"https://forge.example/git/":       "https://forge.example/git",
		"https://forge.example:443":        "https://forge.example",
		"http://forge.example:80/git":      "http://forge.example/git",
		"http://forge.example:443":         "http://forge.example:443",
		"https://forge.example:03000":      "https://forge.example:3000",
		"https://forge.example:":           "https://forge.example",
		"https://Forge.Example.":           "https://forge.example",
		"https://[2001:db8::1]:443":        "https://[2001:db8::1]",
		"http://gitea_server:3000":         "http://gitea_server:3000",
		"file:///srv/what%3F":              "file:///srv/what%3F",
		"HTTPS://Forge.Example/Git":        "https://forge.example/Git",
		"https://forge.example/api":        "https://forge.example/api",
		"https://[2001:DB8::1]:3000/":      "https://[2001:db8::1]:3000",
		"https://forge.example/my-channel": "https://forge.example/my-channel",
		"FILE:///srv/Releases/":            "file:///srv/Releases",
		"file:/srv/releases":               "file:/srv/releases",
		"file:///srv/all releases":         "file:///srv/all releases",
	} {
		p, err := plan.Make(map[string]string{plan.Repository: "every.channel/every.channel", plan.ForgeURL: given}, push)
		require.NoError(t, err)
		assert.Equal(t, want, p.ForgeURL)
		reading, repository, err := plan.ForReading(map[string]string{plan.Repository: "every.channel/every.channel", plan.ForgeURL: given})
		require.NoError(t, err)
		assert.Equal(t, []string{want, "every.channel/every.channel"}, []string{reading, repository})
	}
	_, _, err := plan.ForReading(map[string]string{plan.ForgeURL: "https://forge.example/api/v1"})
	assert.ErrorContains(t, err, "without /api/v1")
}

func TestNamesThatAreTooLong(t *testing.T) {
	t.Parallel()
	inputs := map[string]string{plan.Images: "kiosk .#kiosk", plan.ReleaseTag: strings.Repeat("v", 174)}
	_, err := plan.Make(inputs, push)
	require.NoError(t, err)
	inputs[plan.ReleaseTag] += "v"
	_, err = plan.Make(inputs, push)
	assert.ErrorContains(t, err, `v": with the name kiosk before it, it is too long for a file's name; let both have at most 179 bytes`)
}

func TestErrorsKeepPasswordsToThemselves(t *testing.T) {
	t.Parallel()
	for _, given := range []map[string]string{
		{plan.ForgeURL: "https://me:a secret@forge.example"},
		{plan.ForgeURL: "ftp://me:secret@forge.example"},
		{plan.ForgeURL: "me:secret@forge.example"},
		{plan.NixCopyTo: "s3://key:secret@bucket"},
		{plan.NixCopyTo: "https://secret@cache.example"},
		{plan.NixCopyTo: "key:secret@bucket"},
		{plan.Flake: "git+https://me:secret@forge.example/x#netboot"},
		{plan.Images: "the:iso git+https://me:secret@forge.example/x#iso"},
		{plan.NixArgs: "--option access-tokens forge.example=secret 'a"},
		{plan.NixArgs: "--option access-tokens forge.example=a$secret"},
		{plan.NixArgs: "--store https://me:secret@cache.example 'a"},
	} {
		_, err := plan.Make(given, push)
		require.Error(t, err, given)
		assert.NotContains(t, err.Error(), "secret", given)
	}
}

func TestNoImage(t *testing.T) {
	none := map[string]string{plan.BuildX8664Netboot: "false", plan.BuildX8664ISO: "false"}
	_, err := plan.Make(none, push)
	assert.EqualError(t, err, `images "": no image is selected; set one of the build_... inputs to true, or list images`)
	none[plan.Images] = "# nothing"
	_, err = plan.Make(none, push)
	assert.EqualError(t, err, `images "# nothing": no image is selected; set one of the build_... inputs to true, or list images`)
}

// Files are kept for whoever has asked for them: for the folder, or for nothing else.
func TestKeepsFiles(t *testing.T) {
	for _, c := range []struct {
		given map[string]string
		dir   string
		keeps bool
	}{
		{nil, "dist", false},
		{map[string]string{plan.OutputDir: "  "}, "dist", false},
		{map[string]string{plan.OutputDir: "dist"}, "dist", true},
		{map[string]string{plan.OutputDir: "out"}, "out", true},
		{map[string]string{plan.PublishRelease: "false"}, "dist", true},
	} {
		p, err := plan.Make(c.given, push)
		require.NoError(t, err)
		assert.Equal(t, c.dir, p.OutputDir, c.given)
		assert.Equal(t, c.keeps, p.KeepsFiles, c.given)
	}
}

func TestForFiles(t *testing.T) {
	c := push
	c.ServerURL = "https://codeberg.org"
	p, err := plan.ForFiles(map[string]string{plan.BuildX8664ISO: "maybe", plan.Flake: ".#x"}, c)
	require.NoError(t, err, "neither the flake nor a mirror matters")
	assert.Equal(t, plan.Plan{
		ReleaseTag: "boot-v2026.02.28", Publish: true, OutputDir: "dist", Commit: sha,
		ForgeURL: "https://codeberg.org", Repository: "every/channel", VerifyUploads: "size",
	}, p)
	_, err = plan.ForFiles(map[string]string{plan.ReleaseTag: "a b"}, c)
	assert.ErrorContains(t, err, "git does not allow spaces")
	_, err = plan.ForFiles(map[string]string{plan.ReleaseTag: "boot-v1", plan.Repository: "every/channel"}, plan.Context{})
	assert.EqualError(t, err, `forge_url "": there is no forge to publish to; give its address, for example https://forge.example or file:///folder`, "publish has no flag for the alternative")
}

func TestForVerify(t *testing.T) {
	c := push
	c.ServerURL = "https://codeberg.org"
	p, err := plan.ForVerify(map[string]string{plan.BuildX8664ISO: "false", plan.PublishRelease: "true"}, c, true)
	require.NoError(t, err, "a mirror has releases too")
	assert.False(t, p.Skipped)
	assert.False(t, p.Publish)
	assert.Equal(t, "boot-v2026.02.28", p.ReleaseTag)
	assert.Len(t, p.Images, 4, "whichever a run here would build")

	p, err = plan.ForVerify(nil, plan.Context{}, false)
	require.NoError(t, err)
	assert.Empty(t, p.ReleaseTag)
	p, err = plan.ForVerify(map[string]string{plan.ReleaseTag: "boot-v1"}, c, false)
	require.NoError(t, err)
	assert.Equal(t, "boot-v1", p.ReleaseTag)

	_, err = plan.ForVerify(map[string]string{plan.ReleaseTag: "boot-v1", plan.Flake: "x#y"}, plan.Context{}, true)
	assert.ErrorContains(t, err, `forge_url "": there is no forge to compare with`)
	assert.ErrorContains(t, err, `flake "x#y": takes a flake without an attribute`)
}

func TestCommentsInImages(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"x .#a  # comment":           ".#a",
		"x .#a\t# comment # again":   ".#a",
		"x .#a #comment":             ".#a",
		"x .#a#b":                    ".#a#b",
		"x #a":                       ".#a",
		"x #a # comment":             ".#a",
		"x a # .#b":                  ".#a",
		`x .#"a # b"."c"  # "d`:      `.#"a # b"."c"`,
		"# x .#a\n  #x .#b\n x .#c ": ".#c",
	} {
		p, err := plan.Make(map[string]string{plan.Images: line, plan.ReleaseTag: "boot-v1", plan.PublishRelease: "false"}, plan.Context{})
		require.NoError(t, err, line)
		assert.Equal(t, []artifact.Image{{Name: "x", Installable: want}}, p.Images, line)
	}
	for _, line := range []string{"x # comment", "x #", "x ## comment", "x"} {
		_, err := plan.Make(map[string]string{plan.Images: line, plan.ReleaseTag: "boot-v1", plan.PublishRelease: "false"}, plan.Context{})
		require.ErrorContains(t, err, "a line is an image's name and its installable", line)
	}
}

func TestTwoTagsOfACommit(t *testing.T) {
	t.Parallel()
	two := plan.Context{SHA: "89abcdef0123456789abcdef0123456789abcdef", Tags: []string{"boot-v1", "boot-v2"}}
	given := map[string]string{plan.PublishRelease: "false"}
	_, err := plan.Make(given, two)
	require.EqualError(t, err, `release_tag "": this commit has the tags boot-v1 and boot-v2; give the one to release`)
	_, err = plan.ForFiles(given, two)
	require.ErrorContains(t, err, "give the one to release")
	given[plan.ReleaseTag] = "boot-v2"
	p, err := plan.Make(given, two)
	require.NoError(t, err)
	assert.Equal(t, []string{"this commit has the tags boot-v1 and boot-v2; the release is boot-v2"}, p.Notes)
	p, err = plan.Make(given, plan.Context{Tags: []string{"boot-v1"}})
	require.NoError(t, err)
	assert.Empty(t, p.Notes)
}

func TestWordsOfGit(t *testing.T) {
	t.Parallel()
	words := errors.New("git says: no")
	_, err := plan.Make(map[string]string{}, plan.Context{NoCommit: words, NoRemote: errors.New("git says: neither")})
	require.ErrorContains(t, err, "there is no commit to name the release after; give a tag, for example boot-v2026.02.28 (git says: no)")
	require.ErrorContains(t, err, "or set publish_release to false (git says: neither)")
	assert.Equal(t, 1, strings.Count(err.Error(), "neither"), "a cause is said once")
	// A commit whose tags are not known may have one that is its name.
	_, err = plan.Make(map[string]string{plan.PublishRelease: "false"}, plan.Context{SHA: "89abcdef0123456789abcdef0123456789abcdef", NoCommit: words})
	require.ErrorContains(t, err, "(git says: no)")
}

// A rule that only the boot server knows is said before the build.
func TestTagThatIsNeverTheLatest(t *testing.T) {
	t.Parallel()
	given := map[string]string{plan.PublishRelease: "false", plan.ReleaseTag: "v1.0"}
	p, err := plan.Make(given, plan.Context{})
	require.NoError(t, err)
	assert.Equal(t, []string{"boot servers look for the latest release only among tags that begin with boot-; they stage this one with --release-tag v1.0"}, p.Notes)
	given[plan.Images] = "kiosk .#nixosConfigurations.kiosk.config.system.build.isoImage"
	p, err = plan.Make(given, plan.Context{})
	require.NoError(t, err)
	assert.Empty(t, p.Notes)
}
