// SPDX-License-Identifier: Apache-2.0

package kms_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// The hosts of the services.
const (
	awsHost     = "kms.eu-north-1.amazonaws.com"
	azureHost   = "mayfly.vault.azure.net"
	azureLogin  = "login.microsoftonline.com"
	googleHost  = "cloudkms.googleapis.com"
	otherRegion = "kms.us-east-1.amazonaws.com"
)

// internet holds all hosts of the tests, behind a proxy: the services' clients read HTTPS_PROXY and
// SSL_CERT_FILE once in a process. No request leaves this machine.
var internet struct {
	server *httptest.Server // TLS for every host

	mu    sync.Mutex // guards the fields below
	hosts map[string]http.Handler
	conns map[net.Conn]string // to their hosts
	down  map[string]bool     // hosts
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "kms")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := start(dir); err != nil {
		panic(err)
	}
	m.Run()
}

func start(dir string) error {
	for _, variable := range os.Environ() { // the user's own credentials
		name, _, _ := strings.Cut(variable, "=")
		for _, prefix := range []string{"AWS_", "AZURE_", "GOOGLE_", "GCE_", "CLOUDSDK_", "VAULT_", "BAO_", "NO_PROXY", "no_proxy", "https_proxy", "http_proxy"} {
			if strings.HasPrefix(name, prefix) {
				_ = os.Unsetenv(name)
			}
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "every host"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, DNSNames: []string{awsHost, azureHost, azureLogin, googleHost, otherRegion},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	internet.hosts, internet.conns, internet.down = map[string]http.Handler{}, map[net.Conn]string{}, map[string]bool{}
	internet.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		internet.mu.Lock()
		host := internet.hosts[strings.TrimSuffix(r.Host, ":443")]
		internet.mu.Unlock()
		if host == nil {
			host = http.NotFoundHandler()
		}
		host.ServeHTTP(w, r)
	}))
	internet.server.EnableHTTP2 = true
	internet.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	internet.server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	internet.server.StartTLS()
	proxy := httptest.NewServer(http.HandlerFunc(tunnel)).URL
	file := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(file, pem.Encode("CERTIFICATE", der), 0o600); err != nil {
		return err
	}
	credentials, err := googleCredentials(dir)
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "HOME": dir, "SSL_CERT_FILE": file, "SSL_CERT_DIR": filepath.Join(dir, "none"),
		"AWS_ACCESS_KEY_ID": awsAccess, "AWS_SECRET_ACCESS_KEY": awsSecret, "AWS_EC2_METADATA_DISABLED": "true",
		"AZURE_TENANT_ID": azureTenant, "AZURE_CLIENT_ID": "client", "AZURE_CLIENT_SECRET": azureSecret,
		"AZURE_TOKEN_CREDENTIALS":        "EnvironmentCredential", // the others are a virtual machine's, and programs
		"GOOGLE_APPLICATION_CREDENTIALS": credentials,
	} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return nil
}

// tunnel serves CONNECT. Every connection leads to internet.server.
func tunnel(w http.ResponseWriter, r *http.Request) {
	near, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = near.Close() }()
	host := strings.TrimSuffix(r.Host, ":443")
	internet.mu.Lock()
	down := internet.down[host]
	internet.conns[near] = host
	internet.mu.Unlock()
	if down || r.Method != http.MethodConnect {
		return
	}
	far, err := net.Dial("tcp", internet.server.Listener.Addr().String())
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	_, _ = io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		_, _ = io.Copy(far, near)
		_ = far.Close()
	}()
	_, _ = io.Copy(near, far)
}

// disconnect lets no client reach host until the caller calls mend.
func disconnect(host string) (mend func()) {
	internet.mu.Lock()
	defer internet.mu.Unlock()
	internet.down[host] = true
	for conn, to := range internet.conns {
		if to == host {
			_ = conn.Close()
			delete(internet.conns, conn)
		}
	}
	return func() {
		internet.mu.Lock()
		defer internet.mu.Unlock()
		delete(internet.down, host)
	}
}

// serve serves host until the test ends.
func serve(t *testing.T, host string, handler http.Handler) {
	set := func(handler http.Handler) {
		internet.mu.Lock()
		defer internet.mu.Unlock()
		internet.hosts[host] = handler
	}
	set(handler)
	t.Cleanup(func() { set(nil) })
}

// switchable is a service whose answers can be replaced.
type switchable struct {
	answer http.Handler

	mu      sync.Mutex
	instead http.HandlerFunc
}

func (s *switchable) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	instead := s.instead
	s.mu.Unlock()
	if instead == nil {
		instead = s.answer.ServeHTTP
	}
	instead(w, r)
}

func (s *switchable) Instead(answer http.HandlerFunc) (mend func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instead = answer
	return func() { s.Instead(nil) }
}

// answer returns a handler that gives every request the status, or its equivalent in gRPC.
func answer(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			refuseGRPC(w, map[int]string{403: "7", 503: "14"}[status])
			return
		}
		w.Header().Set("Retry-After", "1")
		http.Error(w, `{"errors": ["a fault"]}`, status)
	}
}

// faults are the faults of every service.
func (p place) faults() []signertest.Fault {
	fault := func(name, want string, begin func() (mend func())) signertest.Fault {
		return signertest.Fault{Name: name, Transient: true, Silent: name == "hangs", Wants: []string{want}, Begin: func(*testing.T) func() { return begin() }}
	}
	return []signertest.Fault{
		fault("503", "kms.uri", func() func() { return p.instead(answer(503)) }),
		fault("down", "kms.uri", p.down),
		fault("hangs", "there was no answer in time", func() func() {
			over := make(chan struct{})
			mend := p.instead(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // otherwise the server does not see that the client goes
				select {
				case <-over:
				case <-r.Context().Done():
				}
			})
			return func() {
				mend()
				close(over)
			}
		}),
	}
}
