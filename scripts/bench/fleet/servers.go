package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Where the servers listen: each at the usual ports of an address of its own.
const (
	ourAddress     = "127.0.0.2"
	nginxAddress   = "127.0.0.3"
	dnsmasqAddress = "127.0.0.4"
)

// start starts a server, and returns when it takes TCP connections at an address,
// if one is given.
func (b *bench) start(ctx context.Context, address, program string, arguments ...string) (*exec.Cmd, error) {
	server := exec.CommandContext(ctx, program, arguments...)
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(b.folder, filepath.Base(program)+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		return nil, err
	}
	for address != "" {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			return server, conn.Close()
		}
		if syscall.Kill(server.Process.Pid, 0) != nil || ctx.Err() != nil {
			return nil, fmt.Errorf("%s does not listen: %w", program, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return server, nil
}

func (b *bench) startOurs(ctx context.Context, more ...string) (*exec.Cmd, error) {
	return b.start(ctx, ourAddress+":80", b.server, append([]string{
		"netboot", "serve", "--state-dir", b.stateDir(), "--ipxe-dir", b.ipxeDir(), "--listen-ip", ourAddress,
	}, more...)...)
}

// startNginx starts nginx as its documentation has it for large files.
func (b *bench) startNginx(ctx context.Context) (*exec.Cmd, error) {
	return b.startNginxWith(ctx, nginxAddress+":80", filepath.Join(b.folder, "nginx"),
		fmt.Sprintf("access_log off; server { listen %s:80; root %s; }", nginxAddress, filepath.Join(b.stateDir(), "releases", tag, "x86_64")))
}

// startNginxWith starts nginx with these servers at an address.
func (b *bench) startNginxWith(ctx context.Context, address, folder, servers string) (*exec.Cmd, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	configuration := filepath.Join(folder, "nginx.conf")
	text := fmt.Sprintf(`
user root;
worker_processes auto;
daemon off;
pid %[1]s/pid;
error_log stderr;
events { worker_connections 4096; }
http {
  sendfile on;
  tcp_nopush on;
  default_type application/octet-stream;
  client_body_temp_path %[1]s/1; proxy_temp_path %[1]s/2; fastcgi_temp_path %[1]s/3; uwsgi_temp_path %[1]s/4; scgi_temp_path %[1]s/5;
  %[2]s
}
`, folder, servers)
	if err := os.WriteFile(configuration, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return b.start(ctx, address, b.nginx, "-p", folder, "-c", configuration, "-e", "stderr")
}

func (b *bench) startDnsmasq(ctx context.Context) (*exec.Cmd, error) {
	return b.start(ctx, "", b.dnsmasq, "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=",
		"--enable-tftp", "--tftp-root="+b.ipxeDir(), "--listen-address="+dnsmasqAddress, "--bind-interfaces")
}

// stop stops servers and waits until they are gone.
func stop(servers ...*exec.Cmd) {
	for _, server := range servers {
		_ = server.Process.Kill()
		_ = server.Wait()
	}
}

// peakMemory returns the most memory that a process has had, in bytes.
func peakMemory(server *exec.Cmd) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", server.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kib), "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("the kernel does not say how much memory the server has had")
}

// processorTime returns how long processors have worked for a server and its
// children, which /proc counts in hundredths of a second (proc(5)).
func processorTime(server *exec.Cmd) (time.Duration, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	ticks := int64(0)
	for _, stat := range stats {
		content, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended
		}
		// What follows the name, which may have spaces in it.
		fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
		pid, parent := filepath.Base(filepath.Dir(stat)), fields[1]
		if own := strconv.Itoa(server.Process.Pid); pid != own && parent != own {
			continue
		}
		for _, field := range fields[11:13] { // in user mode and in the kernel
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, err
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
