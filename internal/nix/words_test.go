package nix

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
)

// The other tests run one Nix; these are words of others.

func TestVersions(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]version{
		"nix (Nix) 2.26.3":                    {2, 26, "2.26.3"},
		"nix (Nix) 2.31.0pre20250801_b3f9ee8": {2, 31, "2.31.0pre20250801_b3f9ee8"},
		"nix (Lix, like Nix) 2.91.1":          {2, 91, "2.91.1"},
		"nix (Determinate Nix 3.6.2) 2.29.0":  {2, 29, "2.29.0"},
		"nix (Nix) 3.0.0":                     {3, 0, "3.0.0"},
	} {
		got, err := parseVersion(line)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
	_, err := parseVersion("nix (Nix) 2.3.16")
	require.ErrorIs(t, err, ErrTooOld)
	require.EqualError(t, err, "this Nix is too old: it is version 2.3.16, and images need 2.8 or newer for their flakes")
	_, err = parseVersion("nix-2.26")
	require.Error(t, err)
}

func TestReasons(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text, reason string
		kind         FailureKind
	}{
		{ // 2.8 and 2.26
			"builder for '/nix/store/4fh5vs78nhr8yc49gydrbrs7r6j1im6g-initrd.drv' failed with exit code 1",
			"the builder ended with exit code 1", BuilderFailed,
		},
		{ // 2.34
			"Cannot build '/nix/store/k0rc7641asgv3knw2dw29gg6zdqy9arc-initrd.drv'.\nReason: builder failed with exit code 1.\nOutput paths:\n  /nix/store/z3ac428r5xh6fybrjy3dpy9sa2swk8hc-initrd",
			"the builder ended with exit code 1", BuilderFailed,
		},
		{
			"builder for '/nix/store/4fh5vs78nhr8yc49gydrbrs7r6j1im6g-initrd.drv' failed due to signal 9 (Killed)",
			"the builder was ended by signal 9 (Killed)", BuilderFailed,
		},
		{
			"builder for '/nix/store/mx8sjsclpa7j61dpnlk6c6s1v0b19gk9-g.drv' failed to produce output path for output 'out' at '/nix/store/aachwwdzqyzxiaarg3gqym99gdiaw7sw-g'",
			`the builder ended well, but did not make its output "out"`, BuilderFailed,
		},
		{
			"a 'aarch64-linux' with features {} is required to build '/nix/store/brd4pw7mbxfbc4gpizr7593zi189slaf-b.drv', but I am a 'x86_64-linux' with features {benchmark, kvm}",
			"it must be built on aarch64-linux, and this machine is x86_64-linux", WrongMachine,
		},
		{
			"a 'x86_64-linux' with features {kvm} is required to build '/nix/store/brd4pw7mbxfbc4gpizr7593zi189slaf-b.drv', but I am a 'x86_64-linux' with features {benchmark}",
			"it needs a builder with the system features {kvm}, and this machine has {benchmark}", WrongMachine,
		},
		{ // 2.34
			"Cannot build '/nix/store/hbi61qmjlskdncvjwg6fd85gng52gc1f-b.drv'.\nReason: platform mismatch\nRequired system: 'aarch64-linux'\nCurrent system: 'x86_64-linux'",
			"it must be built on aarch64-linux, and this machine is x86_64-linux", WrongMachine,
		},
		{ // 2.34
			"Cannot build '/nix/store/mrvsqvfp85lha14vnl2cwq6bjnmgs3i3-c.drv'.\nReason: missing system features\nRequired features: {kvm}\nAvailable features: {benchmark}",
			"it needs a builder with the system features {kvm}, and this machine has {benchmark}", WrongMachine,
		},
		{
			"derivation '/nix/store/lykfkm2f4sdz2j4d5b4m7bvimj4mc26y-x.iso.drv' may not be deterministic: output '/nix/store/78jakq4dzgjhwbj3hfas52snb95lc8xx-x.iso' differs",
			"other bytes in /nix/store/78jakq4dzgjhwbj3hfas52snb95lc8xx-x.iso", NotReproducible,
		},
		{"timed out after 60 seconds of silence", "the builder was ended after 60 seconds of silence, which is the limit", BuilderFailed},
		{
			"Cannot build '/nix/store/hbi61qmjlskdncvjwg6fd85gng52gc1f-b.drv'.\nReason: something new.\nOutput paths:\n  /nix/store/z3ac428r5xh6fybrjy3dpy9sa2swk8hc-b",
			"something new", OtherFailure,
		},
		{"something quite new", "something quite new", OtherFailure},
	}
	for _, test := range tests {
		kind, reason, _ := reword(test.text)
		assert.Equal(t, test.kind, kind, test.text)
		assert.Equal(t, test.reason, reason)
	}
}

