package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/serve"
	"every.channel/runner-images/internal/netboot/state"
)

// do sends a request from an address of the loopback network.
func (s *site) do(from, method, path string, headers ...string) *http.Response {
	s.t.Helper()
	transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext}
	s.t.Cleanup(transport.CloseIdleConnections)
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.url(path), nil)
	require.NoError(s.t, err)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := transport.RoundTrip(request)
	require.NoError(s.t, err)
	s.t.Cleanup(func() { response.Body.Close() })
	return response
}

func body(t *testing.T, response *http.Response) string {
	t.Helper()
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(content)
}

// metrics returns what Prometheus is told.
func (s *site) metrics() string {
	s.t.Helper()
	response, err := http.Get("http://" + s.server.StatusAddr().String() + "/metrics")
	require.NoError(s.t, err)
	defer response.Body.Close()
	return body(s.t, response)
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	assert.Equal(t, http.StatusServiceUnavailable, s.do("127.0.0.1", "GET", "/healthz").StatusCode)
	nothing := s.do("127.0.0.1", "GET", "/netboot.ipxe")
	assert.Equal(t, http.StatusServiceUnavailable, nothing.StatusCode)
	assert.Equal(t, "no release is staged; run: runner-images netboot stage\n", body(t, nothing))

	initrd := strings.Repeat("0123456789", 1_000_000)
	s.stageFiles("boot-v1", map[string]string{state.Initrd: initrd}, machine.X86_64)
	s.switchTo("boot-v1")
	assert.Equal(t, "ok\n", body(t, s.do("127.0.0.1", "GET", "/healthz")))

	whole := s.do("127.0.0.1", "GET", "/initrd")
	assert.Equal(t, int64(len(initrd)), whole.ContentLength)
	assert.Equal(t, "application/octet-stream", whole.Header.Get("Content-Type"))
	assert.Equal(t, "bytes", whole.Header.Get("Accept-Ranges"))
	assert.True(t, body(t, whole) == initrd)

	head := s.do("127.0.0.1", "HEAD", "/initrd")
	assert.Equal(t, int64(len(initrd)), head.ContentLength)
	assert.Empty(t, body(t, head))

	part := s.do("127.0.0.1", "GET", "/initrd", "Range", "bytes=9999995-")
	assert.Equal(t, http.StatusPartialContent, part.StatusCode)
	assert.Equal(t, "bytes 9999995-9999999/10000000", part.Header.Get("Content-Range"))
	assert.Equal(t, "56789", body(t, part))
	etag := whole.Header.Get("ETag")
	require.NotEmpty(t, etag)
	assert.Equal(t, http.StatusPartialContent, s.do("127.0.0.1", "GET", "/initrd", "Range", "bytes=5-9", "If-Range", etag).StatusCode)
	assert.Equal(t, http.StatusOK, s.do("127.0.0.1", "GET", "/initrd", "Range", "bytes=5-9", "If-Range", `"other"`).StatusCode)
	assert.Equal(t, http.StatusRequestedRangeNotSatisfiable, s.do("127.0.0.1", "GET", "/initrd", "Range", "bytes=10000000-").StatusCode)
	assert.Equal(t, http.StatusOK, s.do("127.0.0.1", "GET", "/initrd", "Range", "bytes=0-1,5-6").StatusCode)

	script := s.do("127.0.0.1", "GET", "/netboot.ipxe")
	assert.Positive(t, script.ContentLength)
	assert.Equal(t, "text/plain; charset=utf-8", script.Header.Get("Content-Type"))
	post := s.do("127.0.0.1", "POST", "/initrd")
	assert.Equal(t, http.StatusMethodNotAllowed, post.StatusCode)
	assert.Equal(t, "GET, HEAD", post.Header.Get("Allow"))
	for _, asked := range []string{
		"/", "/absent", "/r", "/r/", path.Dir(at("boot-v1", "x86_64", "kernel")) + "/", path.Dir(at("boot-v1", "x86_64", "kernel")) + "/release.json",
		atSum("boot-v1", "x86_64", "another kernel", "kernel"), atSum("boot-v1", "x86_64", "boot-v1 x86_64 initrd", "kernel"), at("boot-v2", "x86_64", "kernel"), at("boot-v1", "aarch64", "kernel"),
		at("boot~zz", "x86_64", "kernel"), at("../..", "x86_64", "kernel"), at("boot-v1", "x86_64", "kernel", "not-a-mac"),
		"/../rings.yaml", "/%2e%2e/rings.yaml", "/releases/boot-v1/release.json", "/kernel?arch=arm64", "/netboot.ipxe?mac=&arch=riscv64",
	} {
		assert.Equal(t, http.StatusNotFound, s.do("127.0.0.1", "GET", asked).StatusCode, asked)
	}
	large := s.do("127.0.0.1", "GET", "/healthz", "X-Large", strings.Repeat("x", 20_000))
	assert.Equal(t, http.StatusRequestHeaderFieldsTooLarge, large.StatusCode)
}

