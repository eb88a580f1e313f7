package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	blockSize = 1468
	ethernet  = 1500
)

// compareTFTP has one client load an iPXE binary, over an interface with packets
// of Ethernet's size. The client has the last core and the servers the first, as on
// two machines: left to itself, the system puts a client and a server that wake each
// other up on one core in some turns and on two in others, at twice the rate.
func (b *bench) compareTFTP(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, "ip", "link", "set", "lo", "mtu", fmt.Sprint(ethernet)).CombinedOutput(); err != nil {
		return fmt.Errorf("set the loopback's MTU: %w: %s", err, out)
	}
	defer func() { _ = exec.Command("ip", "link", "set", "lo", "mtu", "65536").Run() }()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var cores unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cores); err != nil {
		return err
	}
	defer func() { _ = unix.SchedSetaffinity(0, &cores) }()
	first, last := ends(cores)
	if err := runOn(first); err != nil {
		return err
	}
	ours, err := b.startOurs(ctx)
	if err != nil {
		return err
	}
	dnsmasq, err := b.startDnsmasq(ctx)
	if err != nil {
		return err
	}
	defer stop(ours, dnsmasq)
	if err := runOn(last); err != nil {
		return err
	}

	before, err := fragments()
	if err != nil {
		return err
	}
	for number, way := range []struct {
		what   string
		window int // blocks that the client asks for at a time
		least  float64
	}{{"TFTP as EDK2 asks", 4, leastOfDnsmasq}, {"TFTP block by block", 1, leastBlockByBlock}} {
		var mine, theirs []float64
		for turn := range b.turns {
			rates, err := raceTFTP(number*b.turns+turn, way.window, ourAddress, dnsmasqAddress)
			if err != nil {
				return err
			}
			mine, theirs = append(mine, rates[0]), append(theirs, rates[1])
			say("%s, %d of %d: ours %.1f MB/s, dnsmasq %.1f MB/s", way.what, turn+1, b.turns, rates[0], rates[1])
		}
		b.compare(way.what, "MB/s", mine, "dnsmasq", theirs, way.least)
	}
	after, err := fragments()
	if err != nil {
		return err
	}
	b.limit("TFTP: IP fragments on the wire, none", fmt.Sprint(after-before), after == before)
	return nil
}

// raceTFTP loads the iPXE binary from both servers, some blocks from the one and
// some from the other in turn, and returns the rate of each in MB a second.
func raceTFTP(turn, window int, addresses ...string) ([]float64, error) {
	const blocks = 500 // at a time, some ten milliseconds
	downloads := make([]*download, len(addresses))
	for i, address := range addresses {
		// A client's second request would get a script.
		d, err := beginDownload([4]byte{127, 0, byte(turn + 1), byte(i + 1)}, netip.MustParseAddr(address).As4(), window)
		if err != nil {
			return nil, fmt.Errorf("TFTP from %s: %w", address, err)
		}
		defer d.close()
		downloads[i] = d
	}
	for left := len(downloads); left > 0; {
		left = 0
		for i, d := range downloads {
			if d.done {
				continue
			}
			left++
			if err := d.receive(blocks); err != nil {
				return nil, fmt.Errorf("TFTP from %s: %w", addresses[i], err)
			}
		}
	}
	rates := make([]float64, len(downloads))
	for i, d := range downloads {
		if d.total != ipxeSize {
			return nil, fmt.Errorf("TFTP from %s: got %d of %d bytes", addresses[i], d.total, ipxeSize)
		}
		rates[i] = ipxeSize / d.took.Seconds() / 1e6
	}
	return rates, nil
}

// A download is one by TFTP (RFC 1350) that is under way. Its socket blocks, as a
// client's does that is nothing but a client: Go's own sockets look for packets
// with threads that would take the processor from the servers.
type download struct {
	socket int
	to     unix.Sockaddr
	window uint16 // blocks that come for one acknowledgement
	buffer []byte
	block  uint16 // the last one that came
	total  int    // bytes
	took   time.Duration
	done   bool
}

func beginDownload(local, address [4]byte, window int) (_ *download, err error) {
	d := &download{window: 1, to: &unix.SockaddrInet4{Addr: address, Port: 69}, buffer: make([]byte, 64<<10)}
	if d.socket, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if err := unix.Bind(d.socket, &unix.SockaddrInet4{Addr: local}); err != nil {
		return nil, err
	}
	if err := d.wait(100 * time.Millisecond); err != nil {
		return nil, err
	}
	blksize := fmt.Sprintf("blksize\x00%d\x00", blockSize)
	windowsize := ""
	if window > 1 {
		windowsize = fmt.Sprintf("windowsize\x00%d\x00", window)
	}
	request := "\x00\x01ipxe.efi\x00octet\x00" + blksize + windowsize
	for range 100 { // dnsmasq does not say when it is ready
		if err := unix.Sendto(d.socket, []byte(request), 0, d.to); err != nil {
			return nil, err
		}
		var n int
		var from unix.Sockaddr
		n, from, err = unix.Recvfrom(d.socket, d.buffer, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		switch answer := string(d.buffer[:n]); answer {
		case "\x00\x06" + blksize:
		case "\x00\x06" + blksize + windowsize:
			d.window = uint16(window)
		default:
			return nil, fmt.Errorf("it answers %q", answer)
		}
		d.to = from
		return d, d.wait(time.Minute)
	}
	return nil, err
}

// wait says how long a packet may take to come.
func (d *download) wait(limit time.Duration) error {
	timeout := unix.NsecToTimeval(limit.Nanoseconds())
	return unix.SetsockoptTimeval(d.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
}

func (d *download) close() { _ = unix.Close(d.socket) }

// receive receives up to so many blocks.
func (d *download) receive(blocks int) error {
	begin := time.Now()
	defer func() { d.took += time.Since(begin) }()
	acknowledgement := []byte{0, 4, 0, 0}
	acknowledge := func() error {
		binary.BigEndian.PutUint16(acknowledgement[2:], d.block)
		return unix.Sendto(d.socket, acknowledgement, 0, d.to)
	}
	for range blocks {
		if d.block%d.window == 0 {
			if err := acknowledge(); err != nil {
				return err
			}
		}
		n, err := d.read()
		if err != nil {
			return err
		}
		d.block++
		if n < 4 || n > 4+blockSize || d.buffer[1] != 3 || binary.BigEndian.Uint16(d.buffer[2:]) != d.block {
			return fmt.Errorf("%d bytes in place of block %d: % x", n, d.block, d.buffer[:min(n, 16)])
		}
		d.total += n - 4
		if n < 4+blockSize {
			d.done = true
			return acknowledge()
		}
	}
	return nil
}

func (d *download) read() (int, error) {
	for {
		n, _, err := unix.Recvfrom(d.socket, d.buffer, 0)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// fragments returns how many IP fragments this network has seen.
func fragments() (int, error) {
	content, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return 0, err
	}
	lines := strings.Split(string(content), "\n")
	names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
	for i, name := range names {
		if name == "FragCreates" {
			return strconv.Atoi(values[i])
		}
	}
	return 0, errors.New("/proc/net/snmp does not say how many fragments there were")
}

// ends returns the first and the last of the cores that this program may use.
func ends(cores unix.CPUSet) (first, last int) {
	first = -1
	for core := range len(cores) * bits.UintSize {
		if !cores.IsSet(core) {
			continue
		}
		if first < 0 {
			first = core
		}
		last = core
	}
	return first, last
}

// runOn has this thread, and what it starts, run on one core.
func runOn(core int) error {
	var cores unix.CPUSet
	cores.Set(core)
	return unix.SchedSetaffinity(0, &cores)
}
