// Package boothttp serves what booting machines load by HTTP: the script, the
// kernel and the initrd of their release, and iPXE itself to firmware that knows
// HTTP (UEFI HTTP Boot).
//
// Below the chain token, or at the root if there is none:
//
//	netboot.ipxe                                  the script of the client's release
//	kernel, initrd                                of the current release
//	r/TAG/ARCHITECTURE/SUM/{kernel,initrd}        of that release
//	r/TAG/ARCHITECTURE/SUM/MAC/{kernel,initrd}    the same, for that machine
//	autoexec.ipxe                                 leads to netboot.ipxe
//	FILE                                          from the folder of iPXE binaries
//
// The script that iPXE gets names the kernel and the initrd by their release, so
// that a machine boots the release it began with whatever is switched meanwhile.
package boothttp

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"every.channel/runner-images/internal/ipxe"
	"every.channel/runner-images/internal/netboot/access"
	"every.channel/runner-images/internal/netboot/chain"
	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/loaders"
	"every.channel/runner-images/internal/netboot/state"
)

const (
	autoexec = "autoexec.ipxe"
	healthz  = "healthz"
	releases = "r" // the first part of the paths of a certain release's files
)

const nothingStaged = "no release is staged; run: runner-images netboot stage"

// A Handler answers the requests of booting machines.
type Handler struct {
	State    *state.Dir
	Loaders  *loaders.Dir
	Networks access.Networks
	Journal  *journal.Journal

	// Token and Rings return what holds at the moment.
	Token func() access.Token
	Rings func() state.Rings

	// Scripts returns the addresses of netboot.ipxe, the best first, for a client
	// that reached this server at local.
	Scripts func(local netip.Addr) []string

	// Began, if set, is called when a client asks for netboot.ipxe.
	Began func(client netip.Addr)

	begun   begun
	serving sync.RWMutex // held by each answer that is under way
}

// Close waits until all answers have ended, and lets go of the releases that are
// held for machines that have begun to boot them. The connections must be closed.
func (h *Handler) Close() error {
	h.serving.Lock()
	defer h.serving.Unlock()
	h.begun.close()
	return nil
}

// ServeHTTP answers a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.serving.RLock()
	defer h.serving.RUnlock()
	client := journal.Client{Address: remote(r)}
	if !h.Networks.Allow(client.Address) {
		h.Journal.Refused(journal.HTTP, "network", client.Address)
		w.Header().Set("Connection", "close")
		refuse(w, http.StatusForbidden, "this network may not boot from here")
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "this server is read-only")
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	parts, guarded := h.parts(r)
	answer := answer{h, w, r, client, guarded}
	if err := answer.write(parts); err != nil {
		answer.fail(err)
	}
}

// parts returns the parts of the path behind the chain token, and whether they
// are behind it (which all are where there is no token).
func (h *Handler) parts(r *http.Request) (parts []string, guarded bool) {
	parts = strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	token := h.Token()
	if !token.Set() {
		return parts, true
	}
	if token.Matches(parts[0]) {
		return parts[1:], true
	}
	return parts, false
}

// remote returns the address of the connection's other end. No header changes it.
func remote(r *http.Request) netip.Addr {
	end, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return end.Addr().Unmap()
}

// An answer to one request.
type answer struct {
	*Handler
	w       http.ResponseWriter
	r       *http.Request
	client  journal.Client
	guarded bool
}

var errNotGuarded = fmt.Errorf("not below the chain token: %w", fs.ErrNotExist)

func (a *answer) write(parts []string) error {
	if len(parts) == 1 && parts[0] == healthz {
		return a.health()
	}
	if !a.guarded {
		// Binaries are no secret; the firmware's own request for them comes first.
		if len(parts) == 1 && path.Ext(parts[0]) != path.Ext(autoexec) && a.Loaders.Has(parts[0]) {
			return a.loader(parts[0])
		}
		return errNotGuarded
	}
	switch {
	case len(parts) == 1 && parts[0] == state.Script:
		return a.script()
	case len(parts) == 1 && (parts[0] == state.Kernel || parts[0] == state.Initrd):
		return a.current(parts[0])
	case parts[0] == releases:
		return a.released(parts[1:])
	}
	return a.loader(strings.Join(parts, "/"))
}

// health says whether there is something to boot.
func (a *answer) health() error {
	switch _, err := a.State.Current(); {
	case errors.Is(err, state.ErrNotStaged):
		refuse(a.w, http.StatusServiceUnavailable, nothingStaged)
		return nil
	case err != nil:
		return err
	}
	return a.small("ok\n")
}

