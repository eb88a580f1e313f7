package serve

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"every.channel/runner-images/internal/ipxe"
	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

// Booting machines load by HTTP the script, the kernel and the initrd of their
// release, and firmware that has HTTP (UEFI HTTP Boot) loads iPXE itself. Below the
// chain token, or at the root if there is none:
//
//	netboot.ipxe                                  the script of the client's release
//	kernel, initrd                                of the current release
//	r/TAG/ARCHITECTURE/SHA256/{kernel,initrd}     of that release, with that sum
//	r/TAG/ARCHITECTURE/SHA256/MAC/{kernel,initrd} the same, for that machine
//	autoexec.ipxe                                 leads to netboot.ipxe
//	FILE                                          from the folder of iPXE binaries
//
// The script that iPXE gets names the kernel and the initrd by their release and their
// content, so that a machine boots one release whatever is switched meanwhile. With
// --files-url it names them below that address, where a cache fetches them from here.
const (
	healthz  = "healthz"
	releases = "r" // the first part of the paths of a certain release's files
)

const nothingStaged = "no release is staged; run: runner-images netboot stage"

// A handler answers the requests of booting machines.
type handler struct {
	state    *state.Dir
	loaders  *loaderDir
	networks networks
	journal  *journal.Journal

	// token and rings return what is in force.
	token func() chainToken
	rings func() state.Rings

	// scripts returns the addresses of netboot.ipxe, the best first, for a client
	// that reached this server at local.
	scripts func(local netip.Addr) []string

	// peers returns the addresses of netboot.ipxe on other boot servers.
	peers func() []string

	// filesURL is where machines find what is below r/ here, without a slash at its end;
	// empty: here.
	filesURL string

	// asked is called when a client asks for netboot.ipxe.
	asked func(client netip.Addr)

	leases leases
	active sync.RWMutex // read-locked by each answer in progress
}

// Close waits until all answers have ended, and ends the leases of machines that are
// booting. The connections must be closed.
func (h *handler) Close() error {
	h.active.Lock()
	defer h.active.Unlock()
	h.leases.close()
	return nil
}

// ServeHTTP answers a request.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.active.RLock()
	defer h.active.RUnlock()
	defer answering(r.Context())()
	client := journal.Client{Address: remote(r)}
	if !h.networks.allow(client.Address) {
		h.journal.Refused(journal.HTTP, "network", client.Address)
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
	keepRange(r.Header)
	parts, guarded := h.parts(r)
	answer := answer{h, w, r, client, guarded}
	if err := answer.write(parts); err != nil {
		answer.fail(err)
	}
}

// keepRange leaves a request its range if that is one in bytes. A range in another unit
// is ignored (RFC 9110, section 14.2; units are case-insensitive), and so are several
// at once, which no boot program asks for.
func keepRange(header http.Header) {
	unit, ranges, _ := strings.Cut(header.Get("Range"), "=")
	header.Del("Range")
	if strings.EqualFold(unit, "bytes") && !strings.Contains(ranges, ",") {
		header.Set("Range", "bytes="+ranges)
	}
}

// parts returns the parts of the path after the chain token, and whether it was
// there (or there is no token).
func (h *handler) parts(r *http.Request) (parts []string, guarded bool) {
	parts = strings.Split(strings.TrimLeft(r.URL.Path, "/"), "/")
	last := len(parts) - 1
	// Scripts join addresses with one slash too many.
	parts = append(slices.DeleteFunc(parts[:last], func(part string) bool { return part == "" }), parts[last])
	token := h.token()
	if !token.isSet() {
		return parts, true
	}
	if token.matches(parts[0]) {
		return parts[1:], true
	}
	return parts, false
}

// remote returns the address of the connection's other end, whatever headers claim.
func remote(r *http.Request) netip.Addr {
	end, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return end.Addr().Unmap()
}

// An answer to one request.
type answer struct {
	*handler
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
		// Binaries are no secret; firmware asks for them before it knows the token.
		if len(parts) == 1 && path.Ext(parts[0]) != path.Ext(autoexec) && a.loaders.has(parts[0]) {
			return a.loader(parts[0])
		}
		return errNotGuarded
	}
	switch {
	case len(parts) == 1 && parts[0] == state.Script:
		return a.script()
	case len(parts) == 1 && (parts[0] == state.Kernel || parts[0] == state.Initrd):
		return a.current(parts[0])
	case len(parts) > 0 && parts[0] == releases:
		return a.released(parts[1:])
	}
	return a.loader(strings.Join(parts, "/"))
}

// health reports whether there is something to boot.
func (a *answer) health() error {
	switch _, err := a.state.Current(); {
	case errors.Is(err, state.ErrNotStaged):
		refuse(a.w, http.StatusServiceUnavailable, nothingStaged)
		return nil
	case err != nil:
		return err
	}
	return a.small("ok\n")
}

