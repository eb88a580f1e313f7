package serve_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/serve"
	"every.channel/runner-images/internal/netboot/state"
)

const forever = "public, max-age=31536000, immutable"

// TestFilesFromElsewhere is what machines are told, and what a cache in between is sent.
func TestFilesFromElsewhere(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("T"), 0o600))
	s := start(t, func(c *serve.Config) {
		c.FilesURL, c.ChainTokenFile = "HTTP://cache.lan:8080/boot/", token
	}, "boot/v1", "boot-v2")
	kernel := at("boot/v1", "x86_64", "kernel")

	const elsewhere = "kernel --timeout 30000 http://cache.lan:8080/boot/T/r/boot~2Fv1/x86_64/"
	for _, mac := range []string{"52-54-00-00-00-01", "52-54-00-00-00-02"} {
		script := s.mustGet("/T/netboot.ipxe?mac=" + mac + "&arch=i386&platform=pcbios")
		assert.Contains(t, script, elsewhere)
		assert.Contains(t, script, "kernel --timeout 30000 http://cache.lan:8080/boot/T"+kernel+" runner-images.release_tag=boot/v1 init=")
		assert.Contains(t, script, "initrd --timeout 30000 http://cache.lan:8080/boot/T"+at("boot/v1", "x86_64", "initrd")+"\n")
		assert.NotContains(t, script, mac, "the addresses are the same for all")
	}

	whole := s.do("127.0.0.9", "GET", "/T"+kernel)
	assert.Equal(t, "boot/v1 x86_64 kernel", body(t, whole))
	assert.Equal(t, forever, whole.Header.Get("Cache-Control"))
	etag := whole.Header.Get("ETag")
	assert.Contains(t, kernel, strings.Trim(etag, `"`), "the sum, in both")
	assert.Empty(t, whole.Header.Get("Last-Modified"), "another boot server has written it at another time")
	head := s.do("127.0.0.9", "HEAD", "/T"+kernel)
	assert.Equal(t, int64(len("boot/v1 x86_64 kernel")), head.ContentLength)
	assert.Equal(t, forever, head.Header.Get("Cache-Control"))
	assert.Equal(t, etag, head.Header.Get("ETag"))
	assert.Equal(t, http.StatusNotModified, s.do("127.0.0.9", "GET", "/T"+kernel, "If-None-Match", etag).StatusCode)
	for _, method := range []string{"GET", "HEAD"} {
		failed := s.do("127.0.0.9", method, "/T"+kernel, "If-Match", `"other"`)
		assert.Equal(t, http.StatusPreconditionFailed, failed.StatusCode)
		assert.Equal(t, "no-store", failed.Header.Get("Cache-Control"))
		failed = s.do("127.0.0.9", method, "/T"+kernel, "Range", "bytes=5000-")
		assert.Equal(t, http.StatusRequestedRangeNotSatisfiable, failed.StatusCode)
		assert.Equal(t, "no-store", failed.Header.Get("Cache-Control"))
	}
	part := s.do("127.0.0.9", "GET", "/T"+kernel, "Range", "bytes=5-6", "If-Range", etag)
	assert.Equal(t, http.StatusPartialContent, part.StatusCode)
	assert.Equal(t, "v1", body(t, part))
	assert.Equal(t, etag, part.Header.Get("ETag"))
	assert.Equal(t, http.StatusOK, s.do("127.0.0.9", "GET", "/T"+kernel, "Range", "bytes=5-6", "If-Range", `"other"`).StatusCode)

	page, metrics := s.statusPage(), s.metrics()
	assert.Contains(t, page, "2 machines seen, 0 booting now.")
	assert.Contains(t, page, "http://cache.lan:8080/boot</span>: whether a machine has them is not seen here")
	for _, line := range []string{
		`netboot_boots_handed_over_total{architecture="x86_64",release="boot/v1"} 2`,
		`netboot_boots_begun_total{architecture="x86_64",release="boot/v1"} 0`,
		`netboot_boots_finished_total{architecture="x86_64",release="boot/v1"} 0`,
	} {
		assert.Contains(t, metrics, line+"\n")
	}
	require.Eventually(t, func() bool { // it counts what it has sent
		return strings.Contains(s.metrics(), "netboot_cache_sent_bytes_total 44\n") // twice a whole one, and a part of it
	}, time.Minute, time.Millisecond)
	assert.Contains(t, s.log.String(), `msg="machines load kernel and initrd from elsewhere: what is seen here of a boot ends with its script" files-url=http://cache.lan:8080/boot`)

	s.mustGet("/T/kernel")
	assert.Contains(t, s.metrics(), `netboot_boots_begun_total{architecture="x86_64",release="boot/v1"} 1`+"\n", "by a script of its own, from here")
	s.switchTo("boot-v2")
	assert.Contains(t, s.mustGet("/T/netboot.ipxe?mac="), at("boot-v2", "x86_64", "kernel"))
	s.switchTo("boot/v1")
	assert.Contains(t, s.mustGet("/T/netboot.ipxe?mac="), kernel, "after a rollback caches have it still")
}

