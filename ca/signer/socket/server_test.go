// SPDX-License-Identifier: Apache-2.0

package socket_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
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
		"--socket: no socket is": {Sign: sign},
		"choose a shorter one":   {Sign: sign, Path: "/" + strings.Repeat("x", 107)},
		"of an abstract socket":  {Sign: sign, Path: "@mayfly"},
		`"\x00mayfly" is of`:     {Sign: sign, Path: "\x00mayfly"},
		"Sign is required":       {Path: "/run/s"},
		"the ID 65534":           {Sign: sign, Path: "/run/s", AllowUIDs: []uint32{0, 65534}},
	} {
		_, err := socket.NewServer(cfg)
		holds(t, err, want)
	}
}

// A request that is under way when the server stops gets its answer. A request that takes too long
// is canceled.
func TestStop(t *testing.T) {
	t.Parallel()
	for name, timeout := range map[string]time.Duration{"answered": time.Minute, "canceled": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key, path := newKey(t), newPath(t)
			asked, answer := make(chan struct{}), make(chan struct{})
			sign := signWith(t, key)
			server := serve(t, socket.ServerConfig{Path: path, ShutdownTimeout: timeout, Sign: func(ctx context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
				close(asked)
				select {
				case <-answer:
				case <-ctx.Done():
				}
				return sign(ctx, id, message)
			}})
			opened := open(t, path, key)
			signed, stopped := make(chan error, 1), make(chan error, 1)
			go func() { _, err := opened.Sign(t.Context(), []byte("message")); signed <- err }()
			<-asked
			dial(t, path) // a connection without a request does not delay the stop
			go func() { stopped <- server.stop() }()
			if timeout < time.Second {
				if holds(t, <-stopped, "still under way"); !signer.IsTransient(<-signed) {
					t.Error("the client does not retry")
				}
				return
			}
			for _, err := os.Lstat(path); err == nil; _, err = os.Lstat(path) {
				time.Sleep(time.Millisecond)
			}
			select {
			case err := <-stopped:
				t.Errorf("the server did not wait: %v", err)
			default:
			}
			close(answer)
			if err := errors.Join(<-signed, <-stopped); err != nil {
				t.Error(err)
			}
		})
	}
}

// dial returns a plain connection.
func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// send writes a request to c, and returns the answer.
func send(c net.Conn, request string) (status int, answer string, err error) {
	if _, err := io.WriteString(c, request); err != nil {
		return 0, "", err
	}
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, "", err
	}
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

var (
	path    = "/sign/" + strings.Repeat("0f", 32)
	request = "POST " + path + " HTTP/1.1\r\nHost: signer\r\nMayfly-Signer-Version: 2\r\nContent-Length: 7\r\n\r\nmessage"
)

