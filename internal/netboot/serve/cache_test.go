package serve_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/serve"
	"every.channel/runner-images/internal/netboot/state"
)

// bySocket returns a client of an nginx that listens on a socket in a folder: no other
// test can have taken its port.
func bySocket(t *testing.T, socket string) *http.Client {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestNginxCache has Debian's nginx between machines and the boot server, with the
// configuration of the documentation but for its addresses and folders.
func TestNginxCache(t *testing.T) {
	t.Parallel()
	const secret = "a-chain-token"
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte(secret), 0o600))
	s := start(t, func(c *serve.Config) { c.FilesURL, c.ChainTokenFile = "http://cache.lan:8080", token })
	initrd := make([]byte, 40<<20) // two parts of 16 MiB, and one that is shorter
	_, err := rand.Read(initrd)
	require.NoError(t, err)
	s.stageFiles("boot-v1", map[string]string{state.Initrd: string(initrd)}, machine.X86_64)
	s.switchTo("boot-v1")

	folder := t.TempDir()
	socket, log := filepath.Join(folder, "socket"), filepath.Join(folder, "log")
	lab.StartServer(t, lab.NginxReady, lab.Tool(t, "nginx", "nginx"), lab.NginxCache(t,
		"listen 8080;", "listen unix:"+socket+";", "allow 10.20.30.0/24;", "allow unix:;",
		"server 10.20.30.2:80;", "server "+s.server.HTTPAddr().String()+";", "/var/log/nginx/boot.log", log)...)
	cache := bySocket(t, socket)
	ask := func(method, path string, headers ...string) (*http.Response, error) {
		request, err := http.NewRequestWithContext(t.Context(), method, "http://cache.lan:8080"+path, nil)
		if err != nil {
			return nil, err
		}
		for i := 0; i < len(headers); i += 2 {
			request.Header.Set(headers[i], headers[i+1])
		}
		return cache.Do(request)
	}
	get := func(method, path string, headers ...string) (*http.Response, string) {
		t.Helper()
		response, err := ask(method, path, headers...)
		require.NoError(t, err)
		defer response.Body.Close()
		return response, body(t, response)
	}

	_, after, found := strings.Cut(s.mustGet("/"+secret+"/netboot.ipxe?mac=52-54-00-00-00-01"), "\ninitrd --timeout 30000 http://cache.lan:8080")
	require.True(t, found)
	path, _, _ := strings.Cut(after, "\n")
	var machines errgroup.Group
	for range 20 {
		machines.Go(func() error {
			response, err := ask("GET", path)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			sum := crc32.NewIEEE()
			if _, err := io.Copy(sum, response.Body); err != nil {
				return err
			}
			if want := crc32.ChecksumIEEE(initrd); response.StatusCode != http.StatusOK || sum.Sum32() != want {
				return fmt.Errorf("%s, %x in place of %x", response.Status, sum.Sum32(), want)
			}
			return nil
		})
	}
	require.NoError(t, machines.Wait())
	fetched := func() bool {
		return strings.Contains(s.metrics(), fmt.Sprintf("netboot_cache_sent_bytes_total %v\n", float64(len(initrd))))
	}
	require.Eventually(t, fetched, time.Minute, time.Millisecond, "each byte was fetched once")
	require.Eventually(t, func() bool { return strings.Contains(s.log.String(), "a cache has fetched a file to its end") }, time.Minute, time.Millisecond)

	head, _ := get("HEAD", path)
	assert.Equal(t, int64(len(initrd)), head.ContentLength)
	part, text := get("GET", path, "Range", "bytes=16777210-16777225") // of two parts
	assert.Equal(t, http.StatusPartialContent, part.StatusCode)
	assert.Equal(t, string(initrd[16777210:16777226]), text)
	assert.Equal(t, fmt.Sprintf("bytes 16777210-16777225/%d", len(initrd)), part.Header.Get("Content-Range"))
	assert.Equal(t, forever, part.Header.Get("Cache-Control"))
	etag := part.Header.Get("ETag")
	assert.Contains(t, path, strings.Trim(etag, `"`))
	same, _ := get("GET", path, "If-None-Match", etag)
	assert.Equal(t, http.StatusNotModified, same.StatusCode)
	assert.True(t, fetched(), "and not again")

	for _, again := range []string{
		strings.Replace(path, "boot-v1", "boot~2Dv1", 1), strings.Replace(path, "/initrd", "/52-54-00-00-00-01/initrd", 1),
	} {
		response, _ := get("GET", again)
		assert.Equal(t, http.StatusNotFound, response.StatusCode, "the file has one address for a cache: %s", again)
	}
	for _, other := range []string{"/", "/" + secret + "/netboot.ipxe", "/healthz", "/" + secret + "/kernel", "/x/" + secret + "/r/boot-v1"} {
		response, _ := get("GET", other)
		assert.Equal(t, http.StatusNotFound, response.StatusCode, other)
	}
	later := at("boot-v2", "x86_64", "kernel")
	for _, without := range []string{"", "/another-token"} {
		response, _ := get("GET", without+later)
		assert.Equal(t, http.StatusNotFound, response.StatusCode)
	}
	early, _ := get("GET", "/"+secret+later)
	assert.Equal(t, http.StatusNotFound, early.StatusCode)
	s.stage("boot-v2", machine.X86_64)
	staged, text := get("GET", "/"+secret+later)
	assert.Equal(t, http.StatusOK, staged.StatusCode, "that it was not there is not remembered")
	assert.Equal(t, "boot-v2 x86_64 kernel", text)

	require.NoError(t, s.stop())
	_, text = get("GET", path)
	assert.True(t, text == string(initrd), "the boot server is not needed for it any more")
	written, err := os.ReadFile(log)
	require.NoError(t, err)
	assert.NotEmpty(t, written)
	assert.NotContains(t, string(written), secret)
}

