package serve

import (
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/tftp"
)

var (
	local  = netip.MustParseAddr("10.20.30.2")
	client = netip.MustParseAddr("10.20.30.100")
)

// newTFTPFiles returns the files of a folder of boot programs, and the folder's path.
func newTFTPFiles(t testing.TB) (*tftpFiles, string) {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "ipxe")
	require.NoError(t, os.Mkdir(folder, 0o755))
	opened, err := openLoaders(folder)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, opened.Close()) })
	return &tftpFiles{loaders: opened, scripts: func(local netip.Addr) []string {
		return []string{"http://" + local.String() + "/T/netboot.ipxe"}
	}}, folder
}

// content returns what a file has, and closes it.
func content(t testing.TB, file tftp.File) string {
	t.Helper()
	content, err := io.ReadAll(file.Content)
	require.NoError(t, err)
	require.NoError(t, file.Content.Close())
	require.Len(t, content, int(file.Size))
	return string(content)
}

// TestSecondRequest is what leads iPXE out of loading itself again and again.
func TestSecondRequest(t *testing.T) {
	t.Parallel()
	files, folder := newTFTPFiles(t)
	for name, content := range map[string]string{"undionly.kpxe": "iPXE", "other.efi": "other", "own.ipxe": "#!ipxe\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600))
	}
	load := func(name string, client netip.Addr) string {
		t.Helper()
		file, err := files.Open(name, client, local)
		require.NoError(t, err)
		file.Sent()
		return content(t, file)
	}
	script := "#!ipxe\nimgfree\nchain --autofree http://10.20.30.2/T/netboot.ipxe?mac=${netX/mac:hexhyp}&"
	assert.Equal(t, "iPXE", load("undionly.kpxe", client))
	second, err := files.Open("/undionly.kpxe", client, local)
	require.NoError(t, err)
	assert.Equal(t, "undionly.kpxe (script)", second.Label, "without the address, which has the chain token")
	second.Sent()
	assert.True(t, strings.HasPrefix(content(t, second), script))
	assert.Equal(t, "iPXE", load("undionly.kpxe", client), "the script was sent: this is a new boot")

	assert.Equal(t, "other", load("other.efi", client), "another file is no second request")
	files.requests.forget(client)
	assert.Equal(t, "iPXE", load("undionly.kpxe", client), "the machine was at the HTTP server already: this is a new boot")
	assert.Equal(t, "#!ipxe\n", load("own.ipxe", client))
	assert.Equal(t, "iPXE", load("undionly.kpxe", client), "a script was sent: this is a new boot")

	another := netip.MustParseAddr("10.20.30.101")
	assert.Equal(t, "iPXE", load("undionly.kpxe", another), "another machine's first request is its first")

	// What was not sent to its end, as in EDK2's request for a size, is no first request.
	files.requests.forget(client)
	probe, err := files.Open("undionly.kpxe", client, local)
	require.NoError(t, err)
	require.NoError(t, probe.Content.Close())
	assert.Equal(t, "iPXE", load("undionly.kpxe", client))
}

// TestSecondRequestExpires is about a machine that is switched on again a while later.
func TestSecondRequestExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r secondRequests
		first := programRequest{client, "ipxe.efi"}
		r.sent(first)
		time.Sleep(time.Minute)
		assert.True(t, r.isSecond(first))
		time.Sleep(time.Second)
		assert.False(t, r.isSecond(first))
		r.sent(programRequest{first.client, "other.efi"})
		assert.Len(t, r.sentAt, 1, "what has expired is removed")
	})
}

