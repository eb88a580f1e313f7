package tftp

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

// A protocolError is an error that is sent to a client, or by one (RFC 1350).
type protocolError struct {
	code uint16
	text string
}

func (e *protocolError) Error() string { return e.text }

// Errors that are sent to clients, which show them.
var (
	errNotFound = &protocolError{1, "no such file"}
	errRefused  = &protocolError{2, "this network may not boot from here"}
	errReadOnly = &protocolError{2, "this server is read-only"}
	errBroken   = &protocolError{0, "the file cannot be read"}
	errBusy     = &protocolError{0, "too many transfers"}
	errStopping = &protocolError{0, "the server stops"}
	errMode     = &protocolError{0, "ask for it in octet mode"}
)

func (e *protocolError) packet() []byte {
	packet := binary.BigEndian.AppendUint16(nil, uint16(errorPacket))
	packet = binary.BigEndian.AppendUint16(packet, e.code)
	return append(append(packet, e.text...), 0)
}

// A request is a read or a write request.
type request struct {
	opcode  opcode
	name    string
	mode    string // in small letters
	options map[string]string
}

// parseRequest reads a request. Names of options are in small letters.
func parseRequest(packet []byte) (request, error) {
	if len(packet) < 2 {
		return request{}, errors.New("a packet without an opcode")
	}
	r := request{opcode: opcode(binary.BigEndian.Uint16(packet)), options: map[string]string{}}
	if r.opcode != readRequest && r.opcode != writeRequest {
		return r, fmt.Errorf("a packet with opcode %d where a request should be", r.opcode)
	}
	words := bytes.Split(packet[2:], []byte{0})
	if len(words) < 3 { // the last one is what follows the last zero
		return r, errors.New("a request without a name and a mode")
	}
	r.name, r.mode = string(words[0]), strings.ToLower(string(words[1]))
	for i := 2; i+1 < len(words)-1; i += 2 {
		r.options[strings.ToLower(string(words[i]))] = string(words[i+1])
	}
	return r, nil
}

// number returns the value of an option, and whether it is a number in this range.
func (r request) number(option string, least, most int) (int, bool) {
	n, err := strconv.Atoi(r.options[option])
	return n, err == nil && n >= least && n <= most
}

// parseReply reads what a client sends in a transfer: the number of the block
// that it acknowledges, or an error. Other packets are neither.
func parseReply(packet []byte) (block uint16, ok bool, err error) {
	if len(packet) < 4 {
		return 0, false, nil
	}
	number := binary.BigEndian.Uint16(packet[2:])
	switch opcode(binary.BigEndian.Uint16(packet)) {
	case acknowledged:
		return number, true, nil
	case errorPacket:
		text, _, _ := strings.Cut(string(packet[4:]), "\x00")
		return 0, false, &protocolError{number, fmt.Sprintf("the client broke off with error %d: %q", number, text)}
	}
	return 0, false, nil
}
