package serve

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// bindTo has a socket that was handed over get what comes in on one network interface,
// and send there, if it is bound to none. Linux lets everybody do so from 5.7 on.
func bindTo(conn net.PacketConn, name string) error {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return errors.New("is no socket of the system")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var bindErr error
	err = raw.Control(func(descriptor uintptr) {
		bound, err := unix.GetsockoptString(int(descriptor), unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
		switch {
		case err != nil:
			bindErr = err
		case bound == "":
			bindErr = unix.BindToDevice(int(descriptor), name)
		case bound != name:
			bindErr = fmt.Errorf("is bound to %s; give that as --interface, or %s as the socket's BindToDevice= (systemd.socket(5))", bound, name)
		}
	})
	return errors.Join(err, bindErr)
}
