// SPDX-License-Identifier: Apache-2.0

// Package fleet runs three replicas of mayfly serve, and the log that they share, in processes of their own
// behind a load balancer, as deploy/examples/three-replicas configures them. Under load, replicas die, freeze,
// restart, lose the time, and get new issuers and a new authority. `make fleet` runs the full form and prints a
// table; without MAYFLY_FLEET a short form runs, with a balancer in this process.
package fleet

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// fleet is three replicas and what they need.
type fleet struct {
	*testworld.World
	t        *testing.T
	replicas []*server
	logs     []*ctLog
	url      string // of the load balancer
	roots    *x509.CertPool
	balancer *balancer // nil with HAProxy
	later    *provider.Provider

	clients sync.WaitGroup
	stop    func()

	mu       sync.Mutex // guards the fields below
	events   []*event
	outcomes []outcome
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	dir := t.TempDir()
	if parent := os.Getenv("FLEET_DIR"); full() && parent != "" {
		dir = must(os.MkdirTemp(parent, "mayfly-fleet-"))(t)
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	f := &fleet{World: must(testworld.New(dir))(t), t: t}
	t.Cleanup(f.Close)
	for _, name := range []string{"a", "b", "c"} {
		f.replicas = append(f.replicas, f.newServer(name, "mayfly.yaml"))
	}
	f.replicas[2].own = true // its clock is wrong once
	if program := os.Getenv("HAPROXY"); full() && program != "" {
		f.url, f.roots = startHAProxy(t, f.Dir, program, f.replicas)
	} else {
		f.url, f.balancer = startBalancer(t, f.replicas)
	}
	f.startLogs()
	for _, replica := range f.replicas {
		replica.replace(t, "https://ca.example", f.url)
		f.use(replica)
		replica.launch(f)
	}
	for _, replica := range f.replicas {
		replica.awaitReady(f)
	}
	f.awaitBalancer()
	return f
}

// awaitBalancer returns when the load balancer uses all replicas.
func (f *fleet) awaitBalancer() {
	f.t.Helper()
	viaBalancer := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.roots}}}
	inARow := 0
	f.await("answers of all replicas through the load balancer", func() bool {
		inARow++
		response, err := viaBalancer.Get(f.url + "/readyz")
		if err != nil {
			inARow = 0
			return false
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			inARow = 0
		}
		return inARow >= 20*len(f.replicas)
	})
}

func (f *fleet) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// await waits until condition holds.
func (f *fleet) await(what string, condition func() bool) {
	f.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(end) {
			f.t.Fatalf("there is not %s within %s; last failures: %v", what, patience, f.lastFailures())
		}
	}
}

func (f *fleet) lastFailures() (failures []error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := len(f.outcomes) - 1; i >= 0 && len(failures) < 5; i-- {
		failures = append(failures, f.outcomes[i].failures...)
	}
	return failures
}

// TestFleet: whatever happens to one replica, no client sees a failure that its next attempt does not mend. In the
// end the replicas agree, and every certificate is in a log and verifies with the trusted root.
func TestFleet(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	a, b, c := f.replicas[0], f.replicas[1], f.replicas[2]
	f.load()
	f.event("none", f.goOn)
	f.event("kill -9 of a replica, and its start", func() {
		a.Kill()
		f.goOn()
		a.start(f)
		f.goOn()
	})
	f.event("a replica hangs (SIGSTOP), and goes on", func() {
		b.Signal(syscall.SIGSTOP)
		f.await("a replica that does not answer", func() bool { return !ready(b.http) })
		f.goOn()
		b.Signal(syscall.SIGCONT)
		f.goOn()
	})
	f.event("kill -9 of the first log, and its start", func() {
		f.logs[0].process.Kill()
		f.goOn()
		f.logs[0].start()
		f.goOn()
	})
	restarted := f.replicas
	if !full() {
		restarted = restarted[:1]
	}
	f.event("SIGTERM and start of each replica, in turn", func() {
		for _, replica := range restarted {
			replica.Stop(t)
			if code := replica.Cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("the exit code of %s after SIGTERM is %d:\n%s", replica.name, code, replica.tail())
			}
			replica.start(f)
			f.goOn()
		}
	})
	f.event("the clock of a replica steps ahead by an hour, and back", func() {
		f.must(c.Ahead(time.Hour))
		f.await("a replica that is not ready", func() bool { return !ready(c.http) })
		f.goOn()
		f.must(c.Ahead(0))
		f.await("a ready replica", func() bool { return ready(c.http) })
		f.goOn()
	})
	var activate time.Time
	f.event("an authority is added to each replica", func() { activate = f.addAuthority("next") })
	f.event("an issuer is added to each replica", f.addIssuer)
	f.event("the new authority signs", func() {
		f.await("certificates of the new authority", func() bool {
			return f.count(func(o outcome) bool { return issuer(o) == "next intermediate" }) >= theForm().enough
		})
		f.goOn()
	})
	f.judge(activate)
}

