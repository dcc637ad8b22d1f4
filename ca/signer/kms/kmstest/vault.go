// SPDX-License-Identifier: Apache-2.0

package kmstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer/signertest"
)

// Vault is a Vault with a transit engine at "transit". It is also an http.Handler.
type Vault struct {
	service
	t       *testing.T
	token   string
	server  *httptest.Server
	handle  http.Handler
	keys    map[string][]crypto.Signer // guarded by mu
	address string
}

// NewVault starts a Vault on loopback, which stops when the test ends.
func NewVault(t *testing.T) *Vault {
	t.Helper()
	v := &Vault{t: t, token: "hvs." + rand.Text(), keys: map[string][]crypto.Signer{}, address: "127.0.0.1:0"}
	v.handle = v.service.handler(v.answer, refuseVault)
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
	listener := listen(v.t, v.address)
	v.address = listener.Addr().String()
	v.server = &httptest.Server{Listener: listener, Config: &http.Server{Handler: v, ReadHeaderTimeout: time.Minute}}
	v.server.Start()
}

// listen listens on address. It retries, since another process may hold address for a moment.
func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	var listener net.Listener
	signertest.Await(t, "listening on "+address, func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	return listener
}

// Down is the fault of a Vault that is stopped.
func (v *Vault) Down(wants ...string) signertest.Fault {
	begin := func(*testing.T) func() {
		v.Stop()
		return v.Start
	}
	return signertest.Fault{Name: "down", Begin: begin, Transient: true, Wants: wants}
}

// ServeHTTP implements http.Handler.
func (v *Vault) ServeHTTP(w http.ResponseWriter, r *http.Request) { v.handle.ServeHTTP(w, r) }

func refuseVault(w http.ResponseWriter, err *refusal) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(err.status)
	errs := []string{err.message}
	if err.status == http.StatusNotFound {
		errs = []string{}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": errs})
}

func (v *Vault) answer(r *http.Request, body []byte) ([]byte, error) {
	v.mu.Lock()
	token := v.token
	v.mu.Unlock()
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	switch {
	case r.Header.Get("X-Vault-Request") != "true":
		return nil, &refusal{http.StatusPreconditionFailed, "", "required 'X-Vault-Request' header is missing"}
	case r.Header.Get("X-Vault-Token") != token:
		return nil, &refusal{http.StatusForbidden, "", "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"}
	case !ok:
		return nil, &refusal{http.StatusNotFound, "", ""}
	}
	var data any
	var err error
	if name, ok := strings.CutPrefix(path, "transit/keys/"); ok && r.Method == http.MethodGet {
		data, err = v.read(name)
	} else if rest, ok := strings.CutPrefix(path, "transit/sign/"); ok && (r.Method == http.MethodPut || r.Method == http.MethodPost) {
		name, hash, _ := strings.Cut(rest, "/")
		data, err = v.signTransit(name, hash, body)
	} else {
		err = &refusal{http.StatusNotFound, "", ""}
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{
		"request_id": rand.Text(), "lease_id": "", "renewable": false, "lease_duration": 0, "data": data,
		"wrap_info": nil, "warnings": nil, "auth": nil, "mount_type": "transit",
	})
}

// versions returns the versions of a key, numbered from 1.
func (v *Vault) versions(name string) []crypto.Signer {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.keys[name]
}

// read answers https://developer.hashicorp.com/vault/api-docs/secret/transit#read-key.
func (v *Vault) read(name string) (any, error) {
	versions := v.versions(name)
	if len(versions) == 0 {
		return nil, &refusal{http.StatusNotFound, "", ""}
	}
	keys := map[string]any{}
	var kind string
	for i, key := range versions {
		var name string
		kind, name = transitType(key.Public())
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, err
		}
		keys[strconv.Itoa(i+1)] = map[string]any{
			"name": name, "creation_time": "2026-01-01T00:00:00Z", "certificate_chain": "",
			"public_key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		}
	}
	return map[string]any{
		"type": kind, "name": name, "keys": keys, "latest_version": len(versions),
		"min_available_version": 0, "min_decryption_version": 1, "min_encryption_version": 0,
		"deletion_allowed": false, "exportable": false, "supports_signing": true,
	}, nil
}

func transitType(public crypto.PublicKey) (kind, name string) {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		return fmt.Sprintf("ecdsa-p%d", public.Params().BitSize), public.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa-%d", public.N.BitLen()), fmt.Sprintf("rsa-%d", public.N.BitLen())
	default:
		return "ed25519", "ed25519"
	}
}

// signTransit answers https://developer.hashicorp.com/vault/api-docs/secret/transit#sign-data.
func (v *Vault) signTransit(name, hash string, body []byte) (any, error) {
	request := struct {
		Input              []byte
		Prehashed          bool
		KeyVersion         json.Number `json:"key_version"` // a number, or one as a string
		SignatureAlgorithm string      `json:"signature_algorithm"`
	}{KeyVersion: "0"}
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, err
	}
	hashes := map[string]crypto.Hash{"sha2-256": crypto.SHA256, "sha2-384": crypto.SHA384, "sha2-512": crypto.SHA512}
	versions := v.versions(name)
	number, err := strconv.Atoi(request.KeyVersion.String())
	if number == 0 {
		number = len(versions)
	}
	switch {
	case err != nil:
		return nil, err
	case len(versions) == 0:
		return nil, &refusal{http.StatusBadRequest, "", "signing key not found"}
	case number > len(versions):
		return nil, &refusal{http.StatusBadRequest, "", "requested version for signing is higher than the latest key version"}
	case !request.Prehashed || hashes[hash] == 0:
		return nil, &refusal{http.StatusBadRequest, "", "a digest is wanted, and its hash"}
	}
	signature, err := v.sign(versions[number-1], request.Input, hashes[hash], request.SignatureAlgorithm != "pkcs1v15")
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"signature": fmt.Sprintf("vault:v%d:%s", number, base64.StdEncoding.EncodeToString(signature)), "key_version": number,
	}, nil
}
