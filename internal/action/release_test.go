package action

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// site is a forge with runners, on which a repository uses the action.
type site struct {
	*lab.Gitea
	t          *testing.T
	front      *front
	repository string
	artifacts  string
	actions    map[string]string // the commits of the stand-ins for public actions, by name
}

// A front is the address that runs know of the forge: a proxy, which passes
// everything on until it is told to answer otherwise.
type front struct {
	*httptest.Server
	answers atomic.Pointer[http.Handler]
}

func newFront(t *testing.T) *front {
	f := new(front)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*f.answers.Load()).ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *front) answer(handler http.Handler) { f.answers.Store(&handler) }

// newSite sets up the forge, with a stand-in for the checkout action, and two
// runners: "nix" has runner-images installed, "bare" has only Nix and Go.
func newSite(t *testing.T) site {
	s := site{t: t, front: newFront(t), artifacts: t.TempDir(), actions: map[string]string{}}
	s.Gitea = lab.StartGitea(t, lab.WithActions(), lab.WithPublicURL(s.front.URL))
	s.front.answer(httputil.NewSingleHostReverseProxy(s.address()))
	s.pushAction("checkout", "v4")
	nix := lab.Nix(t)
	installed := filepath.Join(t.TempDir(), "program", "runner-images")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", installed, "./cmd/runner-images")
	build.Dir = lab.Root(t)
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	environment := append(nix.Env(), goEnvironment(t)...)
	environment = append(environment, "ARTIFACTS="+s.artifacts)
	path := ""
	for _, variable := range environment {
		if value, ok := strings.CutPrefix(variable, "PATH="); ok {
			path = value
		}
	}
	s.StartRunner(t, lab.Runner{Label: "bare", Environment: environment})
	// What runs on this one writes down what it, and what started it, has in its
	// environment, and meets the fault that a test prepares.
	spies := t.TempDir()
	for name, program := range map[string]string{"runner-images": installed, "nix": nix.Program} {
		spy := fmt.Sprintf("#!/bin/sh\n{ echo \"started %s $1\"; export -p; cat /proc/$$/environ /proc/$PPID/environ; } >>'%s'\n[ ! -e '%s' ] || . '%[3]s'\nexec '%[4]s' \"$@\"\n", name, s.seen(), s.fault(), program)
		require.NoError(t, os.WriteFile(filepath.Join(spies, name), []byte(spy), 0o755))
	}
	s.StartRunner(t, lab.Runner{Label: "nix", Environment: append(environment, "PATH="+spies+":"+path)})
	return s
}

// address is that of the forge itself.
func (s site) address() *url.URL {
	s.t.Helper()
	address, err := url.Parse(s.URL)
	require.NoError(s.t, err)
	return address
}

// fault is a file with commands of the shell, which run before the programs of the
// runner "nix" if it is there.
func (s site) fault() string { return filepath.Join(s.artifacts, "fault") }

// seen is the file in which spies write down what they saw.
func (s site) seen() string { return filepath.Join(s.artifacts, "seen by spies") }

// pushAction puts testdata's stand-in for a public action onto the forge.
func (s site) pushAction(name string, tags ...string) {
	s.t.Helper()
	folder := s.t.TempDir()
	require.NoError(s.t, os.CopyFS(folder, os.DirFS(filepath.Join("testdata", name))))
	s.actions[name] = s.Push(s.t, s.organisationRepository("actions", name), folder, tags...)
}

var pinned = regexp.MustCompile(`uses: actions/([a-z-]+)@[0-9a-f]{40} # v`)

// pin has a project's workflows use the stand-ins, by their commits as the public
// actions by theirs.
func (s site) pin(folder string) string {
	s.t.Helper()
	for _, name := range []string{"workflows/deploy-runner-images.yml", "actions/keep/action.yml"} {
		path := filepath.Join(folder, ".forgejo", name)
		text := string(read(s.t, path))
		used := pinned.FindStringSubmatch(text)
		require.Len(s.t, used, 2, name)
		commit := s.actions[used[1]]
		if commit == "" {
			continue // is not to be had on this forge
		}
		text = pinned.ReplaceAllString(text, "uses: actions/$1@"+commit+" # v")
		require.NoError(s.t, os.WriteFile(path, []byte(text), 0o644))
	}
	return folder
}