// The server signs only the one form of a request, and states what is wrong with any other.
func TestServerRefusesWhatIsMalformed(t *testing.T) {
	t.Parallel()
	at := newPath(t)
	var asked atomic.Int32
	server := serve(t, socket.ServerConfig{Path: at, Sign: func(context.Context, [sha256.Size]byte, []byte) ([]byte, error) {
		asked.Add(1)
		return []byte("signature"), nil
	}})
	if status, answer, err := send(dial(t, at), request); status != http.StatusOK || answer != "signature" || err != nil {
		t.Fatalf("status %d, %q, error %v", status, answer, err)
	}
	for name, test := range map[string]struct{ from, to, want string }{
		"a later release":  {"Version: 2", "Version: 3", "run the same release on both sides"},
		"no version":       {"Mayfly-Signer-Version", "X", "run the same release on both sides"},
		"another method":   {"POST", "PUT", "it is no POST"},
		"another path":     {"/sign/", "/keys/", "it is no POST"},
		"a longer key":     {path, path + "00", "it is no POST"},
		"no key":           {path, "/sign/", "it is no POST"},
		"a wrong timeout":  {"Host: signer", "Host: signer\r\nMayfly-Signer-Timeout: -1", "the timeout"},
		"too long":         {"Length: 7", "Length: 65537", "65537 octets"},
		"no length":        {"Content-Length: 7", "Transfer-Encoding: chunked", "must have a length"},
		"too large a head": {"Host: signer", "Host: signer\r\nX: " + strings.Repeat("x", 20<<10), ""},
		"not HTTP":         {"POST", "\x16\x03\x01", ""},
	} {
		status, answer, err := send(dial(t, at), strings.Replace(request, test.from, test.to, 1))
		if err != nil || status < 400 || !strings.Contains(answer, test.want) {
			t.Errorf("%s: status %d, %q, error %v; want %q", name, status, answer, err, test.want)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("%d malformed requests were signed", n-1)
	}
	server.log.await(t, "is malformed")
}

// A client of the release before, whose protocol was not HTTP, gets an answer in that protocol.
func TestReleaseBeforeIsRefused(t *testing.T) {
	t.Parallel()
	at := newPath(t)
	serve(t, socket.ServerConfig{Path: at, Sign: signWith(t, newKey(t))})
	c := dial(t, at)
	if _, err := c.Write(append([]byte{0, 0, 0, 44, 1, 1, 0, 0}, make([]byte, 40)...)); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if !bytes.HasPrefix(answer[1:], []byte{0, 0, byte(len(answer) - 4), 1, 5}) || !bytes.HasSuffix(answer, []byte("run the same release on both sides")) {
		t.Errorf("answer %q, error %v", answer, err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	at := newPath(t)
	server := serve(t, socket.ServerConfig{Path: at, MaxConnections: 2, Sign: func(context.Context, [sha256.Size]byte, []byte) ([]byte, error) { return []byte("s"), nil }})
	try := func(c net.Conn) error { _, _, err := send(c, request); return err }
	first, second := dial(t, at), dial(t, at)
	if err := errors.Join(try(first), try(second)); err != nil {
		t.Fatal(err)
	}
	if err := try(dial(t, at)); err == nil {
		t.Error("there is a third connection")
	}
	server.log.await(t, "the maximum of connections")
	_ = first.Close()
	for try(dial(t, at)) != nil {
		time.Sleep(time.Millisecond)
	}
}

// The client's remaining time bounds the server's work for it, and so does the server's own limit.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	key, at := newKey(t), newPath(t)
	left := make(chan time.Duration, 1)
	serve(t, socket.ServerConfig{Path: at, Sign: func(ctx context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
		deadline, _ := ctx.Deadline()
		left <- time.Until(deadline)
		return signWith(t, key)(ctx, id, message)
	}})
	for client, most := range map[time.Duration]time.Duration{4 * time.Second: 4 * time.Second, time.Hour: 5 * time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), client)
		if _, err := open(t, at, key).Sign(ctx, []byte("message")); err != nil {
			t.Error(err)
		}
		cancel()
		if got := <-left; got <= most-2*time.Second || got > most+time.Millisecond {
			t.Errorf("%s are left, want %s", got, most)
		}
	}
}

