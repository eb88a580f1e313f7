package action

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// released is an action whose checkout comes from a real forge, where its version has
// a release.
type released struct {
	launcher
	forge      *lab.Gitea
	repository string
	digest     string // of the released program
	unlisted   string // the digest of another program
}

const asset = "runner-images-1.2.3-linux-amd64"

// newReleased has a forge with the release, and a launcher without Nix and Go that has
// what the download takes.
func newReleased(t *testing.T) released {
	r := released{launcher: newLauncher(t), forge: lab.StartGitea(t)}
	r.repository = r.forge.CreateRepository(t, "runner-images", false)
	for _, name := range []string{"curl", "wget", "sha256sum", "tar", "gzip", "head", "uname", "git", "chmod"} {
		program, err := exec.LookPath(name)
		require.NoError(t, err)
		r.link(name, program)
	}
	require.NoError(t, os.Remove(filepath.Join(r.path, "wget"))) // curl is taken where both are
	program := "#!/bin/sh\nversion=1.2.3 origin=release\n" + printing + "\n"
	r.digest = fmt.Sprintf("%x", sha256.Sum256([]byte(program)))
	r.unlisted = fmt.Sprintf("%x", sha256.Sum256([]byte("another")))
	r.publish("v1.2.3", program)
	sh(t, r.action, "git init --quiet --initial-branch=main; git remote add origin "+r.forge.URL+"/"+r.repository+".git")
	return r
}

// publish makes a release with the tarball of a program.
func (r released) publish(tag, program string) {
	r.t.Helper()
	folder := r.t.TempDir()
	require.NoError(r.t, os.Mkdir(filepath.Join(folder, asset), 0o755))
	require.NoError(r.t, os.WriteFile(filepath.Join(folder, asset, "runner-images"), []byte(program), 0o755))
	sh(r.t, folder, "tar -czf "+asset+".tar.gz "+asset)
	var made struct{ ID int64 }
	status := r.forge.API(r.t, http.MethodPost, "/repos/"+r.repository+"/releases", map[string]any{"tag_name": tag, "target_commitish": "main"}, &made)
	require.Equal(r.t, http.StatusCreated, status)

	var form bytes.Buffer
	parts := multipart.NewWriter(&form)
	part, err := parts.CreateFormFile("attachment", asset+".tar.gz")
	require.NoError(r.t, err)
	_, err = part.Write(read(r.t, filepath.Join(folder, asset+".tar.gz")))
	require.NoError(r.t, err)
	require.NoError(r.t, parts.Close())
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, fmt.Sprintf("%s/api/v1/repos/%s/releases/%d/assets", r.forge.URL, r.repository, made.ID), &form)
	require.NoError(r.t, err)
	request.Header.Set("Content-Type", parts.FormDataContentType())
	request.SetBasicAuth(r.forge.User, r.forge.Password)
	response, err := http.DefaultClient.Do(request)
	require.NoError(r.t, err)
	answer, err := io.ReadAll(response.Body)
	require.NoError(r.t, err)
	require.NoError(r.t, response.Body.Close())
	require.Equal(r.t, http.StatusCreated, response.StatusCode, "%s", answer)
}

// list writes the file that pins the release.
func (r released) list(digest string) {
	r.write("scripts/release.sha256", r.unlisted+"  runner-images-1.2.3-darwin-arm64\n"+digest+"  "+asset+"\n")
}

// otherwise has a Nix that cannot build, and is run where no release is used.
func (r released) otherwise() { r.install("nix", "echo 'Nix was run'; exit 1") }

func TestLauncherTakesTheRelease(t *testing.T) {
	r := newReleased(t)
	r.otherwise()
	r.list(r.digest)
	out, err := r.run()
	require.NoError(t, err, out)
	assert.Equal(t, "<release><deploy><a b>", out)

	// The job's own variables reach the command, and those of the script do not change them.
	r.install("runner-images", "version=1.2.2\n"+printing) // of another version
	// Git takes the checkout for another user's.
	out, err = r.run("name=x", "address=y", "digest=z", "GIT_DIR=/no/such/folder", "GIT_TEST_ASSUME_DIFFERENT_OWNER=1", "INPUT_TOKEN=t0ken")
	require.NoError(t, err, out)
	assert.True(t, strings.HasSuffix(out, "\n<release><deploy><a b><--token-file></dev/fd/3>"), out)
	require.NoError(t, os.Remove(filepath.Join(r.path, "runner-images")))

	// Without git, the address is the runner's.
	require.NoError(t, os.Remove(filepath.Join(r.path, "git")))
	out, err = r.run("GITHUB_SERVER_URL="+r.forge.URL, "GITHUB_ACTION_REPOSITORY="+r.repository)
	require.NoError(t, err, out)
	assert.Equal(t, "<release><deploy><a b>", out)

	// With the wget of GNU and of busybox, in the shell of busybox.
	require.NoError(t, os.Remove(filepath.Join(r.path, "curl")))
	gnu, err := exec.LookPath("wget")
	require.NoError(t, err)
	for _, program := range []string{gnu, lab.Tool(t, "boot", "busybox")} {
		r.link("wget", program)
		out, err = r.run("GITHUB_SERVER_URL="+r.forge.URL, "GITHUB_ACTION_REPOSITORY="+r.repository)
		require.NoError(t, err, "%s: %s", program, out)
		assert.Equal(t, "<release><deploy><a b>", out)
	}
	r.link("sh", lab.Tool(t, "boot", "busybox"))
	r.link("tar", lab.Tool(t, "boot", "busybox"))
	r.link("sha256sum", lab.Tool(t, "boot", "busybox"))
	out, err = r.run("GITHUB_SERVER_URL="+r.forge.URL, "GITHUB_ACTION_REPOSITORY="+r.repository)
	require.NoError(t, err, out)
	assert.Equal(t, "<release><deploy><a b>", out)
}

