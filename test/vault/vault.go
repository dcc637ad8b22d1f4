// SPDX-License-Identifier: Apache-2.0

// Package vault is a HashiCorp Vault on loopback, with the part of its transit engine that signs.
//
// Only tests import it.
package vault

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/internal/pem"
)

// Vault is a Vault with a transit engine at "transit". It is also an http.Handler.
type Vault struct {
	t       testing.TB
	server  *httptest.Server
	address string

	mu      sync.Mutex // guards the fields below
	token   string
	keys    map[string][]crypto.Signer
	instead http.HandlerFunc
}

// New starts a Vault, which stops when the test ends.
func New(t testing.TB) *Vault {
	t.Helper()
	v := &Vault{t: t, keys: map[string][]crypto.Signer{}, address: "127.0.0.1:0"}
	v.ReplaceToken()
	v.Start()
	t.Cleanup(v.Stop)
	return v
}

// URL is the Vault's address.
func (v *Vault) URL() string { return "http://" + v.address }

// Token returns a token that may use every key.
func (v *Vault) Token() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.token
}

// ReplaceToken revokes the token and returns a new one.
func (v *Vault) ReplaceToken() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.token = "hvs." + rand.Text()
	return v.token
}

// Add adds key as the newest version of the key name, and returns the version's number.
func (v *Vault) Add(name string, key crypto.Signer) (version uint) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keys[name] = append(v.keys[name], key)
	return uint(len(v.keys[name]))
}

// Instead makes answer serve all requests until the caller calls mend.
func (v *Vault) Instead(answer http.HandlerFunc) (mend func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.instead = answer
	return func() { v.Instead(nil) }
}

// Stop stops the Vault: connections to it are refused.
func (v *Vault) Stop() {
	if v.server != nil {
		v.server.CloseClientConnections()
		v.server.Close()
		v.server = nil
	}
}

// Start starts the Vault again, at the same address.
func (v *Vault) Start() {
	v.t.Helper()
	listener, err := net.Listen("tcp", v.address)
	for range 200 { // while another process has the address
		if err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
		listener, err = net.Listen("tcp", v.address)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	v.address = listener.Addr().String()
	v.server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: v, ReadHeaderTimeout: time.Minute}}
	v.server.Start()
}

// ServeHTTP implements http.Handler.
func (v *Vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := append(strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/"), "", "")
	v.mu.Lock()
	instead, token, versions := v.instead, v.token, v.keys[path[1]]
	v.mu.Unlock()
	var data any
	status, err := http.StatusNotFound, errors.New("there is nothing at this path")
	switch {
	case instead != nil:
		instead(w, r)
		return
	case r.Header.Get("X-Vault-Request") != "true" || r.Header.Get("X-Vault-Token") != token:
		status, err = http.StatusForbidden, errors.New("permission denied\n\t* invalid token")
	case versions != nil && path[0] == "keys" && r.Method == http.MethodGet:
		status = http.StatusBadRequest
		data, err = read(versions)
	case versions != nil && path[0] == "sign" && r.Method == http.MethodPut:
		status = http.StatusBadRequest
		data, err = sign(versions, path[2], r)
	}
	answer := map[string]any{"data": data}
	if err != nil {
		w.WriteHeader(status)
		answer = map[string]any{"errors": []string{err.Error()}}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// read answers https://developer.hashicorp.com/vault/api-docs/secret/transit#read-key.
func read(versions []crypto.Signer) (any, error) {
	keys := map[string]any{}
	for i, key := range versions {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, err
		}
		keys[fmt.Sprint(i+1)] = map[string]string{"public_key": string(pem.Encode("PUBLIC KEY", der))}
	}
	return map[string]any{"type": "some", "keys": keys}, nil
}

// sign answers https://developer.hashicorp.com/vault/api-docs/secret/transit#sign-data.
func sign(versions []crypto.Signer, hash string, r *http.Request) (any, error) {
	var request struct {
		Input              []byte
		Prehashed          bool
		KeyVersion         int    `json:"key_version"`
		SignatureAlgorithm string `json:"signature_algorithm"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		return nil, err
	}
	var opts crypto.SignerOpts = map[string]crypto.Hash{"sha2-256": crypto.SHA256, "sha2-384": crypto.SHA384, "sha2-512": crypto.SHA512}[hash]
	if n := request.KeyVersion; n < 1 || n > len(versions) || !request.Prehashed || len(request.Input) != opts.HashFunc().Size() {
		return nil, fmt.Errorf("version %d of %d, a digest: %t", n, len(versions), request.Prehashed)
	}
	if request.SignatureAlgorithm != "pkcs1v15" {
		opts = &rsa.PSSOptions{Hash: opts.HashFunc()}
	}
	signature, err := versions[request.KeyVersion-1].Sign(rand.Reader, request.Input, opts)
	return map[string]string{"signature": fmt.Sprintf("vault:v%d:%s", request.KeyVersion, base64.StdEncoding.EncodeToString(signature))}, err
}
