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
	"sync/atomic"
	"testing"
	"time"

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
	for path, uid := range map[string]uint32{"": 0, "/" + strings.Repeat("x", 107): 0, "@mayfly": 0, "\x00mayfly": 0, "/run/s": 65534} {
		_, err := socket.NewServer(socket.ServerConfig{Path: path, AllowUIDs: []uint32{0, uid}})
		holds(t, err, map[bool]string{true: "--allow-user: ", false: "--socket: "}[uid != 0])
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
			server := serve(t, socket.ServerConfig{Path: path, ShutdownTimeout: timeout, Sign: func(ctx context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
				close(asked)
				select {
				case <-answer:
				case <-ctx.Done():
				}
				return signWith(t, key)(ctx, id, message)
			}})
			opened := open(t, path, key)
			signed, stopped := make(chan error, 1), make(chan error, 1)
			go func() { signed <- sign(t, opened) }()
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
			must(t, <-signed, <-stopped)
		})
	}
}

// dial returns a plain connection.
func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	must(t, err)
	must(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// octets is the codec of a plain client.
type octets struct{}

func (octets) Name() string                       { return "octets" }
func (octets) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (octets) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }

// plain returns a plain client, which sends anything.
func plain(t testing.TB, path string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(octets{})))
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

const method = "/mayfly.signer.v2/Sign"

// The server closes connections that are not gRPC, as those of the release before.
func TestOtherProtocolsAreRefused(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	serve(t, socket.ServerConfig{Path: path})
	for _, sent := range []string{"\x00\x00\x00\x2c\x01\x01\x00\x00" + strings.Repeat("\x00", 40), "POST / HTTP/1.1\r\nHost: signer\r\n\r\n", "half"} {
		c := dial(t, path)
		_, err := io.WriteString(c, sent)
		must(t, err)
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: the connection stays", sent)
		}
	}
}

// A client that disconnects before it has sent its message does not count as an attacker.
func TestAbandonedRequestIsNotMalformed(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	server := serve(t, socket.ServerConfig{Path: path, Sign: signWith(t, newKey(t))})
	c := plain(t, path)
	ctx, abandon := context.WithCancel(t.Context())
	_, err := c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, method)
	must(t, err)
	for _, next := range []func(){abandon, func() { _ = server.stop() }} {
		// The server answers in the order of the connection: it has read what was sent before.
		var answer []byte
		if err := c.Invoke(t.Context(), method, make([]byte, sha256.Size), &answer); status.Code(err) != codes.NotFound {
			t.Fatal(err)
		}
		next()
	}
	server.hasRefused(t, map[socket.Refusal]int{socket.RefusedUnknownKey: 2})
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	key, path := newKey(t), newPath(t)
	server := serve(t, socket.ServerConfig{Path: path, MaxConnections: 2, Sign: signWith(t, key)})
	first, second, third := open(t, path, key), open(t, path, key), open(t, path, key)
	must(t, sign(t, first), sign(t, second))
	if err := sign(t, third); !signer.IsTransient(err) {
		t.Errorf("a third connection: %v", err)
	}
	server.await(t, "the maximum of connections")
	_ = first.Close()
	signertest.Await(t, "a free connection", func() error { return sign(t, third) })
}

// The client's remaining time bounds the server's work for it, and so does the server's own limit.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	key, path := newKey(t), newPath(t)
	left := make(chan time.Duration, 1)
	serve(t, socket.ServerConfig{Path: path, Sign: func(ctx context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
		deadline, _ := ctx.Deadline()
		left <- time.Until(deadline)
		return signWith(t, key)(ctx, id, message)
	}})
	for client, most := range map[time.Duration]time.Duration{4 * time.Second: 4 * time.Second, time.Hour: 5 * time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), client)
		_, err := open(t, path, key).Sign(ctx, message)
		must(t, err)
		cancel()
		if got := <-left; got <= most-2*time.Second || got > most+time.Millisecond {
			t.Errorf("%s are left, want %s", got, most)
		}
	}
}

