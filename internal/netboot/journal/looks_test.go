package journal_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

// fleet is the status page on a morning on which everything happens, as HTML. The
// clock is synctest's, so that it is the same whenever it is made.
func fleet(t *testing.T) (html string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newPage(t, "")
		at := func(text string) {
			t.Helper()
			when, err := time.Parse(time.RFC3339, text)
			require.NoError(t, err)
			time.Sleep(time.Until(when)) // the bubble's clock
		}
		at("2026-02-28T08:12:00Z")
		s.stage("boot-v2026.02.28")
		s.switchTo("boot-v2026.02.28")
		at("2026-03-05T06:40:00Z")
		s.stage("boot-v2026.03.05")
		mark := state.Mark{Bundles: map[machine.Architecture]state.MarkedBundle{}, Published: time.Now().Add(-9 * time.Minute)}
		require.NoError(t, s.state.SetMark(t.Context(), mark))

		current := journal.Boot{Release: "boot-v2026.02.28", Architecture: machine.X86_64}
		canary := journal.Boot{Release: "boot-v2026.03.05", Architecture: machine.X86_64, Ring: "canary"}
		at("2026-03-05T06:55:00Z")
		s.loadAll(client(1), current)
		at("2026-03-05T08:31:00Z")
		s.loadAll(client(2), canary)
		at("2026-03-05T09:01:00Z")
		s.loadAll(client(3), current)
		bios := client(7)
		bios.Firmware = machine.Firmware{Architecture: machine.X86_64, BIOS: true}
		s.loadAll(bios, current)
		at("2026-03-05T09:09:00Z")
		s.load(client(6), current, 211_000_000).End(false, errors.New("connection reset by peer"))
		at("2026-03-05T09:12:10Z")
		s.loadAll(client(9), canary)
		at("2026-03-05T09:14:20Z")
		s.load(client(4), current, 301_000_000)
		s.load(client(5), current, 612_000_000)
		s.journal.SendLoader(journal.Client{Address: netip.MustParseAddr("10.20.30.112")}, journal.TFTP, "ec-ipxe.efi", 1_000_000).Sent(420_000)

		answer := httptest.NewRecorder()
		s.handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/", nil))
		require.Equal(t, http.StatusOK, answer.Code)
		html = answer.Body.String()
	})
	return html
}

// load has a machine load its release, up to so many bytes of the initrd, which it
// returns.
func (s *page) load(client journal.Client, boot journal.Boot, sent int64) *journal.Transfer {
	loader := "ec-ipxe.efi"
	if client.Firmware.BIOS {
		loader = "undionly.kpxe"
	}
	s.journal.SendLoader(client, journal.TFTP, loader, 1_000_000).End(true, nil)
	s.journal.BootStarted(client, boot)
	kernel := s.journal.SendImage(client, boot, state.Kernel, 14_000_000)
	kernel.Sent(14_000_000)
	kernel.End(true, nil)
	initrd := s.journal.SendImage(client, boot, state.Initrd, initrdSize)
	initrd.Sent(sent)
	return initrd
}

const initrdSize = 700_000_000

func (s *page) loadAll(client journal.Client, boot journal.Boot) {
	s.load(client, boot, initrdSize).End(true, nil)
}

// TestLooks looks at the page of a fleet on screens of several sizes, in both colour
// schemes. scripts/update-pictures has it write what it sees into the folder PICTURES.
func TestLooks(t *testing.T) {
	t.Parallel()
	html := fleet(t)
	assert.Contains(t, html, `9 machines seen, 3 booting now, <b class="bad">1 stuck</b>. Newest signed proof:`)
	live := newPage(t, "").handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte(html))
		case "/events": // with no news: the page stays as it is
			w.Header().Set("Content-Type", "text/event-stream")
			assert.NoError(t, http.NewResponseController(w).Flush())
			<-r.Context().Done()
		default:
			live.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	tab := lab.Browser(t)
	require.NoError(t, chromedp.Do(tab, chromedp.Navigate(server.URL), chromedp.WaitVisible("tbody tr")))
	for _, look := range []struct {
		name          string
		width, height int64
		scale         float64
		scheme        string
	}{
		{"status-light", 1280, 800, 1, "light"},
		{"status-dark", 1280, 800, 1, "dark"},
		{"status-phone-light", 390, 844, 2, "light"},
		{"status-phone-dark", 390, 844, 2, "dark"},
		{"small-phone", 320, 568, 1, "light"},
		{"wall", 1920, 1080, 1, "dark"},
	} {
		require.NoError(t, chromedp.Do(tab, chromedp.EmulateViewport(look.width, look.height, chromedp.EmulateScale(look.scale))))
		_, err := chromedp.Call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: look.scheme}},
		})
		require.NoError(t, err)
		count := func(expression string) int {
			t.Helper()
			number, err := chromedp.Run(tab, chromedp.Evaluate[int](expression))
			require.NoError(t, err)
			return number
		}
		assert.LessOrEqual(t, count("document.documentElement.scrollWidth - document.documentElement.clientWidth"), 0, "%s: the page is too wide", look.name)
		assert.Zero(t, count(`[...document.querySelectorAll("body *")].filter((e) => e.innerText && parseFloat(getComputedStyle(e).fontSize) < 12).length`),
			"%s: there is text too small to read", look.name)
		background, err := chromedp.Run(tab, chromedp.Evaluate[string]("getComputedStyle(document.body).backgroundColor"))
		require.NoError(t, err)
		assert.Equal(t, map[string]string{"light": "rgb(246, 247, 249)", "dark": "rgb(20, 24, 29)"}[look.scheme], background)
		if folder := os.Getenv("PICTURES"); folder != "" && strings.HasPrefix(look.name, "status-") {
			picture, err := chromedp.Run(tab, chromedp.CaptureScreenshot())
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(folder, look.name+".png"), picture, 0o644))
		}
	}
}
