package serve_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
	"every.channel/runner-images/internal/netboot/machine"
	"every.channel/runner-images/internal/netboot/serve"
	"every.channel/runner-images/internal/netboot/state"
)

const bundleScript = "#!ipxe\n# a release\nkernel kernel init=/nix/store/x-nixos/init initrd=initrd loglevel=4\ninitrd initrd\nboot\n"

// A site is a boot server with its state folder and its iPXE binaries.
type site struct {
	t      *testing.T
	state  *state.Dir
	ipxe   string
	sum    string // of the bundles that are staged next
	config serve.Config
	server *serve.Server
	log    *lockedBuffer
	stop   func() error // tells the server to stop and waits until it has
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// start stages the releases, the first of which becomes current, and serves them
// on free ports of the loopback interface.
func start(t *testing.T, configure func(*serve.Config), tags ...string) *site {
	t.Helper()
	dir, err := state.Create(filepath.Join(t.TempDir(), "netboot"))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, dir.Close()) })
	s := &site{t: t, state: dir, ipxe: t.TempDir(), sum: strings.Repeat("a", 64), log: &lockedBuffer{}}
	for i, tag := range tags {
		s.stage(tag, machine.X86_64)
		if i == 0 {
			s.switchTo(tag)
		}
	}
	config := serve.Config{
		StateDir: dir.Path(),
		ListenIP: netip.MustParseAddr("127.0.0.1"),
		HTTPPort: serve.AnyPort,
		TFTPPort: serve.AnyPort,
		IPXEDir:  s.ipxe,

		StatusAddress: "127.0.0.1:0",

		Log: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if configure != nil {
		configure(&config)
	}
	s.config = config
	s.run()
	t.Cleanup(func() { assert.NoError(t, s.stop()) })
	return s
}

// run starts the server.
func (s *site) run() {
	s.t.Helper()
	server, err := serve.New(s.t.Context(), s.config)
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	s.server = server
	s.stop = sync.OnceValue(func() error { cancel(); return <-ended })
}

// stage stages a release whose kernel and initrd say what they are of.
func (s *site) stage(tag string, architectures ...machine.Architecture) {
	s.t.Helper()
	s.stageFiles(tag, map[string]string{}, architectures...)
}

// at returns the path of a file that stage has staged.
func at(tag, architecture, name string, mac ...string) string {
	return atSum(tag, architecture, tag+" "+architecture+" "+name, name, mac...)
}

// atSum returns the path of a file with a content.
func atSum(tag, architecture, content, name string, mac ...string) string {
	tag = strings.NewReplacer("/", "~2F", "+", "~2B").Replace(tag)
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	return "/" + strings.Join(slices.Concat([]string{"r", tag, architecture, sum}, mac, []string{name}), "/")
}

func (s *site) stageFiles(tag string, files map[string]string, architectures ...machine.Architecture) {
	s.t.Helper()
	incoming, err := s.state.Incoming(tag, "https://forge.example/owner/name/releases/tag/"+tag)
	require.NoError(s.t, err)
	defer func() { assert.NoError(s.t, incoming.Discard()) }()
	for _, architecture := range architectures {
		require.NoError(s.t, incoming.Bundle(architecture, "ec-runner-"+string(architecture)+"-netboot-"+tag+".tar.gz", s.sum))
		for _, name := range state.FileNames() {
			content := tag + " " + string(architecture) + " " + name
			if name == state.Script {
				content = bundleScript
			}
			if given, ok := files[name]; ok {
				content = given
			}
			require.NoError(s.t, incoming.Write(s.t.Context(), architecture, name, strings.NewReader(content)))
		}
	}
	_, err = incoming.Commit()
	require.NoError(s.t, err)
}

func (s *site) switchTo(tag string) {
	s.t.Helper()
	_, err := s.state.Switch(tag)
	require.NoError(s.t, err)
}

func (s *site) url(path string) string { return "http://" + s.server.HTTPAddr().String() + path }

