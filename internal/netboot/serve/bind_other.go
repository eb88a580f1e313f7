//go:build !linux

package serve

import "net"

// bindTo has nothing to do where no systemd hands sockets over.
func bindTo(net.PacketConn, string) error { return nil }