// script answers with the script of the client's release. iPXE that does not say
// what machine it runs on is asked to; all others have the script as well.
func (a *answer) script() error {
	query := a.r.URL.Query()
	if a.Began != nil {
		a.Began(a.client.Address)
	}
	if mac, err := state.ParseMAC(query.Get(chain.QueryMAC)); err == nil {
		a.client.MAC = mac.String()
	}
	a.client.Firmware = firmware(query)
	architecture, err := chain.Architecture(query.Get(chain.QueryArchitecture))
	if err != nil {
		return notFound{err}
	}
	hold, ring, err := a.choose(architecture)
	if err != nil {
		return err
	}
	script, err := read(hold, architecture, state.Script)
	if err != nil {
		return errors.Join(err, hold.Close())
	}
	which := editionOf(hold.Release, architecture)
	if err := a.begun.keep(which, hold); err != nil {
		return err
	}
	script = ipxe.FreeImages(ipxe.Bind(script, a.folder(which)))
	if plainTag.MatchString(which.tag) {
		script = ipxe.AddParameter(script, ipxe.TagParameter+"="+which.tag)
	}
	if !query.Has(chain.QueryMAC) {
		return a.small(string(chain.AskAgain(state.Script, script)))
	}
	if a.r.Method == http.MethodGet {
		a.Journal.Begin(a.client, journal.Boot{Release: which.tag, Architecture: architecture, Ring: ring})
	}
	return a.small(string(script))
}

// plainTag matches tags that a script can say as they are.
var plainTag = regexp.MustCompile(`^[A-Za-z0-9._/+-]+$`)

// firmware returns the client's firmware for people, from what iPXE says of its
// platform (https://ipxe.org/cfg/platform).
func firmware(query url.Values) string {
	architecture, err := chain.Architecture(query.Get(chain.QueryArchitecture))
	switch platform := query.Get(chain.QueryPlatform); {
	case platform == "pcbios":
		return "BIOS"
	case platform == "efi" && err == nil:
		return "UEFI " + string(architecture)
	}
	return ""
}

// choose returns the release of the client's ring, or the current one: so also if
// that of the ring is not there, or not for such machines.
func (a *answer) choose(architecture state.Architecture) (hold *state.Hold, ring string, err error) {
	if ring, ok := a.ring(); ok {
		hold, err := a.State.Hold(ring.Tag)
		if err == nil {
			if _, ok := hold.Release.Bundles[architecture]; ok {
				return hold, ring.Name, nil
			}
			err = errors.Join(fmt.Errorf("release %s for %s: %w", ring.Tag, architecture, state.ErrNotStaged), hold.Close())
		}
		a.Journal.Trouble(a.client, fmt.Errorf("ring %s: %w; it boots the current release", ring.Name, err))
	}
	hold, err = a.State.HoldCurrent()
	return hold, "", err
}

// ring returns the ring of the client, if it said what machine it is.
func (a *answer) ring() (state.Ring, bool) {
	mac, err := state.ParseMAC(a.client.MAC)
	if err != nil {
		return state.Ring{}, false
	}
	return a.Rings().For(mac)
}

