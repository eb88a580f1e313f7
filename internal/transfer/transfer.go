// Package transfer wraps the readers of long copies: one ends with a context, one
// reports its progress, one is read ahead of its use and hashed beside it.
package transfer

import (
	"context"
	"io"
)

// WithContext reads from r until ctx ends, and then fails with the reason
// (context.Cause). It does not interrupt a Read of r.
func WithContext(ctx context.Context, r io.Reader) io.Reader { return contextReader{ctx, r} }

type contextReader struct {
	ctx    context.Context
	source io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.source.Read(p)
}

// WithProgress reads from r. After each Read that returns data it calls progress with
// the number of bytes read so far.
func WithProgress(r io.Reader, progress func(read int64)) io.Reader {
	return &progressReader{source: r, progress: progress}
}

type progressReader struct {
	source   io.Reader
	progress func(read int64)
	read     int64
}

func (r *progressReader) Read(p []byte) (int, error) {
	n, err := r.source.Read(p)
	if n > 0 {
		r.read += int64(n)
		r.progress(r.read)
	}
	return n, err
}
