package boottftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// An opcode is a packet's kind (RFC 1350, RFC 2347).
type opcode uint16

const (
	readRequest  opcode = 1
	writeRequest opcode = 2
	dataPacket   opcode = 3
	acknowledged opcode = 4
	errorPacket  opcode = 5
	optionsTaken opcode = 6
)

// A problem is an error that a client is told, or tells (RFC 1350).
type problem struct {
	code uint16
	text string
}

func (p *problem) Error() string { return p.text }

// Errors that clients are told, which show them.
var (
	errNotFound = &problem{1, "no such file"}
	errRefused  = &problem{2, "this network may not boot from here"}
	errReadOnly = &problem{2, "this server is read-only"}
	errBroken   = &problem{0, "the file cannot be read"}
	errBusy     = &problem{0, "too many transfers"}
	errStopping = &problem{0, "the server stops"}
	errMode     = &problem{0, "ask for it in octet mode"}
)

func (p *problem) packet() []byte {
	packet := binary.BigEndian.AppendUint16(nil, uint16(errorPacket))
	packet = binary.BigEndian.AppendUint16(packet, p.code)
	return append(append(packet, p.text...), 0)
}

// A question is a read or a write request.
type question struct {
	opcode  opcode
	name    string
	mode    string // in small letters
	options map[string]string
}

// parseQuestion reads a request. Names of options are in small letters.
func parseQuestion(packet []byte) (question, error) {
	if len(packet) < 2 {
		return question{}, errors.New("a packet without an opcode")
	}
	q := question{opcode: opcode(binary.BigEndian.Uint16(packet)), options: map[string]string{}}
	if q.opcode != readRequest && q.opcode != writeRequest {
		return q, fmt.Errorf("a packet with opcode %d where a request should be", q.opcode)
	}
	words := bytes.Split(packet[2:], []byte{0})
	if len(words) < 3 { // the last one is what follows the last zero
		return q, errors.New("a request without a name and a mode")
	}
	q.name, q.mode = string(words[0]), strings.ToLower(string(words[1]))
	for i := 2; i+1 < len(words)-1; i += 2 {
		q.options[strings.ToLower(string(words[i]))] = string(words[i+1])
	}
	return q, nil
}

// number returns the value of an option if it is a number between two.
func (q question) number(option string, least, most int) (int, bool) {
	n, err := strconv.Atoi(q.options[option])
	return n, err == nil && n >= least && n <= most
}

// parseAnswer reads what a client sends in a transfer: the number of the block
// that it has, or an error. Other packets are neither.
func parseAnswer(packet []byte) (block uint16, ok bool, err error) {
	if len(packet) < 4 {
		return 0, false, nil
	}
	number := binary.BigEndian.Uint16(packet[2:])
	switch opcode(binary.BigEndian.Uint16(packet)) {
	case acknowledged:
		return number, true, nil
	case errorPacket:
		text, _, _ := strings.Cut(string(packet[4:]), "\x00")
		return 0, false, &problem{number, fmt.Sprintf("the client broke off with error %d: %q", number, text)}
	}
	return 0, false, nil
}