// A panic, or an invalid signature, does not stop the server, and its client sees no internals.
func TestServerOutlivesItsSigner(t *testing.T) {
	t.Parallel()
	key, at := newKey(t), newPath(t)
	sign := signWith(t, key)
	server := serve(t, socket.ServerConfig{Path: at, Sign: func(ctx context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
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
	opened := open(t, at, key)
	for message, want := range map[string]string{"panic": "its log has more", "nothing": "signature has 0 octets", "too much": "signature has 3000 octets"} {
		_, err := opened.Sign(t.Context(), []byte(message))
		if holds(t, err, want); err != nil && strings.Contains(err.Error(), "a secret") {
			t.Errorf("the client sees the panic: %v", err)
		}
	}
	server.log.await(t, "a secret")
	if _, err := opened.Sign(t.Context(), []byte("message")); err != nil {
		t.Error(err)
	}
}

// The test lists the errors at the other end for errors of the server.
func TestErrorsComeThrough(t *testing.T) {
	t.Parallel()
	key, at := newKey(t), newPath(t)
	var fails atomic.Pointer[error]
	serve(t, socket.ServerConfig{Path: at, Sign: func(context.Context, [sha256.Size]byte, []byte) ([]byte, error) { return nil, *fails.Load() }})
	opened := open(t, at, key)
	for _, test := range []struct {
		err, is error
		remedy  signer.Remedy // zero for none
		rest    time.Duration
		want    string
	}{
		{fmt.Errorf("%w: %w", socket.ErrNotPermitted, errPolicy), socket.ErrNotPermitted, 0, 0, "it has basic constraints"},
		{fmt.Errorf("%w: 01020304", socket.ErrUnknownKey), socket.ErrUnknownKey, signer.Retry, 0, "01020304"},
		{signer.Transient(errors.New("throttled"), 1500*time.Microsecond), nil, signer.Retry, 2 * time.Millisecond, "throttled"},
		{fmt.Errorf("late: %w", context.DeadlineExceeded), nil, signer.Retry, time.Millisecond, "late"},
		{signer.Busy(errors.New("busy")), nil, signer.Wait, 0, "busy"},
		{errors.New("permanent"), nil, 0, 0, "permanent"},
		{errors.New(strings.Repeat("é\xff", 9000)), nil, 0, 0, "é?"},
	} {
		fails.Store(&test.err)
		_, err := opened.Sign(t.Context(), []byte("message"))
		holds(t, err, test.want, at)
		var f *signer.Failure
		if errors.As(err, &f) != (test.remedy != 0) || f != nil && (f.Remedy != test.remedy || f.RetryAfter != test.rest) || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%.100v came as %#v", test.err, err)
		}
		if refused := errors.As(err, new(*signer.MessageError)); refused != (test.is == socket.ErrNotPermitted) {
			t.Errorf("%.100v is of the message: %t", test.err, refused)
		}
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

// Errors with long texts do not fill the log, however often they occur.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	key, at, began := newKey(t), newPath(t), time.Now()
	var refused refusals
	server := serve(t, socket.ServerConfig{Path: at, Refused: refused.add, Sign: func(_ context.Context, _ [sha256.Size]byte, message []byte) ([]byte, error) {
		refusal := socket.ErrUnknownKey
		if string(message) == "not permitted" {
			refusal = socket.ErrNotPermitted
		}
		return nil, fmt.Errorf("%w: %s", refusal, strings.Repeat("x", 240<<10))
	}})
	opened := open(t, at, key)
	const each = 50
	for range each {
		for _, message := range []string{"not permitted", "of another key"} {
			if _, err := opened.Sign(t.Context(), []byte(message)); err == nil {
				t.Fatal("it was signed")
			}
		}
		if status, _, err := send(dial(t, at), strings.Replace(request, path, "/"+strings.Repeat("x", 3<<10), 1)); status != http.StatusBadRequest {
			t.Fatal(status, err)
		}
	}
	refused.check(t, map[socket.Refusal]int{socket.RefusedNotPermitted: each, socket.RefusedUnknownKey: each, socket.RefusedMalformed: each})
	most := 3 * (1 + int(time.Since(began)/time.Second))
	if n := server.log.count("peer="); n < 3 || n > most {
		t.Errorf("there are %d lines, want at most %d", n, most)
	}
	if n := server.log.count("x"); n > most*(2<<10) {
		t.Errorf("%d octets of the texts are in the log", n)
	}
}

// No request reaches the key without its ID and a message within the bounds.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(request))
	f.Add([]byte(strings.Replace(request, "Length: 7", "Length: 8", 1)))
	f.Add([]byte("\x00\x00\x00\x2c\x01\x01"))
	at := newPath(f)
	serve(f, socket.ServerConfig{Path: at, Sign: func(_ context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
		return append(id[:], message...), nil
	}})
	f.Fuzz(func(t *testing.T, sent []byte) {
		c := dial(t, at)
		_, err1 := c.Write(sent)
		err2 := c.(*net.UnixConn).CloseWrite()
		if response, err := http.ReadResponse(bufio.NewReader(c), nil); errors.Join(err1, err2, err) == nil && response.StatusCode == http.StatusOK {
			answer, err := io.ReadAll(response.Body)
			if err != nil || len(answer) < sha256.Size || !bytes.Contains(bytes.ToLower(sent), fmt.Appendf(nil, "/sign/%x", answer[:sha256.Size])) || !bytes.Contains(sent, answer[sha256.Size:]) {
				t.Errorf("%q signed %q (%v)", sent, answer, err)
			}
		}
	})
}
