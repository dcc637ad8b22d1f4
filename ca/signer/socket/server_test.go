// SPDX-License-Identifier: Apache-2.0

package socket_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
)

func TestNewServerRefuses(t *testing.T) {
	t.Parallel()
	sign := signWith(t, newKey(t))
	for want, cfg := range map[string]socket.ServerConfig{
		"--socket: no socket is":     {Sign: sign},
		"choose a shorter one":       {Sign: sign, Path: "/" + strings.Repeat("x", 107)},
		"of an abstract socket":      {Sign: sign, Path: "@mayfly"},
		`"\x00mayfly" is of`:         {Sign: sign, Path: "\x00mayfly"},
		"needs something that signs": {Path: "/run/s"},
		"the ID 65534 is nobody's":   {Sign: sign, Path: "/run/s", AllowUIDs: []uint32{0, 65534}},
	} {
		_, err := socket.NewServer(cfg)
		holds(t, err, want)
	}
}

// A request that is under way when the server stops gets its answer. A request that takes too long
// is canceled.
func TestEndLetsRequestsEnd(t *testing.T) {
	t.Parallel()
	key, path := newKey(t), newPath(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	sign := signWith(t, key)
	server := serve(t, socket.ServerConfig{Path: path, ShutdownTimeout: time.Minute, Sign: func(ctx context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
		close(asked)
		<-answer
		return sign(ctx, id, message)
	}})
	opened := open(t, path, key)
	signed := make(chan error, 1)
	go func() {
		signature, err := opened.Sign(t.Context(), []byte("message"))
		if err == nil {
			verify(t, key, []byte("message"), signature)
		}
		signed <- err
	}()
	<-asked
	ended := make(chan error, 1)
	go func() { ended <- server.stop() }()
	await(t, "the end of the socket", func() error {
		if _, err := os.Lstat(path); err == nil {
			return errors.New("it is still there")
		}
		return nil
	})
	select {
	case err := <-ended:
		t.Errorf("the server did not wait: %v", err)
	default:
	}
	close(answer)
	if err := errors.Join(<-signed, <-ended); err != nil {
		t.Error(err)
	}
}

func TestEndIsBounded(t *testing.T) {
	t.Parallel()
	key, path := newKey(t), newPath(t)
	asked := make(chan struct{})
	server := serve(t, socket.ServerConfig{Path: path, RequestTimeout: time.Hour, ShutdownTimeout: time.Millisecond, Sign: func(ctx context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
		close(asked)
		return hang(ctx, id, message)
	}})
	opened := open(t, path, key)
	signed := make(chan error, 1)
	go func() {
		_, err := opened.Sign(t.Context(), []byte("message"))
		signed <- err
	}()
	<-asked
	holds(t, server.stop(), "still under way")
	if err := <-signed; !signer.IsTransient(err) {
		t.Errorf("the client got error %v, want one that may pass", err)
	}
}

// dial returns a plain connection.
func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// frame returns a request with the ID 7, for the key with an ID of zeros, and message.
func frame(message string) []byte {
	content := append([]byte{1, 1, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0}, make([]byte, 32)...)
	content = append(content, message...)
	return append([]byte{0, 0, byte(len(content) >> 8), byte(len(content))}, content...)
}

// head is the size of an answer's frame without the body.
const head = 4 + 12

// The server answers input outside of the grammar with an error, if an answer is possible, and
// closes the connection. The server signs none of it.
func TestServerRefusesWhatIsMalformed(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	var asked atomic.Int32
	server := serve(t, socket.ServerConfig{Path: path, ReadTimeout: 50 * time.Millisecond, Sign: func(context.Context, [sha256.Size]byte, []byte) ([]byte, error) {
		asked.Add(1)
		return []byte("signature"), nil
	}})
	change := func(i int, b byte) []byte {
		f := frame("message")
		f[i] = b
		return f
	}
	for name, test := range map[string]struct {
		send []byte
		want string // of the answer; "" for the end alone
	}{
		"another version": {change(4, 2), "version is 2, not 1"},
		"another op":      {change(5, 2), "operation 2 is unknown"},
		"a flag":          {change(6, 0x80), "flags 0x8000 are unknown"},
		"another flag":    {change(7, 1), "flags 0x0001 are unknown"},
		"too short":       {[]byte{0, 0, 0, 3, 1, 1, 0}, "it ends early"},
		"no key":          {[]byte{0, 0, 0, 13, 1, 1, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 7}, "ends early"},
		"empty":           {[]byte{0, 0, 0, 0}, "it ends early"},
		"too long":        {[]byte{0, 1, 0, 45}, "65581 octets are more than 65580"},
		"far too long":    {[]byte{0xff, 0xff, 0xff, 0xff}, "more than 65580"},
		"HTTP":            {[]byte("GET / HTTP/1.1\r\n\r\n"), "more than 65580"},
		"half a frame":    {frame("message")[:20], ""},
		"half a length":   {frame("message")[:2], ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, path)
			if _, err := c.Write(test.send); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(c)
			if err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
			if !bytes.Contains(answer, []byte(test.want)) || (test.want == "") != (len(answer) == 0) {
				t.Errorf("the answer is %q, want %q", answer, test.want)
			}
		})
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("%d malformed requests were signed", n)
	}
	server.log.await(t, "is malformed")
}