// addAuthority adds an authority to the operator's CA set, and copies the set to each server. It returns when
// the authority signs, which is so soon that only Force permits it.
func (f *fleet) addAuthority(id string) time.Time {
	f.t.Helper()
	path := filepath.Join(f.Dir, "ca", "ca.yaml")
	now := time.Now()
	made := must(testworld.NewAuthority(filepath.Dir(path), id, now))(f.t)
	at := now.Add(theForm().lead).Truncate(time.Second)
	editor := set.Editor{Path: path, Now: now, Lead: set.PublicationLead, Force: true, Ring: keyring.New(keyring.Config{})}
	must(editor.Add(f.t.Context(), config.CASetAuthority{
		ID: id, Chain: made.ChainFile, ActivateAt: at,
		Signer: config.Signer{File: &config.SignerFile{Key: made.KeyFile, PasswordFile: made.PasswordFile}},
	}, nil))(f.t)
	content := must(os.ReadFile(path))(f.t)
	for _, replica := range f.replicas {
		f.must(os.CopyFS(filepath.Join(replica.dir, "ca", id), os.DirFS(filepath.Dir(made.ChainFile))))
		replica.write(f.t, "ca/ca.yaml", content)
	}
	for _, replica := range f.replicas {
		f.await("generation 2 on "+replica.name, func() bool { return f.status(replica).SetGeneration == 2 })
	}
	if !time.Now().Before(at) {
		f.t.Fatalf("the set was distributed only after the authority signs, at %s", at)
	}
	return at
}

// addIssuer adds an issuer to the file of each replica. Then all of them issue for it.
func (f *fleet) addIssuer() {
	f.t.Helper()
	s := httptest.NewUnstartedServer(nil)
	url := "http://" + s.Listener.Addr().String()
	f.later = must(provider.New(provider.Config{IssuerURL: url, Algorithm: "ES256"}))(f.t)
	s.Config.Handler = http.Handler(f.later)
	s.Start()
	f.t.Cleanup(s.Close)
	content := must(os.ReadFile(filepath.Join(f.Dir, "issuers.yaml")))(f.t)
	content = bytes.Replace(content, []byte("oidc-issuers:\n"),
		fmt.Appendf(nil, "oidc-issuers:\n  %[1]s: {issuer-url: %[1]s, client-id: sigstore, type: email}\n", url), 1)
	before := f.status(f.replicas[0]).ConfigSHA256
	for _, replica := range f.replicas {
		replica.write(f.t, "issuers.yaml", content)
	}
	for _, replica := range f.replicas {
		f.await("new issuers on "+replica.name, func() bool { return f.status(replica).ConfigSHA256 != before })
	}
	token := must(f.later.Mint(map[string]any{"sub": "later", "email": "later@example.com", "email_verified": true}))(f.t)
	for _, replica := range f.replicas {
		if err := f.requestFrom(replica, token); err != nil {
			f.t.Errorf("%s, with the new issuer: %v", replica.name, err)
		}
	}
}
