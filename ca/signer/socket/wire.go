// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
	"unicode/utf8"
)

// The client sends requests and the server answers, each as soon as it is ready. An answer has the
// id of its request. All numbers are big-endian.
//
//	frame      = length:uint32 content         ; length is content's, in octets
//	request    = version op flags id timeout key message
//	answer     = version status flags id rest body
//	version    = %x01
//	op         = %x01                          ; sign
//	flags      = %x00.00                       ; none is defined
//	id         = uint32                        ; no two requests without an answer have the same
//	timeout    = uint32                        ; ms for which the answer is awaited, 0 for ever
//	key        = 32OCTET                       ; SHA-256 of the key's SubjectPublicKeyInfo
//	message    = *65536OCTET                   ; the input of the signature, not hashed
//	status     = signature / notPermitted / unknownKey / unavailable / failed / malformed / busy
//	signature  = %x00                          ; body = 1*2048OCTET, as certificates hold it
//	notPermitted = %x01 ; unknownKey = %x02 ; unavailable = %x03 ; failed = %x04 ; malformed = %x05
//	busy       = %x06                          ; each: body = 1*4096OCTET, UTF-8, for an operator
//	rest       = uint32                        ; ms for which the key should be unused, 0 for
//	                                           ; none; only unavailable has another one
//
// All other input is refused: with an answer of status malformed and id 0, and the end of the
// connection.
const (
	wireVersion = 1
	opSign      = 1

	lengthSize = 4
	headSize   = 1 + 1 + 2 + 4 + 4
	keyIDSize  = sha256.Size

	// MaxMessage is the size of the longest message, in octets.
	MaxMessage   = 64 << 10
	maxSignature = 2 << 10 // RSA of 16384 bits
	maxText      = 4 << 10

	maxRequest = headSize + keyIDSize + MaxMessage
	maxAnswer  = headSize + max(maxSignature, maxText)
)

// status is the result of a request.
type status uint8

const (
	statusSignature status = iota
	statusNotPermitted
	statusUnknownKey
	statusUnavailable
	statusFailed
	statusMalformed
	statusBusy
	statuses
)

type request struct {
	id      uint32
	timeout time.Duration // whole milliseconds; 0 for none
	key     [keyIDSize]byte
	message []byte
}

type answer struct {
	id     uint32
	status status
	rest   time.Duration // whole milliseconds
	body   []byte
}

// appendRequest appends the frame of r.
func appendRequest(b []byte, r request) []byte {
	b = appendHead(b, headSize+keyIDSize+len(r.message), opSign, r.id, r.timeout)
	b = append(b, r.key[:]...)
	return append(b, r.message...)
}

// parseRequest parses the whole content of a request's frame. The message aliases content.
func parseRequest(content []byte) (request, error) {
	op, id, timeout, rest, err := parseHead(content)
	switch {
	case err != nil:
		return request{}, err
	case op != opSign:
		return request{}, fmt.Errorf("the operation %d is unknown", op)
	case len(rest) < keyIDSize:
		return request{}, errors.New("the request ends early")
	case len(rest) > keyIDSize+MaxMessage:
		return request{}, fmt.Errorf("the message has more than %d octets", MaxMessage)
	}
	r := request{id: id, timeout: timeout, message: rest[keyIDSize:]}
	copy(r.key[:], rest)
	return r, nil
}

// appendAnswer appends the frame of a.
func appendAnswer(b []byte, a answer) []byte {
	return append(appendHead(b, headSize+len(a.body), byte(a.status), a.id, a.rest), a.body...)
}

// parseAnswer parses the whole content of an answer's frame. The body aliases content.
func parseAnswer(content []byte) (answer, error) {
	code, id, rest, body, err := parseHead(content)
	if err != nil {
		return answer{}, err
	}
	a := answer{id: id, status: status(code), rest: rest, body: body}
	switch {
	case a.status >= statuses:
		return answer{}, fmt.Errorf("the status %d is unknown", code)
	case rest != 0 && a.status != statusUnavailable:
		return answer{}, fmt.Errorf("a rest goes with the status %d", code)
	case len(body) == 0:
		return answer{}, errors.New("the answer is empty")
	case a.status == statusSignature && len(body) > maxSignature:
		return answer{}, fmt.Errorf("the signature has more than %d octets", maxSignature)
	case a.status != statusSignature && (len(body) > maxText || !utf8.Valid(body)):
		return answer{}, fmt.Errorf("the text is not UTF-8 of at most %d octets", maxText)
	}
	return a, nil
}

