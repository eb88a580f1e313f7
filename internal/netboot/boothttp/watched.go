package boothttp

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"every.channel/runner-images/internal/netboot/journal"
)

const (
	// chunk is how many bytes are sent between two looks at how far a transfer
	// has come. The kernel sends them by itself (sendfile(2)).
	chunk = 4 << 20

	// chunkWithin is how long a chunk may take: a client slower than 70 kB/s is
	// let go of.
	chunkWithin = time.Minute
)

// extend gives a response more time.
func extend(w http.ResponseWriter) {
	// It fails where there is no connection, and then there is nobody to wait for.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(chunkWithin))
}

// A watched response tells the journal how much of a file has been sent.
type watched struct {
	http.ResponseWriter
	file  *os.File
	size  int64
	begin func(size int64) *journal.Transfer

	transfer *journal.Transfer
	whole    bool // the file's end was sent
	err      error
}

// WriteHeader begins the transfer if the response has bytes of the file.
func (w *watched) WriteHeader(status int) {
	if status == http.StatusOK || status == http.StatusPartialContent {
		w.transfer = w.begin(w.size)
	}
	extend(w.ResponseWriter)
	w.ResponseWriter.WriteHeader(status)
}

// Write sends what is not the file: an error's text.
func (w *watched) Write(p []byte) (int, error) {
	extend(w.ResponseWriter)
	return w.ResponseWriter.Write(p)
}

// ReadFrom sends the file in chunks.
func (w *watched) ReadFrom(from io.Reader) (int64, error) {
	limited, ok := from.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: from, N: w.size}
	}
	start, err := w.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	var total int64
	for limited.N > 0 {
		extend(w.ResponseWriter)
		part := &io.LimitedReader{R: limited.R, N: min(limited.N, chunk)}
		n, err := io.Copy(w.ResponseWriter, part)
		limited.N -= n
		total += n
		if err := w.sent(n, err); err != nil {
			return total, err
		}
		if n == 0 {
			return total, w.sent(0, io.ErrUnexpectedEOF)
		}
	}
	w.whole = start+total == w.size
	return total, nil
}

func (w *watched) sent(n int64, err error) error {
	if w.transfer != nil {
		w.transfer.Sent(n)
	}
	w.err = errors.Join(w.err, err)
	return err
}

// end ends the transfer.
func (w *watched) end() {
	if w.transfer != nil {
		w.transfer.End(w.whole, w.err)
	}
}