func (s site) organisationRepository(organisation, name string) string {
	s.t.Helper()
	if s.API(s.t, http.MethodGet, "/orgs/"+organisation, nil, nil) == http.StatusNotFound {
		require.Equal(s.t, http.StatusCreated, s.API(s.t, http.MethodPost, "/orgs", map[string]any{"username": organisation}, nil))
	}
	status := s.API(s.t, http.MethodPost, "/orgs/"+organisation+"/repos", map[string]any{"name": name}, nil)
	require.Equal(s.t, http.StatusCreated, status)
	return organisation + "/" + name
}

// projectFiles copies this project, as git has it, and testdata's flake over
// its own: that one builds in a second and without the network.
func projectFiles(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	root := lab.Root(t)
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	out, err := list.Output()
	require.NoError(t, err)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		info, err := os.Lstat(filepath.Join(root, name))
		if os.IsNotExist(err) || err == nil && !info.Mode().IsRegular() {
			continue
		}
		require.NoError(t, err)
		target := filepath.Join(folder, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(target), 0o755))
		require.NoError(t, os.WriteFile(target, read(t, filepath.Join(root, name)), info.Mode().Perm()))
	}
	require.NoError(t, os.RemoveAll(filepath.Join(folder, "flake.lock")))
	require.NoError(t, os.CopyFS(filepath.Join(folder, "replacement"), os.DirFS(filepath.Join(root, "testdata/flake"))))
	require.NoError(t, os.Rename(filepath.Join(folder, "replacement/flake.nix"), filepath.Join(folder, "flake.nix")))
	return folder
}