// get returns the status and the body of a request.
func (s *site) get(path string) (int, string) {
	s.t.Helper()
	response, err := http.Get(s.url(path))
	require.NoError(s.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(s.t, err)
	return response.StatusCode, string(body)
}

func (s *site) mustGet(path string) string {
	s.t.Helper()
	status, body := s.get(path)
	require.Equal(s.t, http.StatusOK, status, "%s: %s", path, body)
	return body
}

func (s *site) putLoader(name string, content []byte) {
	s.t.Helper()
	path := filepath.Join(s.ipxe, filepath.FromSlash(name))
	require.NoError(s.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(s.t, os.WriteFile(path, content, 0o600))
}

// tftp fetches a file with a client that is nobody's of this project.
func (s *site) tftp(name string) (string, error) {
	s.t.Helper()
	to := filepath.Join(s.t.TempDir(), "fetched")
	address := s.server.TFTPAddr().(*net.UDPAddr)
	client := exec.CommandContext(s.t.Context(), lab.Tool(s.t, "boot", "busybox"), "tftp",
		"-g", "-b", "1468", "-r", name, "-l", to, address.IP.String(), strconv.Itoa(address.Port))
	if out, err := client.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	content, err := os.ReadFile(to)
	require.NoError(s.t, err)
	return string(content), nil
}

func TestTheFirstScriptHasIPXESayWhatItRunsOn(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "boot-v1")
	const again = "chain --autofree netboot.ipxe?mac=${netX/mac:hexhyp}&arch=${buildarch}&platform=${platform} ||\n"
	assert.Equal(t, "#!ipxe\n"+
		"imgfree\n"+
		again+"echo Trying again in 5 seconds\nsleep 5\nimgfree\n"+again+"echo The boot server does not answer\nsleep 5\nexit 1\n"+
		"#!ipxe\nimgfree\n# a release\n"+
		"kernel "+at("boot-v1", "x86_64", "kernel")[1:]+" runner-images.release_tag=boot-v1 init=/nix/store/x-nixos/init initrd=initrd loglevel=4\n"+
		"initrd "+at("boot-v1", "x86_64", "initrd")[1:]+"\n"+
		"boot\n", s.mustGet("/netboot.ipxe"))
	script := s.mustGet("/netboot.ipxe?mac=52:54:00:12:34:56&arch=i386&platform=pcbios")
	assert.Equal(t, "#!ipxe\nimgfree\n# a release\n"+
		"kernel "+at("boot-v1", "x86_64", "kernel", "52-54-00-12-34-56")[1:]+" runner-images.release_tag=boot-v1 init=/nix/store/x-nixos/init initrd=initrd loglevel=4\n"+
		"initrd "+at("boot-v1", "x86_64", "initrd", "52-54-00-12-34-56")[1:]+"\n"+
		"boot\n", script)
	assert.Equal(t, "boot-v1 x86_64 kernel", s.mustGet(at("boot-v1", "x86_64", "kernel", "52-54-00-12-34-56")))
	assert.Equal(t, "boot-v1 x86_64 initrd", s.mustGet(at("boot-v1", "x86_64", "initrd", "52-54-00-12-34-56")))
	assert.Equal(t, "boot-v1 x86_64 kernel", s.mustGet("/kernel"))
	assert.Contains(t, s.log.String(), "msg=booted mac=52:54:00:12:34:56 address=127.0.0.1 firmware=BIOS release=boot-v1 architecture=x86_64")
}

func TestAMachineFinishesTheReleaseItBeganWith(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "boot-v1", "feature/x+y")
	s.mustGet("/netboot.ipxe?mac=52:54:00:12:34:56&arch=x86_64")
	s.switchTo("feature/x+y")
	assert.Equal(t, "boot-v1 x86_64 initrd", s.mustGet(at("boot-v1", "x86_64", "initrd", "52-54-00-12-34-56")))
	assert.Contains(t, s.mustGet("/netboot.ipxe?mac="), "kernel "+at("feature/x+y", "x86_64", "kernel")[1:]+" ")
	assert.Equal(t, "feature/x+y x86_64 kernel", s.mustGet(at("feature/x+y", "x86_64", "kernel")))
	assert.Equal(t, "feature/x+y x86_64 kernel", s.mustGet("/kernel"))
}

func TestTFTP(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "boot-v1")
	ipxe := make([]byte, 1<<20)
	_, err := rand.Read(ipxe)
	require.NoError(t, err)
	s.putLoader("ec-ipxe.efi", ipxe)

	first, err := s.tftp("ec-ipxe.efi")
	require.NoError(t, err)
	assert.Equal(t, string(ipxe), first)
	// The server learns of a transfer's end by the client's last packet, for which
	// the client's next request does not wait here as firmware's would.
	next := func(size func(int) bool) (got string) {
		require.Eventually(t, func() bool {
			var err error
			got, err = s.tftp("ec-ipxe.efi")
			return err == nil && size(len(got))
		}, 10*time.Second, time.Millisecond)
		return got
	}
	second := next(func(size int) bool { return size < len(ipxe) })
	address := s.server.HTTPAddr().String()
	assert.Contains(t, second, "#!ipxe\nimgfree\nchain --autofree http://"+address+"/netboot.ipxe?mac=${netX/mac:hexhyp}&arch=${buildarch}&platform=${platform} ||\n")
	next(func(size int) bool { return size == len(ipxe) })

	autoexec, err := s.tftp("autoexec.ipxe")
	require.NoError(t, err)
	assert.Contains(t, autoexec, "#!ipxe\nimgfree\ndhcp ")

	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(s.ipxe), "secret"), []byte("secret"), 0o600))
	for _, name := range []string{"absent", "../secret", "/"} {
		_, err = s.tftp(name)
		assert.ErrorContains(t, err, "no such file", name)
	}
}
