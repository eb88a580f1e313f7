package forgejo

import (
	"context"
	"io"
	"net"
	"os"
)

// sendSize is how many bytes of a file the kernel sends before the next report of
// progress.
const sendSize = 1 << 20

// fileBody is a file as a request's body. A sender has the kernel send it; others read
// it.
type fileBody struct {
	file     *os.File
	progress func(sent int64)
	sent     int64
}

func (b *fileBody) Read(p []byte) (int, error) {
	n, err := b.file.Read(p)
	b.add(int64(n))
	return n, err
}

// Close leaves the file to who has opened it.
func (b *fileBody) Close() error { return nil }

func (b *fileBody) add(n int64) {
	if n > 0 {
		b.sent += n
		b.progress(b.sent)
	}
}

// dialSender makes connections that are senders, where they are plain TCP.
func dialSender(dialer *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		connection, err := dialer.DialContext(ctx, network, address)
		if tcp, ok := connection.(*net.TCPConn); ok {
			return &sender{tcp}, err
		}
		return connection, err
	}
}

// A sender is a connection that does not copy files through this process (sendfile(2)):
// an upload to a server on the same network, or behind a proxy on this machine, then
// leaves its time to the checksum. Over TLS nothing comes here but what is encrypted.
type sender struct{ *net.TCPConn }

// ReadFrom is what net/http calls with a request's body, limited to its length.
func (s *sender) ReadFrom(r io.Reader) (sent int64, err error) {
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		return s.TCPConn.ReadFrom(r)
	}
	body, ok := limited.R.(*fileBody)
	if !ok {
		return s.TCPConn.ReadFrom(r)
	}
	for limited.N > 0 {
		// Go has the kernel send a file that is limited in this very way.
		n, err := s.TCPConn.ReadFrom(&io.LimitedReader{R: body.file, N: min(limited.N, sendSize)})
		limited.N -= n
		sent += n
		body.add(n)
		if n == 0 || err != nil { // the file has become shorter: net/http says so
			return sent, err
		}
	}
	return sent, nil
}