// script answers with the script of the client's release. If the request does not
// describe the machine, iPXE is made to ask again with its description; other clients
// have the script as it is.
func (a *answer) script() error {
	query := a.r.URL.Query()
	a.asked(a.client.Address)
	// A machine that does not send its MAC boots all the same. One that sends another
	// thing could be of any ring.
	var err error
	if a.client.MAC, err = machine.ParseSentMAC(query.Get(ipxe.QueryMAC)); err != nil {
		return badMAC{err}
	}
	architecture, err := machine.ParseBuildarch(query.Get(ipxe.QueryArchitecture))
	if err != nil {
		return notFound{err}
	}
	a.client.Firmware = machine.ParsePlatform(query.Get(ipxe.QueryPlatform), architecture)
	snapshot, ring, err := a.choose(architecture)
	if err != nil {
		return err
	}
	script, err := read(snapshot, architecture, state.Script)
	if err != nil {
		return errors.Join(err, snapshot.Close())
	}
	bundle := bundleOf(snapshot.Release, architecture)
	if err := a.leases.grant(bundle, snapshot); err != nil {
		return err
	}
	script = ipxe.FreeImages(ipxe.Bind(script, func(name string) string {
		return a.address(fileOf(snapshot.Release, architecture, name))
	}))
	if plainTag.MatchString(bundle.tag) {
		script = ipxe.AddParameter(script, ipxe.TagParameter+"="+bundle.tag)
	}
	if a.filesURL != "" || len(a.peers()) > 0 {
		script = ipxe.LimitSilence(script, mostSilence)
	}
	if !query.Has(ipxe.QueryMAC) {
		return a.small(string(ipxe.Identify(script, append([]string{state.Script}, a.peers()...)...)))
	}
	if a.r.Method == http.MethodGet {
		boot := journal.Boot{Release: bundle.tag, Architecture: architecture, Ring: ring}
		if a.filesURL == "" {
			a.journal.BootStarted(a.client, boot)
		} else {
			a.journal.HandedOver(a.client, boot)
		}
	}
	return a.small(string(script))
}

// mostSilence is how long a machine that could go on elsewhere waits for more of a file.
// A cache that has to fetch the whole file first must be faster than that.
const mostSilence = 30 * time.Second

// plainTag matches tags that a script can contain as they are.
var plainTag = regexp.MustCompile(`^[A-Za-z0-9._/+-]+$`)

// choose opens the release of the client's ring, or the current one if the client is
// in no ring, or the ring's release is not staged or not for such machines.
func (a *answer) choose(architecture machine.Architecture) (snapshot *state.Snapshot, ring string, err error) {
	if ring, ok := a.ring(); ok {
		snapshot, err := a.state.OpenRelease(ring.Tag)
		if err == nil {
			if _, ok := snapshot.Release.Bundles[architecture]; ok {
				return snapshot, ring.Name, nil
			}
			err = errors.Join(fmt.Errorf("release %s for %s: %w", ring.Tag, architecture, state.ErrNotStaged), snapshot.Close())
		}
		a.journal.Failed(a.client, fmt.Errorf("ring %s: %w; it boots the current release", ring.Name, err))
	}
	snapshot, err = a.state.OpenCurrent()
	return snapshot, "", err
}

// ring returns the ring of the client, if its MAC is known and in one.
func (a *answer) ring() (state.Ring, bool) {
	return a.rings().For(a.client.MAC)
}