// TestBrokenRelease is not taken for no release.
func TestBrokenRelease(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "boot-v1")
	require.NoError(t, os.WriteFile(filepath.Join(s.state.Path(), "current", "release.json"), nil, 0o600))
	for _, path := range []string{"/healthz", "/netboot.ipxe"} {
		status, text := s.get(path)
		assert.Equal(t, http.StatusInternalServerError, status)
		assert.Equal(t, "the release cannot be read; see the server's log\n", text)
	}
	assert.Contains(t, s.log.String(), "releases/boot-v1/release.json: unexpected end of JSON input; remove ")
}

func TestIPXEByHTTP(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *serve.Config) { c.Hostname = "boot.example" }, "boot-v1")
	s.putLoader("ec-ipxe.efi", []byte("iPXE"))
	s.putLoader("arm64/ipxe.efi", []byte("iPXE for arm64"))
	assert.Equal(t, "iPXE", s.mustGet("/ec-ipxe.efi"))
	assert.Equal(t, "iPXE for arm64", s.mustGet("/arm64/ipxe.efi"))
	port := s.server.HTTPAddr().(*net.TCPAddr).Port
	script := s.mustGet("/autoexec.ipxe")
	name := strings.Index(script, fmt.Sprintf("chain --autofree http://boot.example:%d/netboot.ipxe?mac=", port))
	address := strings.Index(script, fmt.Sprintf("chain --autofree http://127.0.0.1:%d/netboot.ipxe?mac=", port))
	assert.Positive(t, name)
	assert.Greater(t, address, name, "the IP address is for when the name cannot be resolved")
	s.putLoader("autoexec.ipxe", []byte("#!ipxe\nshell\n"))
	assert.Equal(t, "#!ipxe\nshell\n", s.mustGet("/autoexec.ipxe"))
}