func read(hold *state.Hold, architecture state.Architecture, name string) ([]byte, error) {
	file, err := hold.Open(architecture, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}

// folder returns the folder of an edition's files, relative to the script's.
func (a *answer) folder(which edition) string {
	folder := releases + "/" + which.path()
	if a.client.MAC != "" {
		folder += strings.ReplaceAll(a.client.MAC, ":", "-") + "/"
	}
	return folder
}

// current answers with a file of the current release.
func (a *answer) current(name string) error {
	architecture, err := chain.Architecture(a.r.URL.Query().Get(chain.QueryArchitecture))
	if err != nil {
		return notFound{err}
	}
	hold, err := a.State.HoldCurrent()
	if err != nil {
		return err
	}
	defer hold.Close()
	file, err := hold.Open(architecture, name)
	if err != nil {
		return err
	}
	defer file.Close()
	return a.image(file, hold.Release, architecture, name)
}

// released answers with a file of the edition that the path names.
func (a *answer) released(parts []string) error {
	which, rest, err := parseEdition(parts)
	if err != nil {
		return notFound{err}
	}
	if len(rest) == 2 {
		mac, err := state.ParseMAC(rest[0])
		if err != nil {
			return notFound{err}
		}
		a.client.MAC, rest = mac.String(), rest[1:]
	}
	if len(rest) != 1 || (rest[0] != state.Kernel && rest[0] != state.Initrd) {
		return fs.ErrNotExist
	}
	file, release, err := a.begun.open(a.State, which, rest[0])
	if err != nil {
		return notFound{err}
	}
	defer file.Close()
	return a.image(file, release, which.architecture, rest[0])
}

// image sends a kernel or an initrd.
func (a *answer) image(file *os.File, release state.Release, architecture state.Architecture, name string) error {
	a.w.Header().Set("ETag", `"`+release.Bundles[architecture].Files[name].SHA256+`"`)
	boot := journal.Boot{Release: release.Tag, Architecture: architecture}
	if ring, ok := a.ring(); ok && ring.Tag == release.Tag {
		boot.Ring = ring.Name
	}
	return a.send(file, func(size int64) *journal.Transfer {
		return a.Journal.SendImage(a.client, boot, name, size)
	})
}

// loader sends a file from the folder of iPXE binaries, or the script that leads
// from iPXE to the release if that folder has none.
func (a *answer) loader(name string) error {
	clean, err := loaders.Clean(name)
	if err != nil {
		return err
	}
	file, _, err := a.Loaders.Open(clean)
	if errors.Is(err, fs.ErrNotExist) && clean == autoexec {
		return a.autoexec()
	}
	if err != nil {
		return fmt.Errorf("%q: %w", loaders.Label(clean), err)
	}
	defer file.Close()
	return a.send(file, func(size int64) *journal.Transfer {
		return a.Journal.SendLoader(a.client, journal.HTTP, clean, size)
	})
}

// autoexec answers with the script that leads from iPXE to the release.
func (a *answer) autoexec() error {
	script := string(chain.Autoexec(a.Scripts(a.local())...))
	if a.r.Method == http.MethodHead {
		return a.small(script)
	}
	transfer := a.Journal.SendLoader(a.client, journal.HTTP, autoexec, int64(len(script)))
	err := a.small(script)
	transfer.Sent(int64(len(script)))
	transfer.End(true, nil)
	return err
}

// local returns the address at which the client reached this server.
func (a *answer) local() netip.Addr {
	end, _ := a.r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return access.Address(end)
}

// small answers with a text that the server has made. It may be another one the
// next time.
func (a *answer) small(text string) error {
	a.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	a.w.Header().Set("Cache-Control", "no-cache")
	extend(a.w)
	http.ServeContent(a.w, a.r, "", time.Time{}, strings.NewReader(text))
	return nil
}

// send sends a file, or the part of it that was asked for.
func (a *answer) send(file *os.File, begin func(size int64) *journal.Transfer) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	a.w.Header().Set("Content-Type", "application/octet-stream")
	if a.r.Method == http.MethodHead {
		http.ServeContent(a.w, a.r, "", info.ModTime(), file)
		return nil
	}
	if strings.Contains(a.r.Header.Get("Range"), ",") {
		a.r.Header.Del("Range") // several ranges at once: no boot program asks so
	}
	w := &watched{ResponseWriter: a.w, file: file, size: info.Size(), begin: begin}
	http.ServeContent(w, a.r, "", info.ModTime(), file)
	w.end()
	return nil
}

// notFound makes an error one of those that wrap fs.ErrNotExist.
type notFound struct{ error }

func (notFound) Is(target error) bool { return target == fs.ErrNotExist }
func (e notFound) Unwrap() error      { return e.error }

// fail answers with an error. iPXE shows the status, and people who look with curl
// the text.
func (a *answer) fail(err error) {
	switch {
	case errors.Is(err, errNotGuarded):
		a.Journal.Refused(journal.HTTP, "token", a.client.Address)
		refuse(a.w, http.StatusNotFound, "there is nothing here")
	case errors.Is(err, fs.ErrNotExist):
		a.Journal.Trouble(a.client, err)
		refuse(a.w, http.StatusNotFound, "there is no such file here")
	case errors.Is(err, state.ErrNotStaged):
		a.Journal.Trouble(a.client, err)
		refuse(a.w, http.StatusServiceUnavailable, nothingStaged)
	default:
		a.Journal.Trouble(a.client, err)
		refuse(a.w, http.StatusInternalServerError, "the release cannot be read; see the server's log")
	}
}

func refuse(w http.ResponseWriter, status int, text string) {
	extend(w)
	w.Header().Del("ETag")
	http.Error(w, text, status)
}
