package tftp

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
	defaultBlock = 512
	minBlock     = 8
	maxBlock     = 65464
)

// maxWindow is how many blocks may be on their way at once (RFC 7440).
const maxWindow = 16

// A lost packet is sent again after resendAfter, or the seconds that the client asks
// for (RFC 2349), this many times. A longer timeout than maxTimeout is ignored: such
// clients could occupy all transfers.
const (
	resendAfter = time.Second
	maxTimeout  = 10
	resends     = 8
)

// terms are what the two ends of a transfer have agreed on.
type terms struct {
	block   int // bytes
	blocks  int // in a window
	resend  time.Duration
	options []byte // a packet with the accepted options, or nil if there are none
}

// agree accepts the options of a request that this server knows. size is the file's
// in bytes, and most how many bytes a block may have.
func agree(r request, size int64, most int) terms {
	t := terms{block: defaultBlock, blocks: 1, resend: resendAfter}
	accept := func(option string, value int64) {
		if t.options == nil {
			t.options = binary.BigEndian.AppendUint16(nil, uint16(optionsTaken))
		}
		t.options = append(append(t.options, option...), 0)
		t.options = append(strconv.AppendInt(t.options, value, 10), 0)
	}
	if n, ok := r.number("blksize", minBlock, 1<<16); ok {
		t.block = min(n, maxBlock, max(most, defaultBlock))
		accept("blksize", int64(t.block))
	}
	if _, ok := r.number("tsize", 0, 0); ok {
		accept("tsize", size)
	}
	if n, ok := r.number("timeout", 1, maxTimeout); ok {
		t.resend = time.Duration(n) * time.Second
		accept("timeout", int64(n))
	}
	if n, ok := r.number("windowsize", 1, 1<<16); ok {
		t.blocks = min(n, maxWindow)
		accept("windowsize", int64(t.blocks))
	}
	return t
}

// A transfer sends a file to one client.
type transfer struct {
	terms
	conn *net.UDPConn // connected to the client
	from io.Reader

	answered     func()          // is called when the client acknowledges something
	started      func()          // is called before the first block is sent
	acknowledged func(bytes int) // is called with what the client has acknowledged

	window   [][]byte // packets that the client has not acknowledged, in their order
	first    uint64   // the number of the first of them; on the wire it is cut to 16 bits
	last     bool     // the last one of them ends the file
	spare    [][]byte // buffers for packets
	reply    []byte   // buffer for what the client sends
	deadline time.Time
}

// run sends the file, and returns when the client has it. It returns a
// *protocolError if the client aborts or the context ends, errUnreadable if the file
// cannot be read, and os.ErrDeadlineExceeded if the client sends nothing any more.
func (t *transfer) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = t.conn.SetReadDeadline(time.Unix(1, 0)) })()
	t.reply = make([]byte, defaultBlock)
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
	t.started()
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

// errUnreadable means that the file could not be read.
var errUnreadable = errors.New("cannot read the file")

// fill sends new blocks until the window is full.
func (t *transfer) fill() error {
	for !t.last && len(t.window) < t.blocks {
		packet := t.packet()
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

// packet returns a buffer for a packet.
func (t *transfer) packet() []byte {
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
// removes from the window what it has.
func (t *transfer) deliver(ctx context.Context) error {
	lost, resent := 0, false
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
			t.answered()
			t.remove(has)
			return t.send(0) // what the client has not received after that
		case t.blocks > 1 && !resent:
			// The client has not received the first packet. With a window of one it may as
			// well repeat its last acknowledgement, and another packet would lead to another
			// acknowledgement, and so on (the Sorcerer's Apprentice bug, RFC 1123).
			resent = true
			if err := t.send(0); err != nil {
				return err
			}
		}
	}
}

// remove removes packets that the client has from the window.
func (t *transfer) remove(has int) {
	for _, packet := range t.window[:has] {
		if t.first > 0 {
			t.acknowledged(len(packet) - 4)
			t.spare = append(t.spare, packet)
		}
		t.first++
	}
	t.window = append(t.window[:0], t.window[has:]...)
}

// wait sets the deadline for the next acknowledgement to the time of a resend from
// now, or a little less: it is not set for each packet that is sent. What a client
// sends does not extend it: a client that repeats its acknowledgement because a packet
// was lost would wait for that packet for ever.
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
			return 0, whyEnded(ctx)
		}
		n, err := t.conn.Read(t.reply)
		if err != nil {
			if ctx.Err() != nil {
				return 0, whyEnded(ctx)
			}
			t.deadline = time.Time{}
			return 0, err
		}
		block, ok, err := parseReply(t.reply[:n])
		if err != nil {
			return 0, err
		}
		// Numbers wrap around, and one that looks far ahead is old.
		if has := block - uint16(t.first) + 1; ok && int(has) <= len(t.window) {
			return int(has), nil
		}
	}
}

// whyEnded returns what to tell the client of a transfer whose context has ended.
func whyEnded(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), errBusy) {
		return errBusy
	}
	return errStopping
}
