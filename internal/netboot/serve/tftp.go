package serve

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"path"
	"sync"
	"time"

	"every.channel/runner-images/internal/ipxe"
	"every.channel/runner-images/internal/netboot/state"
	"every.channel/runner-images/internal/netboot/tftp"
)

// autoexec is the name of the script that iPXE looks for beside itself.
const autoexec = "autoexec.ipxe"

// secondRequestExpiry is how long after a client has been sent a boot program a
// second request for it is the request of that program itself.
const secondRequestExpiry = time.Minute

// tftpFiles are what the TFTP server has: the folder of boot programs, and the
// scripts that lead iPXE to the HTTP server.
type tftpFiles struct {
	loaders *loaderDir

	// scripts returns the addresses of the script that iPXE goes on with, the best
	// first, for a client that reached this server at local.
	scripts func(local netip.Addr) []string

	requests secondRequests
}

// Open returns the answer to a client's request for name (tftp.Files).
func (t *tftpFiles) Open(name string, client, local netip.Addr) (tftp.File, error) {
	clean, err := t.loaders.served(name, autoexec, state.Script)
	if err != nil {
		return tftp.File{}, err
	}
	stored, size, err := t.loaders.open(clean)
	if errors.Is(err, fs.ErrNotExist) && (clean == autoexec || clean == state.Script) {
		return t.generated(client, clean, ipxe.Autoexec(t.scripts(local)...)), nil
	}
	if err != nil {
		return tftp.File{}, err
	}
	request := programRequest{client, clean}
	isProgram := path.Ext(clean) != path.Ext(autoexec)
	if isProgram && t.requests.isSecond(request) {
		return t.generated(client, clean+" (script)", ipxe.Chain(t.scripts(local)...)), stored.Close()
	}
	sent := func() { t.requests.forget(client) }
	if isProgram {
		sent = func() { t.requests.sent(request) }
	}
	return tftp.File{Content: stored, Size: size, Label: clean, Sent: sent}, nil
}

// Label returns what a log may contain of a name (tftp.Files).
func (t *tftpFiles) Label(name string) string { return labelOf(name) }

// generated returns a script that was made for a client. When it has it, its next
// request is that of a new boot.
func (t *tftpFiles) generated(client netip.Addr, label string, script []byte) tftp.File {
	return tftp.File{
		Content: io.NopCloser(bytes.NewReader(script)), Size: int64(len(script)), Label: label,
		Sent: func() { t.requests.forget(client) },
	}
}

// A programRequest is a client's request for a boot program.
type programRequest struct {
	client netip.Addr
	name   string
}

// secondRequests recognise iPXE that asks for itself, because the DHCP server gives
// it the same boot file as the firmware. The zero value is ready for use.
type secondRequests struct {
	mu     sync.Mutex
	sentAt map[programRequest]time.Time
}

// sent notes that a client has been sent a boot program to its end.
func (r *secondRequests) sent(request programRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sentAt == nil {
		r.sentAt = map[programRequest]time.Time{}
	}
	for old, at := range r.sentAt {
		if time.Since(at) > secondRequestExpiry {
			delete(r.sentAt, old)
		}
	}
	r.sentAt[request] = time.Now()
}

// isSecond reports whether the client was sent this program a short while ago.
func (r *secondRequests) isSecond(request programRequest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.sentAt[request]
	return ok && time.Since(at) <= secondRequestExpiry
}

// forget makes the client's next request a first one.
func (r *secondRequests) forget(client netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for request := range r.sentAt {
		if request.client == client {
			delete(r.sentAt, request)
		}
	}
}