// TestAddressesNeverAnswerOtherBytes asks for files that there are not, or not any more. A
// cache must not remember that: the release may be staged in a while.
func TestAddressesNeverAnswerOtherBytes(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *serve.Config) { c.FilesURL = "http://cache.lan" }, "boot-v1", "boot-v2", "boot-v3")
	gone := func(path string) {
		t.Helper()
		response := s.do("127.0.0.1", "GET", path)
		assert.Equal(t, http.StatusNotFound, response.StatusCode, path)
		assert.Equal(t, "no-store", response.Header.Get("Cache-Control"), path)
		assert.Empty(t, response.Header.Get("ETag"), path)
	}
	assert.Equal(t, "boot-v3 x86_64 kernel", s.mustGet(at("boot-v3", "x86_64", "kernel")))

	s.stageFiles("boot-v3", map[string]string{state.Kernel: "another kernel"}, machine.X86_64) // under its tag
	gone(at("boot-v3", "x86_64", "kernel"))
	assert.Equal(t, "another kernel", s.mustGet(atSum("boot-v3", "x86_64", "another kernel", "kernel")))
	assert.Equal(t, "boot-v3 x86_64 initrd", s.mustGet(at("boot-v3", "x86_64", "initrd")), "which is the same as before")

	s.switchTo("boot-v2")
	s.stage("boot-v4", machine.X86_64)
	_, err := s.state.Prune(1, state.Rings{})
	require.NoError(t, err)
	gone(at("boot-v3", "x86_64", "initrd"))
	s.stage("boot-v3", machine.X86_64)
	assert.Equal(t, "boot-v3 x86_64 kernel", s.mustGet(at("boot-v3", "x86_64", "kernel")))

	// What is damaged on the disk is not what the address names.
	damaged := filepath.Join(s.state.Path(), "releases", "boot-v3", "x86_64", "initrd")
	require.NoError(t, os.WriteFile(damaged, []byte("boot-v3"), 0o600))
	response := s.do("127.0.0.1", "GET", at("boot-v3", "x86_64", "initrd"))
	assert.Equal(t, http.StatusInternalServerError, response.StatusCode)
	assert.Equal(t, "no-store", response.Header.Get("Cache-Control"))
	assert.Contains(t, s.log.String(), "is not of 21 bytes, as it was when release boot-v3 was staged; stage it again")
	gone("/r/boot..v3/x86_64/" + strings.Repeat("0", 64) + "/initrd")
	damaged = filepath.Join(s.state.Path(), "releases", "boot-v3", "release.json")
	require.NoError(t, os.WriteFile(damaged, []byte("{"), 0o600))
	response = s.do("127.0.0.1", "GET", at("boot-v3", "x86_64", "initrd"))
	assert.Equal(t, http.StatusInternalServerError, response.StatusCode, "it is there, and cannot be read")
	assert.Equal(t, "no-store", response.Header.Get("Cache-Control"))

	for _, other := range []*http.Response{
		s.do("127.0.0.1", "POST", at("boot-v2", "x86_64", "kernel")), s.do("127.0.0.1", "GET", "/absent"),
		s.do("127.0.0.1", "GET", "/netboot.ipxe?mac=x"), s.do("127.0.0.1", "GET", "/netboot.ipxe?mac=&arch=arm64"),
	} {
		assert.GreaterOrEqual(t, other.StatusCode, 400)
		assert.Equal(t, "no-store", other.Header.Get("Cache-Control"), other.Request.URL)
	}
	for _, path := range []string{"/kernel", "/initrd", "/netboot.ipxe", "/netboot.ipxe?mac=", "/autoexec.ipxe", "/healthz"} {
		assert.Equal(t, "no-cache", s.do("127.0.0.1", "GET", path).Header.Get("Cache-Control"), "%s is another's tomorrow", path)
	}
}

// TestPathsWithoutMAC boot a machine where files come from here.
func TestPathsWithoutMAC(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "boot-v1")
	script := s.mustGet("/netboot.ipxe?mac=&arch=x86_64&platform=efi")
	assert.Contains(t, script, "kernel "+at("boot-v1", "x86_64", "kernel")[1:]+" ")
	for _, name := range []string{"kernel", "initrd"} {
		response := s.do("127.0.0.1", "GET", at("boot-v1", "x86_64", name))
		assert.Equal(t, "boot-v1 x86_64 "+name, body(t, response))
		assert.Equal(t, forever, response.Header.Get("Cache-Control"))
	}
	require.NoError(t, s.stop())
	assert.Contains(t, s.log.String(), `msg=booted address=127.0.0.1 firmware="UEFI x86_64" release=boot-v1 architecture=x86_64`)
}