// TestCacheOfTheDocumentation is the one that is tested.
func TestCacheOfTheDocumentation(t *testing.T) {
	t.Parallel()
	configuration, err := os.ReadFile(filepath.Join(lab.Root(t), "nix", "modules", "ec-netboot", "nginx-cache.conf"))
	require.NoError(t, err)
	assert.Contains(t, documentation(t), "\n```nginx\n"+string(configuration)+"```\n")
}

func documentation(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(lab.Root(t), "docs", "NUC_UNIFI_NETBOOT.md"))
	require.NoError(t, err)
	return string(page)
}

// TestObjectStorage fills a folder as the documentation does, and has a plain static file
// server serve it.
func TestObjectStorage(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *serve.Config) { c.FilesURL = "http://storage.lan/boot" }, "boot-v1")
	_, after, found := strings.Cut(documentation(t), "```sh\n# fill a folder")
	require.True(t, found)
	commands, _, _ := strings.Cut(after, "```")
	folder := t.TempDir()
	script := strings.NewReplacer("http://10.20.30.2", "http://"+s.server.HTTPAddr().String(), "/srv/boot", folder).Replace("# fill a folder" + commands)
	out, err := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script).CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Contains(t, s.statusPage(), "0 machines seen", "nothing boots")

	socket := filepath.Join(t.TempDir(), "socket")
	lab.StartServer(t, lab.NginxReady, lab.Tool(t, "nginx", "nginx"), lab.NginxServer(t,
		"server { listen unix:"+socket+"; location /boot/ { alias "+folder+"/; } }")...)
	require.NoError(t, s.stop())
	for _, name := range []string{"kernel", "initrd"} {
		response, err := bySocket(t, socket).Get("http://storage.lan/boot" + at("boot-v1", "x86_64", name))
		require.NoError(t, err)
		defer response.Body.Close()
		assert.Equal(t, "boot-v1 x86_64 "+name, body(t, response))
	}
}
