// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/files"
)

const (
	// childVariable holds the child's instructions: see childConfig.
	childVariable = "MAYFLY_CTLOG_CHILD"
	// chaosVariable is how often TestChaos kills the process; make chaos sets it to 50.
	chaosVariable = "MAYFLY_CHAOS"
	chaosShort    = 6
	chaosClients  = 16
	// A round stops after fewer SCTs than this: make test has many short rounds; make chaos
	// also has long ones, with full tiles and several checkpoints.
	chaosRound     = 100
	chaosLongRound = 600
)

// childConfig is the log that a child process serves.
type childConfig struct {
	Name, Dir, Guard, Key, Origin string
	Root                          []byte // DER
}

func TestMain(m *testing.M) {
	RouteTesseraLogs(discard())
	if instructions := os.Getenv(childVariable); instructions != "" {
		if err := child([]byte(instructions)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child is a server with only a log. It prints its URL as soon as it serves.
func child(instructions []byte) error {
	var c childConfig
	if err := json.Unmarshal(instructions, &c); err != nil {
		return err
	}
	root, err := x509.ParseCertificate(c.Root)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	l, err := Open(ctx, Config{
		Name: c.Name, Dir: c.Dir, Guard: c.Guard, Key: c.Key, Origin: c.Origin, CheckpointInterval: minCheckpointInterval,
		SubmitToken: []byte(testToken), Roots: func() []*x509.Certificate { return []*x509.Certificate{root} },
	})
	if err != nil {
		return err
	}
	if err := l.Ready(); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: l.Handler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	fmt.Printf("http://%s\n", listener.Addr())
	<-ctx.Done()
	return l.Shutdown(context.Background())
}

// receipt is what a client has received.
type receipt struct {
	sub ctlog.Submission
	sct ctlog.SCT
}

// chaos is a log that the test kills repeatedly, and all that clients have received from it.
type chaos struct {
	t         *testing.T
	authority *authority
	child     string // childConfig, JSON

	mu          sync.Mutex
	receipts    []receipt
	checkpoints map[string]bool // raw
}

// TestChaos repeatedly kills a log under load (kill -9) and starts it again. Every start must
// succeed without help. In the end the log must hold everything that a client received, and
// every observed checkpoint must be consistent with all others.
func TestChaos(t *testing.T) {
	t.Parallel()
	kills := chaosShort
	if n, err := strconv.Atoi(os.Getenv(chaosVariable)); err == nil && n > 0 {
		kills = n
	}
	a, cfg := newAuthority(t), newConfig(t)
	instructions, err := json.Marshal(childConfig{cfg.Name, cfg.Dir, cfg.Guard, cfg.Key, cfg.Origin, a.Root.Raw})
	if err != nil {
		t.Fatal(err)
	}
	c := &chaos{t: t, authority: a, child: string(instructions), checkpoints: map[string]bool{}}
	for i := range kills {
		most := chaosRound
		if i%2 == 1 && kills > chaosShort {
			most = chaosLongRound
		}
		c.round(most)
	}
	t.Logf("after %d kills: %d SCTs, %d checkpoints", kills, len(c.receipts), len(c.checkpoints))

	cfg.Roots = a.roots
	l := open(t, cfg)
	submit(t, l, a, 1)
	shutdown(t, l)
	c.judge(l, cfg)
	if _, err := Fsck(t.Context(), cfg); err != nil {
		t.Error(err)
	}
}

// round starts the log, loads it, and kills it at a random moment after fewer than most SCTs.
func (c *chaos) round(most int) {
	t := c.t
	t.Helper()
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	command.Env = append(os.Environ(), childVariable+"="+c.child)
	command.Stderr = testWriter{t}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	url, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the log did not start: %v, %v", err, command.Wait())
	}
	url = strings.TrimSpace(url)

	received := make(chan struct{}, 1<<16)
	var clients sync.WaitGroup
	for range chaosClients {
		clients.Go(func() { c.client(url, received) })
	}
	clients.Go(func() { c.monitor(url) })
	gone := make(chan struct{})
	go func() {
		clients.Wait()
		close(gone)
	}()
	for range rand.IntN(most) {
		select {
		case <-received:
		case <-gone:
			t.Fatalf("the log ended by itself: %v", command.Wait())
		}
	}
	// The log stores a batch every 10 ms: the kill falls anywhere in one.
	<-time.After(rand.N(30 * time.Millisecond))
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = command.Wait()
	<-gone
}

// client submits until the log is down.
func (c *chaos) client(url string, received chan<- struct{}) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for {
		sub := c.authority.submission(c.t)
		body, err := json.Marshal(ct.AddChainRequest{Chain: sub.Chain})
		if err != nil {
			c.t.Error(err)
			return
		}
		var answer ct.AddChainResponse
		if err := c.fetch(transport, http.MethodPost, url+"/ct/v1/add-pre-chain", body, func(b []byte) error { return json.Unmarshal(b, &answer) }); err != nil {
			return
		}
		extensions, err := base64.StdEncoding.DecodeString(answer.Extensions)
		if err != nil {
			c.t.Error(err)
			return
		}
		c.mu.Lock()
		c.receipts = append(c.receipts, receipt{sub, ctlog.SCT{
			LogID: [32]byte(answer.ID), Timestamp: answer.Timestamp, Extensions: extensions, Signature: answer.Signature[4:],
		}})
		c.mu.Unlock()
		received <- struct{}{}
	}
}

// monitor reads checkpoints until the log is down.
func (c *chaos) monitor(url string) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for {
		if err := c.fetch(transport, http.MethodGet, url+"/checkpoint", nil, func(b []byte) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.checkpoints[string(b)] = true
			return nil
		}); err != nil {
			return
		}
	}
}

