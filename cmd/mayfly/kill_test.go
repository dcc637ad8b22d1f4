// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/internal/client"
	mayflypem "github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

const (
	killRounds  = 5
	killClients = 8
	killMost    = 40 // certificates of a round, about
)

// After kill -9 at any moment under load, each certificate that a client has received has its intent and its
// outcome, and the chain is whole.
func TestKilledServerHasEveryIntent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := testworld.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	binary := filepath.Join(dir, "mayfly") // by this name, the test binary is the command: see TestMain
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, binary)
	}
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.5:0") // no other test has ports there
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	received := map[string]string{} // the hashes of certificates by their serial numbers
	for round := range killRounds {
		cmd := exec.CommandContext(t.Context(), binary, "serve", "--config", w.ConfigFile)
		cmd.Env = append(os.Environ(), "MAYFLY_LISTEN_HTTP="+address, "MAYFLY_AUDIT_DIR="+filepath.Join(dir, "audit"), "MAYFLY_AUDIT_MAX_SIZE=1MiB")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ready := func() bool {
			response, err := http.Get("http://" + address + "/readyz")
			if err != nil {
				return false
			}
			_ = response.Body.Close()
			return response.StatusCode == http.StatusOK
		}
		for deadline := time.Now().Add(time.Minute); !ready(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the server is not ready")
			}
		}
		before := len(received)
		load(t, w, address, received, before+1+rand.IntN(killMost), func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		if len(received) == before {
			t.Errorf("round %d: no certificate", round)
		}
	}
	dir = filepath.Join(dir, "audit")
	report, err := audit.Verify(t.Context(), dir, nil)
	if err != nil || report.Broken > 0 || report.Kinds[audit.KindStart] != killRounds {
		t.Fatalf("%+v, %v", report, err)
	}
	intents := map[string]bool{}
	if err := audit.Search(t.Context(), dir, audit.Query{}, func(r *audit.Record, _ []byte) error {
		switch {
		case r.Kind == audit.KindIntent:
			intents[r.Serial] = true
		case r.Kind == audit.KindOutcome && intents[r.Serial] && received[r.Serial] == r.Certificate:
			delete(received, r.Serial)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(received) > 0 {
		t.Errorf("%d certificates lack an intent or an outcome: %v", len(received), received)
	}
}

// load requests certificates until there are so many in received, then calls kill, and returns when no client
// gets one any more.
func load(t *testing.T, w *testworld.World, address string, received map[string]string, most int, kill func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var all sync.WaitGroup
	for range killClients {
		all.Go(func() {
			c, err := client.New(client.Config{URL: "http://" + address})
			if err != nil {
				t.Error(err)
				return
			}
			for ctx.Err() == nil {
				chain, err := w.Request(t.Context(), c, false)
				if err != nil {
					if ctx.Err() == nil {
						t.Errorf("before the kill: %v", err)
					}
					return
				}
				certificates, err := mayflypem.Certificates([]byte(strings.Join(chain, "\n")))
				if err != nil {
					t.Error(err)
					return
				}
				sum := sha256.Sum256(certificates[0].Raw)
				mu.Lock()
				received[hex.EncodeToString(certificates[0].SerialNumber.Bytes())] = hex.EncodeToString(sum[:])
				if len(received) >= most {
					cancel()
					kill()
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	cancel()
}
