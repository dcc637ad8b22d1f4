// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mayfly-ca/mayfly/internal/client"
	mayflypem "github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// replicas is a load balancer in front of the replicas a and b of deploy/examples/two-replicas, and
// clients that use it.
type replicas struct {
	url       string
	addresses map[string]string
	turn      atomic.Int64

	logs    map[string][]byte // the keys of trusted_root.json, PEM, by the log's name
	clients sync.WaitGroup
	stop    context.CancelFunc

	mu     sync.Mutex
	issued map[string]int // by the log of the SCT
	failed []error
}

// recipe copies the files of deploy/examples/two-replicas to $WORK/a and $WORK/b, with the CA and the
// issuers of the world, as docs/ha.md says. $LB is the load balancer.
func recipe(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: recipe EXAMPLE")
	}
	r := ts.Value("replicas").(*replicas)
	r.addresses = map[string]string{"a": ts.Getenv("REST"), "b": ts.Getenv("OTHER")}
	balancer := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) { p.SetXForwarded() }, Transport: r, ErrorLog: log.New(io.Discard, "", 0),
	})
	ts.Defer(balancer.Close)
	r.url = balancer.URL
	ts.Setenv("LB", r.url)
	for name := range r.addresses {
		ts.Check(os.Mkdir(ts.MkAbs(name), 0o700))
		ts.Check(ts.Exec("cp", "-rp", "world/ca", name+"/ca"))
		for from, to := range map[string]string{filepath.Join(args[0], "mayfly-"+name+".yaml"): "mayfly.yaml", "world/issuers.yaml": "issuers.yaml", "submit.token": "submit.token"} {
			content := strings.ReplaceAll(ts.ReadFile(from), "https://ca.example", r.url)
			ts.Check(os.WriteFile(ts.MkAbs(name+"/"+to), []byte(content), 0o600))
		}
	}
}

// RoundTrip sends a log's requests to its replica, and any other to one that is ready; to the next if
// the connection fails.
func (r *replicas) RoundTrip(request *http.Request) (*http.Response, error) {
	var body []byte
	var err error
	if request.Body != nil {
		if body, err = io.ReadAll(request.Body); err != nil {
			return nil, err
		}
	}
	send := func(replica string) (*http.Response, error) {
		again := request.Clone(request.Context())
		again.URL.Scheme, again.URL.Host, again.Body = "http", r.addresses[replica], io.NopCloser(bytes.NewReader(body))
		response, err := http.DefaultTransport.RoundTrip(again)
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(response.Body)
		response.Body = io.NopCloser(bytes.NewReader(content))
		return response, errors.Join(err, again.Body.Close())
	}
	if name, found := strings.CutPrefix(request.URL.Path, "/ctlog/2026"); found {
		return send(name[:1])
	}
	err = errors.New("no replica is ready")
	turn := r.turn.Add(1)
	for i := range int64(2) {
		replica := string("ab"[(turn+i)%2])
		if status, _ := get("http://" + r.addresses[replica] + "/readyz"); status != http.StatusOK {
			continue
		}
		var response *http.Response
		if response, err = send(replica); err == nil {
			return response, nil
		}
	}
	return nil, err
}

// clients starts clients (start), waits until a log has given five more SCTs (await LOG), or stops the
// clients and requires that every request got a certificate (stop).
func clients(ts *testscript.TestScript, _ bool, args []string) {
	r := ts.Value("replicas").(*replicas)
	switch {
	case len(args) == 1 && args[0] == "start":
		r.start(ts)
	case len(args) == 2 && args[0] == "await":
		from := r.certificates(args[1])
		poll(ts, args[1]+" gives no SCT", func() bool { return r.certificates(args[1]) >= from+5 })
	case len(args) == 1 && args[0] == "stop":
		r.stop()
		r.clients.Wait()
		if r.failed != nil {
			ts.Fatalf("%d requests got no certificate, %v did: %v", len(r.failed), r.issued, r.failed[0])
		}
		ts.Logf("certificates: %v", r.issued)
	default:
		ts.Fatalf("usage: clients start, clients await LOG, clients stop")
	}
}

func (r *replicas) certificates(log string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.issued[log]
}

func (r *replicas) start(ts *testscript.TestScript) {
	var root struct {
		CTLogs []struct {
			BaseURL   string
			PublicKey struct{ RawBytes []byte }
		}
	}
	_, text := get(r.url + "/trusted_root.json")
	ts.Check(json.Unmarshal([]byte(text), &root))
	r.logs, r.issued = map[string][]byte{}, map[string]int{}
	for _, log := range root.CTLogs {
		r.logs[strings.TrimPrefix(log.BaseURL, r.url+"/ctlog/")] = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: log.PublicKey.RawBytes})
	}
	token := strings.TrimSpace(ts.ReadFile("world/token"))
	c, err := client.New(client.Config{URL: r.url})
	ts.Check(err)
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	ts.Defer(stop)
	for range 2 {
		r.clients.Go(func() {
			for ctx.Err() == nil {
				log, err := r.request(c, token)
				r.mu.Lock()
				if err == nil {
					r.issued[log]++
				} else {
					r.failed = append(r.failed, err)
				}
				r.mu.Unlock()
			}
		})
	}
}

// request returns the log of trusted_root.json whose SCT a new certificate has.
func (r *replicas) request(c *client.Client, token string) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	answer, err := c.SigningCertificate(context.Background(), client.Request{IDToken: token, Signer: key})
	if err != nil {
		return "", err
	}
	certificates, err := mayflypem.Certificates([]byte(strings.Join(answer.PEM, "\n")))
	if err != nil {
		return "", err
	}
	var chain [][]byte
	for _, c := range certificates {
		chain = append(chain, c.Raw)
	}
	for name, public := range r.logs {
		if testlog.VerifySCT(public, chain) == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("the SCT is of no log of trusted_root.json, which has %d", len(r.logs))
}
