// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	ctclient "github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ctlog/embedded"
)

// poison is the encoding of the OID that marks a precertificate (RFC 6962, section 3.1).
var poison = []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0xd6, 0x79, 0x02, 0x04, 0x03}

var errKilled = errors.New("the server has been killed")

// TestKill kills the server (kill -9) at each step of a certificate in which another process takes part,
// while that process has the request, and starts it again.
func TestKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	p, relay := w.usePlace(), newRelay(t, only(w.http))
	w.targets = []string{"http://" + relay.address, "grpc://" + w.grpc}
	log, records := w.logs[0], filepath.Join(w.Dir, "audit")
	w.useAudit(records)
	w.start()
	w.line("no fault")
	w.load()
	w.steady()
	for _, step := range []struct {
		name string
		arm  func(kill func())
	}{
		{"the issuer is asked for its keys", func(kill func()) {
			w.issuer.use(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { kill() }))
			w.rotate()
		}},
		{"the signer has the precertificate", func(kill func()) { p.killAt(true, kill) }},
		{"the log has the precertificate", func(kill func()) {
			log.Fail(func(http.ResponseWriter, *http.Request) bool { kill(); return true })
		}},
		{"the log has stored the precertificate", func(kill func()) { log.Alter(func(*ct.AddChainResponse) { kill() }) }},
		{"the signer has the certificate", func(kill func()) { p.killAt(false, kill) }},
		{"the answer begins", func(kill func()) { relay.answers(kill) }},
	} {
		w.line("kill -9 while %s", step.name)
		w.become(func(s *state) { s.server = false })
		step.arm(sync.OnceFunc(w.server.Kill))
		w.await("the end of the server", func() bool { return !w.server.Alive() })
		w.recover(theForm().bound, func(s *state) { s.server = true }, func() {
			w.issuer.use(w.flaky)
			p.fault.Store(nil)
			log.Fail(nil)
			log.Alter(nil)
			relay.answers(nil)
			w.start()
		})
		w.steady()
	}
	w.judge(nil)
	w.server.Stop(t)
	w.judgeAudit(records)
}

// killAt kills the server when the place gets a precertificate, or a certificate.
func (p *place) killAt(precertificate bool, kill func()) {
	f := func(ctx context.Context, message []byte) ([]byte, error) {
		if string(message) != signer.SelfTestMessage && bytes.Contains(message, poison) == precertificate {
			kill()
			return nil, errKilled
		}
		return p.key.Sign(ctx, message)
	}
	p.fault.Store(&f)
}

// TestKillAnywhere kills a server with an embedded log at random moments. Each start must succeed without
// help, and in the end the log is whole.
func TestKillAnywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	cfg, key := w.embed(w.Dir, w.Dir)
	records := filepath.Join(w.Dir, "audit")
	w.useAudit(records)
	w.start()
	w.line("kill -9 at any moment, embedded log")
	w.load()
	w.steady()
	kills := 2
	if full() {
		kills = 8
	}
	for range kills {
		w.become(func(s *state) { s.server = false })
		<-time.After(rand.N(200 * time.Millisecond))
		w.server.Kill()
		w.recover(theForm().bound, func(s *state) { s.server = true }, w.start)
		w.steady()
	}
	w.judgeEmbedded(cfg, key)
	w.judgeAudit(records)
}

// embed gives the server an embedded log in dir, where the server finds it in inside, before the world's other
// logs. It returns the log's configuration and public key, PEM.
func (w *world) embed(dir, inside string) (cfg embedded.Config, key string) {
	w.t.Helper()
	cfg = embedded.Config{
		Name: "2026", Dir: filepath.Join(dir, "ctlog", "2026"), Guard: filepath.Join(dir, "guard", "2026.json"),
		Key: filepath.Join(w.Dir, "2026.key"), Origin: "log.example/2026",
	}
	created := must(embedded.Init(w.t.Context(), cfg))(w.t)
	w.rewrite("mayfly.yaml", "  logs:\n", fmt.Sprintf("  logs:\n    - embedded: {name: \"2026\", dir: %[1]s/ctlog/2026, guard: %[1]s/guard/2026.json, key: 2026.key, origin: log.example/2026}\n", inside))
	return cfg, string(created.PublicKey)
}

// judgeEmbedded restarts the server, so that the checkpoint covers every entry, and judges with the entries
// of its log, read by certificate-transparency-go. Then it checks the whole log.
func (w *world) judgeEmbedded(cfg embedded.Config, key string) {
	w.t.Helper()
	w.stop()
	w.clients.Wait()
	w.server.Stop(w.t)
	w.start()
	log := must(ctclient.New("http://"+w.http+"/ctlog/2026", http.DefaultClient, jsonclient.Options{PublicKey: key}))(w.t)
	head := must(log.GetSTH(w.t.Context()))(w.t)
	var entries []ct.RawLogEntry
	for int64(len(entries)) < int64(head.TreeSize) {
		answer := must(log.GetRawEntries(w.t.Context(), int64(len(entries)), int64(head.TreeSize)-1))(w.t)
		for _, leaf := range answer.Entries {
			entries = append(entries, *must(ct.RawLogEntryFromLeaf(int64(len(entries)), &leaf))(w.t))
		}
	}
	w.judge(map[string][]ct.RawLogEntry{key: entries})
	w.server.Stop(w.t)
	if _, err := embedded.Fsck(w.t.Context(), cfg); err != nil {
		w.t.Errorf("after all faults: %v", err)
	}
}