// Firmware that reads past the boot file's name in its DHCP packet.
func TestGarbageBehindTheName(t *testing.T) {
	t.Parallel()
	files, folder := newTFTPFiles(t)
	for name, text := range map[string]string{"ec-ipxe.efi": "iPXE", "ec-ipxe.efi.old": "iPXE", "caf\u00e9.efi": "its own name"} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
	}
	for asked, want := range map[string]string{
		"ec-ipxe.efi\xff":                            "ec-ipxe.efi",
		"/ec-ipxe.efi\xff":                           "ec-ipxe.efi",
		"ec-ipxe.efi\xff\xff\x03":                    "ec-ipxe.efi",
		"ec-ipxe.efi\r\n":                            "ec-ipxe.efi",
		"ec-ipxe.efi ":                               "ec-ipxe.efi",
		"ec-ipxe.efi\x96\x04\x0a":                    "ec-ipxe.efi",
		"ec-ipxe.efi+\x04abc":                        "ec-ipxe.efi",
		"ec-ipxe.efi\xff" + strings.Repeat("x", 400): "ec-ipxe.efi",
		// The next option: the class, the server's name, vendor options, the client's UUID.
		"ec-ipxe.efi<\x20PXEClient:Arch:00007:UNDI:003016\xff":      "ec-ipxe.efi",
		"ec-ipxe.efiB\x0b10.20.30.40\xff":                           "ec-ipxe.efi",
		"ec-ipxe.efiB%boot-server.of.the.fleet.every.channel\xff":   "ec-ipxe.efi",
		"ec-ipxe.efi+(\x06\x01\x08":                                 "ec-ipxe.efi",
		"ec-ipxe.efia\x11":                                          "ec-ipxe.efi",
		"ec-ipxe.efiC!\xff":                                         "ec-ipxe.efi",
		"ec-ipxe.efi<" + strings.Repeat("x", maxGarbage-2) + "\xff": "ec-ipxe.efi",
		"netboot.ipxe+(\xff":                                        "netboot.ipxe",
		"ec-ipxe.efi.old\xff":                                       "ec-ipxe.efi.old", // the longest
		"caf\u00e9.efi":                                             "caf\u00e9.efi",
		"autoexec.ipxe\xff":                                         "autoexec.ipxe",
		"netboot.ipxe\xff":                                          "netboot.ipxe",
	} {
		files.requests.forget(client)
		file, err := files.Open(asked, client, local)
		require.NoError(t, err, "%q", asked)
		assert.Equal(t, want, file.Label, "%q", asked)
		require.NoError(t, file.Content.Close())
	}
	for _, asked := range []string{"other.efi\xff", "\xff", "ec-ipxe.efix", "../../secret\xff", "ec-ipxe.ef\xff", "ec-ipxe.efi+abc", "ec-ipxe.efi<" + strings.Repeat("x", maxGarbage) + "\xff"} {
		_, err := files.Open(asked, client, local)
		require.ErrorIs(t, err, fs.ErrNotExist, "%q", asked)
	}
}

func TestAutoexec(t *testing.T) {
	t.Parallel()
	files, folder := newTFTPFiles(t)
	for _, name := range []string{"autoexec.ipxe", "netboot.ipxe", "/autoexec.ipxe"} {
		file, err := files.Open(name, client, local)
		require.NoError(t, err)
		assert.NotContains(t, file.Label, "/T/", "an address has the chain token in it")
		script := content(t, file)
		assert.True(t, strings.HasPrefix(script, "#!ipxe\nimgfree\ndhcp || dhcp || exit 1\nchain --autofree http://10.20.30.2/T/netboot.ipxe?"), script)
	}
	require.NoError(t, os.WriteFile(filepath.Join(folder, "autoexec.ipxe"), []byte("#!ipxe\nshell\n"), 0o600))
	for range 2 {
		file, err := files.Open("autoexec.ipxe", client, local)
		require.NoError(t, err)
		file.Sent()
		assert.Equal(t, "#!ipxe\nshell\n", content(t, file), "a script of one's own is served, each time")
	}
}

// FuzzName asks for files by names of any kind.
func FuzzName(f *testing.F) {
	const secret = "this is outside"
	for _, name := range []string{"ipxe.efi", "/ipxe.efi", `\EFI\BOOT\ipxe.efi`, "../secret", "a/../../secret", "link", "", ".", "/", "a\x00b", "autoexec.ipxe"} {
		f.Add(name)
	}
	files, folder := newTFTPFiles(f)
	require.NoError(f, os.WriteFile(filepath.Join(folder, "..", "secret"), []byte(secret), 0o600))
	require.NoError(f, os.Symlink("../secret", filepath.Join(folder, "link")))
	require.NoError(f, os.WriteFile(filepath.Join(folder, "ipxe.efi"), []byte("iPXE"), 0o600))
	f.Fuzz(func(t *testing.T, name string) {
		file, err := files.Open(name, netip.Addr{}, netip.Addr{})
		if err == nil {
			require.NotContains(t, content(t, file), secret)
		}
	})
}
