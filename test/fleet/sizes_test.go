// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// counter is a network in front of a server that counts the bytes in both directions.
type counter struct {
	address  string
	sent     atomic.Int64 // to the server
	received atomic.Int64
}

func count(t *testing.T, to string) *counter {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	c := &counter{address: l.Addr().String()}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			carry := func(to, from net.Conn, n *atomic.Int64) {
				defer func() { _, _ = to.Close(), from.Close() }()
				_, _ = io.Copy(io.MultiWriter(to, tally{n}), from)
			}
			running.Go(func() { carry(far, near, &c.sent) })
			running.Go(func() { carry(near, far, &c.received) })
		}
	})
	t.Cleanup(func() { _ = l.Close() }) // the connections end with their processes
	return c
}

// tally counts what is written to it.
type tally struct{ n *atomic.Int64 }

// Write implements io.Writer.
func (w tally) Write(b []byte) (int, error) {
	w.n.Add(int64(len(b)))
	return len(b), nil
}

// claims are those of the two tokens of the table: of a person, and of a job of GitHub Actions.
var claims = map[string]map[string]any{
	"email": {"sub": "104372112345678901234", "email": "first.last@example.com", "email_verified": true, "nonce": "4b8d1c2f9a7e", "azp": "sigstore"},
	"CI": {
		"sub": "repo:example-org/example-repo:ref:refs/heads/main", "event_name": "push", "sha": strings.Repeat("f1d2d2f924", 4), "workflow": "release",
		"repository": "example-org/example-repo", "ref": "refs/heads/main", "ref_type": "branch", "base_ref": "", "head_ref": "", "actor": "somebody", "actor_id": "1234567",
		"job_workflow_ref": "example-org/example-repo/.github/workflows/release.yml@refs/heads/main", "job_workflow_sha": strings.Repeat("f1d2d2f924", 4),
		"runner_environment": "github-hosted", "repository_id": "123456789", "repository_owner": "example-org", "repository_owner_id": "1234567",
		"workflow_ref": "example-org/example-repo/.github/workflows/release.yml@refs/heads/main", "workflow_sha": strings.Repeat("f1d2d2f924", 4),
		"run_id": "12345678901", "run_number": "1234", "run_attempt": "1", "repository_visibility": "public", "environment": "release",
	},
}

// TestSizesInDocument holds the sizes in docs/scaling.md to what a server and its log send and store: each figure is
// within a tenth.
func TestSizesInDocument(t *testing.T) {
	t.Parallel()
	document := string(must(os.ReadFile(filepath.Join("..", "..", "docs", "scaling.md")))(t))
	for i, kind := range []string{"email", "CI"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			for name, size := range measure(t, kind) {
				row := regexp.MustCompile(`(?m)^\| ` + name + ` \| ([\d,]+) (?:\| ([\d,]+) )?\|`).FindStringSubmatch(document)
				if row == nil {
					t.Errorf("docs/scaling.md has no row %q; measured with a token of kind %s: %.0f bytes", name, kind, size)
					continue
				}
				stated := must(strconv.ParseFloat(strings.ReplaceAll(cmp.Or(row[1+i], row[1]), ",", ""), 64))(t)
				t.Logf("%s, %s token: %.0f bytes", name, kind, size)
				if stated < 0.9*size || stated > 1.1*size {
					t.Errorf("docs/scaling.md states %q with %.0f bytes (%s token); measured: %.0f", name, stated, kind, size)
				}
			}
		})
	}
}

// measure returns the bytes of one certificate by the rows of the document.
func measure(t *testing.T, kind string) map[string]float64 {
	f := &fleet{World: must(testworld.New(t.TempDir()))(t), t: t}
	t.Cleanup(f.Close)
	if kind == "CI" {
		path := filepath.Join(f.Dir, "issuers.yaml")
		issuers := strings.Replace(string(must(os.ReadFile(path))(t)), "type: email", "type: ci-provider\n    ci-provider: github-workflow", 1)
		f.must(os.WriteFile(path, []byte(issuers), 0o600))
	}
	f.startLogs()
	toLog := count(t, f.logs[0].address())
	f.logs[0].url = strings.Replace(f.logs[0].url, f.logs[0].address(), toLog.address, 1)
	s := f.newServer("server", "mayfly.yaml")
	s.own = true
	f.use(s)
	s.start(f)
	toServer := count(t, s.http)
	c := must(client.New(client.Config{URL: "http://" + toServer.address}))(t)
	token := must(f.Provider.Mint(claims[kind]))(t)
	const n = 40
	request := func() {
		key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
		must(c.SigningCertificate(t.Context(), client.Request{IDToken: token, Signer: key}))(t)
	}
	request() // also opens the connections
	sizes := func() map[string]int64 {
		return map[string]int64{
			"request": toServer.sent.Load(), "answer": toServer.received.Load(),
			"submission to a log": toLog.sent.Load(), "answer of a log": toLog.received.Load(),
			"audit log": size(t, filepath.Join(s.dir, "audit")), "log of the process": size(t, s.log),
		}
	}
	before := sizes()
	for range n {
		request()
	}
	all := map[string]float64{"entry of the log": f.entrySize()}
	var trusted struct{ CTLogs, CertificateAuthorities []json.RawMessage }
	f.must(json.Unmarshal(must(get(t.Context(), "http://"+s.http+"/trusted_root.json"))(t), &trusted))
	all["authority"], all["log"] = float64(len(trusted.CertificateAuthorities[0])), float64(len(trusted.CTLogs[0]))
	for name, after := range sizes() {
		all[name] = float64(after-before[name]) / n
	}
	return all
}

// entrySize returns the mean size of an entry in the log's data tiles and its share of the tiles with hashes.
func (f *fleet) entrySize() float64 {
	f.t.Helper()
	key := must(ctlog.ParsePublicKey(f.logs[0].key))(f.t)
	var entries []*reader.Entry
	f.await("entries in the log", func() bool {
		source, _, err := reader.Open(f.t.Context(), reader.Config{URL: f.logs[0].reads, Key: key})
		f.must(err)
		if source.Head.Size > 0 {
			entries = must(source.Read(f.t.Context(), 0, source.Head.Size))(f.t)
		}
		return len(entries) > 0
	})
	sum := 0
	for _, entry := range entries {
		sum += entry.Size
	}
	return float64(sum)/float64(len(entries)) + 32*256/255.
}

// size returns the size of a file, or of the files in a folder.
func size(t *testing.T, path string) (sum int64) {
	t.Helper()
	err := filepath.Walk(path, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
		return err
	})
	if err != nil || sum == 0 {
		t.Fatal(fmt.Errorf("%s has %d bytes: %w", path, sum, err))
	}
	return sum
}
