package boottftp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Sizes of blocks in bytes: what a client gets that asks for none (RFC 1350), and
// those that it may ask for (RFC 2348).
const (
	usualBlock = 512
	leastBlock = 8
	mostBlock  = 65464
)

// mostWindow is how many blocks may be on their way at once (RFC 7440).
const mostWindow = 16

// A lost packet is sent again after resendAfter, or the seconds that the client asks
// for (RFC 2349), this many times. A client that asks for more than mostTimeout is
// not heard: it could keep all transfers waiting for itself.
const (
	resendAfter = time.Second
	mostTimeout = 10
	resends     = 8
)

// terms are what a transfer's two sides have agreed on.
type terms struct {
	block   int // bytes
	blocks  int // in a window
	resend  time.Duration
	options []byte // a packet with the options taken, or nil if there are none
}

// agree takes the options of a request that this server knows. A size of less
// than zero is not known; most is how many bytes a block may have.
func agree(q question, size int64, most int) terms {
	t := terms{block: usualBlock, blocks: 1, resend: resendAfter}
	take := func(option string, value int64) {
		if t.options == nil {
			t.options = binary.BigEndian.AppendUint16(nil, uint16(optionsTaken))
		}
		t.options = append(append(t.options, option...), 0)
		t.options = append(strconv.AppendInt(t.options, value, 10), 0)
	}
	if n, ok := q.number("blksize", leastBlock, 1<<16); ok {
		t.block = min(n, mostBlock, max(most, usualBlock))
		take("blksize", int64(t.block))
	}
	if _, ok := q.number("tsize", 0, 0); ok && size >= 0 {
		take("tsize", size)
	}
	if n, ok := q.number("timeout", 1, mostTimeout); ok {
		t.resend = time.Duration(n) * time.Second
		take("timeout", int64(n))
	}
	if n, ok := q.number("windowsize", 1, 1<<16); ok {
		t.blocks = min(n, mostWindow)
		take("windowsize", int64(t.blocks))
	}
	return t
}

// A transfer sends a file to one client.
type transfer struct {
	terms
	conn *net.UDPConn // connected to the client
	from io.Reader

	begin func()          // is called before the first block is sent
	sent  func(bytes int) // is told of what the client has

	window   [][]byte // packets that the client has not acknowledged, in their order
	first    uint64   // the number of the first of them; on the wire it is cut to 16 bits
	last     bool     // the last one of them ends the file
	spare    [][]byte // room for packets
	answer   []byte   // room for what the client says
	deadline time.Time
}

// run sends the file, and returns when the client has it. It returns a *problem
// if the client breaks off or the context is done, errUnreadable if the file cannot
// be read on, and os.ErrDeadlineExceeded if the client says nothing any more.
func (t *transfer) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = t.conn.SetReadDeadline(time.Unix(1, 0)) })()
	t.answer = make([]byte, usualBlock)
	t.first = 1
	if t.options != nil {
		// They are acknowledged as block 0.
		t.window, t.first = append(t.window, t.options), 0
		if err := t.send(0); err != nil {
			return err
		}
		if err := t.deliver(ctx); err != nil {
			return err
		}
	}
	t.begin()
	for !t.last || len(t.window) > 0 {
		if err := t.fill(); err != nil {
			return err
		}
		if err := t.deliver(ctx); err != nil {
			return err
		}
	}
	return nil
}

// errUnreadable says that the file could not be read on.
var errUnreadable = errors.New("cannot read the file")

// fill sends new blocks until the window is full.
func (t *transfer) fill() error {
	for !t.last && len(t.window) < t.blocks {
		packet := t.room()
		n, err := io.ReadFull(t.from, packet[4:])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: %w", errUnreadable, err)
		}
		binary.BigEndian.PutUint16(packet, uint16(dataPacket))
		binary.BigEndian.PutUint16(packet[2:], uint16(t.first+uint64(len(t.window))))
		t.window, t.last = append(t.window, packet[:4+n]), n < t.block
		if err := t.send(len(t.window) - 1); err != nil {
			return err
		}
	}
	return nil
}

// room returns room for a packet.
func (t *transfer) room() []byte {
	if len(t.spare) == 0 {
		return make([]byte, 4+t.block)
	}
	packet := t.spare[len(t.spare)-1]
	t.spare = t.spare[:len(t.spare)-1]
	return packet[:4+t.block]
}

// send sends the window's packets, from one of them on.
func (t *transfer) send(from int) error {
	for _, packet := range t.window[from:] {
		if _, err := t.conn.Write(packet); err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return err
		}
	}
	return nil
}

// deliver waits until the client has at least the first packet of the window, and
// takes from the window what it has.
func (t *transfer) deliver(ctx context.Context) error {
	lost, complained := 0, false
	if err := t.wait(); err != nil {
		return err
	}
	for {
		has, err := t.receive(ctx)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && lost < resends:
			lost++
			if err := errors.Join(t.send(0), t.wait()); err != nil {
				return err
			}
		case err != nil:
			return err
		case has > 0:
			t.take(has)
			return t.send(0) // what the client misses after that
		case t.blocks > 1 && !complained:
			// The client misses the first packet. With a window of one it may as well say
			// again what it has said, and another packet for that would bring another
			// answer, and so on (the sorcerer's apprentice).
			complained = true
			if err := t.send(0); err != nil {
				return err
			}
		}
	}
}

// take takes packets that the client has from the window.
func (t *transfer) take(has int) {
	for _, packet := range t.window[:has] {
		if t.first > 0 {
			t.sent(len(packet) - 4)
			t.spare = append(t.spare, packet)
		}
		t.first++
	}
	t.window = append(t.window[:0], t.window[has:]...)
}

// wait has what is received next be in time for as long as a packet may take, or a
// little less: the clock is not set anew for each packet that is sent. What a client
// says does not set it: one that repeats itself because a packet was lost would wait
// for that packet for ever.
func (t *transfer) wait() error {
	now := time.Now()
	if t.deadline.Sub(now) >= t.resend*3/4 {
		return nil
	}
	t.deadline = now.Add(t.resend)
	return t.conn.SetReadDeadline(t.deadline)
}

// receive waits for an acknowledgement, and returns how many packets of the window
// the client has.
func (t *transfer) receive(ctx context.Context) (has int, err error) {
	for {
		if ctx.Err() != nil {
			return 0, errStopping
		}
		n, err := t.conn.Read(t.answer)
		if err != nil {
			if ctx.Err() != nil {
				return 0, errStopping
			}
			t.deadline = time.Time{}
			return 0, err
		}
		block, ok, err := parseAnswer(t.answer[:n])
		if err != nil {
			return 0, err
		}
		// Numbers go round, and what looks far ahead is old.
		if has := block - uint16(t.first) + 1; ok && int(has) <= len(t.window) {
			return int(has), nil
		}
	}
}
