// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

const (
	// childVariable is the folder of the log that a child process serves.
	childVariable = "MAYFLY_CTLOG_CHILD"
	// rootFile in that folder is the root that the log accepts, DER.
	rootFile = "root.der"
	// chaosVariable is how often TestChaos kills the process; make chaos sets it to 50.
	chaosVariable = "MAYFLY_CHAOS"
	chaosShort    = 6
	chaosClients  = 16
	// A round stops after fewer SCTs than this: make test has many short rounds; make chaos
	// also has long ones, with full tiles and several checkpoints.
	chaosRound     = 100
	chaosLongRound = 600
)

func TestMain(m *testing.M) {
	RouteTesseraLogs(discard())
	if base := os.Getenv(childVariable); base != "" {
		if err := child(base); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child is a server with only a log. It prints its URL as soon as it serves.
func child(base string) error {
	der, err := os.ReadFile(filepath.Join(base, rootFile))
	if err != nil {
		return err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	cfg := configIn(base)
	cfg.Roots = func() []*x509.Certificate { return []*x509.Certificate{root} }
	l, err := Open(context.Background(), cfg)
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
	fmt.Printf("http://%s\n", listener.Addr())
	return (&http.Server{Handler: l.Handler(), ReadHeaderTimeout: time.Minute}).Serve(listener)
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
	base      string // the child's folder

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
	a, base := newAuthority(t), t.TempDir()
	cfg := newConfigIn(t, base)
	write(t, filepath.Join(base, rootFile), a.Root.Raw)
	c := &chaos{t: t, authority: a, base: base, checkpoints: map[string]bool{}}
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
	command.Env = append(os.Environ(), childVariable+"="+c.base)
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

	remote, _, err := ctlog.NewRemote(ctlog.RemoteConfig{URL: url, Token: []byte(testToken)})
	if err != nil {
		t.Fatal(err)
	}
	defer remote.CloseIdleConnections()
	received := make(chan struct{}, 1<<16)
	var clients sync.WaitGroup
	for range chaosClients {
		clients.Go(func() { c.client(remote, received) })
	}
	clients.Go(func() { c.monitor(remote) })
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
func (c *chaos) client(remote *ctlog.Remote, received chan<- struct{}) {
	for {
		sub := c.authority.submission(c.t)
		sct, err := remote.Submit(c.t.Context(), sub)
		if c.down(err) {
			return
		}
		c.mu.Lock()
		c.receipts = append(c.receipts, receipt{sub, sct})
		c.mu.Unlock()
		received <- struct{}{}
	}
}

// monitor reads checkpoints until the log is down.
func (c *chaos) monitor(remote *ctlog.Remote) {
	for {
		raw, err := remote.Checkpoint(c.t.Context())
		if c.down(err) {
			return
		}
		c.mu.Lock()
		c.checkpoints[string(raw)] = true
		c.mu.Unlock()
	}
}

// down reports whether the log is down; an answer that reports an error fails the test too.
func (c *chaos) down(err error) bool {
	if errors.As(err, new(*ctlog.StatusError)) {
		c.t.Error(err)
	}
	return err != nil
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
		checkpoint, err := reader.ParseCheckpoint([]byte(raw), l.verifier())
		if err != nil {
			t.Fatal(err)
		}
		head := checkpoint.Head
		if other, ok := roots[head.Size]; ok && other != head.Root {
			t.Fatalf("two checkpoints of size %d have different roots", head.Size)
		}
		roots[head.Size] = head.Root
		if head.Size == 0 {
			continue
		}
		// All are consistent with one another if each is with the newest.
		hashes, err := judge.GetSTHConsistency(t.Context(), head.Size, newest.TreeSize)
		if err == nil {
			err = proof.VerifyConsistency(rfc6962.DefaultHasher, head.Size, newest.TreeSize, hashes, head.Root[:], newest.SHA256RootHash[:])
		}
		if err != nil {
			t.Errorf("the checkpoint of size %d: %v", head.Size, err)
		}
	}
	judgeTiles(t, url, cfg.Origin, publicKey, newest)
}
