package lab

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Firmware is what a machine begins with.
type Firmware string

// The firmware that a machine may have.
const (
	BIOS     Firmware = "BIOS"      // SeaBIOS, and iPXE in the network card's ROM
	UEFI     Firmware = "UEFI"      // EDK2 and its own PXE client
	UEFIHTTP Firmware = "UEFI HTTP" // EDK2 with HTTP Boot and without PXE
)

// A Machine is a computer to be started, x86_64, that boots from its network card.
type Machine struct {
	Firmware Firmware
	MAC      string // of its network card; empty for QEMU's choice
	Memory   int    // MiB; 0 for 1024

	// Bootfile is for StartMachine: what the DHCP server of QEMU's user network
	// sends, an address or a file of a TFTP server.
	Bootfile string

	// Script is for BIOS: the path of a script that a current iPXE runs when it
	// starts, as it runs an embedded one. QEMU loads that iPXE (ipxe.lkrn) in place
	// of what the network card would boot.
	Script string
}

// BootPrograms returns a folder with boot programs to serve: a current ipxe.efi
// and undionly.kpxe, and an old-ipxe.efi that knows no autoexec.ipxe. There are
// other files in it; nothing may be written to it.
func BootPrograms(t testing.TB) string {
	t.Helper()
	programs, err := findTool("boot", "share")
	if err != nil {
		t.Fatal(err)
	}
	return programs
}

// A VM is a machine that runs.
type VM struct {
	console *console
	stop    func()
	ended   <-chan struct{}
}

// StartMachine starts a machine in QEMU's user network, where 10.0.2.2 is this
// machine's loopback address. It needs no rights.
func StartMachine(t testing.TB, machine Machine) *VM {
	t.Helper()
	arguments := append(machine.arguments(t), "-netdev", "user,id=lan,bootfile="+machine.Bootfile)
	return startVM(t, exec.CommandContext(context.Background(), Tool(t, "boot", "qemu-system-x86_64"), arguments...))
}

// StartMachine starts a machine that is connected to the network.
func (n *Network) StartMachine(t testing.TB, machine Machine) *VM {
	t.Helper()
	arguments := append(machine.arguments(t), "-netdev", "tap,id=lan,script=no,downscript=no,ifname="+n.connect(t))
	return startVM(t, n.Command(context.Background(), Tool(t, "boot", "qemu-system-x86_64"), arguments...))
}

// arguments are QEMU's, but for the network's other end. The processor is
// emulated: /dev/kvm may be there and not work.
func (m Machine) arguments(t testing.TB) []string {
	t.Helper()
	memory, card := m.Memory, "virtio-net-pci,netdev=lan"
	if memory == 0 {
		memory = 1024
	}
	if m.MAC != "" {
		card += ",mac=" + m.MAC
	}
	arguments := []string{
		"-accel", "tcg", "-m", strconv.Itoa(memory), "-nodefaults", "-display", "none",
		"-no-reboot", "-boot", "n", "-serial", "stdio",
	}
	share := func(name string) string {
		path, err := findTool("boot", filepath.Join("share", name))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	if m.Firmware == BIOS {
		arguments = append(arguments, "-M", "pc,graphics=off", "-device", card)
		if m.Script != "" {
			arguments = append(arguments, "-kernel", share("ipxe.lkrn"), "-initrd", m.Script)
		}
		return arguments
	}
	variables := filepath.Join(t.TempDir(), "OVMF_VARS.fd")
	if err := copyFile(variables, share("OVMF_VARS.fd"), 0o600); err != nil {
		t.Fatal(err)
	}
	arguments = append(arguments, "-M", "q35,smm=off",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+quote(share("OVMF_CODE.fd")),
		"-drive", "if=pflash,format=raw,unit=1,file="+quote(variables),
		"-device", card+",romfile=", // without a ROM EDK2's own network stack runs
		"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n",
	)
	if m.Firmware == UEFIHTTP {
		arguments = append(arguments, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")
	}
	return arguments
}

// quote writes a path as a part of QEMU's options, which commas separate.
func quote(path string) string { return strings.ReplaceAll(path, ",", ",,") }

func startVM(t testing.TB, command *exec.Cmd) *VM {
	t.Helper()
	vm := &VM{console: newConsole()}
	command.Stdout, command.Stderr = vm.console, vm.console
	var err error
	if vm.stop, vm.ended, err = startProcess(command); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		vm.stop()
		if t.Failed() {
			t.Logf("the machine's console:\n%s", vm.console)
		}
	})
	return vm
}

// Wait waits until the machine has written a text on its serial console. An error
// means that the machine was switched off or the context ended before that.
func (vm *VM) Wait(ctx context.Context, text string) error {
	return vm.console.wait(ctx, vm.ended, text)
}

// WaitTimes waits until the machine has written a text so many times.
func (vm *VM) WaitTimes(ctx context.Context, text string, times int) error {
	return vm.console.waitTimes(ctx, vm.ended, text, times)
}

// Console returns what the machine has written on its serial console.
func (vm *VM) Console() string { return vm.console.String() }

// Stop switches the machine off.
func (vm *VM) Stop() { vm.stop() }

// A console is text that a process writes and a test waits for.
type console struct {
	mutex sync.Mutex
	text  bytes.Buffer
	grown chan struct{} // closed when text grows, and then another
}

func newConsole() *console { return &console{grown: make(chan struct{})} }

func (c *console) Write(p []byte) (int, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	close(c.grown)
	c.grown = make(chan struct{})
	return c.text.Write(p)
}

func (c *console) String() string {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.text.String()
}

func (c *console) wait(ctx context.Context, ended <-chan struct{}, text string) error {
	return c.waitTimes(ctx, ended, text, 1)
}

func (c *console) waitTimes(ctx context.Context, ended <-chan struct{}, text string, times int) error {
	for {
		c.mutex.Lock()
		count, grown := strings.Count(c.text.String(), text), c.grown
		c.mutex.Unlock()
		if count >= times {
			return nil
		}
		select {
		case <-grown:
		case <-ended:
			// All that it wrote is here by now.
			if count = strings.Count(c.String(), text); count >= times {
				return nil
			}
			return fmt.Errorf("it ended before it wrote %q %d times (%d), and last:\n%s", text, times, count, c.tail())
		case <-ctx.Done():
			return fmt.Errorf("wait for %q: %w; last it wrote:\n%s", text, context.Cause(ctx), c.tail())
		}
	}
}

func (c *console) tail() string {
	const size = 2000
	text := c.String()
	return text[max(0, len(text)-size):]
}