func TestFilesURLThatCannotBe(t *testing.T) {
	t.Parallel()
	dir, err := state.Create(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, dir.Close())
	listening := func(change func(*serve.Config)) error {
		config := serve.Config{StateDir: dir.Path(), HTTPPort: serve.AnyPort, TFTPPort: serve.AnyPort, StatusAddress: "127.0.0.1:0"}
		change(&config)
		server, err := serve.New(t.Context(), config)
		if err == nil {
			require.NoError(t, server.Close())
		}
		return err
	}
	for given, why := range map[string]string{
		"cache.lan":                      "does not begin with http:// or https://; use for example http://cache.lan:8080/boot",
		"cache.lan:8080":                 "does not begin with http:// or https://",
		"10.20.30.4:8080":                "is no address",
		"ftp://cache.lan":                "does not begin with http:// or https://",
		"/boot":                          "does not begin with http:// or https://",
		"http://":                        "has no host",
		"http:///boot":                   "has no host",
		"http://:8080":                   "has no host",
		"http://cache.lan:":              "has no host",
		"http://cache.lan:0":             "has no host",
		"http://cache.lan:080":           "has no host",
		"http://cache.lan:99999":         "has no host",
		"http://fd00::4/":                "is no address",
		"http://[fd00::4%25eth0]/":       "has no host",
		"http://${next-server}/":         "is no address",
		"http://cache.lan/${uuid}":       "has a character in its path",
		"http://cache.lan/a%20b":         "has a character in its path",
		"http://cache.lan/a b":           "has a character in its path",
		"http://cache.lan/ü":             "has a character in its path",
		"http://cache.lan/?":             "has a query (?)",
		"http://cache.lan/?a=b":          "has a query (?)",
		"http://cache.lan/?key=5ecret":   "has a query (?)",
		"me:5ecret@cache.lan/boot":       "does not begin with http",
		"http://cache.lan/#":             "has a fragment (#)",
		"http://cache.lan/boot#files":    "has a fragment (#)",
		"http://someone@cache.lan/":      "has a user name",
		"http://someone:5ecret@cache/":   "has a user name",
		"http://cache.lan\n":             "is no address",
		"http://cache_with_ü.lan/":       "has no host",
		"http://[10.20.30.4]/":           "is no address",
		"http://cache.lan:8080:8080/abc": "is no address",
	} {
		err := listening(func(c *serve.Config) { c.FilesURL = given })
		var option *serve.OptionError
		require.ErrorAs(t, err, &option, given)
		assert.Equal(t, "files-url", option.Option)
		assert.Contains(t, option.Why, why, given)
		assert.NotContains(t, err.Error(), "5ecret")
	}
	for _, given := range []string{"http://cache.lan", "https://cache.lan/", "http://10.20.30.4:8080//", "http://[fd00::4]:8080/boot/images", "HTTP://cache.lan"} {
		assert.NoError(t, listening(func(c *serve.Config) { c.FilesURL = given }), given)
	}

	for _, peer := range []string{"", "http://10.20.30.3", "10.20.30.3/", "10.20.30.3:", "10.20.30.3:x", "boot 2", "${next-server}", "fd00::3"} {
		assert.ErrorContains(t, listening(func(c *serve.Config) { c.Peers = []string{peer} }), `is no host; use for example 10.20.30.3 or boot2.lan:8080, without http://`, peer)
	}
}

// TestHTTPSIsSaid to need an iPXE that has it.
func TestHTTPSIsSaid(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *serve.Config) { c.FilesURL = "https://cache.lan" }, "boot-v1")
	s.mustGet("/healthz")
	require.NoError(t, s.stop())
	assert.Contains(t, s.log.String(), "--files-url is HTTPS: machines boot only by an iPXE that was built with it and trusts the certificate")
}

// TestPeers are where machines go on that fail here, by every script that leads to a
// release.
func TestPeers(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("T"), 0o600))
	s := start(t, func(c *serve.Config) {
		c.Peers, c.ChainTokenFile = []string{"10.20.30.3", "boot3.lan:8080", "[fd00::3]"}, token
	}, "boot-v1")
	s.putLoader("ec-ipxe.efi", []byte("iPXE"))
	own := "http://" + s.server.HTTPAddr().(*net.TCPAddr).String() + "/T/netboot.ipxe"
	autoexec := s.mustGet("/T/autoexec.ipxe")
	byTFTP, err := s.tftp("autoexec.ipxe")
	require.NoError(t, err)
	for first, script := range map[string]string{own: autoexec, own + " ": byTFTP, "netboot.ipxe": s.mustGet("/T/netboot.ipxe")} {
		rest := script
		for range 2 { // and then once more
			for _, address := range []string{strings.TrimSpace(first), "http://10.20.30.3/T/netboot.ipxe", "http://boot3.lan:8080/T/netboot.ipxe", "http://[fd00::3]/T/netboot.ipxe"} {
				_, after, found := strings.Cut(rest, "chain --autofree "+address+"?mac=${netX/mac:hexhyp}&")
				require.True(t, found, "%s in %s", address, script)
				rest = after
			}
		}
	}
	script := s.mustGet("/T/netboot.ipxe?mac=52-54-00-00-00-01")
	assert.Contains(t, script, "kernel --timeout 30000 r/boot-v1/", "a server that is silent is one that fails")
	assert.Contains(t, script, "initrd --timeout 30000 r/boot-v1/")
	assert.NotContains(t, script, "10.20.30.3")
}