// A frame may arrive in pieces, and messages of every size may follow one another.
func TestFramesInPieces(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	serve(t, socket.ServerConfig{Path: path, Sign: func(_ context.Context, _ [sha256.Size]byte, message []byte) ([]byte, error) {
		sum := sha256.Sum256(message)
		return sum[:], nil
	}})
	c := dial(t, path)
	for _, size := range []int{10, 40000, 0, 5000, 20000, 1} {
		message := strings.Repeat("m", size)
		for rest := frame(message); len(rest) > 0; {
			n := min(len(rest), 1+len(rest)/3)
			if _, err := c.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		answer := make([]byte, head+sha256.Size)
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256([]byte(message)); !bytes.Equal(answer[head:], sum[:]) {
			t.Errorf("a message of %d octets arrived as another one", size)
		}
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	server := serve(t, socket.ServerConfig{Path: path, MaxConnections: 2, Sign: func(context.Context, [sha256.Size]byte, []byte) ([]byte, error) { return []byte("s"), nil }})
	ask := func(c net.Conn) error {
		if _, err := c.Write(frame("message")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, head+1))
		return err
	}
	first, second := dial(t, path), dial(t, path)
	if err := errors.Join(ask(first), ask(second)); err != nil {
		t.Fatal(err)
	}
	if err := ask(dial(t, path)); err == nil {
		t.Error("there is a third connection")
	}
	server.log.await(t, "as many connections as it may")
	_ = first.Close()
	await(t, "room for another", func() error { return ask(dial(t, path)) })
}

func TestIdleConnectionsEnd(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	serve(t, socket.ServerConfig{Path: path, IdleTimeout: 20 * time.Millisecond, Sign: signWith(t, newKey(t))})
	if n, err := dial(t, path).Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d octets, error %v", n, err)
	}
}

// The client's remaining time bounds the server's work for it, and so does the server's own limit.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	for name, test := range map[string]struct {
		request, client time.Duration
	}{
		"the client's": {2 * time.Hour, time.Hour},
		"the server's": {time.Hour, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := newPath(t)
			left := make(chan time.Duration, 1)
			serve(t, socket.ServerConfig{Path: path, RequestTimeout: test.request, Sign: func(ctx context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
				deadline, _ := ctx.Deadline()
				left <- time.Until(deadline)
				return signWith(t, key)(ctx, id, message)
			}})
			ctx, cancel := context.WithTimeout(t.Context(), test.client)
			defer cancel()
			if _, err := open(t, path, key).Sign(ctx, []byte("message")); err != nil {
				t.Error(err)
			}
			if got := <-left; got <= 0 || got > time.Hour+time.Second {
				t.Errorf("there were %s left", got)
			}
		})
	}
}

