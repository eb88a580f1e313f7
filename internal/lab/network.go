package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// Addresses in a Network.
const (
	ServerIP  = "10.20.30.2" // of the host that commands run on: the boot server
	GatewayIP = "10.20.30.1" // of the DHCP server
	Subnet    = "10.20.30.0/24"
	Bridge    = "br0" // the boot server's interface, which the machines are connected to
)

// A Network is a LAN of the test's own, in network namespaces that no other
// process sees: a bridge to which machines are connected, the boot server's host
// with ServerIP, and another host with GatewayIP for the DHCP server. It ends
// with the test.
type Network struct {
	Host    // the boot server's
	gateway *namespace
	hosts   atomic.Int32 // beside these
	taps    atomic.Int32
}

// A Host is a computer of a network. Its interface there is called Bridge.
type Host struct{ namespace *namespace }

// NewNetwork makes a network. It needs root, or a kernel that lets users have
// namespaces of their own and read and write /dev/net/tun.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Fatalf("no network for machines: %v: run this as root, or let users have it (chmod 666 /dev/net/tun)", err)
	}
	tun.Close()
	server := newNamespace(t, nil)
	n := &Network{Host: Host{server}, gateway: newNamespace(t, server)}
	ip := func(in *namespace, arguments string) {
		t.Helper()
		in.run(t, "ip", strings.Fields(arguments)...)
	}
	ip(n.namespace, "link set lo up")
	ip(n.namespace, "link add "+Bridge+" type bridge forward_delay 0 stp_state 0")
	ip(n.namespace, "address add "+ServerIP+"/24 dev "+Bridge)
	ip(n.namespace, "link set "+Bridge+" up")
	ip(n.namespace, "link add gateway type veth peer name lan netns "+strconv.Itoa(n.gateway.pid))
	ip(n.namespace, "link set gateway master "+Bridge+" up")
	ip(n.gateway, "address add "+GatewayIP+"/24 dev lan")
	ip(n.gateway, "-6 address add fd77::1/64 dev lan nodad")
	ip(n.gateway, "link set lan up")
	return n
}

// AddHost connects one more host to the network.
func (n *Network) AddHost(t testing.TB, address string) Host {
	t.Helper()
	host := Host{newNamespace(t, n.namespace)}
	port := fmt.Sprintf("host%d", n.hosts.Add(1))
	n.namespace.run(t, "ip", "link", "add", port, "type", "veth", "peer", "name", Bridge, "netns", strconv.Itoa(host.namespace.pid))
	n.namespace.run(t, "ip", "link", "set", port, "master", Bridge, "up")
	host.namespace.run(t, "ip", "link", "set", "lo", "up")
	host.namespace.run(t, "ip", "address", "add", address+"/24", "dev", Bridge)
	host.namespace.run(t, "ip", "link", "set", Bridge, "up")
	return host
}

// Command returns a command that runs on the host.
func (h Host) Command(ctx context.Context, program string, arguments ...string) *exec.Cmd {
	return h.namespace.command(ctx, program, arguments...)
}

// Serve starts a server on the host, and returns when it has written the text that means
// it is ready. When the test fails, what it wrote is part of the test's output. The server
// is killed at the test's end, or by kill.
func (h Host) Serve(t testing.TB, ready, program string, arguments ...string) (kill func()) {
	t.Helper()
	return startServer(t, h.Command(context.Background(), program, arguments...), ready)
}

// Disconnect takes the host's cable away: nobody answers at its address, or says that it
// is gone.
func (h Host) Disconnect(t testing.TB) {
	t.Helper()
	h.namespace.run(t, "ip", "link", "set", Bridge, "down")
}

// StartServer starts a server on this machine, as Network.Serve does on its host.
func StartServer(t testing.TB, ready, program string, arguments ...string) (kill func()) {
	t.Helper()
	return startServer(t, exec.CommandContext(context.Background(), program, arguments...), ready)
}

