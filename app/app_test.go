// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// writeTLS replaces cert.pem and key.pem in dir by a new pair, each by a rename, and returns a pool
// that trusts it.
func writeTLS(t *testing.T, dir string, serial int64, valid time.Duration) *x509.CertPool {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "localhost"},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))(t)
	for name, text := range map[string][]byte{
		"cert.pem": pem.Encode("CERTIFICATE", der), "key.pem": pem.Encode("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))(t)),
	} {
		file := filepath.Join(dir, name)
		must(0, errors.Join(os.WriteFile(file+".new", text, 0o600), os.Rename(file+".new", file)))(t)
	}
	pool := x509.NewCertPool()
	pool.AddCert(must(x509.ParseCertificate(der))(t))
	return pool
}

// A port in use is reported before anything is served.
func TestListenReportsATakenPort(t *testing.T) {
	t.Parallel()
	taken := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer taken.Close()
	built := must(app.Build(t.Context(), app.Options{ConfigFile: newWorld(t).ConfigFile, Environ: []string{"MAYFLY_LISTEN_OPS=" + taken.Addr().String()}}))(t)
	if _, err := built.Listen(); err == nil || !strings.Contains(err.Error(), "listen.ops") {
		t.Errorf("got error %v, want one that names listen.ops", err)
	}
	if err := built.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A signal during the start is no mistake in a file, although no key can sign any more.
func TestServeStopsDuringItsStart(t *testing.T) {
	t.Parallel()
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := app.Serve(stopped, app.Options{ConfigFile: newWorld(t).ConfigFile}); err != nil {
		t.Errorf("got error %v, want none", err)
	}
}
