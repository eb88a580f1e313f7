package action

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// ownVersion is that of the project in these tests.
const ownVersion = "0.0.1-test"

// ownProject copies this project, as one that is about to be released.
func ownProject(t *testing.T) (folder string) {
	t.Helper()
	folder = projectFiles(t)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "cmd/runner-images/VERSION"), []byte(ownVersion+"\n"), 0o644))
	return folder
}

// release runs scripts/release in a folder.
func runRelease(t *testing.T, folder string, environment []string, arguments ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "scripts/release", arguments...)
	command.Dir = folder
	command.Env = append(os.Environ(), environment...)
	out, err := command.CombinedOutput()
	return string(out), err
}

// TestReleaseIsReproducible builds the binary in two folders, the second time from
// nothing: without what Go has built before, and in the environment of somebody who
// builds other things.
func TestReleaseIsReproducible(t *testing.T) {
	t.Parallel()
	var lists []string
	for _, environment := range [][]string{
		nil,
		{"GOCACHE=" + t.TempDir(), "HOME=" + t.TempDir(), "GOFLAGS=-ldflags=-X=main.x=y", "GOAMD64=v3", "GOOS=windows", "CGO_ENABLED=1", "LC_ALL=C", "TZ=Asia/Tokyo"},
	} {
		if environment != nil {
			environment = append(goEnvironment(t), environment...)
		}
		folder := ownProject(t)
		out, err := runRelease(t, folder, environment, "digests", "linux-amd64")
		require.NoError(t, err, out)
		lists = append(lists, string(read(t, filepath.Join(folder, "scripts/release.sha256"))))
	}
	assert.Regexp(t, `^[0-9a-f]{64}  runner-images-0.0.1-test-linux-amd64\n$`, lists[0])
	assert.Equal(t, lists[0], lists[1])
}

// TestListedBinariesAreThisSource fails where code has changed after a release, and
// cmd/runner-images/VERSION has not: the action would run the released binary in its place.
func TestListedBinariesAreThisSource(t *testing.T) {
	t.Parallel()
	assert.True(t, listIsOfTheSource(t, projectFiles(t)), "raise the version in cmd/runner-images/VERSION: the released one has other code")

	folder := ownProject(t)
	assert.True(t, listIsOfTheSource(t, folder), "it has no list")
	out, err := runRelease(t, folder, nil, "digests", "linux-amd64")
	require.NoError(t, err, out)
	assert.True(t, listIsOfTheSource(t, folder))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "cmd/runner-images/changed.go"), []byte("package main\n\nfunc init() { println() }\n"), 0o644))
	assert.False(t, listIsOfTheSource(t, folder))
}

// listIsOfTheSource tells whether the binary that a project lists for its version, if it
// does, is that of its source. It leaves the list of this one binary there.
func listIsOfTheSource(t *testing.T, folder string) bool {
	t.Helper()
	list := filepath.Join(folder, "scripts/release.sha256")
	name := "runner-images-" + strings.TrimSpace(string(read(t, filepath.Join(folder, "cmd/runner-images/VERSION")))) + "-linux-amd64"
	content, err := os.ReadFile(list)
	if os.IsNotExist(err) || err == nil && !strings.Contains(string(content), name) {
		return true
	}
	require.NoError(t, err)
	digest := listedBinaries(t, folder)[name]
	out, err := runRelease(t, folder, nil, "digests", "linux-amd64")
	require.NoError(t, err, out)
	return listedBinaries(t, folder)[name] == digest
}