func TestConsequencesAreNoReasons(t *testing.T) {
	t.Parallel()
	s := newStream(nil)
	for _, text := range []string{
		"1 dependencies of derivation '/nix/store/5ybhgaaasn4jjcjjxrcnslz8jddwk4va-netboot.drv' failed to build",
		"Cannot build '/nix/store/bd07yb7wslfazkz56d197rikjypklbnl-netboot.drv'.\nReason: 1 dependency failed.\nOutput paths:\n  /nix/store/jcchd97hd7fgakwhih5n4hslnhvcw82b-netboot",
		"build of '/nix/store/bd07yb7wslfazkz56d197rikjypklbnl-netboot.drv^out', '/nix/store/w3vi6vwk7vcfy38iv186ffrmy6skmyyn-x.iso.drv^out' failed",
	} {
		s.errors = append(s.errors, nixError{text: text})
	}
	assert.Empty(t, s.reasons())
	s.errors = append(s.errors, nixError{text: "building of '/nix/store/14y65lyz36lazp2g0hl0qlp5ni9d1cl9-i.drv!out' from .drv file timed out after 1 seconds"})
	require.Len(t, s.reasons(), 1)
	assert.Equal(t, "/nix/store/14y65lyz36lazp2g0hl0qlp5ni9d1cl9-i.drv", s.reasons()[0].derivation)
}

func TestEvaluationOnAFullDisk(t *testing.T) {
	t.Parallel()
	s := newStream(nil)
	_, err := s.Write([]byte(`@nix {"action":"msg","column":null,"file":null,"level":0,"line":null,"msg":"\u001b[31;1merror:\u001b[0m setting journal mode: database or disk is full","raw_msg":"setting journal mode: database or disk is full"}` + "\n"))
	require.NoError(t, err)
	problem := s.problem(Request{Images: []artifact.Image{{Name: "image", Installable: ".#x"}}}, nil)
	assert.Equal(t, "setting journal mode: database or disk is full; "+fullDisk, problem.Reason)
}

func TestPathInfoOfOldNix(t *testing.T) {
	t.Parallel()
	known, err := readPathInfo([]byte(`[{"path":"/nix/store/ayl4dbia5hwymlyyz4ax0x0f1sid6iaa-netboot","valid":false},` +
		`{"path":"/nix/store/dlrqgwzl90mpysma9c5dcxgx0qwf2097-netboot","narHash":"sha256-BXZKjfpSjp+JZl7qz7L6TKMRbhQXxDc07feDqOjvYPk=","narSize":1768,"ultimate":true}]`))
	require.NoError(t, err)
	assert.Empty(t, known["/nix/store/ayl4dbia5hwymlyyz4ax0x0f1sid6iaa-netboot"].NARHash)
	assert.Equal(t, int64(1768), known["/nix/store/dlrqgwzl90mpysma9c5dcxgx0qwf2097-netboot"].NARSize)
	_, err = readPathInfo([]byte("warning"))
	require.Error(t, err)
}

