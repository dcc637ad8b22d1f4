// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// TestReload changes the issuer file, breaks it, and rotates the CA, under load.
func TestReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.useSet("")
	w.start()
	w.load()
	w.line("no fault")
	w.steady()
	good := string(must(os.ReadFile(filepath.Join(w.Dir, "issuers.yaml")))(t))

	w.line("reload: issuer disabled, and enabled again")
	w.become(func(s *state) { s.trusted = false })
	w.write("issuers.yaml", strings.Replace(good, "type: email}", "type: email, disabled: true}", 1))
	w.refused("ISSUER_NOT_CONFIGURED")
	w.recover(theForm().bound, func(s *state) { s.trusted = true }, func() { w.write("issuers.yaml", good) })
	w.steady()

	w.line("reload: issuer file with a mistake")
	w.write("issuers.yaml", good[:len(good)/2])
	w.awaitMetric("mayfly_config_stale 1")
	w.steady()
	w.write("issuers.yaml", good)
	w.awaitMetric("mayfly_config_stale 0")
	w.steady()

	w.line("rotation: a new authority is added and activated, the old one retires")
	w.activate("next")
	w.await("certificates of the new authority", func() bool { return w.count(time.Time{}, issuedBy("next intermediate")) > theForm().clients })
	w.steady()
	w.judge(nil)
}

// activate adds an authority to the CA set that signs in two seconds, so soon that only Force permits it.
func (w *world) activate(id string) {
	w.t.Helper()
	path := filepath.Join(w.Dir, "ca", "ca.yaml")
	now := time.Now()
	made := must(testworld.NewAuthority(filepath.Dir(path), id, now))(w.t)
	editor := set.Editor{Path: path, Now: now, Lead: set.PublicationLead, Force: true, Ring: keyring.New(keyring.Config{})}
	must(editor.Add(w.t.Context(), config.CASetAuthority{
		ID: id, Chain: made.ChainFile, ActivateAt: now.Add(2 * time.Second),
		Signer: config.Signer{File: &config.SignerFile{Key: made.KeyFile, PasswordFile: made.PasswordFile}},
	}, nil))(w.t)
}

func issuedBy(name string) func(o outcome) bool {
	return func(o outcome) bool {
		if len(o.chain) < 2 {
			return false
		}
		certificates, err := pem.Certificates([]byte(o.chain[1]))
		return err == nil && certificates[0].Subject.CommonName == name
	}
}

// awaitMetric waits for a line of the metrics.
func (w *world) awaitMetric(line string) {
	w.t.Helper()
	w.await(line, func() bool { return bytes.Contains(w.fetch("/metrics"), []byte("\n"+line+"\n")) })
}

// TestRollingRestart stops one of two replicas after the other (SIGTERM) and starts it again, behind a load
// balancer that asks each replica whether it is ready. No request may be lost.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.rewrite("mayfly.yaml", "log: {", "shutdown: {grace: 1s, drain: 15s}\nlog: {")
	replicas := []*replica{{config: w.ConfigFile, http: w.http, grpc: w.grpc, ops: w.ops}}
	addresses := freeAddresses(t, 3)
	replicas = append(replicas, &replica{config: filepath.Join(w.Dir, "other.yaml"), http: addresses[0], grpc: addresses[1], ops: addresses[2]})
	text := string(must(os.ReadFile(w.ConfigFile))(t))
	w.write("other.yaml", strings.NewReplacer(w.http, addresses[0], w.grpc, addresses[1], w.ops, addresses[2]).Replace(text))
	for _, r := range replicas {
		r.start(w)
		r.watch(t)
	}
	w.server = replicas[0].process
	overHTTP := newRelay(t, func() []string { return ready(replicas, func(r *replica) string { return r.http }) })
	overGRPC := newRelay(t, func() []string { return ready(replicas, func(r *replica) string { return r.grpc }) })
	w.targets = []string{"http://" + overHTTP.address, "grpc://" + overGRPC.address}
	w.load()
	w.line("no fault")
	w.steady()
	w.line("SIGTERM of one of two replicas, and its start, in turn")
	for _, r := range replicas {
		r.Stop(t)
		if code := r.Cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("the exit code after SIGTERM is %d:\n%s", code, r.output)
		}
		w.steady()
		r.start(w)
		w.await("a ready replica", r.ready.Load)
		w.steady()
	}
	w.judge(nil)
}

// replica is one of several servers behind a load balancer.
type replica struct {
	*process
	config, http, grpc, ops string
	ready                   atomic.Bool
}

func (r *replica) start(w *world) {
	w.t.Helper()
	r.process = start(w.t, command(w.t, w.own, "serve", r.config))
	w.await("a live replica", func() bool { return r.probe("/livez") })
}

func (r *replica) probe(path string) bool {
	response, err := http.Get("http://" + r.ops + path)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// watch asks the replica whether it is ready, as a load balancer does, until the test ends.
func (r *replica) watch(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			r.ready.Store(r.probe("/readyz"))
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

// ready returns the addresses of the replicas, those first that are ready.
func ready(replicas []*replica, address func(*replica) string) (list []string) {
	for _, wanted := range []bool{true, false} {
		for _, r := range replicas {
			if r.ready.Load() == wanted {
				list = append(list, address(r))
			}
		}
	}
	return list
}