// TestLauncherWithoutTheRelease is about every way in which the release is not what the
// checkout lists, or cannot be had: the launcher says so in one line and goes on.
func TestLauncherWithoutTheRelease(t *testing.T) {
	r := newReleased(t)
	r.otherwise()
	goesOn := func(reason string, environment ...string) {
		t.Helper()
		out, err := r.run(environment...)
		require.Error(t, err)
		assert.NotContains(t, out, "<release>")
		before, _, ok := strings.Cut(out, "runner-images: building version 1.2.3 with Nix\nNix was run\n")
		require.True(t, ok, out)
		if reason == "" {
			assert.Empty(t, before)
			return
		}
		assert.Regexp(t, "^runner-images: not taking "+reason+"\n$", before)
		assert.Equal(t, 1, strings.Count(before, "\n"), before)
	}
	url := r.forge.URL + "/" + r.repository + "/releases/download/v1.2.3/" + asset + ".tar.gz"

	goesOn("") // there is no list: nothing to say
	r.write("scripts/release.sha256", r.digest+"  runner-images-1.2.2-linux-amd64\n")
	goesOn("") // of another version

	r.list(r.unlisted)
	goesOn(url + ": it is not what scripts/release.sha256 lists")

	r.list(r.digest)
	sh(t, r.action, "git remote set-url origin "+r.forge.URL+"/"+r.forge.User+"/absent")
	goesOn(r.forge.URL + "/adm/absent/.*: curl: .* 404.*")
	sh(t, r.action, "git remote set-url origin http://127.0.0.1:1/every/runner-images")
	goesOn("http://127.0.0.1:1/.*: curl: .*onnect.*")
	sh(t, r.action, "git remote set-url origin http://user:passw0rd@127.0.0.1:1/every/runner-images")
	goesOn("http://127.0.0.1:1/every/.*: curl: .*onnect.*")
	sh(t, r.action, "git remote remove origin")
	goesOn("")
	sh(t, r.action, "git remote add origin "+r.forge.URL+"/"+r.repository)

	// A release whose program is the listed one, but does not run here or is of another version.
	wrong := "#!/bin/sh\nversion=1.2.2\n" + printing + "\n"
	status := r.forge.API(t, http.MethodDelete, "/repos/"+r.repository+"/releases/tags/v1.2.3", nil, nil)
	require.Equal(t, http.StatusNoContent, status)
	goesOn(url + ": curl: .* 404.*") // only the tag is left
	require.Equal(t, http.StatusNoContent, r.forge.API(t, http.MethodDelete, "/repos/"+r.repository+"/tags/v1.2.3", nil, nil))
	r.publish("v1.2.3", wrong)
	r.list(fmt.Sprintf("%x", sha256.Sum256([]byte(wrong))))
	goesOn(`/.*/runner-images: it says that it is "runner-images 1.2.2", and the action is of version 1.2.3`)

	require.NoError(t, os.Remove(filepath.Join(r.path, "tar")))
	goesOn("the release of version 1.2.3: that takes curl or wget, sha256sum or shasum, tar and gzip")
}

// served has a fake server in place of the forge, which answers with what is no release,
// and returns what the launcher says of it.
func served(t *testing.T, answer http.HandlerFunc) string {
	l := newLauncher(t)
	for _, name := range []string{"curl", "sha256sum", "tar", "gzip", "head", "uname", "git", "chmod"} {
		program, err := exec.LookPath(name)
		require.NoError(t, err)
		l.link(name, program)
	}
	l.install("nix", "echo 'Nix was run'; exit 1")
	l.write("scripts/release.sha256", strings.Repeat("0", 64)+"  "+asset+"\n")
	server := httptest.NewServer(answer)
	defer server.Close()
	sh(t, l.action, "git init --quiet --initial-branch=main; git remote add origin "+server.URL+"/every/runner-images")
	out, err := l.run()
	require.Error(t, err)
	reason, ok := strings.CutPrefix(out, "runner-images: not taking "+server.URL+"/every/runner-images/releases/download/v1.2.3/"+asset+".tar.gz: ")
	require.True(t, ok, out)
	reason, _, ok = strings.Cut(reason, "\nrunner-images: building version 1.2.3 with Nix\nNix was run\n")
	require.True(t, ok, out)
	return reason
}

// TestLauncherEndsAnEndlessRelease has a tarball whose first file, which is not the
// program, has no end.
func TestLauncherEndsAnEndlessRelease(t *testing.T) {
	reason := served(t, func(w http.ResponseWriter, _ *http.Request) {
		compressed, err := gzip.NewWriterLevel(w, gzip.NoCompression)
		if assert.NoError(t, err) && assert.NoError(t, tar.NewWriter(compressed).WriteHeader(&tar.Header{Name: "another", Size: 1 << 40})) {
			for block := make([]byte, 1<<20); err == nil; { // until the launcher hangs up
				_, err = compressed.Write(block)
			}
		}
	})
	assert.NotContains(t, reason, "\n")
}

// TestLauncherTellsAPageFromARelease has the page of a login or a proxy: nobody has
// replaced the release.
func TestLauncherTellsAPageFromARelease(t *testing.T) {
	reason := served(t, func(w http.ResponseWriter, _ *http.Request) {
		_, err := io.WriteString(w, "<!DOCTYPE html><title>Sign in</title>")
		assert.NoError(t, err)
	})
	assert.Contains(t, reason, "not in gzip format")
}
