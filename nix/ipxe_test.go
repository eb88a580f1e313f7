package nix_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// A real iPXE runs the script that the module puts into it: it says what machine
// it is, and asks again when the boot server was not ready.
func TestEmbeddedScriptInIPXE(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	// In QEMU's user network 10.0.2.2 is the loopback address.
	script := lab.EmbeddedScript(t, lab.Nix(t), fmt.Sprintf(`{ listenIP = "10.0.2.2"; httpPort = %d; }`, port))

	var asked atomic.Int32
	mux := http.NewServeMux()
	mux.HandleFunc("/embedded", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, script) })
	mux.HandleFunc("/netboot.ipxe", func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		assert.Equal(t, "52-54-00-12-34-56", query.Get("mac"))
		assert.Equal(t, "i386", query.Get("arch"))
		assert.Equal(t, "pcbios", query.Get("platform"))
		if asked.Add(1) == 1 {
			http.Error(w, "nothing is staged", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "#!ipxe\necho This is the release's script\nshell\n")
	})
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}}
	server.Start()
	t.Cleanup(server.Close)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	// The address of the script stands for its being inside.
	vm := lab.StartMachine(t, lab.Machine{Firmware: lab.BIOS, MAC: "52:54:00:12:34:56", Bootfile: fmt.Sprintf("http://10.0.2.2:%d/embedded", port)})
	require.NoError(t, vm.Wait(ctx, "The boot server at 10.0.2.2 does not answer, trying again in 10 seconds"))
	require.NoError(t, vm.Wait(ctx, "This is the release's script"))
}
