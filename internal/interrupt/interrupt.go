// Package interrupt makes long copies end when nobody wants them any more.
package interrupt

import (
	"context"
	"io"
)

// Reader reads from r until ctx ends, and then fails with the reason why it
// ended (context.Cause). A Read that has begun is not cut off.
func Reader(ctx context.Context, r io.Reader) io.Reader { return reader{ctx, r} }

type reader struct {
	ctx    context.Context
	source io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.source.Read(p)
}