func TestLockAddresses(t *testing.T) {
	t.Parallel()
	for want, l := range map[string]lock{
		"github:NixOS/nixpkgs/b18a4b9":                      {Type: "github", Owner: "NixOS", Repository: "nixpkgs", Revision: "b18a4b9"},
		"gitlab:a/b/c?host=gitlab.example":                  {Type: "gitlab", Owner: "a", Repository: "b", Revision: "c", Host: "gitlab.example"},
		"git+https://github.com/NixOS/nixpkgs?rev=b18a4b9":  {Type: "git", URL: "https://github.com/NixOS/nixpkgs", Revision: "b18a4b9"},
		"git+https://forge.example/a?shallow=1&dir=x&rev=b": {Type: "git", URL: "https://forge.example/a?shallow=1", Revision: "b", Folder: "x"},
		"path:/srv/images":                                  {Type: "path", Path: "/srv/images"},
		"https://channels.example/nixexprs.tar.xz":          {Type: "tarball", URL: "https://channels.example/nixexprs.tar.xz"},
	} {
		assert.Equal(t, want, l.address())
	}
}

func TestPlainText(t *testing.T) {
	t.Parallel()
	assert.Equal(t, "error: no", plain("\x1b[31;1merror:\x1b[0m no\r\n"))
	assert.Equal(t, "100%", plain("  1%\r 50%\r100%"))
	assert.Equal(t, "linux-6.12", Name("/nix/store/4fh5vs78nhr8yc49gydrbrs7r6j1im6g-linux-6.12.drv"))
	assert.Equal(t, "/elsewhere/a-b", Name("/elsewhere/a-b"))
}

// What git, ssh and a server say is part of the error, whichever of them knows the cause.
func TestWordsOfGit(t *testing.T) {
	t.Parallel()
	const failed = `@nix {"action":"msg","level":0,"msg":"error: program 'git' failed with exit code 128","raw_msg":"program 'git' failed with exit code 128"}` + "\n"
	const fetching = `@nix {"action":"msg","level":0,"msg":"error: while fetching the input 'git+ssh://git@forge.example/x'\nprogram 'git' failed with exit code 128","raw_msg":"program 'git' failed with exit code 128"}` + "\n"
	for said, want := range map[string]string{
		"fatal: detected dubious ownership in repository at '/srv/x'\nTo add an exception for this directory, call:\n\n\tgit config --global --add safe.directory /srv/x\n" + failed: "program 'git' failed with exit code 128; git says: detected dubious ownership in repository at '/srv/x'\n" +
			"To add an exception for this directory, call:\n\tgit config --global --add safe.directory /srv/x",
		"git@forge.example: Permission denied (publickey).\nfatal: Could not read from remote repository.\n\nPlease make sure you have the correct access rights\nand the repository exists.\n" + fetching: `the flake "." or one of its inputs cannot be fetched: git@forge.example: Permission denied (publickey).` + "\n" +
			"Please make sure you have the correct access rights\nand the repository exists.",
		"fatal: unable to access 'http://127.0.0.1:1/': Connection refused\nfatal: Refusing to point HEAD outside of refs/\n" + fetching: `the flake "." or one of its inputs cannot be fetched: unable to access 'http://127.0.0.1:1/': Connection refused`,
	} {
		s := newStream(nil)
		_, err := s.Write([]byte(said))
		require.NoError(t, err)
		problem := s.problem(Request{Images: []artifact.Image{{Name: "image", Installable: ".#x"}}}, nil)
		assert.Equal(t, want, strings.ReplaceAll(problem.Reason, "\n\n", "\n"))
	}
	for said, want := range map[string]string{
		"warning: Git tree is dirty\nfatal: detected dubious ownership in repository at '/srv/x'\nerror: program 'git' failed": "fatal: detected dubious ownership in repository at '/srv/x'\nerror: program 'git' failed",
		"warning: an option\nerror: no such path":                                  "no such path",
		"git@forge.example: Permission denied (publickey).\nfatal: Could not read": "git@forge.example: Permission denied (publickey).\nfatal: Could not read",
		"nothing of that kind": "nothing of that kind",
	} {
		assert.Equal(t, want, errorText(said))
	}
}
