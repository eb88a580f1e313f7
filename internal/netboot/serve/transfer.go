package serve

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"every.channel/runner-images/internal/netboot/journal"
)

const (
	// chunkSize is how many bytes are sent between two updates of the journal. The
	// kernel sends them by itself (sendfile(2)).
	chunkSize = 4 << 20

	// chunkTimeout is how long a chunk may take: a client slower than 70 kB/s is
	// disconnected.
	chunkTimeout = time.Minute
)

// extend extends a response's deadline.
func extend(w http.ResponseWriter) {
	// Without a connection there is no deadline.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(chunkTimeout))
}

// A fileResponse reports to the journal how much of a file has been sent.
type fileResponse struct {
	http.ResponseWriter
	file  *os.File
	size  int64
	start func(size int64) *journal.Transfer // nil: nothing of the file is sent

	transfer *journal.Transfer
	complete bool // the file's end was sent
	err      error
}

// WriteHeader starts the transfer if the response has bytes of the file.
func (w *fileResponse) WriteHeader(status int) {
	switch {
	case status >= http.StatusBadRequest: // not for a cache, whatever is so of the file
		w.Header().Set("Cache-Control", "no-store")
	case w.start != nil && status != http.StatusNotModified:
		w.transfer = w.start(w.size)
	}
	extend(w.ResponseWriter)
	w.ResponseWriter.WriteHeader(status)
}

// Write sends what is not a part of the file: the text of an error.
func (w *fileResponse) Write(p []byte) (int, error) {
	extend(w.ResponseWriter)
	return w.ResponseWriter.Write(p)
}

// ReadFrom sends the file in chunks.
func (w *fileResponse) ReadFrom(from io.Reader) (int64, error) {
	limited, ok := from.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: from, N: w.size}
	}
	offset, err := w.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	var total int64
	for limited.N > 0 {
		extend(w.ResponseWriter)
		part := &io.LimitedReader{R: limited.R, N: min(limited.N, chunkSize)}
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
	w.complete = offset+total == w.size
	return total, nil
}

func (w *fileResponse) sent(n int64, err error) error {
	if w.transfer != nil {
		w.transfer.Sent(n)
	}
	w.err = errors.Join(w.err, err)
	return err
}

// end ends the transfer.
func (w *fileResponse) end() {
	if w.transfer != nil {
		w.transfer.End(w.complete, w.err)
	}
}