// A panic, or an invalid signature, stops neither the connection nor the server.
func TestServerOutlivesItsSigner(t *testing.T) {
	t.Parallel()
	key, path := newKey(t), newPath(t)
	sign := signWith(t, key)
	server := serve(t, socket.ServerConfig{Path: path, Sign: func(ctx context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
		switch string(message) {
		case "panic":
			panic("a secret")
		case "nothing":
			return nil, nil
		case "too much":
			return make([]byte, 3000), nil
		}
		return sign(ctx, id, message)
	}})
	opened := open(t, path, key)
	for message, want := range map[string]string{"panic": "something went wrong inside; its log has more", "nothing": "signature has 0 octets", "too much": "signature has 3000 octets"} {
		_, err := opened.Sign(t.Context(), []byte(message))
		holds(t, err, want)
		if err != nil && strings.Contains(err.Error(), "a secret") {
			t.Errorf("the client sees the panic: %v", err)
		}
	}
	server.log.await(t, "a secret")
	if _, err := opened.Sign(t.Context(), []byte("message")); err != nil {
		t.Error(err)
	}
}

// A call that hangs may read its message much later. The next message does not overwrite it,
// whether the two arrive together or not.
func TestMessagesAreNotShared(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	kept := make(chan []byte, 4)
	serve(t, socket.ServerConfig{Path: path, Sign: func(_ context.Context, _ [sha256.Size]byte, message []byte) ([]byte, error) {
		kept <- message
		return []byte("s"), nil
	}})
	c := dial(t, path)
	for range 2 {
		if _, err := c.Write(append(frame("first"), frame("other")...)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 2*(head+1))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4 {
		if got, want := string(<-kept), []string{"first", "other"}[i%2]; got != want {
			t.Errorf("message %d has become %q", i, got)
		}
	}
}

// Many requests share a connection. Once a key is known to be slow, it delays no other request.
func TestSlowKeysHoldUpNobody(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	asked, answer := make(chan string, 2), make(chan struct{})
	serve(t, socket.ServerConfig{Path: path, Sign: func(_ context.Context, _ [sha256.Size]byte, message []byte) ([]byte, error) {
		switch string(message) {
		case "refused":
			return nil, errors.New("what is to be refused")
		case "swift":
		default:
			asked <- string(message)
			<-answer
		}
		return message, nil
	}})
	c := dial(t, path)
	send := func(message string) {
		if _, err := c.Write(frame(message)); err != nil {
			t.Fatal(err)
		}
	}
	receive := func(want string) {
		got := make([]byte, head+len(want))
		if _, err := io.ReadFull(c, got); err != nil || string(got[head:]) != want {
			t.Errorf("got %q (%v), want %q", got[head:], err, want)
		}
	}
	send("slow")
	<-asked
	<-time.After(5 * time.Millisecond) // the key is slow
	answer <- struct{}{}
	receive("slow")
	send("refused") // a refusal says nothing about the key
	receive("what is to be refused")
	send("slower")
	send("swift")
	receive("swift")
	answer <- struct{}{}
	receive("slower")
}

// The test lists the errors at the other end for errors of the server.
func TestErrorsComeThrough(t *testing.T) {
	t.Parallel()
	key, path := newKey(t), newPath(t)
	var fails atomic.Pointer[error]
	server := serve(t, socket.ServerConfig{Path: path, Sign: func(context.Context, [sha256.Size]byte, []byte) ([]byte, error) { return nil, *fails.Load() }})
	opened := open(t, path, key)
	for _, test := range []struct {
		err       error
		is        error
		transient bool
		rest      time.Duration
		want, log string
	}{
		{fmt.Errorf("%w: %w", socket.ErrNotPermitted, errPolicy), socket.ErrNotPermitted, false, 0, "it may not sign this: it has basic constraints", "is the front in an attacker's hands"},
		{fmt.Errorf("%w: 01020304", socket.ErrUnknownKey), socket.ErrUnknownKey, true, 0, "it does not have the key: 01020304", "does not have"},
		{signer.Transient(errors.New("throttled"), 1500*time.Microsecond), nil, true, 2 * time.Millisecond, "throttled", "could not sign for now"},
		{fmt.Errorf("late: %w", context.DeadlineExceeded), nil, true, time.Millisecond, "late", "could not sign for now"},
		{signer.Busy(errors.New("busy")), nil, true, 0, "too much to sign: busy", "more than it can sign at a time"},
		{errors.New("permanent"), nil, false, 0, "permanent", "could not sign"},
		{errors.New(""), nil, false, 0, "no reason was given", ""},
		{errors.New(strings.Repeat("é\xff", 9000)), nil, false, 0, "é?", ""},
	} {
		fails.Store(&test.err)
		_, err := opened.Sign(t.Context(), []byte("message"))
		holds(t, err, test.want, path)
		if err == nil {
			continue
		}
		if signer.IsTransient(err) != test.transient || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%v came as %v", test.err, err)
		}
		if f := (*signer.Failure)(nil); errors.As(err, &f) && f.RetryAfter != test.rest {
			t.Errorf("it wants to be left alone for %s, want %s", f.RetryAfter, test.rest)
		}
		server.log.await(t, test.log)
	}
}

