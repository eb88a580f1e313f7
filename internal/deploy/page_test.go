package deploy

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/artifact"
	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/release/forgejo"
	"every.channel/runner-images/internal/trust"
)

// TestReleasePage looks at the second of two releases on a real Gitea, as people do.
func TestReleasePage(t *testing.T) {
	t.Parallel()
	gitea := lab.StartGitea(t)
	repository := gitea.CreateRepository(t, "channel", false)
	commit := func(path string) string {
		var made struct{ Commit struct{ SHA string } }
		body := map[string]any{"content": base64.StdEncoding.EncodeToString([]byte(path)), "message": "Add " + path}
		require.Equal(t, http.StatusCreated, gitea.API(t, http.MethodPost, "/repos/"+repository+"/contents/"+path, body, &made))
		return made.Commit.SHA
	}
	store, err := forgejo.Open(forgejo.Config{URL: gitea.URL, Repository: repository, Token: gitea.Token(t, "write:repository", "read:user")})
	require.NoError(t, err)

	l := newLine(t)
	l.Store, l.Key = store, newKey(t)
	l.Plan.ForgeURL, l.Plan.Repository = gitea.URL, repository
	l.Plan.Images = []artifact.Image{{Name: "ec-runner-x86_64-iso", Installable: ".#iso"}, {Name: "kiosk", Installable: ".#kiosk"}}
	l.About.Repository = gitea.URL + "/" + repository
	deployed := func(tag, file, nixpkgs string) string {
		sha := commit(file)
		l.Plan.Commit, l.About.Commit, l.nix.metadata.Revision = sha, sha, sha
		l.deployed(t, tag, nixpkgs)
		return sha
	}
	first := deployed("boot-v2026.02.28", "flake.nix", hash("1"))
	second := deployed("boot-v2026.03.05", "kiosk.nix", hash("2"))
	page := gitea.URL + "/" + repository + "/releases/tag/"

	tab := lab.Browser(t)
	// The lab's Gitea is built from Go alone and has no scripts; its pages would say so in
	// a dialog.
	require.NoError(t, chromedp.Do(tab, chromedp.Navigate("about:blank")))
	_, err = chromedp.Call(tab, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	require.NoError(t, err)
	// texts are those of all elements of the notes that match.
	texts := func(selector string) []string {
		t.Helper()
		found, err := chromedp.Run(tab, chromedp.Evaluate[[]string](`[...document.querySelectorAll(".markup `+selector+`")].map((e) => (e.href || e.innerText).trim())`))
		require.NoError(t, err)
		return found
	}
	require.NoError(t, chromedp.Do(tab, chromedp.EmulateViewport(1280, 1000), chromedp.Navigate(page+"boot-v2026.03.05"), chromedp.WaitVisible(".markup table")))
	cells := texts("td")
	for _, name := range []string{"ec-runner-x86_64-iso-boot-v2026.03.05.iso", "kiosk-boot-v2026.03.05.iso", trust.SnapshotFileName, trust.ProvenanceFileName} {
		sum, err := os.ReadFile(filepath.Join(l.Plan.OutputDir, name))
		require.NoError(t, err)
		assert.Contains(t, cells, name)
		assert.Contains(t, texts("td code"), trust.SumOf(sum), "the whole digest of %s, to be copied", name)
	}
	assert.Contains(t, cells, "28 B", "the size of an ISO")
	assert.Equal(t, []string{"Changed since boot-v2026.02.28", "Verify", "Boot"}, texts("h3"))
	assert.Equal(t, []string{page + "boot-v2026.02.28"}, texts("h3 a[href*=releases]"))
	assert.Subset(t, cells, []string{"this repository", first[:12], second[:12], "nixpkgs", hash("1")[:12], hash("2")[:12]})
	compare := texts("td a")
	assert.Equal(t, []string{
		gitea.URL + "/" + repository + "/compare/" + first + "..." + second,
		"https://github.com/NixOS/nixpkgs/compare/" + hash("1") + "..." + hash("2"),
	}, compare)
	assert.Contains(t, texts("pre")[0], "ssh-keygen -Y verify")

	require.NoError(t, chromedp.Do(tab, chromedp.EmulateViewport(1280, 1000), chromedp.Navigate(compare[0]), chromedp.WaitVisible("#commits-table")))
	text, err := chromedp.Run(tab, chromedp.Text("#commits-table"))
	require.NoError(t, err)
	assert.Contains(t, text, "Add kiosk.nix")
	assert.NotContains(t, text, "Add flake.nix")
}
