package serve

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/journal"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/state"
)

// FuzzRequest asks by HTTP for any path and query. Nothing is answered with what is
// outside of the folders or beyond the chain token, and with no error of the server's.
func FuzzRequest(f *testing.F) {
	const outside, inside = "this is outside", "this is inside"
	const content = "#!ipxe\n# " + inside + "\nkernel kernel\ninitrd initrd\nboot\n"
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	for _, path := range []string{
		"/T/netboot.ipxe?mac=52-54-00-12-34-56&arch=x86_64&platform=efi", "/T/netboot.ipxe?mac=&arch=arm64", "/T/kernel", "/T/initrd?arch=i386",
		"/T/r/boot~2Fv1/x86_64/" + sum + "/kernel", "/T/r/boot~2Fv1/x86_64/" + sum + "/52-54-00-12-34-56/initrd", "/T/r/../r/~/x/y/z",
		"/T/autoexec.ipxe", "/T/ipxe.efi", "/ipxe.efi", "/healthz", "/T/../secret", "/T/link", "//T//", "/T/..%2fsecret", "/T/%00", "/kernel", "/T", "", "//",
	} {
		f.Add(path)
	}
	folder := f.TempDir()
	require.NoError(f, os.WriteFile(filepath.Join(folder, "secret"), []byte(outside), 0o600))
	require.NoError(f, os.Mkdir(filepath.Join(folder, "ipxe"), 0o755))
	require.NoError(f, os.Symlink("../secret", filepath.Join(folder, "ipxe", "link")))
	require.NoError(f, os.WriteFile(filepath.Join(folder, "ipxe", "ipxe.efi"), []byte("iPXE"), 0o600))
	loaders, err := openLoaders(filepath.Join(folder, "ipxe"))
	require.NoError(f, err)
	dir, err := state.Create(filepath.Join(folder, "state"))
	require.NoError(f, err)
	incoming, err := dir.Incoming("boot/v1", "")
	require.NoError(f, err)
	require.NoError(f, incoming.Bundle(machine.X86_64, "bundle", strings.Repeat("a", 64)))
	for _, name := range state.FileNames() {
		require.NoError(f, incoming.Write(f.Context(), machine.X86_64, name, strings.NewReader(content)))
	}
	_, err = incoming.Commit()
	require.NoError(f, err)
	_, err = dir.Switch("boot/v1")
	require.NoError(f, err)
	h := &handler{
		state: dir, loaders: loaders, journal: journal.New(slog.New(slog.NewTextHandler(io.Discard, nil)), prometheus.NewRegistry()),
		token:   func() chainToken { return chainToken{"T"} },
		rings:   func() state.Rings { return state.Rings{} },
		scripts: func(netip.Addr) []string { return []string{"http://10.20.30.2/T/netboot.ipxe"} },
		peers:   func() []string { return []string{"http://10.20.30.3/T/netboot.ipxe"} },
		asked:   func(netip.Addr) {},
	}
	f.Cleanup(func() {
		assert.NoError(f, h.Close())
		assert.NoError(f, dir.Close())
		assert.NoError(f, loaders.Close())
	})
	f.Fuzz(func(t *testing.T, target string) {
		address, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		request := &http.Request{Method: http.MethodGet, URL: address, Header: http.Header{}, RemoteAddr: "10.20.30.100:4000", Host: "10.20.30.2"}
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, request.WithContext(t.Context()))
		assert.NotContains(t, answer.Body.String(), outside)
		assert.Less(t, answer.Code, http.StatusInternalServerError)
		if !strings.HasPrefix(address.Path, "/T/") && !strings.HasPrefix(address.Path, "T/") {
			assert.NotContains(t, answer.Body.String(), inside)
			assert.NotContains(t, answer.Body.String(), "/T/")
		}
	})
}

// FuzzTag writes tags as parts of paths and reads them again.
func FuzzTag(f *testing.F) {
	for _, tag := range []string{"boot-v1", "feature/x+y", "~2F", "~", "ä", "${net0/mac}", ""} {
		f.Add(tag)
	}
	f.Fuzz(func(t *testing.T, tag string) {
		part := escapeTag(tag)
		assert.False(t, strings.ContainsAny(part, "/%${}? "), part)
		again, err := unescapeTag(part)
		require.NoError(t, err)
		assert.Equal(t, tag, again)
		_, _ = unescapeTag(tag) // of any text
	})
}
