// Package count tells how far a long copy is.
package count

import "io"

// Reader reads from r, and tells after each Read that got something how many bytes
// have been read so far.
func Reader(r io.Reader, tell func(read int64)) io.Reader { return &reader{r, tell, 0} }

type reader struct {
	source io.Reader
	tell   func(read int64)
	read   int64
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.source.Read(p)
	if n > 0 {
		r.read += int64(n)
		r.tell(r.read)
	}
	return n, err
}
