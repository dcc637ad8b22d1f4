// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// writeTLS replaces cert.pem and key.pem in dir by a new pair, each by a rename, and
// returns a pool that trusts it.
func writeTLS(t *testing.T, dir string, serial int64) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: "localhost"},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(must(x509.ParseCertificate(der))(t))
	return pool
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// serve runs the world's server until the test ends, and returns the address of its HTTP
// listener.
func serve(t *testing.T, w *testworld.World, environ ...string) string {
	t.Helper()
	built, err := app.Build(t.Context(), app.Options{ConfigFile: w.ConfigFile, Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	listeners, err := built.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- built.Run(ctx, listeners) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return listeners.HTTP.Addr().String()
}

func newWorld(t *testing.T) *testworld.World {
	t.Helper()
	w, err := testworld.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func build(t *testing.T, w *testworld.World) (*app.App, error) {
	t.Helper()
	return app.Build(t.Context(), app.Options{ConfigFile: w.ConfigFile})
}

// serialAt is the serial number of the certificate that address presents.
func serialAt(t *testing.T, address string, config *tls.Config) int64 {
	t.Helper()
	connection, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	return connection.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// One port serves REST and gRPC with TLS. A renewed certificate is used without a restart, and a
// broken one is not.
func TestTLSOnOnePortAndReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pool := writeTLS(t, w.Dir, 1)
	address := serve(t, w,
		"MAYFLY_LISTEN_HTTP=127.0.0.1:0", "MAYFLY_LISTEN_GRPC=127.0.0.1:0",
		"MAYFLY_TLS_CERTIFICATE="+filepath.Join(w.Dir, "cert.pem"), "MAYFLY_TLS_KEY="+filepath.Join(w.Dir, "key.pem"))
	for _, overGRPC := range []bool{false, true} {
		ca, err := client.New(client.Config{URL: "https://" + address, GRPC: overGRPC, RootCAs: pool})
		if err != nil {
			t.Fatal(err)
		}
		chain, err := w.Request(t.Context(), ca, false)
		if err != nil {
			t.Fatalf("gRPC %t: %v", overGRPC, err)
		}
		if err := w.Verify(chain); err != nil {
			t.Errorf("gRPC %t: %v", overGRPC, err)
		}
	}
	if _, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 is accepted, though the default is 1.3")
	}

	writeTLS(t, w.Dir, 2)
	for deadline := time.Now().Add(20 * time.Second); serialAt(t, address, &tls.Config{InsecureSkipVerify: true}) != 2; {
		if time.Now().After(deadline) {
			t.Fatal("the renewed certificate is not served")
		}
	}
	if err := os.WriteFile(filepath.Join(w.Dir, "cert.pem"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); {
		if got := serialAt(t, address, &tls.Config{InsecureSkipVerify: true}); got != 2 {
			t.Fatalf("certificate %d is served after a broken file", got)
		}
	}
}

// Every mistake at a start states its place and the correction.
func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*testing.T, *testworld.World)
		want   string
	}{
		"issuer file is gone": {func(t *testing.T, w *testworld.World) { remove(t, w.Dir, "issuers.yaml") }, "issuers.yaml"},
		"issuer without TLS": {func(t *testing.T, w *testworld.World) {
			edit(t, w, "issuers.yaml", w.Provider.IssuerURL(), "http://issuer.example")
		}, "issuers.yaml:3:17: the issuer URL is http; https is expected"},
		"unknown type": {func(t *testing.T, w *testworld.World) { edit(t, w, "issuers.yaml", "type: email", "type: mail") }, "issuers.yaml:5:11: "},
		"constants": {func(t *testing.T, w *testworld.World) {
			edit(t, w, "issuers.yaml", "type: email", "type: email\n    constants: {a: b}")
		}, "issuers.yaml:6:"},
		"loopback not allowed": {func(t *testing.T, w *testworld.World) {
			edit(t, w, "mayfly.yaml", "oidc: {allow_loopback: true}", "")
		}, "issuers.yaml:3:17: the issuer URL is http"},
		"log key is gone":    {func(t *testing.T, w *testworld.World) { remove(t, w.Dir, "log.pub") }, "mayfly.yaml:8:"},
		"log key of the CA":  {func(t *testing.T, w *testworld.World) { write(t, w, "log.pub", "hello") }, "mayfly.yaml:8:"},
		"log without scheme": {func(t *testing.T, w *testworld.World) { edit(t, w, "mayfly.yaml", w.LogURL, "log.example") }, "mayfly.yaml:8:"},
		"embedded log": {func(t *testing.T, w *testworld.World) {
			edit(t, w, "mayfly.yaml", `{url: "`+w.LogURL+`", public_key: log.pub}`, "{embedded: {name: a, dir: d, guard: g, key: k, origin: o}}")
		}, "mayfly.yaml:8:"},
		"CA set is gone": {func(t *testing.T, w *testworld.World) {
			write(t, w, "mayfly.yaml", "issuers: issuers.yaml\nca: {set: ca/missing.yaml}\nct: {disabled: true}\noidc: {allow_loopback: true}\n")
		}, "mayfly.yaml:2:11: "},
		"key of another certificate": {func(t *testing.T, w *testworld.World) {
			other := newWorld(t)
			for _, name := range []string{"key.pem", "pass"} {
				from := must(filepath.Glob(filepath.Join(other.Dir, "ca", "*-a", name)))(t)
				to := must(filepath.Glob(filepath.Join(w.Dir, "ca", "*-a", name)))(t)
				if err := os.Rename(from[0], to[0]); err != nil {
					t.Fatal(err)
				}
			}
		}, "the key is not the key of the chain's first certificate"},
		"wrong password": {func(t *testing.T, w *testworld.World) {
			pass := must(filepath.Glob(filepath.Join(w.Dir, "ca", "*-a", "pass")))(t)
			if err := os.WriteFile(pass[0], []byte("another"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "mayfly.yaml:5:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			test.change(t, w)
			_, err := build(t, w)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one that says %q", err, test.want)
			}
		})
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, w *testworld.World, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(w.Dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// edit replaces every old in a file, which must contain it.
func edit(t *testing.T, w *testworld.World, name, old, replacement string) {
	t.Helper()
	content := string(must(os.ReadFile(filepath.Join(w.Dir, name)))(t))
	if !strings.Contains(content, old) {
		t.Fatalf("%s does not hold %q", name, old)
	}
	write(t, w, name, strings.ReplaceAll(content, old, replacement))
}

// A port in use is reported before anything is served.
func TestListenTellsATakenPort(t *testing.T) {
	t.Parallel()
	taken := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer taken.Close()
	w := newWorld(t)
	built := must(app.Build(t.Context(), app.Options{ConfigFile: w.ConfigFile, Environ: []string{fmt.Sprintf("MAYFLY_LISTEN_OPS=%s", taken.Addr())}}))(t)
	if _, err := built.Listen(); err == nil || !strings.Contains(err.Error(), "listen.ops") {
		t.Errorf("got error %v, want one that names listen.ops", err)
	}
}

// A signal during the start is no mistake in a file, although no key can sign any more.
func TestServeStopsDuringItsStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := app.Serve(stopped, app.Options{ConfigFile: w.ConfigFile}); err != nil {
		t.Errorf("got error %v, want none", err)
	}
}
