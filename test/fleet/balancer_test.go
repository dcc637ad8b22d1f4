// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// balancer is a load balancer in this process. It asks each replica whether it is ready, and sends a request
// whose connection fails, or that a replica does not answer, to the next one.
type balancer struct {
	replicas []*server
	ready    []atomic.Bool
	turn     atomic.Int64
	probed   atomic.Int64 // when the last complete round of probes began, in nanoseconds of Unix time
	clients  *http.Transport
}

// startBalancer returns the URL of a balancer until the test ends.
func startBalancer(t *testing.T, replicas []*server) (string, *balancer) {
	b := &balancer{replicas: replicas, ready: make([]atomic.Bool, len(replicas)), clients: &http.Transport{ResponseHeaderTimeout: 3 * time.Second}}
	end := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			b.probe()
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	})
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) { p.SetXForwarded() }, Transport: b, ErrorLog: log.New(io.Discard, "", 0),
	})
	t.Cleanup(func() {
		proxy.Close()
		close(end)
		running.Wait()
	})
	return proxy.URL, b
}

// probe asks all replicas.
func (b *balancer) probe() {
	begin := time.Now()
	var all sync.WaitGroup
	for i, replica := range b.replicas {
		all.Go(func() { b.ready[i].Store(ready(replica.http)) })
	}
	all.Wait()
	b.probed.Store(begin.UnixNano())
}

// RoundTrip sends the request to a replica that is ready, and to the next one if there is no answer.
func (b *balancer) RoundTrip(request *http.Request) (*http.Response, error) {
	var body []byte
	var err error
	if request.Body != nil {
		if body, err = io.ReadAll(request.Body); err != nil {
			return nil, err
		}
	}
	err = errors.New("no replica is ready")
	turn := int(b.turn.Add(1))
	for i := range b.replicas {
		n := (turn + i) % len(b.replicas)
		if !b.ready[n].Load() {
			continue
		}
		again := request.Clone(request.Context())
		again.URL.Scheme, again.URL.Host, again.Body = "http", b.replicas[n].http, io.NopCloser(bytes.NewReader(body))
		var response *http.Response
		if response, err = b.clients.RoundTrip(again); err != nil {
			continue
		}
		answer, errBody := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err = errBody; err == nil {
			response.Body = io.NopCloser(bytes.NewReader(answer))
			return response, nil
		}
	}
	return nil, err
}

// startHAProxy runs HAProxy with the example's configuration, and returns its URL and the root of its
// certificate.
func startHAProxy(t *testing.T, dir, program string, replicas []*server) (string, *x509.CertPool) {
	t.Helper()
	program = must(testworld.Executable("HAPROXY", program))(t)
	address := must(testworld.FreeAddresses("127.7.1.1", 1))(t)[0]
	certificate := filepath.Join(dir, "haproxy.pem")
	roots := newTLS(t, certificate, "127.7.1.1")
	text := string(must(os.ReadFile(filepath.Join("..", "..", "deploy", "examples", "three-replicas", "haproxy.cfg")))(t))
	replacements := []string{"bind :443 ssl", "bind " + address + " ssl", "/etc/haproxy/ca.example.pem", certificate}
	for i, replica := range replicas {
		replacements = append(replacements, "ca-"+string(rune('a'+i))+".internal:5555", replica.http)
	}
	for i := 0; i < len(replacements); i += 2 {
		if !strings.Contains(text, replacements[i]) {
			t.Fatalf("haproxy.cfg holds no %q", replacements[i])
		}
	}
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(strings.NewReplacer(replacements...).Replace(text)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-db", "-f", file)
	libraries, _ := filepath.Glob(filepath.Join(filepath.Dir(program), "..", "lib", "*-linux-gnu"))
	cmd.Env = []string{"LD_LIBRARY_PATH=" + strings.Join(libraries, ":")} // of an unpacked package
	start(t, filepath.Join(dir, "haproxy.log"), cmd)
	return "https://" + address, roots
}

// newTLS writes a key and its certificate for the address host.
func newTLS(t *testing.T, file, host string) *x509.CertPool {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(host)}, IsCA: true, BasicConstraintsValid: true,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))(t)
	private := must(x509.MarshalPKCS8PrivateKey(key))(t)
	if err := os.WriteFile(file, append(pem.Encode("CERTIFICATE", der), pem.Encode("PRIVATE KEY", private)...), 0o600); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(must(x509.ParseCertificate(der))(t))
	return roots
}