// appendHead appends the length of a content of size octets, and the common first fields of
// requests and answers.
func appendHead(b []byte, size int, code byte, id uint32, ms time.Duration) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	b = append(b, wireVersion, code, 0, 0)
	b = binary.BigEndian.AppendUint32(b, id)
	return binary.BigEndian.AppendUint32(b, uint32(ms.Milliseconds()))
}

func parseHead(content []byte) (code byte, id uint32, ms time.Duration, rest []byte, err error) {
	switch {
	case len(content) < headSize:
		return 0, 0, 0, nil, errors.New("it ends early")
	case content[0] != wireVersion:
		return 0, 0, 0, nil, fmt.Errorf("its version is %d, not %d; run the same release on both sides", content[0], wireVersion)
	case content[2] != 0 || content[3] != 0:
		return 0, 0, 0, nil, fmt.Errorf("its flags %#04x are unknown", binary.BigEndian.Uint16(content[2:]))
	}
	ms = time.Duration(binary.BigEndian.Uint32(content[8:])) * time.Millisecond
	return content[1], binary.BigEndian.Uint32(content[4:]), ms, content[headSize:], nil
}

// milliseconds rounds d up, so that a positive d never becomes zero, and bounds it to what a frame
// can hold.
func milliseconds(d time.Duration) time.Duration {
	return min((d + time.Millisecond - 1).Truncate(time.Millisecond), math.MaxUint32*time.Millisecond)
}

const (
	// bufferSize has room for every frame except those with very large messages.
	bufferSize = 4 << 10
	// keptBuffer is the size of the largest buffer that a connection keeps.
	keptBuffer = 64 << 10
)

// frames reads the frames of a connection. Only one goroutine uses it.
type frames struct {
	conn       io.Reader
	limit      int // of a content
	buffer     []byte
	start, end int // of the data that was read and not returned yet
}

func newFrames(conn io.Reader, limit int) *frames {
	return &frames{conn: conn, limit: limit, buffer: make([]byte, bufferSize)}
}

// next returns the content of the next frame if all of it has arrived. The content is valid until
// the next call of fill.
func (f *frames) next() (content []byte, ok bool, err error) {
	size, known := f.size()
	switch {
	case !known:
		return nil, false, nil
	case size > lengthSize+f.limit:
		return nil, false, fmt.Errorf("its %d octets are more than %d", size-lengthSize, f.limit)
	case f.end-f.start < size:
		return nil, false, nil
	}
	content = f.buffer[f.start+lengthSize : f.start+size]
	f.start += size
	return content, true, nil
}

// size returns the size of the next frame, and whether its length has arrived.
func (f *frames) size() (size int, known bool) {
	if f.end-f.start < lengthSize {
		return lengthSize, false
	}
	return lengthSize + int(binary.BigEndian.Uint32(f.buffer[f.start:])), true
}

// partial reports whether a frame has arrived in part, so that next does not return it.
func (f *frames) partial() bool { return f.end > f.start }

// fill reads once. Do not call it after next has refused the size of a frame. An end of input
// within a frame is io.ErrUnexpectedEOF.
func (f *frames) fill() error {
	size, _ := f.size()
	rest := f.buffer[f.start:f.end]
	switch {
	case size > len(f.buffer):
		f.buffer = append(make([]byte, 0, size), rest...)[:size]
	case len(f.buffer) > keptBuffer && size <= bufferSize:
		f.buffer = append(make([]byte, 0, bufferSize), rest...)[:bufferSize]
	default:
		copy(f.buffer, rest)
	}
	f.start, f.end = 0, len(rest)
	n, err := f.conn.Read(f.buffer[f.end:])
	f.end += n
	if errors.Is(err, io.EOF) && f.partial() {
		return io.ErrUnexpectedEOF
	}
	return err
}
