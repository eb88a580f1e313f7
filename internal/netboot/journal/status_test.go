package journal_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

// A page is a status page over a real state folder and a real journal.
type page struct {
	t       *testing.T
	state   *state.Dir
	journal *journal.Journal
	handler http.Handler
	url     string
}

func startPage(t *testing.T) *page { return startPageWith(t, "") }

func startPageWith(t *testing.T, filesURL string) *page {
	t.Helper()
	s := newPage(t, filesURL)
	server := httptest.NewServer(s.handler)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// newPage returns a page that no server serves yet.
func newPage(t *testing.T, filesURL string) *page {
	t.Helper()
	dir, err := state.Create(filepath.Join(t.TempDir(), "netboot"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, dir.Close()) })
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	registry := prometheus.NewRegistry()
	s := &page{t: t, state: dir, journal: journal.New(logger, registry)}
	rings, err := state.ParseRings(strings.NewReader("rings:\n" +
		"  - {name: canary, release_tag: boot-v2026.03.05, macs: [\"52:54:00:00:00:02\", \"52:54:00:00:00:09\"]}\n" +
		"  - {name: attic, release_tag: boot-v2025.01.01, macs: [\"52:54:00:00:00:0a\"]}\n"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	s.handler = s.journal.StatusPage(ctx, dir, func() state.Rings { return rings }, filesURL)
	return s
}

func (s *page) stage(tag string) {
	s.t.Helper()
	incoming, err := s.state.Incoming(tag, "https://forge.example/every/channel/releases/tag/"+tag)
	require.NoError(s.t, err)
	defer func() { assert.NoError(s.t, incoming.Discard()) }()
	require.NoError(s.t, incoming.Bundle(machine.X86_64, "ec-runner-x86_64-netboot-"+tag+".tar.gz", strings.Repeat("c0ffee42", 8)))
	for _, name := range state.FileNames() {
		require.NoError(s.t, incoming.Write(s.t.Context(), machine.X86_64, name, strings.NewReader(tag+name)))
	}
	_, err = incoming.Commit()
	require.NoError(s.t, err)
}

func (s *page) switchTo(tag string) {
	s.t.Helper()
	_, err := s.state.Switch(tag)
	require.NoError(s.t, err)
}

// client returns a client whose MAC address ends in a digit.
func client(last byte) journal.Client {
	mac, _ := machine.MACFrom(net.HardwareAddr{0x52, 0x54, 0, 0, 0, last})
	return journal.Client{MAC: mac, Address: netip.AddrFrom4([4]byte{10, 20, 30, 100 + last}), Firmware: machine.Firmware{Architecture: machine.X86_64}}
}

// boot has a machine load its release to the end.
func (s *page) boot(client journal.Client, boot journal.Boot) {
	loader := s.journal.SendLoader(client, journal.TFTP, "ec-ipxe.efi", 1_000_000)
	loader.Sent(1_000_000)
	loader.End(true, nil)
	s.journal.BootStarted(client, boot)
	for _, name := range []string{state.Kernel, state.Initrd} {
		transfer := s.journal.SendImage(client, boot, name, 14_000_000)
		transfer.Sent(14_000_000)
		transfer.End(true, nil)
	}
}

// TestPageInABrowser looks at the page as people do. It stays open while the
// site changes, and is never reloaded.
func TestPageInABrowser(t *testing.T) {
	t.Parallel()
	s := startPage(t)
	s.stage("boot-v2026.02.28")
	s.stage("boot-v2026.03.05")
	s.switchTo("boot-v2026.02.28")
	current := journal.Boot{Release: "boot-v2026.02.28", Architecture: machine.X86_64}

	tab := lab.Browser(t)
	var requests, complaints []string
	var seen sync.Mutex
	require.NoError(t, chromedp.Listen(tab, func(event any) {
		seen.Lock()
		defer seen.Unlock()
		switch event := event.(type) {
		case *network.EventRequestWillBeSent:
			requests = append(requests, event.Request.URL)
		case *runtime.EventExceptionThrown:
			complaints = append(complaints, event.ExceptionDetails.Text)
		case *log.EventEntryAdded:
			complaints = append(complaints, event.Entry.Text)
		}
	}))
	// run fails with what the page shows if an action does not come to its end.
	run := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(tab, steps...); err != nil {
			text, _ := chromedp.Run(tab, chromedp.Text("body"))
			t.Fatalf("%v; the page shows:\n%s", err, text)
		}
	}
	// shows waits until an element's text has all the words.
	shows := func(selector string, words ...string) chromedp.Action[chromedp.Void] {
		return chromedp.PollFunction[chromedp.Void](`(selector, words) => {
			const element = document.querySelector(selector);
			return element && words.every((word) => element.innerText.includes(word));
		}`, chromedp.WithPollingArgs(selector, words))
	}
	row := func(mac string) string { return "tr[data-machine='" + mac + "']" }

	run(chromedp.Navigate(s.url),
		chromedp.Evaluate[chromedp.Void]("window.opened = true"),
		shows("#summary", "Serving boot-v2026.02.28.", "0 machines seen, 0 booting now."),
		shows("#machines", "None has asked for anything yet."),
		shows("#releases", "boot-v2026.03.05", strings.Repeat("c0ffee42", 8), "served", "canary", "52:54:00:00:00:09"),
		shows("#releases", "boot-v2025.01.01 is not staged: these machines boot the current release"))

	// A machine that boots to its end, and one that is under way.
	s.boot(client(1), current)
	ring := journal.Boot{Release: "boot-v2026.03.05", Architecture: machine.X86_64, Ring: "canary"}
	s.journal.BootStarted(client(2), ring)
	initrd := s.journal.SendImage(client(2), ring, state.Initrd, 700_000_000)
	initrd.Sent(301_000_000)
	run(shows("#summary", "2 machines seen, 1 booting now."),
		shows(row("52:54:00:00:00:01"), "booted", "10.20.30.101", "UEFI x86_64", "boot-v2026.02.28", "just now", "ec-ipxe.efi", "976.6 KiB", "kernel", "13.4 MiB"),
		shows(row("52:54:00:00:00:02"), "loading the initrd", "ring canary", "boot-v2026.03.05", "initrd: 287.1 MiB of 667.6 MiB, 43 %", "none seen"))
	progress, err := chromedp.Run(tab, chromedp.Evaluate[int]("document.querySelector('progress').value"))
	require.NoError(t, err)
	assert.Equal(t, 43, progress)

	// It goes on, and breaks off.
	initrd.Sent(49_000_000)
	run(shows(row("52:54:00:00:00:02"), "333.8 MiB of 667.6 MiB, 50 %"))
	initrd.End(false, errors.New("connection reset"))
	run(shows(row("52:54:00:00:00:02"), "broke off: initrd"))

	// A machine that shows up by its address first, and says who it is later.
	anonymous := client(3)
	anonymous.MAC, anonymous.Firmware = machine.MAC{}, machine.Firmware{}
	loader := s.journal.SendLoader(anonymous, journal.TFTP, "ec-ipxe.efi", 1_000_000)
	run(shows("#machines", "MAC not known yet", "firmware not known yet", "loading iPXE"))
	loader.End(true, nil)
	s.journal.BootStarted(client(3), current)
	run(shows(row("52:54:00:00:00:03"), "has the script", "ec-ipxe.efi"), shows("#summary", "3 machines seen"))

	// Another process switches the release.
	s.switchTo("boot-v2026.03.05")
	run(shows("#summary", "Serving boot-v2026.03.05."))

	// What a client makes up is text.
	evil := client(4)
	evil.Firmware.Architecture = "<img src=x onerror=alert(1)>"
	s.journal.BootStarted(evil, current)
	run(shows(row("52:54:00:00:00:04"), evil.Firmware.String()))

	opened, err := chromedp.Run(tab, chromedp.Evaluate[bool]("window.opened === true"))
	require.NoError(t, err)
	assert.True(t, opened, "the page was loaded again")
	seen.Lock()
	assert.NotEmpty(t, requests)
	for _, request := range requests {
		assert.True(t, strings.HasPrefix(request, s.url+"/"), "the page asks for %s", request)
	}
	assert.Empty(t, complaints)
	seen.Unlock()
}

// TestPageIsForScreenReaders reads what Chromium tells them.
func TestPageIsForScreenReaders(t *testing.T) {
	t.Parallel()
	s := startPage(t)
	s.stage("boot-v2026.02.28")
	s.switchTo("boot-v2026.02.28")
	s.boot(client(1), journal.Boot{Release: "boot-v2026.02.28", Architecture: machine.X86_64})
	tab := lab.Browser(t)
	// Narrow, where the table's rows are laid out as cards.
	require.NoError(t, chromedp.Do(tab, chromedp.EmulateViewport(360, 740), chromedp.Navigate(s.url), chromedp.WaitVisible("tbody tr")))
	tree, err := chromedp.Call(tab, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	require.NoError(t, err)
	var told []string
	for _, node := range tree.Nodes {
		if node.Ignored {
			continue
		}
		told = append(told, strings.Trim(string(node.Role.Value), `"`)+" "+strings.Trim(string(node.Name.Value), `"`))
	}
	for _, want := range []string{"heading Boot server", "table Machines", "columnheader Last boot", "rowheader 52:54:00:00:00:01 10.20.30.101 UEFI x86_64", "region Staged releases"} {
		assert.Contains(t, told, want)
	}
}

// TestPageWithoutAScript is whole as well.
func TestPageWithoutAScript(t *testing.T) {
	t.Parallel()
	s := startPage(t)
	s.stage("boot-v2026.02.28")
	body := get(t, s.url+"/")
	assert.Contains(t, body, "Serving no release.")
	s.switchTo("boot-v2026.02.28")
	s.boot(client(1), journal.Boot{Release: "boot-v2026.02.28", Architecture: machine.X86_64})
	body = get(t, s.url+"/")
	assert.Contains(t, body, "Serving <b>boot-v2026.02.28</b>.")
	assert.Contains(t, body, "52:54:00:00:00:01")
}

// The age of the newest proof is on the page and among the metrics, so that a server
// that hides what is newer is seen.
func TestAgeOfTheNewestProof(t *testing.T) {
	t.Parallel()
	s := startPage(t)
	assert.NotContains(t, get(t, s.url+"/"), "Newest signed proof")
	assert.NotContains(t, get(t, s.url+"/metrics"), "netboot_newest_proof_timestamp_seconds")

	published := time.Now().Add(-50 * time.Hour).Truncate(time.Second).UTC()
	mark := state.Mark{Bundles: map[machine.Architecture]state.MarkedBundle{}, Published: published}
	require.NoError(t, s.state.SetMark(t.Context(), mark))
	assert.Contains(t, get(t, s.url+"/"), `Newest signed proof: <time datetime="`+published.Format(time.RFC3339)+`">2 days ago</time>.`)
	assert.Contains(t, get(t, s.url+"/metrics"), fmt.Sprintf("netboot_newest_proof_timestamp_seconds %v\n", float64(published.Unix())))

	require.NoError(t, os.WriteFile(filepath.Join(s.state.Path(), "high-water-mark.json"), []byte("{"), 0o600))
	assert.Contains(t, get(t, s.url+"/"), "high-water-mark.json cannot be read")
	assert.NotContains(t, get(t, s.url+"/metrics"), "netboot_newest_proof_timestamp_seconds")
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := startPage(t)
	s.boot(client(1), journal.Boot{Release: "boot-v2026.02.28", Architecture: machine.X86_64})
	s.journal.SendLoader(client(2), journal.TFTP, "ec-ipxe.efi", 1000)
	s.journal.TFTPFailed("not found", client(2).Address, errors.New("no such file"))
	s.journal.Refused(journal.HTTP, "network", client(3).Address)
	s.journal.Answered(client(4), "ec-ipxe.efi")
	metrics := get(t, s.url+"/metrics")
	for _, line := range []string{
		`netboot_boots_begun_total{architecture="x86_64",release="boot-v2026.02.28"} 1`,
		`netboot_boots_finished_total{architecture="x86_64",release="boot-v2026.02.28"} 1`,
		`netboot_boot_duration_seconds_count{architecture="x86_64",release="boot-v2026.02.28"} 1`,
		`netboot_sent_bytes_total{protocol="http"} 2.8e+07`,
		`netboot_sent_bytes_total{protocol="tftp"} 1e+06`,
		`netboot_active_transfers{protocol="http"} 0`,
		`netboot_active_transfers{protocol="tftp"} 1`,
		`netboot_tftp_errors_total{reason="not found"} 1`,
		`netboot_refused_requests_total{protocol="http",reason="network"} 1`,
		`netboot_proxy_dhcp_answers_total{firmware="UEFI x86_64"} 1`,
	} {
		assert.Contains(t, metrics, line+"\n")
	}
	problems, err := promlint.New(strings.NewReader(metrics)).Lint()
	require.NoError(t, err)
	for _, problem := range problems {
		assert.NotContains(t, problem.Metric, "netboot", problem.Text)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}

// An alert on boots that begin and do not finish needs series that are there before.
func TestSeriesExistAtZero(t *testing.T) {
	t.Parallel()
	s := startPage(t)
	s.stage("boot-v2026.02.28")
	metrics := get(t, s.url+"/metrics")
	for _, line := range []string{
		`netboot_boots_begun_total{architecture="x86_64",release="boot-v2026.02.28"} 0`,
		`netboot_boots_finished_total{architecture="x86_64",release="boot-v2026.02.28"} 0`,
		`netboot_boot_duration_seconds_count{architecture="x86_64",release="boot-v2026.02.28"} 0`,
		`netboot_sent_bytes_total{protocol="http"} 0`,
		`netboot_sent_bytes_total{protocol="tftp"} 0`,
		`netboot_active_transfers{protocol="http"} 0`,
		`netboot_active_transfers{protocol="tftp"} 0`,
		`netboot_tftp_errors_total{reason="not found"} 0`,
		`netboot_refused_requests_total{protocol="http",reason="token"} 0`,
		`netboot_refused_requests_total{protocol="tftp",reason="limit"} 0`,
		`netboot_refused_requests_total{protocol="proxy-dhcp",reason="network"} 0`,
		`netboot_proxy_dhcp_answers_total{firmware="BIOS"} 0`,
		`netboot_proxy_dhcp_answers_total{firmware="UEFI HTTP aarch64"} 0`,
		`netboot_proxy_dhcp_unknown_architecture_total{architecture="6"} 0`,
		`netboot_proxy_dhcp_unknown_architecture_total{architecture="47"} 0`,
		`netboot_proxy_dhcp_unknown_architecture_total{architecture="other"} 0`,
	} {
		assert.Contains(t, metrics, line+"\n")
	}
	// Of a release that has been removed since, what began and never finished stays.
	s.journal.BootStarted(client(1), journal.Boot{Release: "boot-v2026.01.31", Architecture: machine.X86_64, Ring: "canary"})
	assert.Contains(t, get(t, s.url+"/metrics"), `netboot_boots_finished_total{architecture="x86_64",release="boot-v2026.01.31"} 0`+"\n")
}

func TestMetricsOfWhatIsServed(t *testing.T) {
	t.Parallel()
	s := startPage(t)
	metrics := get(t, s.url+"/metrics")
	assert.NotContains(t, metrics, "netboot_current_release")
	assert.NotContains(t, metrics, "netboot_last_staging")
	s.stage("boot-v2026.02.28")
	s.switchTo("boot-v2026.02.28")
	require.NoError(t, s.state.SetLastStaging(t.Context(), errors.New("no route to the forge")))
	failed, err := s.state.LastStaging()
	require.NoError(t, err)
	current, err := s.state.Current()
	require.NoError(t, err)
	metrics = get(t, s.url+"/metrics")
	for _, line := range []string{
		`netboot_current_release_info{release="boot-v2026.02.28"} 1`,
		fmt.Sprintf("netboot_current_release_staged_timestamp_seconds %v", float64(current.Staged.Unix())),
		fmt.Sprintf("netboot_last_staging_timestamp_seconds %v", float64(failed.Time.Unix())),
		"netboot_last_staging_success 0",
		"netboot_last_staging_success_timestamp_seconds 0",
	} {
		assert.Contains(t, metrics, line+"\n")
	}
	require.NoError(t, s.state.SetLastStaging(t.Context(), nil))
	assert.Contains(t, get(t, s.url+"/metrics"), "netboot_last_staging_success 1\n")
}

func TestMostMachines(t *testing.T) {
	t.Parallel()
	s := startPage(t)
	const most = 20_480
	for i := range most + 1 {
		s.journal.BootStarted(journal.Client{MAC: numbered(i)}, journal.Boot{Release: "boot-v1", Architecture: machine.X86_64})
		if i == most-1 {
			page := get(t, s.url+"/")
			assert.Contains(t, page, "20480 machines seen, ")
			assert.Contains(t, page, "<p>500 of 20480 are shown: those that are booting, then those seen last.</p>")
			assert.Equal(t, 500, strings.Count(page, "data-machine="))
		}
	}
	assert.Contains(t, get(t, s.url+"/"), "20161 machines seen (no more are remembered; those seen last stay), ", "room for more was made")
}

func numbered(i int) machine.MAC {
	mac, _ := machine.MACFrom(net.HardwareAddr{0x52, 0x54, 0, 0, byte(i >> 8), byte(i)})
	return mac
}

// TestPageOfFilesFromElsewhere does not say that machines hang of which no more is seen.
func TestPageOfFilesFromElsewhere(t *testing.T) {
	t.Parallel()
	dir, err := state.Create(filepath.Join(t.TempDir(), "netboot"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, dir.Close()) })
	synctest.Test(t, func(t *testing.T) {
		j := journal.New(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		handler := j.StatusPage(t.Context(), dir, func() state.Rings { return state.Rings{} }, "http://cache.lan/boot")
		current := journal.Boot{Release: "boot-v1", Architecture: machine.X86_64}
		j.HandedOver(client(1), current)
		time.Sleep(time.Minute)
		j.HandedOver(client(1), current)
		time.Sleep(time.Hour)
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/", nil))
		page := answer.Body.String()
		for _, shown := range []string{
			"1 machine seen, 0 booting now.",
			`Kernel and initrd come from <span class="source">http://cache.lan/boot</span>: whether a machine has them is not seen here.`,
			`<span class="stage elsewhere">has the script</span>`, `1 hour ago</time>, asked for it again: 1</span>`, "not seen here",
		} {
			assert.Contains(t, page, shown)
		}
		assert.NotContains(t, page, "stuck")
		assert.NotContains(t, page, "then nothing")
	})
}
