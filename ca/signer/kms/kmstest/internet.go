// SPDX-License-Identifier: Apache-2.0

package kmstest

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
)

// These environment variables pass to a test what Main has created.
const (
	dirVariable  = "MAYFLY_KMSTEST_DIR"
	portVariable = "HTTPS_PROXY" // the variable that the clients read
)

// Main runs the tests of a package in an environment where every host is reached through a
// proxy that NewInternet starts, and where only its certificates are trusted. Call it from
// TestMain, since clients read such variables once in a process. It removes the user's own
// credentials, and no request leaves this machine.
func Main(m *testing.M) {
	dir, err := os.MkdirTemp("", "kmstest")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := enter(dir); err != nil {
		panic(err)
	}
	m.Run()
}

func enter(dir string) error {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		for _, prefix := range []string{"AWS_", "AZURE_", "GOOGLE_", "GCE_", "CLOUDSDK_", "VAULT_", "BAO_", "NO_PROXY", "no_proxy", "https_proxy", "http_proxy"} {
			if strings.HasPrefix(name, prefix) {
				if err := os.Unsetenv(name); err != nil {
					return err
				}
			}
		}
	}
	if err := makeAuthority(dir); err != nil {
		return fmt.Errorf("making an authority: %w", err)
	}
	// The port is free from now on; NewInternet waits if another process takes it for a moment.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	proxy := "http://" + listener.Addr().String()
	environment := map[string]string{
		dirVariable: dir, portVariable: proxy, "HTTP_PROXY": proxy, "HOME": dir,
		"SSL_CERT_FILE": filepath.Join(dir, "ca.pem"), "SSL_CERT_DIR": filepath.Join(dir, "none"),
	}
	for name, value := range environment {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return listener.Close()
}

// makeAuthority writes a certificate authority to dir.
func makeAuthority(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kmstest"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(dir, "ca-key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600),
	)
}

// Internet holds all hosts of a test, behind a proxy.
type Internet struct {
	t         *testing.T
	authority tls.Certificate
	address   string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]struct{}
	hosts    map[string]*hostListener
	running  sync.WaitGroup
}

// NewInternet starts the internet of a test in a package with Main as its TestMain. Only one runs
// at a time.
func NewInternet(t *testing.T) *Internet {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("SSL_CERT_FILE is not what counts on this system")
	}
	dir := os.Getenv(dirVariable)
	authority, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca-key.pem"))
	if err != nil {
		t.Fatalf("is TestMain kmstest.Main? %v", err)
	}
	n := &Internet{t: t, authority: authority, address: strings.TrimPrefix(os.Getenv(portVariable), "http://"), conns: map[net.Conn]struct{}{}, hosts: map[string]*hostListener{}}
	n.up()
	t.Cleanup(n.down)
	return n
}

// Down is the fault of an unreachable network.
func (n *Internet) Down(wants ...string) signertest.Fault {
	begin := func(*testing.T) func() {
		n.down()
		return n.up
	}
	return signertest.Fault{Name: "down", Begin: begin, Transient: true, Wants: wants}
}

func (n *Internet) up() {
	n.t.Helper()
	listener := listen(n.t, n.address)
	n.mu.Lock()
	n.listener = listener
	n.mu.Unlock()
	n.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			n.mu.Lock()
			n.conns[conn] = struct{}{}
			n.mu.Unlock()
			n.running.Go(func() { n.proxy(conn) })
		}
	})
}

func (n *Internet) down() {
	n.mu.Lock()
	err := n.listener.Close()
	n.mu.Unlock()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		n.t.Error(err)
	}
	n.mu.Lock()
	for conn := range n.conns {
		_ = conn.Close()
	}
	clear(n.conns)
	n.mu.Unlock()
	n.running.Wait()
}

// proxy hands conn to the host that its CONNECT names. An unknown host is an error of the test,
// since the client would call that host in production too.
func (n *Internet) proxy(conn net.Conn) {
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		_ = conn.Close()
		return
	}
	n.mu.Lock()
	host := n.hosts[strings.TrimSuffix(request.Host, ":443")]
	n.mu.Unlock()
	if host == nil || request.Method != http.MethodConnect {
		n.t.Errorf("somebody asks for %s %s", request.Method, request.Host)
		_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		_ = conn.Close()
		return
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	select {
	case host.conns <- conn:
	case <-host.closed:
		_ = conn.Close()
	}
}

// Listen returns the listener for connections to host, and the host's certificate.
func (n *Internet) Listen(host string) (net.Listener, *tls.Config) {
	n.t.Helper()
	l := &hostListener{name: host, conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	n.hosts[host] = l
	n.mu.Unlock()
	issuer, err := x509.ParseCertificate(n.authority.Certificate[0])
	if err != nil {
		n.t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		n.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{host}, NotBefore: issuer.NotBefore, NotAfter: issuer.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), n.authority.PrivateKey)
	if err != nil {
		n.t.Fatal(err)
	}
	return l, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// Serve serves handler as host until the test ends.
func (n *Internet) Serve(host string, handler http.Handler) {
	n.t.Helper()
	listener, cfg := n.Listen(host)
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(tls.NewListener(listener, cfg)) }()
	n.t.Cleanup(func() { _ = server.Close() })
}

// hostListener accepts the connections to a host.
type hostListener struct {
	name   string
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *hostListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *hostListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *hostListener) Addr() net.Addr { return hostAddr(l.name) }

type hostAddr string

func (hostAddr) Network() string  { return "tcp" }
func (a hostAddr) String() string { return string(a) + ":443" }
