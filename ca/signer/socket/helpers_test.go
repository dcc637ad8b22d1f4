// SPDX-License-Identifier: Apache-2.0

package socket_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
)

var message = []byte("message")

// must fails the test.
func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// newPath returns a path for a socket. The path of t.TempDir can be too long for a socket.
func newPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

// signFunc is a ServerConfig's Sign.
type signFunc = func(ctx context.Context, key [sha256.Size]byte, message []byte) ([]byte, error)

// signWith signs every message with key, and refuses other keys.
func signWith(t testing.TB, key crypto.Signer) signFunc {
	t.Helper()
	id, err := socket.KeyID(key.Public())
	must(t, err)
	return func(ctx context.Context, asked [sha256.Size]byte, message []byte) ([]byte, error) {
		if asked != id {
			return nil, fmt.Errorf("%w: there is no %x", socket.ErrUnknownKey, asked[:4])
		}
		return signer.InMemory(key).Sign(ctx, message)
	}
}

// running is a server that serves until stop.
type running struct {
	stop func() error

	mu      sync.Mutex // guards the fields below
	log     bytes.Buffer
	refused map[socket.Refusal]int
}

// serve starts a server. It stops with the test at the latest.
func serve(t testing.TB, cfg socket.ServerConfig) *running {
	t.Helper()
	r := &running{refused: map[socket.Refusal]int{}}
	cfg.Logger = slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg.Refused = func(what socket.Refusal) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.refused[what]++
	}
	s, err := socket.NewServer(cfg)
	must(t, err)
	must(t, s.Listen())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = r.stop() })
	return r
}

// Write receives the log.
func (r *running) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(line)
}

// count returns how often the log holds text.
func (r *running) count(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.log.String(), text)
}

// await waits until the log holds text.
func (r *running) await(t *testing.T, text string) {
	t.Helper()
	signertest.Await(t, "a line in the log", func() error {
		if r.count(text) == 0 {
			return fmt.Errorf("no line has %q", text)
		}
		return nil
	})
}

// hasRefused checks what the server has counted.
func (r *running) hasRefused(t *testing.T, want map[socket.Refusal]int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(want, r.refused); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
}

func open(t testing.TB, path string, key crypto.Signer) signer.Key {
	t.Helper()
	opened, err := socket.Open(t.Context(), socket.Config{Path: path, Public: key.Public()})
	must(t, err)
	t.Cleanup(func() {
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
	})
	return opened
}

// sign requests a signature over message.
func sign(t testing.TB, key signer.Key) error {
	_, err := key.Sign(t.Context(), message)
	return err
}

// holds checks that err holds wants.
func holds(t testing.TB, err error, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v; it should hold %q", err, want)
		}
	}
}
