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
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
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

// octets is the codec of a plain client.
type octets struct{}

func (octets) Name() string                       { return "octets" }
func (octets) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (octets) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }

// plain returns a plain client, which sends anything.
func plain(t testing.TB, path string) func(method string, request []byte) ([]byte, error) {
	t.Helper()
	c, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return func(method string, request []byte) (answer []byte, err error) {
		err = c.Invoke(t.Context(), method, request, &answer, grpc.ForceCodec(octets{}))
		return answer, err
	}
}

const sign = "/mayfly.signer.v2/Sign"

// The server signs only the one form of a request, and states what is wrong with any other.
func TestServerRefusesWhatIsMalformed(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	var asked atomic.Int32
	var refused refusals
	server := serve(t, socket.ServerConfig{Path: path, Refused: refused.add, Sign: func(_ context.Context, _ [sha256.Size]byte, message []byte) ([]byte, error) {
		asked.Add(1)
		return message, nil
	}})
	send := plain(t, path)
	key := make([]byte, sha256.Size)
	if answer, err := send(sign, append(key, "message"...)); string(answer) != "message" || err != nil {
		t.Fatalf("%q, error %v", answer, err)
	}
	for want, test := range map[string]struct {
		method  string
		request []byte
	}{
		"it has /mayfly.signer.v2/Sign only": {"/mayfly.signer.v3/Sign", key},
		"it has 31 octets":                   {sign, key[:31]},
		"it has 65569 octets":                {sign, make([]byte, sha256.Size+64<<10+1)},
	} {
		_, err := send(test.method, test.request)
		holds(t, err, want)
	}
	refused.check(t, map[socket.Refusal]int{socket.RefusedMalformed: 3})
	_, err := send(sign, make([]byte, 1<<20)) // gRPC refuses it
	holds(t, err, "larger than max")
	if n := asked.Load(); n != 1 {
		t.Errorf("%d malformed requests were signed", n-1)
	}
	server.log.await(t, "is malformed")
}

// A client that disconnects before it has sent its message does not count as an attacker.
func TestAbandonedRequestIsNotMalformed(t *testing.T) {
	t.Parallel()
	key, path := newKey(t), newPath(t)
	var refused refusals
	server := serve(t, socket.ServerConfig{Path: path, Refused: refused.add, Sign: signWith(t, key)})
	c, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(octets{})))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, abandon := context.WithCancel(t.Context())
	if _, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, sign); err != nil {
		t.Fatal(err)
	}
	for _, next := range []func(){abandon, func() { _ = server.stop() }} {
		// The server answers in the order of the connection: it has read what was sent before.
		var answer []byte
		if err := c.Invoke(t.Context(), sign, make([]byte, sha256.Size), &answer); status.Code(err) != codes.NotFound {
			t.Fatal(err)
		}
		next()
	}
	refused.check(t, map[socket.Refusal]int{socket.RefusedUnknownKey: 2})
}

// The server closes connections that are not gRPC, as those of the release before.
func TestOtherProtocolsAreRefused(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	serve(t, socket.ServerConfig{Path: path, Sign: signWith(t, newKey(t))})
	for _, sent := range []string{"\x00\x00\x00\x2c\x01\x01\x00\x00" + strings.Repeat("\x00", 40), "POST / HTTP/1.1\r\nHost: signer\r\n\r\n", "half"} {
		c := dial(t, path)
		if _, err := io.WriteString(c, sent); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: the connection stays", sent)
		}
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	key, path := newKey(t), newPath(t)
	server := serve(t, socket.ServerConfig{Path: path, MaxConnections: 2, Sign: signWith(t, key)})
	try := func(k signer.Key) error { _, err := k.Sign(t.Context(), []byte("message")); return err }
	first, second := open(t, path, key), open(t, path, key)
	if err := errors.Join(try(first), try(second)); err != nil {
		t.Fatal(err)
	}
	third := open(t, path, key)
	if err := try(third); !signer.IsTransient(err) {
		t.Errorf("a third connection: %v", err)
	}
	server.log.await(t, "the maximum of connections")
	_ = first.Close()
	signertest.Await(t, "a free connection", func() error { return try(third) })
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
		{signer.Transient(errors.New("throttled"), 1500*time.Millisecond), nil, signer.Retry, 1500 * time.Millisecond, "throttled"},
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
	opened, send := open(t, at, key), plain(t, at)
	const each = 50
	for range each {
		for _, message := range []string{"not permitted", "of another key"} {
			if _, err := opened.Sign(t.Context(), []byte(message)); err == nil {
				t.Fatal("it was signed")
			}
		}
		_, err := send("/"+strings.Repeat("x", 3<<10)+"/x", nil)
		holds(t, err, "only")
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

// No request reaches the key unless it is the ID of a key and a message within the bounds.
func FuzzRequest(f *testing.F) {
	f.Add(sign, []byte(strings.Repeat("k", 32)+"message"))
	f.Add("/mayfly.signer.v1/Sign", []byte("k"))
	path := newPath(f)
	serve(f, socket.ServerConfig{Path: path, Sign: func(_ context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
		sum := sha256.Sum256(append(id[:], message...))
		return sum[:], nil
	}})
	f.Fuzz(func(t *testing.T, method string, request []byte) {
		answer, err := plain(t, path)(method, request)
		proper := method == sign && len(request) >= sha256.Size && len(request) <= sha256.Size+socket.MaxMessage
		if sum := sha256.Sum256(request); (err == nil) != proper || proper && !bytes.Equal(answer, sum[:]) {
			t.Errorf("method %q, request %q: answer %x, error %v", method, request, answer, err)
		}
	})
}