// TestReleaseOfThisProject runs .forgejo/workflows/release.yml on a real forge as it is,
// but for its container, which the runner of the test does not make, and for the commits
// of public actions, for which there are stand-ins.
func TestReleaseOfThisProject(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.t = t
	s.pushAction("setup-go", "v5")
	folder := ownProject(t)
	path := filepath.Join(folder, ".forgejo/workflows/release.yml")
	text := strings.Replace(string(read(t, path)), "runs-on: docker\n    container:\n      image: node:22-bookworm\n", "runs-on: bare\n", 1)
	require.Contains(t, text, "runs-on: bare")
	text = pinned.ReplaceAllStringFunc(text, func(used string) string {
		name := pinned.FindStringSubmatch(used)[1]
		require.NotEmpty(t, s.actions[name], name)
		return "uses: actions/" + name + "@" + s.actions[name] + " # v"
	})
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	out, err := runRelease(t, folder, nil, "digests")
	require.NoError(t, err, out)

	s.repository = s.CreateRepository(t, "runner-images", false)
	key := filepath.Join(t.TempDir(), "key")
	sh(t, "", "ssh-keygen -q -t ed25519 -N '' -C '' -f "+key)
	secret := map[string]string{"data": string(read(t, key))}
	require.Equal(t, http.StatusCreated, s.API(t, http.MethodPut, "/repos/"+s.repository+"/actions/secrets/SIGNING_KEY", secret, nil))
	s.Push(t, s.repository, folder)
	before := len(s.tasks())
	s.Push(t, s.repository, folder, "v"+ownVersion)
	require.Equal(t, "success", s.run(before))

	release := s.release("v" + ownVersion)
	assert.False(t, release.Draft)
	assert.True(t, release.Prerelease, "its version has a hyphen")
	downloaded := s.download(release)
	sh(t, downloaded, `echo "release@every.channel $(cat `+key+`.pub)" > allowed_signers
		ssh-keygen -Y verify -f allowed_signers -I release@every.channel -n runner-images/v`+ownVersion+`@every.channel -s SHA256SUMS.txt.sig < SHA256SUMS.txt
		sha256sum --check --strict SHA256SUMS.txt`)
	assert.NotContains(t, s.log(), "PRIVATE KEY")
	checkReleased(t, downloaded, strings.Fields(sh(t, downloaded, "awk '{ print $2 }' SHA256SUMS.txt")), listedBinaries(t, folder))
	assert.Equal(t, "runner-images "+ownVersion+"\n", sh(t, downloaded, "runner-images-"+ownVersion+"-linux-amd64/runner-images version"))
	checkARM64(t, downloaded)

	// A repository that uses the action by this tag builds nothing to start it.
	action := s.URL + "/" + s.repository + "@v" + ownVersion
	s.repository = s.CreateRepository(t, "kiosk", false)
	images := t.TempDir()
	require.NoError(t, os.CopyFS(images, os.DirFS(filepath.Join(lab.Root(t), "testdata/flake"))))
	require.NoError(t, os.MkdirAll(filepath.Join(images, ".forgejo/workflows"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(images, ".forgejo/workflows/images.yml"), []byte(`
on:
  push:
    branches: [main]
jobs:
  images:
    runs-on: bare
    steps:
      - uses: actions/checkout@v4
      - uses: `+action+`
        with:
          release_tag: images
`), 0o644))
	s.Push(t, s.repository, images)
	require.Equal(t, "success", s.run(0))
	log := s.log()
	assert.Contains(t, log, "runner-images: version "+ownVersion+" is ")
	assert.NotContains(t, log, "building version")
	assert.NotContains(t, log, "not taking")

	testForgotten(t, folder, downloaded)
}

// listedBinaries returns the digests in the file that pins a release, by the names of
// the binaries.
func listedBinaries(t *testing.T, folder string) map[string]string {
	t.Helper()
	digests := map[string]string{}
	for line := range strings.Lines(string(read(t, filepath.Join(folder, "scripts/release.sha256")))) {
		fields := strings.Fields(line)
		require.Len(t, fields, 2)
		digests[fields[1]] = fields[0]
	}
	return digests
}

// checkReleased checks that what was downloaded, of which the names in signed are vouched
// for, has the binaries of the tagged commit's list, and what comes with them.
func checkReleased(t *testing.T, downloaded string, signed []string, binaries map[string]string) {
	t.Helper()
	want := []string{"snapshot.intoto.jsonl"}
	for _, target := range []string{"linux-amd64", "linux-arm64", "darwin-arm64", "darwin-amd64"} {
		name := "runner-images-" + ownVersion + "-" + target
		want = append(want, name+".tar.gz", name+".cdx.json")
		require.Contains(t, binaries, name)
		checkTarball(t, downloaded, name, binaries[name])
		checkBOM(t, filepath.Join(downloaded, name+".cdx.json"))
		if architecture, ok := strings.CutPrefix(target, "linux-"); ok {
			deb := "runner-images_" + strings.ReplaceAll(ownVersion, "-", "~") + "-1_" + architecture + ".deb"
			want = append(want, deb)
			checkDebianPackage(t, filepath.Join(downloaded, deb), architecture, binaries[name])
		}
	}
	assert.ElementsMatch(t, want, signed)
}

// checkTarball unpacks a tarball, whose binary is to have the digest.
func checkTarball(t *testing.T, downloaded, name, digest string) {
	t.Helper()
	sh(t, downloaded, `tar -xzf `+name+`.tar.gz && cd `+name+`
		echo "`+digest+`  runner-images" | sha256sum --check --strict
		test -s LICENSE -a -s README.md -a -s completions/runner-images.bash -a -s completions/_runner-images -a -s completions/runner-images.fish
		grep -q '^---- github.com/spf13/cobra@v' LICENSE.modules
		grep -q 'Copyright 2009 The Go Authors' LICENSE.modules
		grep -q 'runner-images `+ownVersion+`' man/man1/runner-images-deploy.1`)
}

// checkARM64 runs the binary for linux/arm64 by an emulator: it packages the same bytes as
// the one for this machine, and publishes, verifies and stages them.
func checkARM64(t *testing.T, downloaded string) {
	t.Helper()
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "netboot.ipxe"), []byte("#!ipxe\nkernel bzImage initrd=initrd\ninitrd initrd\nboot\n"), 0o644))
	binary := filepath.Join(downloaded, "runner-images-"+ownVersion+"-linux-")
	out := sh(t, folder, `arm64() { '`+lab.Tool(t, "arm64", "qemu-aarch64")+`' '`+binary+`arm64/runner-images' "$@" 2>&1; }
		mkdir result && mv netboot.ipxe result
		seq 300000 >result/bzImage
		head -c 5000000 '`+binary+`amd64/runner-images' >result/initrd
		ssh-keygen -q -t ed25519 -N '' -C '' -f key
		echo "release@every.channel $(cat key.pub)" >allowed_signers
		arm64 version
		arm64 package result --name ec-runner-x86_64-netboot --release-tag boot-v1 --output-dir there
		'`+binary+`amd64/runner-images' package result --name ec-runner-x86_64-netboot --release-tag boot-v1 --output-dir here
		diff -r there here
		arm64 plan --publish-release=false --release-tag boot-v1
		arm64 publish there/* --release-tag boot-v1 --forge-url "file://$PWD/releases" --signing-key-file key
		arm64 verify --release-tag boot-v1 --forge-url "file://$PWD/releases" --allowed-signers allowed_signers --download-only
		arm64 netboot stage --state-dir state --forge-url "file://$PWD/releases" --allowed-signers allowed_signers
		cmp result/initrd state/current/x86_64/initrd`)
	assert.Contains(t, out, "runner-images "+ownVersion+"\n")
	assert.Contains(t, out, "\nsigned for boot-v1 by release@every.channel ")
	assert.Contains(t, out, "\nboot-v1 is current (x86_64)\n")
}

