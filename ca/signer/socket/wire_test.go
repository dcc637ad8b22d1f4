// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func FuzzParseRequest(f *testing.F) {
	for _, r := range []request{{}, {id: 7, timeout: time.Second, message: []byte("message")}, {timeout: math.MaxUint32 * time.Millisecond, message: make([]byte, 1500)}} {
		f.Add(appendRequest(nil, r)[lengthSize:])
	}
	f.Add([]byte{2, 1, 0, 0})
	f.Fuzz(func(t *testing.T, content []byte) {
		r, err := parseRequest(content)
		if err != nil {
			return
		}
		if again := appendRequest(nil, r); !bytes.Equal(again[lengthSize:], content) || len(again) != lengthSize+len(content) {
			t.Errorf("%x becomes %x", content, again)
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	for _, a := range []answer{
		{id: 7, body: []byte("signature")}, {status: statusUnavailable, rest: time.Second, body: []byte("out")},
		textAnswer(statusFailed, 0, strings.Repeat("é", maxText)), textAnswer(statusNotPermitted, 0, ""),
	} {
		f.Add(appendAnswer(nil, a)[lengthSize:])
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		a, err := parseAnswer(content)
		if err != nil {
			return
		}
		if again := appendAnswer(nil, a); !bytes.Equal(again[lengthSize:], content) {
			t.Errorf("%x becomes %x", content, again)
		}
	})
}

// Every text of an error gives a valid answer.
func FuzzTextAnswer(f *testing.F) {
	f.Add("")
	f.Add("text")
	f.Add(strings.Repeat("\xff", 5000))
	f.Add(strings.Repeat("\u20ac", 5000))
	f.Fuzz(func(t *testing.T, text string) {
		frame := appendAnswer(nil, textAnswer(statusFailed, 0, text))
		if _, err := parseAnswer(frame[lengthSize:]); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func TestParseAnswerRefuses(t *testing.T) {
	t.Parallel()
	head := func(version, status, flag, rest byte, body ...byte) []byte {
		return append([]byte{version, status, flag, 0, 0, 0, 0, 7, 0, 0, 0, rest}, body...)
	}
	for want, content := range map[string][]byte{
		"ends early":                head(1, 0, 0, 0)[:11],
		"version is 0":              head(0, 0, 0, 0, 1),
		"status 7 is unknown":       head(1, 7, 0, 0, 1),
		"flags 0x0100 are unknown":  head(1, 0, 1, 0, 1),
		"goes with the status 0":    head(1, 0, 0, 1, 1),
		"goes with the status 4":    head(1, 4, 0, 1, 1),
		"goes with the status 6":    head(1, 6, 0, 1, 1),
		"is empty":                  head(1, 0, 0, 0),
		"not UTF-8":                 head(1, 4, 0, 0, 0xff),
		"at most 4096 octets":       head(1, 4, 0, 0, make([]byte, 4097)...),
		"has more than 2048 octets": head(1, 0, 0, 0, make([]byte, 2049)...),
	} {
		if _, err := parseAnswer(content); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%x: error %v, want one with %q", content[:min(len(content), 12)], err, want)
		}
	}
}

// The frames are the same, in whatever pieces they arrive.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 7, 0, 0, 0, 0, 0, 0, 0, 2, 1, 2}, uint8(1))
	f.Add(append([]byte{0, 1, 0, 0}, make([]byte, 70000)...), uint8(255))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint8(3))
	f.Fuzz(func(t *testing.T, stream []byte, piece uint8) {
		const limit = 66000
		all := func(conn io.Reader) (contents [][]byte, end error) {
			in := newFrames(conn, limit)
			for {
				content, ok, err := in.next()
				switch {
				case err != nil:
					return contents, errors.New("too long")
				case ok:
					contents = append(contents, bytes.Clone(content))
					continue
				}
				if err := in.fill(); err != nil {
					return contents, err
				}
			}
		}
		whole, end := all(bytes.NewReader(stream))
		pieces, pieceEnd := all(&slowReader{bytes.NewReader(stream), int(piece) + 1})
		if diff := cmp.Diff(whole, pieces); diff != "" || end.Error() != pieceEnd.Error() {
			t.Errorf("they end with %v and %v:\n%s", end, pieceEnd, diff)
		}
		var again []byte
		for _, content := range whole {
			again = append(binary.BigEndian.AppendUint32(again, uint32(len(content))), content...)
		}
		if !bytes.HasPrefix(stream, again) || errors.Is(end, io.EOF) && len(again) != len(stream) {
			t.Errorf("%d octets become %d, and end with %v", len(stream), len(again), end)
		}
	})
}

// slowReader reads one piece at a time.
type slowReader struct {
	io.Reader
	piece int
}

func (r *slowReader) Read(b []byte) (int, error) { return r.Reader.Read(b[:min(len(b), r.piece)]) }

func TestMilliseconds(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]time.Duration{
		0: 0, 1: time.Millisecond, time.Millisecond: time.Millisecond, time.Millisecond + 1: 2 * time.Millisecond,
		1000 * time.Hour: 1000 * time.Hour, 2000 * time.Hour: math.MaxUint32 * time.Millisecond,
	} {
		if got := milliseconds(d); got != want {
			t.Errorf("%s becomes %s, want %s", d, got, want)
		}
	}
}