// fetch returns an error if the log is down; any other failure fails the test too.
func (c *chaos) fetch(transport *http.Transport, method, url string, body []byte, take func([]byte) error) error {
	request, err := http.NewRequestWithContext(c.t.Context(), method, url, strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+testToken)
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		c.t.Errorf("%s: %s: %s", url, response.Status, answer)
		return fmt.Errorf("status %s", response.Status)
	}
	return take(answer)
}

// judge checks the log against all that clients received from it.
func (c *chaos) judge(l *Log, cfg Config) {
	t := c.t
	t.Helper()
	url, publicKey := serve(t, l), l.PublicKey()
	judge := ctClient(t, url, publicKey)
	newest, err := judge.GetSTH(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range c.receipts {
		judgeSCT(t, judge, publicKey, newest, r.sub, r.sct)
	}
	roots := map[uint64][32]byte{}
	for raw := range c.checkpoints {
		checkpoint, err := parseCheckpoint([]byte(raw), l.verifier())
		if err != nil {
			t.Fatal(err)
		}
		head := checkpoint.head
		if other, ok := roots[head.size]; ok && other != head.root {
			t.Fatalf("two checkpoints of size %d have different roots", head.size)
		}
		roots[head.size] = head.root
		if head.size == 0 {
			continue
		}
		// All are consistent with one another if each is with the newest.
		hashes, err := judge.GetSTHConsistency(t.Context(), head.size, newest.TreeSize)
		if err == nil {
			err = proof.VerifyConsistency(rfc6962.DefaultHasher, head.size, newest.TreeSize, hashes, head.root[:], newest.SHA256RootHash[:])
		}
		if err != nil {
			t.Errorf("the checkpoint of size %d: %v", head.size, err)
		}
	}
	judgeTiles(t, url, cfg.Origin, publicKey, newest)
	leftovers, err := filepath.Glob(filepath.Join(cfg.Dir, issuerDir, "*"+files.TemporarySuffix))
	if err != nil || len(leftovers) > 0 {
		t.Errorf("left over: %v, %v", leftovers, err)
	}
}