// checkBOM checks that a list of what a binary is made of has what go.mod asks for.
func checkBOM(t *testing.T, path string) {
	t.Helper()
	var bom struct {
		BOMFormat string
		Metadata  struct {
			Component struct{ Name, Version string }
		}
		Components []struct{ Name, Version string }
	}
	require.NoError(t, json.Unmarshal(read(t, path), &bom))
	assert.Equal(t, "CycloneDX", bom.BOMFormat)
	assert.Equal(t, "v"+ownVersion, bom.Metadata.Component.Version)
	versions := map[string]string{}
	for _, component := range bom.Components {
		versions[component.Name] = component.Version
	}
	cobra := regexp.MustCompile(`github.com/spf13/cobra (\S+)`).FindStringSubmatch(string(read(t, filepath.Join(lab.Root(t), "go.mod"))))
	assert.Equal(t, cobra[1], versions["github.com/spf13/cobra"])
	assert.Contains(t, versions, "std")
}

// checkDebianPackage checks what dpkg-deb says of a package, whose binary is to have the
// digest. TestDebianPackage installs what the same script makes.
func checkDebianPackage(t *testing.T, deb, architecture, digest string) {
	t.Helper()
	folder := t.TempDir()
	said := sh(t, folder, `dpkg-deb --field '`+deb+`' Package Version Architecture; dpkg-deb --extract '`+deb+`' .
		echo "`+digest+`  usr/bin/runner-images" | sha256sum --check --strict --status
		zcat usr/share/doc/runner-images/modules.gz | grep -q '^---- github.com/spf13/cobra@v'
		zcat usr/share/man/man1/runner-images-deploy.1.gz | grep -q 'runner-images `+ownVersion+`'`)
	assert.Equal(t, "Package: runner-images\nVersion: "+strings.ReplaceAll(ownVersion, "-", "~")+"-1\nArchitecture: "+architecture+"\n", said)
}

// testForgotten runs scripts/release as a maintainer does who has forgotten something.
func testForgotten(t *testing.T, folder, downloaded string) {
	t.Helper()
	// A machine that has all programs of this one, but for Debian's.
	programs := t.TempDir()
	for _, other := range filepath.SplitList(os.Getenv("PATH")) {
		sh(t, programs, `find '`+other+`/' -maxdepth 1 -exec ln -s -t . {} + 2>/dev/null || :`) // a name may be there twice
	}
	sh(t, programs, "rm -f dpkg* apt*")
	for _, c := range []struct{ environment, arguments, want string }{
		{"INPUT_SIGNING_KEY=", "publish " + downloaded, "there is no signing key, and releases are signed"},
		{"PATH=" + programs, "build dist", "there is no apt-get here to install dpkg with; install them"},
		{"GITHUB_REF_TYPE=tag GITHUB_REF_NAME=v9.9.9", "build dist", "the tag is v9.9.9, and cmd/runner-images/VERSION is " + ownVersion},
		{"", "build scripts", "scripts is there already; give a new folder"},
	} {
		out, err := runRelease(t, folder, strings.Fields(c.environment), strings.Fields(c.arguments)...)
		require.Error(t, err)
		assert.Contains(t, out, c.want)
	}
	sh(t, folder, `sed -i '1s/^./x/' scripts/release.sha256`)
	out, err := runRelease(t, folder, nil, "build", "dist")
	require.Error(t, err)
	assert.Contains(t, out, "these binaries are not those of scripts/release.sha256: run scripts/release digests")
	assert.NoDirExists(t, filepath.Join(folder, "dist"))
}