// run waits for the run after the given number of runs, and returns how it
// ended. Its log is part of a failing test's output.
func (s site) run(earlier int) (status string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	for {
		if tasks := s.tasks(); len(tasks) > earlier {
			switch status := tasks[0].Status; status {
			case "waiting", "running", "blocked", "queued", "in_progress":
			default:
				if status != "success" {
					s.t.Logf("run %d:\n%s", tasks[0].ID, s.log())
				}
				return status
			}
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("no run ended within five minutes; the runs: %+v", s.tasks())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

type task struct {
	ID     int64
	Status string
}

// tasks are the jobs that were given to a runner, the newest first.
func (s site) tasks() []task {
	s.t.Helper()
	var list struct {
		Tasks []task `json:"workflow_runs"`
	}
	require.Equal(s.t, http.StatusOK, s.API(s.t, http.MethodGet, "/repos/"+s.repository+"/actions/tasks", nil, &list))
	return list.Tasks
}

// log returns the log of the newest job that has ended. Others wait for runners that
// are not here.
func (s site) log() string {
	s.t.Helper()
	var list struct{ Jobs []struct{ ID int64 } }
	require.Equal(s.t, http.StatusOK, s.API(s.t, http.MethodGet, "/repos/"+s.repository+"/actions/jobs?status=success&status=failure", nil, &list))
	require.NotEmpty(s.t, list.Jobs)
	newest := list.Jobs[0].ID
	for _, job := range list.Jobs {
		newest = max(newest, job.ID)
	}
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, fmt.Sprintf("%s/api/v1/repos/%s/actions/jobs/%d/logs", s.URL, s.repository, newest), nil)
	require.NoError(s.t, err)
	request.SetBasicAuth(s.User, s.Password)
	response, err := http.DefaultClient.Do(request)
	require.NoError(s.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	return string(text)
}

func (s site) dispatch(ref string, inputs map[string]string) (status string) {
	s.t.Helper()
	earlier := len(s.tasks())
	answer := s.API(s.t, http.MethodPost, "/repos/"+s.repository+"/actions/workflows/deploy-runner-images.yml/dispatches",
		map[string]any{"ref": ref, "inputs": inputs}, nil)
	require.Less(s.t, answer, 300)
	return s.run(earlier)
}

// A published release, as the API has it.
type published struct {
	Tag        string `json:"tag_name"`
	Body       string
	Draft      bool
	Prerelease bool
	Target     string `json:"target_commitish"`
	Assets     []struct {
		ID   int64
		Name string
		Size int64
		UUID string
		URL  string `json:"browser_download_url"`
	}
}

func (s site) release(tag string) published {
	s.t.Helper()
	var release published
	status := s.API(s.t, http.MethodGet, "/repos/"+s.repository+"/releases/tags/"+url.PathEscape(tag), nil, &release)
	require.Equal(s.t, http.StatusOK, status, "release %s", tag)
	return release
}

func (p published) names() []string {
	var names []string
	for _, asset := range p.Assets {
		names = append(names, asset.Name)
	}
	return names
}

// download gets all assets as anybody would, checks them with sha256sum, and
// returns their folder.
func (s site) download(release published) string {
	s.t.Helper()
	folder := s.t.TempDir()
	for _, asset := range release.Assets {
		request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, asset.URL, nil)
		require.NoError(s.t, err)
		response, err := http.DefaultClient.Do(request)
		require.NoError(s.t, err)
		content, err := io.ReadAll(response.Body)
		response.Body.Close()
		require.NoError(s.t, err)
		require.Equal(s.t, http.StatusOK, response.StatusCode, asset.URL)
		assert.Len(s.t, content, int(asset.Size))
		require.NoError(s.t, os.WriteFile(filepath.Join(folder, asset.Name), content, 0o644))
	}
	checkSums(s.t, folder)
	return folder
}

// sh runs shell commands in a folder and returns what they print.
func sh(t *testing.T, folder, commands string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "sh", "-euc", commands)
	command.Dir = folder
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func checkSums(t *testing.T, folder string) {
	t.Helper()
	check := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", "SHA256SUMS.txt")
	check.Dir = folder
	out, err := check.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// bundle reads a netboot bundle.
func bundle(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	require.NoError(t, err)
	files := map[string]string{}
	for archive := tar.NewReader(unzipped); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		content, err := io.ReadAll(archive)
		require.NoError(t, err)
		files[header.Name] = string(content)
	}
}

// TestShippedWorkflow runs .forgejo/workflows/deploy-runner-images.yml as it is, but
// for the commits of public actions, in whose place there are stand-ins.
func TestShippedWorkflow(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.t = t
	s.repository = s.CreateRepository(t, "channel", false)
	const tag = "boot-v2026.02.28"
	folderOfProject := s.pin(projectFiles(t))
	commit := s.Push(t, s.repository, folderOfProject, tag)

	// (a) A pushed tag makes a release of that name with everything in it.
	require.Equal(t, "success", s.run(0))
	release := s.release(tag)
	assert.False(t, release.Draft)
	assert.False(t, release.Prerelease)
	netboot, iso := "ec-runner-x86_64-netboot-"+tag+".tar.gz", "ec-runner-x86_64-iso-"+tag+".iso"
	assert.ElementsMatch(t, []string{netboot, iso, "SHA256SUMS.txt", "provenance.intoto.jsonl"}, release.names())
	assert.Contains(t, release.Body, commit)
	assert.Contains(t, release.Body, "sha256sum --check")
	folder := s.download(release)
	files := bundle(t, filepath.Join(folder, netboot))
	assert.Len(t, files, 3)
	assert.NotEmpty(t, files["kernel"])
	assert.NotEmpty(t, files["initrd"])
	assert.Regexp(t, `(?m)^kernel kernel .*initrd=initrd`, files["netboot.ipxe"])
	assert.Regexp(t, `(?m)^initrd initrd$`, files["netboot.ipxe"])
	log := s.log()
	assert.Contains(t, log, netboot)

	// (b) A dispatch without inputs names the release after the commit.
	require.Equal(t, "success", s.dispatch("main", nil))
	release = s.release("boot-" + commit[:7])
	assert.ElementsMatch(t, []string{
		"ec-runner-x86_64-netboot-boot-" + commit[:7] + ".tar.gz", "ec-runner-x86_64-iso-boot-" + commit[:7] + ".iso", "SHA256SUMS.txt", "provenance.intoto.jsonl",
	}, release.names())
	byHand := bundle(t, filepath.Join(s.download(release), "ec-runner-x86_64-netboot-boot-"+commit[:7]+".tar.gz"))
	assert.Equal(t, files, byHand, "the same commit gives the same bytes")

	// (c) A dispatch with every input set otherwise.
	require.Equal(t, "success", s.dispatch("main", map[string]string{
		"release_tag": "boot-trial", "publish_release": "true", "build_x86_64_netboot": "true", "build_x86_64_iso": "false",
	}))
	assert.ElementsMatch(t, []string{"ec-runner-x86_64-netboot-boot-trial.tar.gz", "SHA256SUMS.txt", "provenance.intoto.jsonl"}, s.release("boot-trial").names())

	// (d) Without publishing, the files are kept as an artifact. Until here, the
	// forge had no action for that, and no run was in need of one.
	s.pushAction("upload-artifact")
	commit = s.Push(t, s.repository, s.pin(folderOfProject))
	require.Equal(t, "success", s.dispatch("main", map[string]string{
		"release_tag": "boot-kept", "publish_release": "false", "build_x86_64_netboot": "false", "build_x86_64_iso": "true",
	}))
	status := s.API(t, http.MethodGet, "/repos/"+s.repository+"/releases/tags/boot-kept", nil, nil)
	assert.Equal(t, http.StatusNotFound, status)
	kept := filepath.Join(s.artifacts, "boot-kept")
	entries, err := os.ReadDir(kept)
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	assert.Equal(t, []string{"SHA256SUMS.txt", "ec-runner-x86_64-iso-boot-kept.iso", "provenance.intoto.jsonl"}, names)
	checkSums(t, kept)

	// (e) The same tag again, by hand this time, changes nothing.
	before := s.release(tag)
	require.Equal(t, "success", s.dispatch("refs/tags/"+tag, nil))
	assert.Equal(t, before, s.release(tag))
	assert.Contains(t, s.log(), "unchanged: ")

	// (f) With a key among the secrets, the release is signed for its tag.
	key := filepath.Join(t.TempDir(), "key")
	sh(t, "", "ssh-keygen -q -t ed25519 -N '' -C '' -f "+key)
	secret := map[string]string{"data": string(read(t, key))}
	require.Equal(t, http.StatusCreated, s.API(t, http.MethodPut, "/repos/"+s.repository+"/actions/secrets/SIGNING_KEY", secret, nil))
	require.Equal(t, "success", s.dispatch("main", map[string]string{"release_tag": "boot-signed", "build_x86_64_iso": "false"}))
	signed := s.release("boot-signed")
	assert.ElementsMatch(t, []string{
		"ec-runner-x86_64-netboot-boot-signed.tar.gz", "SHA256SUMS.txt", "SHA256SUMS.txt.sig", "provenance.intoto.jsonl", "snapshot.intoto.jsonl",
	}, signed.names())
	signedFolder := s.download(signed)
	sh(t, signedFolder, `echo "release@every.channel $(cat `+key+`.pub)" > allowed_signers
		ssh-keygen -Y verify -f allowed_signers -I release@every.channel -n runner-images/boot-signed@every.channel -s SHA256SUMS.txt.sig < SHA256SUMS.txt`)
	assert.NotContains(t, s.log(), "PRIVATE KEY")
	seen := string(read(t, s.seen()))
	for _, want := range []string{"started runner-images version\n", "started runner-images deploy\n", "started nix ", "GITHUB_REF="} {
		assert.True(t, strings.Contains(seen, want), want)
	}
	assert.False(t, strings.Contains(seen, "PRIVATE KEY"))
	secrets := regexp.MustCompile(`((GITEA|GITHUB|FORGEJO|INPUT|RUNTIME|REQUEST)_TOKEN|INPUT_SIGNING_KEY)=['"]?[^'"\x00\s]`)
	assert.Empty(t, secrets.FindAllString(seen, -1))
	statement := sh(t, signedFolder, `cut -d '"' -f 8 provenance.intoto.jsonl | base64 --decode`)
	assert.Contains(t, statement, `"gitCommit":"`+commit+`"`)
	assert.Contains(t, statement, `"workflow":"deploy-runner-images`)
	assert.Contains(t, statement, `"uri":"git+`+s.PublicURL+`/`+s.repository+`?ref=refs/heads/main&rev=`+commit+`"`)
	assert.NotContains(t, statement, "PRIVATE KEY")
	run := regexp.MustCompile(`"invocationId":"([^"]*)"`).FindStringSubmatch(statement)
	require.Len(t, run, 2)
	response, err := http.Get(run[1])
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Equal(t, http.StatusOK, response.StatusCode, "the run's page: %s", run[1])
	var runs struct {
		Runs []struct {
			Number int64  `json:"run_number"`
			Page   string `json:"html_url"`
		} `json:"workflow_runs"`
	}
	require.Equal(t, http.StatusOK, s.API(t, http.MethodGet, "/repos/"+s.repository+"/actions/runs", nil, &runs))
	number, _, _ := strings.Cut(run[1][strings.LastIndex(run[1], "/")+1:], "?")
	pages := map[string]string{}
	for _, r := range runs.Runs {
		pages[fmt.Sprint(r.Number)] = r.Page
	}
	assert.Equal(t, pages[number], response.Request.URL.String(), "it is the page of this run")

	// A wrong input fails the run, with a word on the input.
	require.Equal(t, "failure", s.dispatch("main", map[string]string{"release_tag": "boot v1"}))
	assert.Contains(t, s.log(), `release_tag "boot v1": git does not allow spaces in a tag`)

	t.Run("forgejo 15", func(t *testing.T) { s.on(t, "forgejo").testForgejo15() })
	t.Run("command files", func(t *testing.T) { s.on(t, "files").testCommandFiles() })
}

// on returns the site for a test with a repository of its own.
func (s site) on(t *testing.T, name string) site {
	s.t = t
	s.repository = s.CreateRepository(t, name, false)
	return s
}

// change replaces text in the shipped workflow of a project.
func (s site) change(project, old, replacement string) {
	s.t.Helper()
	path := filepath.Join(project, ".forgejo/workflows/deploy-runner-images.yml")
	text := string(read(s.t, path))
	require.Equal(s.t, 1, strings.Count(text, old), old)
	require.NoError(s.t, os.WriteFile(path, []byte(strings.Replace(text, old, replacement, 1)), 0o644))
}

// testForgejo15 runs the shipped workflow on a forge that answers as Forgejo 15.0.3
// does: a proxy stands before Gitea, whose runner it stays.
func (s site) testForgejo15() {
	t := s.t
	s.front.answer(lab.Forgejo15.Before(s.address(), ""))
	defer s.front.answer(httputil.NewSingleHostReverseProxy(s.address()))
	const tag = "boot-v2026.03.01"
	project := s.pin(projectFiles(t))
	commit := s.Push(t, s.repository, project, tag)
	require.Equal(t, "success", s.run(0))
	before := s.release(tag)
	assert.Len(t, before.names(), 4)
	assert.Contains(t, before.Body, commit)
	s.download(before)

	// The repository as a user may write it, and a second run for what is there.
	s.change(project, "\n          release_tag:", "\n          repository: "+strings.ToUpper(s.repository)+"\n          release_tag:")
	s.Push(t, s.repository, project)
	require.Equal(t, "success", s.dispatch("main", map[string]string{"release_tag": tag}))
	log := s.log()
	assert.Contains(t, log, "unchanged: ")
	assert.Contains(t, log, s.PublicURL+"/"+s.repository+"/releases/tag/"+tag)
	assert.NotContains(t, log, strings.ToUpper(s.repository)+"/releases")
	assert.Equal(t, before.names(), s.release(tag).names())

	// What Forgejo refuses is said in its words, with what to do.
	s.change(project, "\n          repository: "+strings.ToUpper(s.repository), "\n          token: "+strings.Repeat("0", 40))
	s.Push(t, s.repository, project)
	require.Equal(t, "failure", s.dispatch("main", map[string]string{"release_tag": tag}))
	assert.Contains(t, s.log(), "access token does not exist [sha: ***]\"; give a token that this forge knows")
	assert.Equal(t, before.names(), s.release(tag).names())
}

// testCommandFiles runs the shipped workflow on a runner whose files for outputs or for
// the summary cannot be written to. The runner is real, and so are its files: what
// becomes of them between it and the command is replaced, but for the full disk, which
// /dev/full stands for.
func (s site) testCommandFiles() {
	t := s.t
	s.Push(t, s.repository, s.pin(projectFiles(t)))
	for _, c := range []struct{ name, fault, why, status string }{
		{"no folder", `rm -rf "${GITHUB_OUTPUT%/*}"`, "no such file or directory", "failure"},
		{"disk full", `export GITHUB_OUTPUT=/dev/full GITHUB_STEP_SUMMARY=/dev/full`, "no space left on device", "failure"},
		{"no summary", `[ -d "$GITHUB_STEP_SUMMARY" ] || { rm "$GITHUB_STEP_SUMMARY"; mkdir "$GITHUB_STEP_SUMMARY"; }`, "is a directory", "success"},
	} {
		require.NoError(t, os.WriteFile(s.fault(), []byte(c.fault), 0o644))
		tag := "boot-" + strings.ReplaceAll(c.name, " ", "-")
		assert.Equal(t, c.status, s.dispatch("main", map[string]string{"release_tag": tag}), c.name)
		require.NoError(t, os.Remove(s.fault()))

		published := s.release(tag)
		assert.False(t, published.Draft, c.name)
		assert.Len(t, published.Assets, 4, c.name)
		s.download(published)
		log := s.log()
		assert.Equal(t, c.name == "no folder", strings.Contains(log, "/outputcmd.txt cannot be written to\n"), "what the launcher says")
		assert.NotContains(t, log, "panic", c.name)
		assert.NotContains(t, log, "goroutine", c.name)
		assert.Regexp(t, `there is no job summary: the runner's GITHUB_STEP_SUMMARY cannot be written to: .*`+c.why, log, c.name)
		address := s.PublicURL + "/" + s.repository + "/releases/tag/" + tag
		assert.Contains(t, log, "Release "+address+"\n", c.name)
		outputs := "the release " + address + " is published and whole, but the outputs of this step are not set"
		if c.status == "success" {
			assert.NotContains(t, log, outputs, c.name)
		} else {
			assert.Equal(t, 1, strings.Count(log, outputs), c.name)
		}
	}
}

// TestActionFromElsewhere uses the action as other repositories do, by its full
// address and by owner/name, with images of their own.
func TestActionFromElsewhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.t = t
	// The action's own flake builds a binary here, as the real one does, but
	// without compiling.
	action := projectFiles(t)
	commit := s.Push(t, s.organisationRepository("every", "runner-images"), action, "v1")

	for name, uses := range map[string]string{
		"by-address": s.PublicURL + "/every/runner-images@v1",
		"by-name":    "every/runner-images@v1",
		"by-digest":  s.PublicURL + "/every/runner-images@" + commit,
	} {
		s.repository = s.CreateRepository(t, name, false)
		repository := s.repository
		if name == "by-digest" {
			repository = strings.ToUpper(repository) // which to a forge is the same
		}
		folder := t.TempDir()
		require.NoError(t, os.CopyFS(folder, os.DirFS(filepath.Join(lab.Root(t), "testdata/flake"))))
		workflow := fmt.Sprintf(`
on:
  push:
    branches: [main] # Gitea runs it for the release's own tag too
jobs:
  images:
    runs-on: bare
    steps:
      - uses: actions/checkout@v4
      - id: images
        uses: %s
        with:
          repository: %s
          release_tag: images/${{ github.run_number }}
          prerelease: true
          images: |
            kiosk nixosConfigurations.ec-runner-x86_64-iso.config.system.build.isoImage
            arm .#nixosConfigurations.ec-runner-aarch64-netboot.config.system.build.netboot
      - shell: sh
        env:
          ASSETS: ${{ steps.images.outputs.assets }}
          RELEASE: ${{ steps.images.outputs.release_url }}
        run: |
          mkdir -p "$ARTIFACTS"
          printf '%%s' "$ASSETS" > "$ARTIFACTS/assets"
          printf '%%s' "$RELEASE" > "$ARTIFACTS/release"
`, uses, repository)
		require.NoError(t, os.MkdirAll(filepath.Join(folder, ".forgejo/workflows"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(folder, ".forgejo/workflows/images.yml"), []byte(workflow), 0o644))
		s.Push(t, s.repository, folder)
		require.Equal(t, "success", s.run(0), name)

		release := s.release("images/1")
		assert.True(t, release.Prerelease)
		assert.ElementsMatch(t, []string{"kiosk-images-1.iso", "arm-images-1.tar.gz", "SHA256SUMS.txt", "provenance.intoto.jsonl"}, release.names())
		s.download(release)
		var assets []struct {
			Name, SHA256, URL string
			Size              int64
		}
		require.NoError(t, json.Unmarshal(read(t, filepath.Join(s.artifacts, "assets")), &assets))
		require.Len(t, assets, 3)
		for _, asset := range assets {
			assert.Len(t, asset.SHA256, 64)
			assert.Positive(t, asset.Size)
			assert.Equal(t, s.PublicURL+"/"+s.repository+"/releases/download/images%2F1/"+asset.Name, asset.URL)
		}
		assert.Equal(t, s.PublicURL+"/"+s.repository+"/releases/tag/images/1", string(read(t, filepath.Join(s.artifacts, "release"))))
	}
}
