// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-ca/mayfly/test/testlog"
)

// ctlog is a Certificate Transparency log that this process serves.
type ctlog struct {
	*testlog.Log
	url     string
	key     *ecdsa.PublicKey
	keyFile string // key as PEM
}

// startLog starts a log that accepts no root yet.
func startLog(t *testing.T) *ctlog {
	t.Helper()
	log, err := testlog.New(testlog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(log.PublicKeyPEM())
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ctlog.pub")
	if err := os.WriteFile(file, log.PublicKeyPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(log)
	t.Cleanup(server.Close)
	return &ctlog{Log: log, url: server.URL, key: key.(*ecdsa.PublicKey), keyFile: file}
}