// refusals counts the refusals of a Server.
type refusals struct {
	mu sync.Mutex
	of map[socket.Refusal]int
}

func (r *refusals) add(what socket.Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[socket.Refusal]int{}
	}
	r.of[what]++
}

func (r *refusals) check(t *testing.T, want map[socket.Refusal]int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(want, r.of); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
}

// Repeated connections of peers that are not allowed do not fill the log.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	path, began := newPath(t), time.Now()
	var refused refusals
	server := serve(t, socket.ServerConfig{Path: path, AllowUIDs: []uint32{4711}, Refused: refused.add, Sign: signWith(t, newKey(t))})
	const strangers = 100
	for range strangers {
		if n, err := dial(t, path).Read(make([]byte, 1)); n > 0 || err == nil {
			t.Fatalf("read %d octets, error %v", n, err)
		}
	}
	refused.check(t, map[socket.Refusal]int{socket.RefusedConnection: strangers})
	if n, most := server.log.count("turned away"), 1+int(time.Since(began)/time.Second); n < 1 || n > most {
		t.Errorf("there are %d lines, want at most %d", n, most)
	}
}

// Errors with long texts do not fill the log, however often they occur.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	key, path, began := newKey(t), newPath(t), time.Now()
	var refused refusals
	server := serve(t, socket.ServerConfig{Path: path, Refused: refused.add, Sign: func(_ context.Context, _ [sha256.Size]byte, message []byte) ([]byte, error) {
		refusal := socket.ErrUnknownKey
		if string(message) == "not permitted" {
			refusal = socket.ErrNotPermitted
		}
		return nil, fmt.Errorf("%w: %s", refusal, strings.Repeat("x", 240<<10))
	}})
	opened := open(t, path, key)
	const each = 50
	for range each {
		for _, message := range []string{"not permitted", "of another key"} {
			if _, err := opened.Sign(t.Context(), []byte(message)); err == nil {
				t.Fatal("it was signed")
			}
		}
	}
	if _, err := dial(t, path).Write([]byte{0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	server.log.await(t, "is malformed")
	refused.check(t, map[socket.Refusal]int{socket.RefusedNotPermitted: each, socket.RefusedUnknownKey: each, socket.RefusedMalformed: 1})
	most := 1 + int(time.Since(began)/time.Second)
	for _, message := range []string{"what it may not sign", "a key that it does not have"} {
		if n := server.log.count(message); n < 1 || n > most {
			t.Errorf("there are %d lines with %q, want at most %d", n, message, most)
		}
	}
	if n := server.log.count("x"); n > 2*most*(2<<10) {
		t.Errorf("%d octets of the texts are in the log", n)
	}
}