func read(snapshot *state.Snapshot, architecture machine.Architecture, name string) ([]byte, error) {
	file, err := snapshot.Open(architecture, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}

// address returns where the client finds a file: relative to the script, and with its
// MAC, by which its progress is seen; or elsewhere, where the address is the same for all.
func (a *answer) address(file fileID) string {
	if a.filesURL == "" {
		return releases + "/" + file.path(a.client.MAC)
	}
	return a.filesURL + a.token().path() + releases + "/" + file.path(machine.MAC{})
}

// current answers with a file of the current release.
func (a *answer) current(name string) error {
	architecture, err := machine.ParseBuildarch(a.r.URL.Query().Get(ipxe.QueryArchitecture))
	if err != nil {
		return notFound{err}
	}
	snapshot, err := a.state.OpenCurrent()
	if err != nil {
		return err
	}
	defer func() { _ = snapshot.Close() }() // it is only read
	file, err := snapshot.Open(architecture, name)
	if err != nil {
		return err
	}
	defer file.Close()
	a.w.Header().Set("Cache-Control", "no-cache") // another release's, some day
	return a.image(file, snapshot.Release, fileOf(snapshot.Release, architecture, name), a.journal.SendImage)
}

// released answers with the file that the path names. Errors are not for caches: the
// release may be staged in a while.
func (a *answer) released(parts []string) error {
	id, mac, err := parseFileID(parts)
	if err != nil {
		return err
	}
	a.client.MAC = mac
	file, release, err := a.leases.open(a.state, id)
	if errors.Is(err, state.ErrNotStaged) {
		return notFound{err}
	}
	if err != nil {
		return err
	}
	defer file.Close()
	a.w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	if a.filesURL != "" && !mac.IsValid() {
		return a.image(file, release, id, a.journal.SendToCache)
	}
	return a.image(file, release, id, a.journal.SendImage)
}

// image sends a kernel or an initrd, and records that by record. Its sum alone says which
// version it is: when it was written differs from one boot server to another.
func (a *answer) image(file *os.File, release state.Release, id fileID, record func(journal.Client, journal.Boot, string, int64) *journal.Transfer) error {
	want := release.Bundles[id.architecture].Files[id.name].Size
	if info, err := file.Stat(); err != nil || info.Size() != want {
		return errors.Join(err, fmt.Errorf("%s is not of %d bytes, as it was when release %s was staged; stage it again", file.Name(), want, id.tag))
	}
	a.w.Header().Set("ETag", `"`+id.sha256+`"`)
	boot := journal.Boot{Release: id.tag, Architecture: id.architecture}
	if ring, ok := a.ring(); ok && ring.Tag == release.Tag {
		boot.Ring = ring.Name
	}
	return a.send(file, time.Time{}, func(size int64) *journal.Transfer {
		return record(a.client, boot, id.name, size)
	})
}

// loader sends a file from the folder of iPXE binaries, or the generated autoexec.ipxe
// if that folder has none.
func (a *answer) loader(name string) error {
	clean, err := a.loaders.served(name, autoexec)
	if err != nil {
		return err
	}
	file, _, err := a.loaders.open(clean)
	if errors.Is(err, fs.ErrNotExist) && clean == autoexec {
		return a.autoexec()
	}
	if err != nil {
		return fmt.Errorf("%q: %w", labelOf(clean), err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	a.w.Header().Set("Cache-Control", "no-cache")
	return a.send(file, info.ModTime(), func(size int64) *journal.Transfer {
		return a.journal.SendLoader(a.client, journal.HTTP, clean, size)
	})
}

// autoexec answers with the script that leads from iPXE to the release.
func (a *answer) autoexec() error {
	script := string(ipxe.Autoexec(a.scripts(a.local())...))
	if a.r.Method == http.MethodHead {
		return a.small(script)
	}
	transfer := a.journal.SendLoader(a.client, journal.HTTP, autoexec, int64(len(script)))
	err := a.small(script)
	transfer.Sent(int64(len(script)))
	transfer.End(true, nil)
	return err
}

// local returns the address at which the client reached this server.
func (a *answer) local() netip.Addr {
	end, _ := a.r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return addressOf(end)
}

// small answers with a text that the server has made, which may change.
func (a *answer) small(text string) error {
	a.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	a.w.Header().Set("Cache-Control", "no-cache")
	extend(a.w)
	http.ServeContent(a.w, a.r, "", time.Time{}, strings.NewReader(text))
	return nil
}

// send sends a file, or the part of it that was asked for. modified is zero where the
// ETag says all.
func (a *answer) send(file *os.File, modified time.Time, start func(size int64) *journal.Transfer) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	a.w.Header().Set("Content-Type", "application/octet-stream")
	w := &fileResponse{ResponseWriter: a.w, file: file, size: info.Size(), start: start}
	if a.r.Method == http.MethodHead {
		w.start = nil
	}
	http.ServeContent(w, a.r, "", modified, file)
	w.end()
	return nil
}

// badMAC is the error of a machine whose MAC cannot be read.
type badMAC struct{ error }

// notFound makes an error wrap fs.ErrNotExist.
type notFound struct{ error }

func (notFound) Is(target error) bool { return target == fs.ErrNotExist }
func (e notFound) Unwrap() error      { return e.error }

// fail answers with an error. iPXE shows the status, curl the text.
func (a *answer) fail(err error) {
	var bad badMAC
	switch {
	case errors.As(err, &bad):
		a.journal.ScriptRefused(a.client, err)
		refuse(a.w, http.StatusBadRequest, "what the machine sends as "+ipxe.QueryMAC+" is no MAC address; send ${netX/mac:hexhyp}")
	case errors.Is(err, errNotGuarded):
		a.journal.Refused(journal.HTTP, "token", a.client.Address)
		refuse(a.w, http.StatusNotFound, "there is nothing here")
	case errors.Is(err, fs.ErrNotExist):
		a.journal.Failed(a.client, err)
		refuse(a.w, http.StatusNotFound, "there is no such file here")
	case errors.Is(err, state.ErrNotStaged):
		a.journal.Failed(a.client, err)
		refuse(a.w, http.StatusServiceUnavailable, nothingStaged)
	default:
		a.journal.Failed(a.client, err)
		refuse(a.w, http.StatusInternalServerError, "the release cannot be read; see the server's log")
	}
}

func refuse(w http.ResponseWriter, status int, text string) {
	extend(w)
	w.Header().Del("ETag")
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, text, status)
}
