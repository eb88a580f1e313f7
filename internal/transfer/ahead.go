package transfer

import (
	"hash"
	"io"
	"sync"
)

// What a ReadAhead holds. The blocks are small because Linux takes memory in one piece for
// each write to a file: a piece of a MiB can take it several times as long to find as the
// copy takes.
const (
	blockSize = 256 << 10 // bytes
	blocks    = 8
)

// ReadAhead calls use with a reader of what r has, and returns use's error. Meanwhile r is
// read ahead of use, and sum, if it is not nil, is given each block before use: reading,
// hashing and use run side by side, in 2 MiB of memory. Once use has read to io.EOF, sum
// has been given all of r; if use stops before that, perhaps more than use has read.
//
// use gets an error of r after what was read before it. r and sum are not used any more
// when ReadAhead returns: it waits for a Read of r that has begun.
func ReadAhead(r io.Reader, sum hash.Hash, use func(io.Reader) error) error {
	// The blocks go round: free, read, ready, free. As no channel can be full, nobody
	// waits for anything but a block.
	free, read := make(chan []byte, blocks), make(chan block, blocks)
	for range blocks {
		free <- nil // made when it is needed
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		defer close(read)
		readBlocks(r, free, read, stop)
	})
	ready := read
	if sum != nil {
		ready = make(chan block, blocks)
		running.Go(func() {
			defer close(ready)
			for b := range read {
				sum.Write(b.content)
				ready <- b
			}
		})
	}
	defer running.Wait()
	defer close(stop)
	return use(&blockReader{ready: ready, free: free})
}

// A block is a part of what was read, and the error that followed it.
type block struct {
	content []byte
	err     error
	end     bool // the error is io.EOF
}

// readBlocks reads until there is an error, such as io.EOF, or it is to stop.
func readBlocks(r io.Reader, free <-chan []byte, read chan<- block, stop <-chan struct{}) {
	var b block
	for b.err == nil {
		select {
		case <-stop:
			return
		case b.content = <-free:
		}
		if b.content == nil {
			b.content = make([]byte, blockSize)
		}
		n := 0
		for n < blockSize && b.err == nil {
			select {
			case <-stop:
				return
			default:
			}
			m, err := r.Read(b.content[n:])
			n += m
			b.err, b.end = err, err == io.EOF // not errors.Is: a download that was cut short may wrap it
		}
		b.content = b.content[:n]
		read <- b
	}
}

// blockReader reads blocks that are ready, and frees them. Its ReadByte is for packages
// that decompress, which put a buffer of their own before a reader without it.
type blockReader struct {
	ready <-chan block
	free  chan<- []byte
	block block
	done  int // bytes of the block
}

// next makes sure that the block has a byte that was not read, or returns the error that
// follows it.
func (r *blockReader) next() error {
	for r.done == len(r.block.content) {
		if r.block.err != nil {
			return r.block.err
		}
		if r.block.content != nil {
			r.free <- r.block.content[:blockSize]
		}
		next, ok := <-r.ready
		if !ok {
			return io.ErrClosedPipe // use has returned
		}
		r.block, r.done = next, 0
	}
	return nil
}

func (r *blockReader) Read(p []byte) (int, error) {
	if err := r.next(); err != nil {
		return 0, err
	}
	n := copy(p, r.block.content[r.done:])
	r.done += n
	return n, nil
}

func (r *blockReader) ReadByte() (byte, error) {
	if err := r.next(); err != nil {
		return 0, err
	}
	b := r.block.content[r.done]
	r.done++
	return b, nil
}

// WriteTo gives each block to w as it is.
func (r *blockReader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		if err := r.next(); err != nil {
			if r.block.end {
				err = nil
			}
			return written, err
		}
		n, err := w.Write(r.block.content[r.done:])
		r.done += n
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
}
