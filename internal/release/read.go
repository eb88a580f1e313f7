package release

import (
	"context"
	"errors"
	"io"
)

// ReadOn returns what open opens, at an offset in bytes, and opens it again at the
// next offset when it breaks. A content that breaks several times in a row without
// giving anything is an error.
func ReadOn(ctx context.Context, open func(offset int64) (io.ReadCloser, error)) (io.ReadCloser, error) {
	content, err := open(0)
	if err != nil {
		return nil, err
	}
	return &readOn{ctx: ctx, open: open, content: content}, nil
}

type readOn struct {
	ctx     context.Context
	open    func(offset int64) (io.ReadCloser, error)
	content io.ReadCloser
	offset  int64
	broken  int // contents in a row that gave nothing
}

func (r *readOn) Read(p []byte) (int, error) {
	const attempts = 3
	n, err := r.content.Read(p)
	r.offset += int64(n)
	if n > 0 {
		r.broken = 0
	}
	if err == nil || errors.Is(err, io.EOF) || r.ctx.Err() != nil {
		return n, err
	}
	if r.broken++; r.broken == attempts {
		return n, err
	}
	content, failed := r.open(r.offset)
	if failed != nil {
		return n, failed
	}
	_ = r.content.Close() // which is broken
	r.content = content
	return n, nil
}

func (r *readOn) Close() error { return r.content.Close() }
