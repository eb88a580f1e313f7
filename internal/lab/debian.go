package lab

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
)

// DebianIP is an address in a Network that is left to the machine of StartDebian.
const DebianIP = "10.20.30.3"

// StartDebian starts a machine with a fresh Debian that is connected to the network by
// its card eth0, without an address. It has the files of a folder at /mnt, and the
// units of the folder's own folder units. It starts check.service, which has to be one
// of them. Its clock begins at five past the hour, so that no timer for the full hour
// elapses. What the machine changes is gone when it is switched off.
func (n *Network) StartDebian(t testing.TB, files string) *VM {
	t.Helper()
	share := func(name string) string {
		path, err := findTool("debian", filepath.Join("share", name))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	disk := filepath.Join(t.TempDir(), "disk.img")
	makeDisk := exec.CommandContext(t.Context(), Tool(t, "debian", "mkfs.ext4"), "-q", "-d", files, disk, "256m")
	if output, err := makeDisk.CombinedOutput(); err != nil {
		t.Fatalf("make a disk of %s: %v: %s", files, err, output)
	}
	return startVM(t, n.Command(context.Background(), Tool(t, "boot", "qemu-system-x86_64"),
		"-accel", "tcg", "-M", "pc,graphics=off", "-m", "768", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-rtc", "base=2030-01-01T12:05:00", "-kernel", share("vmlinuz"), "-initrd", share("initrd"),
		"-append", "console=ttyS0 quiet panic=-1 no_timer_check net.ifnames=0 systemd.show_status=no systemd.wants=check.service",
		"-drive", "if=virtio,format=raw,snapshot=on,file="+quote(share("root.img")),
		"-drive", "if=virtio,format=raw,file="+quote(disk),
		"-device", "virtio-net-pci,netdev=lan,romfile=,mac=52:54:00:de:b1:a4", "-netdev", "tap,id=lan,script=no,downscript=no,ifname="+n.connect(t)))
}