func TestChainToken(t *testing.T) {
	t.Parallel()
	const first, second = "first-5ecret_0123", "second.5ecret~4567"
	file := filepath.Join(t.TempDir(), "token")
	write := func(content string) { require.NoError(t, os.WriteFile(file, []byte(content), 0o600)) }
	write(first + "\n")
	s := start(t, func(c *serve.Config) { c.ChainTokenFile = file }, "boot-v1")
	s.putLoader("ec-ipxe.efi", []byte("iPXE"))
	s.putLoader("own.ipxe", []byte("#!ipxe\n"))

	// guarded checks that all is there with the token in force, and only with it.
	guarded := func(token string, not ...string) {
		t.Helper()
		paths := []string{"/netboot.ipxe", "/netboot.ipxe?mac=52:54:00:12:34:56", "/kernel", "/initrd", at("boot-v1", "x86_64", "kernel"), "/autoexec.ipxe", "/own.ipxe", "/ec-ipxe.efi"}
		for _, path := range paths {
			for _, slashes := range []string{"/", "//", "///"} {
				status, _ := s.get(slashes + token + strings.TrimSuffix(slashes, "/") + path)
				assert.Equal(t, http.StatusOK, status, slashes+path)
			}
		}
		for _, wrong := range append(not, "", "/x", "/"+token+"x", "/"+token[1:], "/"+strings.ToUpper(token)) {
			for _, path := range paths[:len(paths)-1] {
				status, body := s.get(wrong + path)
				assert.Equal(t, http.StatusNotFound, status, wrong+path)
				assert.NotContains(t, body, token)
			}
		}
		assert.Equal(t, "iPXE", s.mustGet("/ec-ipxe.efi"), "a binary is no secret: firmware asks for it before it knows one")
		assert.Equal(t, "ok\n", s.mustGet("/healthz"))
		script, err := s.tftp("autoexec.ipxe")
		require.NoError(t, err)
		assert.Contains(t, script, "/"+token+"/netboot.ipxe?")
		// Paths that somebody has put together wrongly.
		status, _ := s.get("/" + token + "/" + token + "/kernel")
		assert.Equal(t, http.StatusNotFound, status)
		for _, wrong := range []string{token + "/netboot.ipxe", `\` + token + `\netboot.ipxe`} {
			_, err = s.tftp(wrong)
			assert.Error(t, err)
		}
	}
	guarded(first)

	write(second)
	require.NoError(t, s.server.Reload())
	guarded(second, "/"+first)

	write("not a token\n")
	err := s.server.Reload()
	assert.ErrorContains(t, err, `--chain-token-file "`+file+`": the token has a character that needs escaping in a path`)
	guarded(second, "/"+first)

	assert.Contains(t, s.metrics(), `netboot_refused_requests_total{protocol="http",reason="token"}`)
	for _, secret := range []string{first, second, "not a token"} {
		assert.NotContains(t, s.log.String(), secret)
		assert.NotContains(t, s.metrics(), secret)
	}
}

func TestAllowedNetworks(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *serve.Config) { c.HTTPAllowedCIDRs = []string{"127.0.0.2/32", "127.1.0.0/16"} }, "boot-v1")
	s.putLoader("ec-ipxe.efi", []byte("iPXE"))
	for from, want := range map[string]int{"127.0.0.2": 200, "127.1.2.3": 200, "127.0.0.1": 403, "127.2.0.1": 403} {
		for _, path := range []string{"/netboot.ipxe", "/kernel", "/ec-ipxe.efi", "/healthz"} {
			response := s.do(from, "GET", path, "X-Forwarded-For", "127.0.0.2", "Forwarded", "for=127.0.0.2", "X-Real-IP", "127.0.0.2")
			assert.Equal(t, want, response.StatusCode, "%s from %s", path, from)
		}
	}
	for from, want := range map[string]string{"127.0.0.2": "\x00\x03\x00\x01iPXE", "127.0.0.1": "\x00\x05\x00\x02this network may not boot from here\x00"} {
		client, err := net.ListenPacket("udp4", from+":0")
		require.NoError(t, err)
		defer client.Close()
		_, err = client.WriteTo([]byte("\x00\x01ec-ipxe.efi\x00octet\x00"), s.server.TFTPAddr())
		require.NoError(t, err)
		require.NoError(t, client.SetReadDeadline(time.Now().Add(30*time.Second)))
		buffer := make([]byte, 1500)
		n, _, err := client.ReadFrom(buffer)
		require.NoError(t, err)
		assert.Equal(t, want, string(buffer[:n]), from)
	}
	metrics := s.metrics()
	assert.Contains(t, metrics, `netboot_refused_requests_total{protocol="http",reason="network"} 8`)
	assert.Contains(t, metrics, `netboot_refused_requests_total{protocol="tftp",reason="network"} 1`)
}

func TestRings(t *testing.T) {
	t.Parallel()
	rings := filepath.Join(t.TempDir(), "rings.yaml")
	write := func(content string) { require.NoError(t, os.WriteFile(rings, []byte(content), 0o600)) }
	write("rings: [{name: canary, release_tag: boot-v2, macs: ['52:54:00:00:00:01']}]\n")
	s := start(t, func(c *serve.Config) { c.RingsFile = rings }, "boot-v1", "boot-v2")
	boots := func(mac string) string {
		t.Helper()
		script := s.mustGet("/netboot.ipxe?mac=" + mac + "&arch=x86_64&platform=efi")
		_, rest, _ := strings.Cut(script, "kernel r/")
		tag, _, _ := strings.Cut(rest, "/")
		return tag
	}
	assert.Equal(t, "boot-v2", boots("52:54:00:00:00:01"))
	assert.Equal(t, "boot-v2", boots("52-54-00-00-00-01"), "as iPXE writes a MAC with ${mac:hexhyp}")
	assert.Equal(t, "boot-v2", boots("525400000001"), "${mac:hexraw}")
	assert.Equal(t, "boot-v2", boots("UlQAAAAB"), "${mac:base64}")
	assert.Equal(t, "boot-v1", boots("52:54:00:00:00:02"))
	assert.Equal(t, "boot-v1", boots(""))
	assert.Equal(t, "boot-v1", boots("00:00:5e:00:53:00:00:01"), "a card that is not Ethernet")
	assert.Contains(t, s.log.String(), "mac=52:54:00:00:00:01 address=127.0.0.1 firmware=\"UEFI x86_64\" release=boot-v2 architecture=x86_64 ring=canary")

	write("rings: [{name: canary, release_tag: boot-v2, macs: ['52:54:00:00:00:02']}, {name: next, release_tag: boot-v3, macs: ['52:54:00:00:00:03']}]\n")
	assert.Equal(t, "boot-v1", boots("52:54:00:00:00:02"), "the file is reread on request only")
	require.NoError(t, s.server.Reload())
	assert.Equal(t, "boot-v1", boots("52:54:00:00:00:01"))
	assert.Equal(t, "boot-v2", boots("52:54:00:00:00:02"))
	assert.Equal(t, "boot-v1", boots("52:54:00:00:00:03"), "a ring's release that is not staged")
	assert.Contains(t, s.log.String(), "ring next: release boot-v3: not staged; it boots the current release")
	s.stage("boot-v3", machine.X86_64)
	assert.Equal(t, "boot-v3", boots("52:54:00:00:00:03"))
	s.stage("boot-v3", machine.AArch64)
	assert.Equal(t, "boot-v1", boots("52:54:00:00:00:03"), "a ring's release that is not for such a machine")
	assert.Contains(t, s.log.String(), "ring next: release boot-v3 for x86_64: not staged; it boots the current release")

	write("rings: [{name: canary, release: boot-v2}]\n")
	assert.ErrorContains(t, s.server.Reload(), "unknown key \"release\"")
	assert.Equal(t, "boot-v2", boots("52:54:00:00:00:02"), "what was there before stays")
}

func TestArchitectures(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.stage("boot-v1", machine.X86_64, machine.AArch64)
	s.switchTo("boot-v1")
	for buildarch, want := range map[string]string{"i386": "x86_64", "x86_64": "x86_64", "arm64": "aarch64"} {
		script := s.mustGet("/netboot.ipxe?mac=&arch=" + buildarch)
		assert.Contains(t, script, "kernel "+at("boot-v1", want, "kernel")[1:]+" ")
		assert.Equal(t, "boot-v1 "+want+" kernel", s.mustGet(at("boot-v1", want, "kernel")))
		assert.Equal(t, "boot-v1 "+want+" initrd", s.mustGet("/initrd?arch="+buildarch))
	}
}

// TestReleaseGoesWhileAMachineBoots is about a machine between its kernel and its
// initrd, when the release is staged anew with other files, or pruned.
func TestReleaseGoesWhileAMachineBoots(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "boot-v1", "boot-v2")
	began := func(name string) string { return at("boot-v1", "x86_64", name, "52-54-00-12-34-56") }
	s.mustGet("/netboot.ipxe?mac=52:54:00:12:34:56")
	assert.Equal(t, "boot-v1 x86_64 kernel", s.mustGet(began("kernel")))

	s.sum = strings.Repeat("b", 64)
	s.stageFiles("boot-v1", map[string]string{state.Initrd: "another initrd"}, machine.X86_64)
	assert.Equal(t, "boot-v1 x86_64 initrd", s.mustGet(began("initrd")))
	assert.Equal(t, "another initrd", s.mustGet("/initrd"))
	assert.Contains(t, s.mustGet("/netboot.ipxe?mac=52:54:00:12:34:57"), "initrd "+atSum("boot-v1", "x86_64", "another initrd", "initrd", "52-54-00-12-34-57")[1:]+"\n")

	s.switchTo("boot-v2")
	_, err := s.state.Prune(1, state.Rings{})
	require.NoError(t, err)
	assert.Equal(t, "boot-v1 x86_64 initrd", s.mustGet(began("initrd")))
}

// TestStopWhileAMachineLoads lets it finish its release, within the limit.
func TestStopWhileAMachineLoads(t *testing.T) {
	t.Parallel()
	initrd := make([]byte, 64<<20)
	_, err := rand.Read(initrd)
	require.NoError(t, err)
	prepare := func(limit time.Duration) (s *site, slow net.Conn, from *bufio.Reader) {
		s = start(t, func(c *serve.Config) { c.DrainLimit = limit })
		s.stageFiles("boot-v1", map[string]string{state.Initrd: string(initrd)}, machine.X86_64)
		s.stage("boot-v2", machine.X86_64)
		s.switchTo("boot-v1")
		slow, err := net.Dial("tcp", s.server.HTTPAddr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = slow.Close() })
		require.NoError(t, slow.(*net.TCPConn).SetReadBuffer(64<<10))
		_, err = io.WriteString(slow, "GET /initrd HTTP/1.1\r\nHost: boot\r\n\r\n")
		require.NoError(t, err)
		from = bufio.NewReader(slow)
		line, err := from.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "HTTP/1.1 200 OK\r\n", line)
		return s, slow, from
	}

	t.Run("within the limit", func(t *testing.T) {
		s, _, from := prepare(time.Hour)
		s.switchTo("boot-v2")
		stopped := make(chan error, 1)
		go func() { stopped <- s.stop() }()
		require.Eventually(t, func() bool {
			conn, err := net.Dial("tcp", s.server.HTTPAddr().String())
			if err == nil {
				conn.Close()
			}
			return err != nil
		}, 30*time.Second, time.Millisecond, "it takes no more requests")
		require.Eventually(t, func() bool {
			table, err := os.ReadFile(filepath.Join(s.state.Path(), "machines.json"))
			return err == nil && strings.Contains(string(table), `"address":"127.0.0.1"`)
		}, 30*time.Second, time.Millisecond, "if it is killed meanwhile, it is known who loads")
		for line := ""; line != "\r\n"; {
			line, err = from.ReadString('\n')
			require.NoError(t, err)
		}
		got := make([]byte, len(initrd))
		_, err := io.ReadFull(from, got)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(initrd, got))
		require.NoError(t, <-stopped)
		assert.Contains(t, s.log.String(), "release=boot-v1 architecture=x86_64 file.name=initrd file.bytes=67108864")
	})
	t.Run("beyond the limit", func(t *testing.T) {
		s, _, _ := prepare(time.Millisecond)
		require.NoError(t, s.stop())
		assert.Contains(t, s.log.String(), `msg="transfer broke off"`)
	})
}

// TestConnectionsOfOneClient are limited, so that others get through.
func TestConnectionsOfOneClient(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "boot-v1")
	const limit = 256
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	var open []net.Conn
	for range limit {
		conn, err := dialer.DialContext(t.Context(), "tcp", s.server.HTTPAddr().String())
		require.NoError(t, err)
		defer conn.Close()
		open = append(open, conn)
	}
	further, err := dialer.DialContext(t.Context(), "tcp", s.server.HTTPAddr().String())
	require.NoError(t, err)
	defer further.Close()
	_, err = io.WriteString(further, "GET /kernel HTTP/1.0\r\n\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(further)
	require.NoError(t, err)
	assert.Contains(t, string(answer), "boot-v1 x86_64 kernel")
	_, err = open[0].Read(make([]byte, 1))
	assert.Error(t, err, "the oldest, by which nothing was asked for, is closed for it")
	assert.Equal(t, "boot-v1 x86_64 kernel", s.mustGet("/kernel"))
	assert.Contains(t, s.metrics(), `netboot_refused_requests_total{protocol="http",reason="limit"} 1`)
}

// TestProxyDHCP asks by unicast, over the loopback interface, for what is at the
// addresses and names of this site.
func TestProxyDHCP(t *testing.T) {
	t.Parallel()
	listen := func() *net.UDPConn {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		require.NoError(t, err)
		return conn
	}
	file := filepath.Join(t.TempDir(), "token")
	long := strings.Repeat("0123456789abcdef", 4)
	require.NoError(t, os.WriteFile(file, []byte("T"), 0o600))
	pxe := listen()
	s := start(t, func(c *serve.Config) {
		c.ProxyDHCP, c.Interface, c.Hostname, c.ChainTokenFile = true, "lo", "boot.example", file
		c.Listeners = serve.Listeners{ProxyDHCP: listen(), PXE: pxe}
	}, "boot-v1")
	raw, err := pxe.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(descriptor uintptr) {
		bound, err := unix.GetsockoptString(int(descriptor), unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
		require.NoError(t, err)
		assert.Equal(t, "lo", bound, "a socket that was handed over hears of no other interface")
	}))
	s.putLoader("ec-ipxe.efi", []byte("iPXE"))
	s.putLoader("ipxe.efi", []byte("another iPXE"))
	s.putLoader("undionly.kpxe", []byte("iPXE"))

	asks := func(class string, architecture iana.Arch, more ...dhcpv4.Modifier) string {
		t.Helper()
		client, err := net.Dial("udp4", pxe.LocalAddr().String())
		require.NoError(t, err)
		defer client.Close()
		request, err := dhcpv4.New(append(more,
			dhcpv4.WithHwAddr(net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}),
			dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
			dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class)),
			dhcpv4.WithOption(dhcpv4.OptClientArch(architecture)))...)
		require.NoError(t, err)
		_, err = client.Write(request.ToBytes())
		require.NoError(t, err)
		require.NoError(t, client.SetReadDeadline(time.Now().Add(30*time.Second)))
		buffer := make([]byte, 1500)
		n, err := client.Read(buffer)
		require.NoError(t, err)
		answer, err := dhcpv4.FromBytes(buffer[:n])
		require.NoError(t, err)
		return answer.BootFileNameOption()
	}
	ipxe := dhcpv4.WithOption(dhcpv4.OptUserClass("iPXE"))
	site := "http://" + s.server.HTTPAddr().String()
	assert.Equal(t, "undionly.kpxe", asks("PXEClient", iana.INTEL_X86PC))
	assert.Equal(t, "ec-ipxe.efi", asks("PXEClient", iana.EFI_X86_64))
	assert.Equal(t, site+"/T/ec-ipxe.efi", asks("HTTPClient", iana.EFI_X86_64_HTTP))
	script := asks("PXEClient", iana.INTEL_X86PC, ipxe)
	assert.Equal(t, site+"/T/netboot.ipxe?arch=x86_64", script)
	assert.Contains(t, s.mustGet(strings.TrimPrefix(script, site)), "chain --autofree netboot.ipxe?mac=${netX/mac:hexhyp}&")
	assert.Equal(t, site+"/T/netboot.ipxe?arch=aarch64", asks("PXEClient", iana.EFI_ARM64, ipxe))

	require.NoError(t, os.WriteFile(file, []byte(long), 0o600))
	require.NoError(t, s.server.Reload())
	assert.Equal(t, site+"/"+long+"/netboot.ipxe?arch=x86_64", asks("PXEClient", iana.INTEL_X86PC, ipxe))
}

func TestConfigurationThatCannotBe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for want, change := range map[string]func(*serve.Config){
		`--state-dir "": is required`:                                                             func(c *serve.Config) { c.StateDir = "" },
		`--state-dir "` + filepath.Join(dir, "absent") + `": `:                                    func(c *serve.Config) { c.StateDir = filepath.Join(dir, "absent") },
		`--ipxe-dir "` + filepath.Join(dir, "absent") + `": `:                                     func(c *serve.Config) { c.IPXEDir = filepath.Join(dir, "absent") },
		`--http-allowed-cidr "10.20.30": "10.20.30" is no network; use for example 10.20.30.0/24`: func(c *serve.Config) { c.HTTPAllowedCIDRs = []string{"10.20.30"} },
		`--chain-token-file "` + empty + `": the token is empty`:                                  func(c *serve.Config) { c.ChainTokenFile = empty },
		`--rings "` + filepath.Join(dir, "absent") + `": `:                                        func(c *serve.Config) { c.RingsFile = filepath.Join(dir, "absent") },
		`--interface "nope0": `:                                                                   func(c *serve.Config) { c.ListenIP, c.Interface = netip.Addr{}, "nope0" },
		`--interface "nope1": `:                                                                   func(c *serve.Config) { c.Interface = "nope1" },
		`--hostname "boot.every.channel:8080": is no name of a host`:                              func(c *serve.Config) { c.Hostname = "boot.every.channel:8080" },
		`--hostname "http://boot": is no name of a host`:                                          func(c *serve.Config) { c.Hostname = "http://boot" },
		`--http-port "65536": is no port`:                                                         func(c *serve.Config) { c.HTTPPort = 65536 },
		`--tftp-port "-2": is no port`:                                                            func(c *serve.Config) { c.TFTPPort = -2 },
		`--interface "": is required with --proxy-dhcp`:                                           func(c *serve.Config) { c.ProxyDHCP = true },
		`--proxy-dhcp-subnet "10.20.30": is no network`:                                           func(c *serve.Config) { c.ProxyDHCP, c.Interface, c.ProxyDHCPSubnet = true, "lo", "10.20.30" },
		`--proxy-dhcp-subnet "127.0.0.0/8": has no client that an --http-allowed-cidr lets boot`: func(c *serve.Config) {
			c.ProxyDHCP, c.Interface, c.HTTPAllowedCIDRs = true, "lo", []string{"10.20.30.0/24"}
		},
		`--status-address "nonsense": `: func(c *serve.Config) { c.StatusAddress = "nonsense" },
	} {
		config := serve.Config{StateDir: dir, ListenIP: netip.MustParseAddr("127.0.0.1"), HTTPPort: serve.AnyPort, TFTPPort: serve.AnyPort, StatusAddress: "127.0.0.1:0"}
		change(&config)
		_, err := serve.New(t.Context(), config)
		var option *serve.OptionError
		require.ErrorAs(t, err, &option)
		assert.ErrorContains(t, err, want)
	}
}

// Machines reach no socket but a TCP one.
func TestSocketThatIsNotTCP(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(folder, "http"))
	require.NoError(t, err)
	_, err = serve.New(t.Context(), serve.Config{StateDir: folder, Listeners: serve.Listeners{HTTP: listener}})
	require.ErrorContains(t, err, "is no TCP socket, which machines need")
	_, err = listener.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)
}

// TestNewClosesWhatItOpened when it cannot go on.
func TestNewClosesWhatItOpened(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, err = serve.New(context.Background(), serve.Config{
		StateDir: t.TempDir(), Listeners: serve.Listeners{HTTP: listener}, StatusAddress: "nonsense",
	})
	require.Error(t, err)
	_, err = listener.Accept()
	assert.ErrorIs(t, err, net.ErrClosed)
}

func (s *site) statusPage() string {
	s.t.Helper()
	response, err := http.Get("http://" + s.server.StatusAddr().String() + "/")
	require.NoError(s.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	return string(body)
}

// What is sent as a MAC and is none could be that of a machine in a ring.
func TestWhatIsNoMAC(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "boot-v1")
	for _, sent := range []string{"52540012345", "$%7Bnet0/mac%7D", "52:54:00:12:34:5g", "x"} {
		status, body := s.get("/netboot.ipxe?mac=" + sent + "&arch=x86_64")
		assert.Equal(t, http.StatusBadRequest, status, sent)
		assert.Contains(t, body, "no MAC address; send ${netX/mac:hexhyp}")
	}
	assert.Contains(t, s.log.String(), `"cannot serve a machine" mac="" address=127.0.0.1 error="\"52540012345\" is no MAC address; write it like 00:11:22:aa:bb:cc"`)
	page := s.statusPage()
	assert.Contains(t, page, "refused: &#34;x&#34; is no MAC address")
	s.mustGet("/netboot.ipxe?mac=525400123456&arch=x86_64")
	page = s.statusPage()
	assert.NotContains(t, page, "refused:")
	assert.Contains(t, page, "52:54:00:12:34:56")
}

func TestVersionIsAMetric(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *serve.Config) { c.Version = "1.2.3" })
	assert.Contains(t, s.metrics(), `netboot_build_info{version="1.2.3"} 1`+"\n")
}

// Scripts join addresses with one slash too many.
func TestSlashes(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "boot-v1")
	s.putLoader("ec-ipxe.efi", []byte("iPXE"))
	for _, path := range []string{"//netboot.ipxe", "///kernel", "//healthz", "//ec-ipxe.efi", "//autoexec.ipxe", strings.ReplaceAll(at("boot-v1", "x86_64", "kernel"), "/x86_64/", "//x86_64//")} {
		s.mustGet(path)
	}
	for _, path := range []string{"/netboot.ipxe/", "//", "//../state/rings.yaml", "/kernel//"} {
		status, _ := s.get(path)
		assert.Equal(t, http.StatusNotFound, status, path)
	}
}

func TestRangeUnits(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "boot-v1")
	for given, want := range map[string]int{
		"lines=1-2": http.StatusOK, "items=0-5": http.StatusOK, "nonsense": http.StatusOK, "": http.StatusOK,
		"bytes=0-1,3-4": http.StatusOK, "bytes=1-2": http.StatusPartialContent, "Bytes=1-2": http.StatusPartialContent,
		"bytes=1000-": http.StatusRequestedRangeNotSatisfiable,
	} {
		for _, path := range []string{"/kernel", "/netboot.ipxe?mac="} {
			assert.Equal(t, want, s.do("127.0.0.1", "GET", path, "Range", given).StatusCode, "%s %s", path, given)
		}
	}
}

func TestSocketsOfAnotherKind(t *testing.T) {
	t.Parallel()
	dir, err := state.Create(filepath.Join(t.TempDir(), "netboot"))
	require.NoError(t, err)
	require.NoError(t, dir.Close())
	unixgram, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unixgram"})
	require.NoError(t, err)
	defer unixgram.Close()
	for name, listeners := range map[string]serve.Listeners{"TFTP": {TFTP: unixgram}, "ProxyDHCP": {ProxyDHCP: unixgram}, "PXE": {PXE: unixgram}} {
		_, err := serve.New(t.Context(), serve.Config{StateDir: dir.Path(), HTTPPort: serve.AnyPort, TFTPPort: serve.AnyPort, StatusAddress: "127.0.0.1:0", Listeners: listeners})
		require.ErrorContains(t, err, "the socket for "+name+" at ")
		require.ErrorContains(t, err, "is no UDP socket, which machines need; give a port as its ListenDatagram=")
	}
}

// A port that is taken, or that this user may not take.
func TestPortsThatCannotBeHad(t *testing.T) {
	t.Parallel()
	dir, err := state.Create(filepath.Join(t.TempDir(), "netboot"))
	require.NoError(t, err)
	require.NoError(t, dir.Close())
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer udp.Close()
	config := serve.Config{StateDir: dir.Path(), ListenIP: netip.MustParseAddr("127.0.0.1"), StatusAddress: "127.0.0.1:0", HTTPPort: serve.AnyPort, TFTPPort: udp.LocalAddr().(*net.UDPAddr).Port}
	_, err = serve.New(t.Context(), config)
	require.ErrorContains(t, err, fmt.Sprintf("address already in use; see which program has it with: ss -lntup | grep :%d; end that, or give another one, for example --tftp-port 6969", config.TFTPPort))
	config.HTTPPort, config.TFTPPort = tcp.Addr().(*net.TCPAddr).Port, serve.AnyPort
	_, err = serve.New(t.Context(), config)
	require.ErrorContains(t, err, "for example --http-port 8080")
	config.HTTPPort, config.ListenIP = serve.AnyPort, netip.MustParseAddr("192.0.2.1")
	_, err = serve.New(t.Context(), config)
	require.ErrorContains(t, err, "no network interface here has --listen-ip; see the addresses with: ip -brief address")
}

// Without an address to listen on, machines are served over IPv4 and IPv6.
func TestBothFamilies(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *serve.Config) { c.ListenIP = netip.Addr{} }, "boot-v1")
	s.putLoader("ec-ipxe.efi", []byte("iPXE"))
	for _, host := range []string{"127.0.0.1", "::1"} {
		response, err := http.Get("http://" + net.JoinHostPort(host, strconv.Itoa(s.server.HTTPAddr().(*net.TCPAddr).Port)) + "/healthz")
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())

		conn, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
		require.NoError(t, err)
		defer conn.Close()
		to := &net.UDPAddr{IP: net.ParseIP(host), Port: s.server.TFTPAddr().(*net.UDPAddr).Port}
		_, err = conn.WriteTo([]byte("\x00\x01ec-ipxe.efi\x00octet\x00"), to)
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
		answer := make([]byte, 100)
		n, from, err := conn.ReadFrom(answer)
		require.NoError(t, err)
		assert.Equal(t, "\x00\x03\x00\x01iPXE", string(answer[:n]))
		assert.True(t, from.(*net.UDPAddr).IP.Equal(to.IP), "from the address that was asked")
		_, err = conn.WriteTo([]byte{0, 4, 0, 1}, from)
		require.NoError(t, err)
	}
}

// Without boot files machines do nothing, and their silence says nothing.
func TestMissingBootFilesAreSaid(t *testing.T) {
	t.Parallel()
	without := start(t, func(c *serve.Config) { c.IPXEDir = "" }, "boot-v1")
	without.mustGet("/healthz")
	require.NoError(t, without.stop())
	assert.Contains(t, without.log.String(), "give --ipxe-dir, a folder with iPXE binaries such as ec-ipxe.efi and undionly.kpxe")
	for _, fromSystemd := range []bool{false, true} {
		for _, there := range []string{"", "ec-ipxe.efi", "undionly.kpxe", "ipxe.pxe"} {
			s := start(t, func(c *serve.Config) { // before it says what it lacks
				if there != "" {
					require.NoError(t, os.WriteFile(filepath.Join(c.IPXEDir, there), []byte("iPXE"), 0o600))
				}
				if fromSystemd {
					var err error
					c.Listeners.TFTP, err = net.ListenPacket("udp", "127.0.0.1:0")
					require.NoError(t, err)
				}
			}, "boot-v1")
			require.NoError(t, s.stop())
			log := s.log.String()
			assert.Equal(t, there != "ec-ipxe.efi", strings.Contains(log, "--ipxe-dir has no ec-ipxe.efi, the boot file for UEFI"), "%v, %s", fromSystemd, there)
			assert.Equal(t, there == "" || there == "ec-ipxe.efi", strings.Contains(log, "--ipxe-dir has no undionly.kpxe, the boot file for BIOS"), "%v, %s", fromSystemd, there)
		}
	}
}

// TestAFleetComesUpAtOnce of more machines than there are connections. Each keeps its
// connection open when it has its script, as iPXE does. The second time the server knows
// them all.
func TestAFleetComesUpAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "boot-v1")
	const machines, atOnce = 3500, 50
	for range 2 {
		var mu sync.Mutex
		var open []net.Conn
		asking, ctx := errgroup.WithContext(t.Context())
		asking.SetLimit(atOnce)
		for n := range machines {
			asking.Go(func() error {
				dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 3, byte(n>>8), byte(n))}}
				conn, err := dialer.DialContext(ctx, "tcp", s.server.HTTPAddr().String())
				if err != nil {
					return err
				}
				mu.Lock()
				open = append(open, conn)
				mu.Unlock()
				if _, err := fmt.Fprintf(conn, "GET /netboot.ipxe?mac=02-00-00-03-%02x-%02x HTTP/1.1\r\nHost: boot\r\n\r\n", n>>8, n&0xff); err != nil {
					return err
				}
				response, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					return fmt.Errorf("machine %d: %w", n, err)
				}
				_, err = io.Copy(io.Discard, response.Body)
				return err
			})
		}
		assert.NoError(t, asking.Wait())
		for _, conn := range open {
			assert.NoError(t, conn.Close())
		}
	}
	assert.Contains(t, s.statusPage(), "3500 machines seen, ")
}
