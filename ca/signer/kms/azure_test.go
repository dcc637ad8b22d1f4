// SPDX-License-Identifier: Apache-2.0

package kms_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/kms/azurekms"
)

const azureTenant, azureSecret, azureToken = "11111111-2222-3333-4444-555555555555", "azure-secret", "azure-token"

// azure is a managed HSM with keys by NAME/VERSION.
type azure map[string]crypto.Signer

func azureURI(id string) string { return "azurekms://" + azureHost + "/" + id }

func (a azure) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, signs := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/keys/"), "/sign")
	key := a[path]
	switch {
	case r.Header.Get("Authorization") != "Bearer "+azureToken:
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer authorization="https://%s/%s", resource="https://vault.azure.net"`, azureLogin, azureTenant))
		w.WriteHeader(http.StatusUnauthorized)
		return
	case key == nil:
		http.Error(w, `{"error": {"code": "KeyNotFound"}}`, http.StatusNotFound)
		return
	}
	encode := base64.RawURLEncoding.EncodeToString
	kid := "https://" + azureHost + "/keys/" + path
	if !signs {
		jwk := map[string]any{"kid": kid, "key_ops": []string{"sign", "verify"}}
		switch public := key.Public().(type) {
		case *ecdsa.PublicKey:
			point, _ := public.Bytes()
			size := len(point) / 2
			jwk["kty"], jwk["crv"], jwk["x"], jwk["y"] = "EC-HSM", public.Params().Name, encode(point[1:1+size]), encode(point[1+size:])
		case *rsa.PublicKey:
			jwk["kty"], jwk["n"], jwk["e"] = "RSA-HSM", encode(public.N.Bytes()), encode(big.NewInt(int64(public.E)).Bytes())
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"key": jwk})
		return
	}
	var request struct{ Alg, Value string }
	err := json.NewDecoder(r.Body).Decode(&request)
	digest, err2 := base64.RawURLEncoding.DecodeString(request.Value)
	if err != nil || err2 != nil {
		http.Error(w, "malformed", http.StatusBadRequest)
		return
	}
	signature, err := key.Sign(rand.Reader, digest, map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[request.Alg[2:]])
	if public, ok := key.Public().(*ecdsa.PublicKey); ok && err == nil { // r and s (RFC 7518, section 3.4)
		var numbers struct{ R, S *big.Int }
		_, err = asn1.Unmarshal(signature, &numbers)
		size := (public.Params().BitSize + 7) / 8
		signature = append(numbers.R.FillBytes(make([]byte, size)), numbers.S.FillBytes(make([]byte, size))...)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"kid": kid, "value": encode(signature)})
}

// logIn answers discovery and the client credentials grant (RFC 6749, section 4.4).
func logIn(w http.ResponseWriter, r *http.Request) {
	base := "https://" + azureLogin + "/" + azureTenant
	var answer any
	switch r.URL.Path {
	case "/common/discovery/instance":
		answer = map[string]any{"tenant_discovery_endpoint": base + "/v2.0/.well-known/openid-configuration", "api-version": "1.1",
			"metadata": []any{map[string]any{"preferred_network": azureLogin, "preferred_cache": azureLogin, "aliases": []string{azureLogin}}}}
	case "/" + azureTenant + "/v2.0/.well-known/openid-configuration":
		answer = map[string]string{"issuer": base + "/v2.0", "authorization_endpoint": base + "/oauth2/v2.0/authorize", "token_endpoint": base + "/oauth2/v2.0/token"}
	case "/" + azureTenant + "/oauth2/v2.0/token":
		if r.FormValue("client_secret") == azureSecret {
			answer = map[string]any{"token_type": "Bearer", "expires_in": 3599, "access_token": azureToken}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if answer == nil {
		w.WriteHeader(http.StatusUnauthorized)
		answer = map[string]string{"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func newAzure(t *testing.T) place {
	key := ecdsaKey(t, 256)
	s := &switchable{answer: azure{
		"ca/1": key, "ca/2": ecdsaKey(t, 256), "p384/1": ecdsaKey(t, 384), "p521/1": ecdsaKey(t, 521), "rsa/1": rsaKey(t, 2048), "rsa3072/1": rsaKey(t, 3072),
	}}
	serve(t, azureHost, s)
	serve(t, azureLogin, http.HandlerFunc(logIn))
	return place{
		open: azurekms.Open, uri: azureURI("ca/1"), key: key, instead: s.Instead, down: func() func() { return disconnect(azureHost) }, secrets: []string{azureSecret, azureToken},
		others: []string{azureURI("p384/1"), azureURI("p521/1"), azureURI("rsa/1")},
		mistakes: map[string]string{
			azureURI("none/1"):       "KeyNotFound",
			azureURI("ca/2"):         "it is not the key of the authority's certificate",
			azureURI("rsa/1"):        "an RSA key of 2048 bits",
			azureURI("rsa3072/1"):    "SHA-384",
			azureURI("ca"):           "the version that belongs to the certificate",
			azureURI("ca/"):          "the version that belongs to the certificate",
			"azurekms://mayfly/ca/1": "the whole host",
			"azurekms://ca":          "should be azurekms://",
		},
	}
}

func TestAzure(t *testing.T) {
	t.Parallel()
	p := newAzure(t)
	conform(t, p)
	// Azure's client retries the login by itself, and only the context stops it.
	defer disconnect(azureLogin)()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := p.open(ctx, p.uri); !signer.IsTransient(err) {
		t.Errorf("an outage of the login is permanent: %v", err)
	}
}