// The test lists the errors at the other end for what Sign of the server does. A panic, or an
// invalid signature, does not stop the server, and its client sees no internals.
func TestErrorsComeThrough(t *testing.T) {
	t.Parallel()
	key, path := newKey(t), newPath(t)
	var signs atomic.Pointer[func() ([]byte, error)]
	server := serve(t, socket.ServerConfig{Path: path, Sign: func(context.Context, [sha256.Size]byte, []byte) ([]byte, error) { return (*signs.Load())() }})
	opened := open(t, path, key)
	fails := func(err error) func() ([]byte, error) { return func() ([]byte, error) { return nil, err } }
	for _, test := range []struct {
		signs  func() ([]byte, error)
		is     error
		remedy signer.Remedy // zero for none
		want   string
	}{
		{fails(fmt.Errorf("%w: it has basic constraints", signer.ErrNotPermitted)), signer.ErrNotPermitted, 0, "it may not sign this: it has basic constraints"},
		{fails(fmt.Errorf("%w: 01020304", socket.ErrUnknownKey)), socket.ErrUnknownKey, signer.Retry, "it does not have the key: 01020304"},
		{fails(signer.Transient(errors.New("throttled"), 1500*time.Millisecond)), nil, signer.Retry, "throttled"},
		{fails(fmt.Errorf("late: %w", context.DeadlineExceeded)), nil, signer.Retry, "late"},
		{fails(signer.Busy(errors.New("busy"))), nil, signer.Wait, "busy"},
		{fails(errors.New("permanent")), nil, 0, "permanent"},
		{fails(errors.New(strings.Repeat("é\xff", 9000))), nil, 0, "é?"},
		{func() ([]byte, error) { panic("a secret") }, nil, 0, "its log has more"},
		{fails(nil), nil, 0, "signature has 0 octets"},
		{func() ([]byte, error) { return make([]byte, 3000), nil }, nil, 0, "signature has 3000 octets"},
	} {
		signs.Store(&test.signs)
		err := sign(t, opened)
		holds(t, err, test.want, path)
		var f *signer.Failure
		if errors.As(err, &f) != (test.remedy != 0) || f != nil && f.Remedy != test.remedy || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("want %q as %d, got %#v", test.want, test.remedy, err)
		}
		if f != nil && f.Remedy == signer.Retry && (f.RetryAfter > 0) != (test.is == nil) {
			t.Errorf("%v: it is retried after %s", err, f.RetryAfter) // its own key was already retried there
		}
		if strings.Contains(err.Error(), "a secret") {
			t.Errorf("the client sees the panic: %v", err)
		}
	}
	server.await(t, "a secret")
}

// Refusals are counted. Those with long texts do not fill the log, however often they occur.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	t.Parallel()
	key, path, began := newKey(t), newPath(t), time.Now()
	server := serve(t, socket.ServerConfig{Path: path, Sign: func(_ context.Context, _ [sha256.Size]byte, message []byte) ([]byte, error) {
		refusal := socket.ErrUnknownKey
		if string(message) == "not permitted" {
			refusal = signer.ErrNotPermitted
		}
		return nil, fmt.Errorf("%w: %s", refusal, strings.Repeat("x", 240<<10))
	}})
	opened, other := open(t, path, key), plain(t, path)
	const each = 50
	for range each {
		for _, message := range []string{"not permitted", "of another key"} {
			if _, err := opened.Sign(t.Context(), []byte(message)); err == nil {
				t.Fatal("it was signed")
			}
		}
		holds(t, other.Invoke(t.Context(), "/"+strings.Repeat("x", 3<<10)+"/x", []byte{}, new([]byte)), "only")
	}
	holds(t, other.Invoke(t.Context(), method, make([]byte, sha256.Size+socket.MaxMessage+1), new([]byte)), "it has 65569 octets")
	server.hasRefused(t, map[socket.Refusal]int{socket.RefusedNotPermitted: each, socket.RefusedUnknownKey: each, socket.RefusedMalformed: each + 1})
	most := 3 * (1 + int(time.Since(began)/time.Second))
	if n := server.count("peer="); n < 3 || n > most {
		t.Errorf("there are %d lines, want at most %d", n, most)
	}
	if n := server.count("x"); n > most*(2<<10) {
		t.Errorf("%d octets of the texts are in the log", n)
	}
}

// No request reaches the key unless it is the ID of a key and a message within the bounds.
func FuzzRequest(f *testing.F) {
	f.Add(method, []byte(strings.Repeat("k", 32)+"message"))
	f.Add(method, make([]byte, sha256.Size-1))
	f.Add(method, make([]byte, sha256.Size+socket.MaxMessage+1))
	f.Add("/mayfly.signer.v1/Sign", []byte("k"))
	path := newPath(f)
	serve(f, socket.ServerConfig{Path: path, Sign: func(_ context.Context, id [sha256.Size]byte, message []byte) ([]byte, error) {
		sum := sha256.Sum256(append(id[:], message...))
		return sum[:], nil
	}})
	f.Fuzz(func(t *testing.T, name string, request []byte) {
		var answer []byte
		err := plain(t, path).Invoke(t.Context(), name, request, &answer)
		proper := name == method && len(request) >= sha256.Size && len(request) <= sha256.Size+socket.MaxMessage
		if sum := sha256.Sum256(request); (err == nil) != proper || proper && !bytes.Equal(answer, sum[:]) {
			t.Errorf("method %q, request %q: answer %x, error %v", name, request, answer, err)
		}
	})
}