func startServer(t testing.TB, command *exec.Cmd, ready string) (kill func()) {
	t.Helper()
	name, log := strings.Join(command.Args, " "), newConsole()
	command.Stdout, command.Stderr = log, log
	stop, ended, err := startProcess(command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("what %s wrote:\n%s", name, log)
		}
	})
	if err := log.wait(t.Context(), ended, ready); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	return stop
}

// StartDHCP starts the DHCP server, dnsmasq, with these lines added to its
// configuration, for example "dhcp-boot=undionly.kpxe,,"+ServerIP.
func (n *Network) StartDHCP(t testing.TB, lines ...string) {
	t.Helper()
	folder := t.TempDir()
	configuration := filepath.Join(folder, "dnsmasq.conf")
	text := strings.Join(append([]string{
		"no-resolv", // DNS has what these lines say, for example host-record=boot.lan,10.20.30.2
		"no-hosts",
		"interface=lan",
		"bind-interfaces",
		"leasefile-ro",
		"pid-file=" + filepath.Join(folder, "pid"),
		"log-dhcp",
		"no-ping",
		"dhcp-authoritative",
		"dhcp-range=10.20.30.100,10.20.30.199,1h",
		"enable-ra", // without router advertisements iPXE waits for them
		"dhcp-range=fd77::,ra-stateless",
	}, lines...), "\n") + "\n"
	if err := os.WriteFile(configuration, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	startServer(t, n.gateway.command(context.Background(), Tool(t, "boot", "dnsmasq"), "--no-daemon", "--conf-file="+configuration),
		"sockets bound exclusively to interface lan")
}

// A namespace is a network namespace that lives as long as the process that holds it.
type namespace struct {
	pid     int
	nsenter string
}

// newNamespace makes a namespace, with the rights of the one that made another.
func newNamespace(t testing.TB, beside *namespace) *namespace {
	t.Helper()
	command := []string{Tool(t, "boot", "unshare"), "--net", "sh", "-c", "echo made; exec cat"}
	switch {
	case os.Geteuid() == 0:
	case beside == nil: // root of a namespace of users may make others
		command = slices.Insert(command, 1, "--user", "--map-root-user")
	default:
		command = slices.Concat(beside.enter("--user", "--preserve-credentials"), command)
	}
	holder := exec.CommandContext(context.Background(), command[0], command[1:]...)
	// The holder ends when its input does: with the test, however that ends.
	if _, err := holder.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	log := newConsole()
	holder.Stdout, holder.Stderr = log, log
	stop, ended, err := startProcess(holder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	if err := log.wait(t.Context(), ended, "made"); err != nil {
		t.Fatalf("no network namespace: run this as root, or let users make namespaces (sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns): %v", err)
	}
	return &namespace{pid: holder.Process.Pid, nsenter: Tool(t, "boot", "nsenter")}
}

// enter returns the beginning of a command that runs in these namespaces of the holder.
func (n *namespace) enter(namespaces ...string) []string {
	return slices.Concat([]string{n.nsenter, "--target", strconv.Itoa(n.pid)}, namespaces, []string{"--"})
}

func (n *namespace) command(ctx context.Context, program string, arguments ...string) *exec.Cmd {
	namespaces := []string{"--net"}
	if os.Geteuid() != 0 {
		namespaces = append(namespaces, "--user", "--preserve-credentials")
	}
	enter := n.enter(namespaces...)
	return exec.CommandContext(ctx, enter[0], slices.Concat(enter[1:], []string{program}, arguments)...)
}

// run runs a program of scripts/tools/boot to its end.
func (n *namespace) run(t testing.TB, program string, arguments ...string) {
	t.Helper()
	out, err := n.command(t.Context(), Tool(t, "boot", program), arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(arguments, " "), err, out)
	}
}

// connect makes a network card's other end on the bridge and returns its name.
func (n *Network) connect(t testing.TB) string {
	t.Helper()
	tap := fmt.Sprintf("tap%d", n.taps.Add(1))
	n.namespace.run(t, "ip", "tuntap", "add", "dev", tap, "mode", "tap")
	n.namespace.run(t, "ip", "link", "set", tap, "master", Bridge, "up")
	return tap
}
