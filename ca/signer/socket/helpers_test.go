// SPDX-License-Identifier: Apache-2.0

package socket_test

import (
	"bytes"
	"context"
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

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
)

// TestMain also runs the test binary in its role as another process.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	m.Run()
}

// newPath returns a path for a socket. The path of t.TempDir can be too long for a socket.
func newPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signFunc is a ServerConfig's Sign.
type signFunc = func(ctx context.Context, key [sha256.Size]byte, message []byte) ([]byte, error)

// signWith signs every message with key, and refuses other keys.
func signWith(t testing.TB, key *ecdsa.PrivateKey) signFunc {
	t.Helper()
	id, err := socket.KeyID(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	memory := signer.InMemory(key)
	return func(ctx context.Context, key [sha256.Size]byte, message []byte) ([]byte, error) {
		if key != id {
			return nil, fmt.Errorf("%w: there is no %x", socket.ErrUnknownKey, key[:4])
		}
		return memory.Sign(ctx, message)
	}
}

// running is a server that serves until stop.
type running struct {
	log  *record
	stop func() error
}

// serve starts a server. It stops with the test at the latest.
func serve(t testing.TB, cfg socket.ServerConfig) *running {
	t.Helper()
	r := &running{log: &record{}}
	cfg.Logger = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := socket.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
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

// record is a log.
type record struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (r *record) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.Write(line)
}

// count returns how often the log holds text.
func (r *record) count(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.all.String(), text)
}

// await waits until the log holds text.
func (r *record) await(t *testing.T, text string) {
	t.Helper()
	signertest.Await(t, "a line in the log", func() error {
		if r.count(text) == 0 {
			return fmt.Errorf("no line has %q", text)
		}
		return nil
	})
}

func open(t testing.TB, path string, key *ecdsa.PrivateKey) signer.Key {
	t.Helper()
	opened, err := socket.Open(t.Context(), socket.Config{Path: path, Public: key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
	})
	return opened
}

// holds checks that err holds wants.
func holds(t testing.TB, err error, wants ...string) {
	t.Helper()
	if err == nil {
		t.Error("there is no error")
		return
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %q; it should hold %q", err, want)
		}
	}
}

func verify(t testing.TB, key *ecdsa.PrivateKey, message, signature []byte) {
	t.Helper()
	digest := sha256.Sum256(message)
	if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
		t.Error("the signature does not verify")
	}
}

var errPolicy = errors.New("it has basic constraints")
