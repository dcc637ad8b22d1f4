// SPDX-License-Identifier: Apache-2.0

package kmstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

const (
	azureTenant = "11111111-2222-3333-4444-555555555555"
	azureLogin  = "login.microsoftonline.com"
)

// Azure is one Azure Key Vault with its token endpoint.
type Azure struct {
	service
	// Login is the token endpoint, which has its own troubles.
	Login                 Login
	host                  string
	clientID, secret, jwt string
	keys                  map[string]crypto.Signer // by name and version; guarded by mu
}

// Login is Microsoft's token endpoint.
type Login struct{ service }

// NewAzure serves a vault at host.
func NewAzure(n *Internet, host string) *Azure {
	n.t.Helper()
	a := &Azure{host: host, clientID: rand.Text(), secret: rand.Text(), jwt: rand.Text(), keys: map[string]crypto.Signer{}}
	n.Serve(host, a.service.handler(a.answer, refuseAzure))
	n.Serve(azureLogin, a.Login.service.handler(a.login, refuseLogin))
	return a
}

// Setenv puts the credentials in the environment.
func (a *Azure) Setenv(t *testing.T) {
	t.Helper()
	t.Setenv("AZURE_TENANT_ID", azureTenant)
	t.Setenv("AZURE_CLIENT_ID", a.clientID)
	t.Setenv("AZURE_CLIENT_SECRET", a.secret)
	// Otherwise the client also calls the metadata endpoint of a virtual machine and some programs.
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
}

// Secrets returns the client's secret and the token.
func (a *Azure) Secrets() []string { return []string{a.secret, a.jwt} }

// Add adds key as a version of the key name, and returns its URI.
func (a *Azure) Add(name string, key crypto.Signer) (uri string) {
	version := hex.EncodeToString([]byte(rand.Text()[:16]))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys[name+"/"+version] = key
	return "azurekms://" + a.host + "/" + name + "/" + version
}

func refuseAzure(w http.ResponseWriter, err *refusal) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if err.status == http.StatusUnauthorized {
		_, domain, _ := strings.Cut(err.message, ".")
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer authorization="https://%s/%s", resource="https://%s"`, azureLogin, azureTenant, domain))
	}
	w.WriteHeader(err.status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": err.code, "message": err.message}})
}

func (a *Azure) answer(r *http.Request, body []byte) ([]byte, error) {
	if r.Header.Get("Authorization") != "Bearer "+a.jwt {
		return nil, &refusal{http.StatusUnauthorized, "Unauthorized", a.host}
	}
	path, signs := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/keys/"), "/sign")
	a.mu.Lock()
	key := a.keys[path]
	a.mu.Unlock()
	if key == nil {
		return nil, &refusal{http.StatusNotFound, "KeyNotFound", fmt.Sprintf("A key with (name/id) %s was not found in this key vault.", path)}
	}
	kid := "https://" + a.host + "/keys/" + path
	if !signs {
		return json.Marshal(map[string]any{"key": azureJWK(kid, key.Public()), "attributes": map[string]any{"enabled": true, "created": 1767225600, "updated": 1767225600}})
	}
	var request struct{ Alg, Value string }
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, err
	}
	signature, err := a.signAzure(key, request.Alg, request.Value)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{"kid": kid, "value": base64.RawURLEncoding.EncodeToString(signature)})
}

// azureJWK encodes the key as a managed HSM does.
func azureJWK(kid string, public crypto.PublicKey) map[string]any {
	encode := base64.RawURLEncoding.EncodeToString
	jwk := map[string]any{"kid": kid, "key_ops": []string{"sign", "verify"}}
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			return nil
		}
		size := len(point) / 2
		jwk["kty"], jwk["crv"], jwk["x"], jwk["y"] = "EC-HSM", public.Params().Name, encode(point[1:1+size]), encode(point[1+size:])
	case *rsa.PublicKey:
		jwk["kty"], jwk["n"], jwk["e"] = "RSA-HSM", encode(public.N.Bytes()), encode(big.NewInt(int64(public.E)).Bytes())
	}
	return jwk
}

func (a *Azure) signAzure(key crypto.Signer, algorithm, value string) ([]byte, error) {
	hashes := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}
	digest, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		return nil, err
	}
	signature, err := a.sign(key, digest, hashes[algorithm[2:]], algorithm[0] == 'P')
	if public, ok := key.Public().(*ecdsa.PublicKey); ok && err == nil {
		return rawSignature(signature, (public.Params().BitSize+7)/8)
	}
	return signature, err
}

// rawSignature returns r and s in the form of JWS (RFC 7518, section 3.4).
func rawSignature(der []byte, size int) ([]byte, error) {
	var numbers struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &numbers); err != nil {
		return nil, err
	}
	raw := make([]byte, 2*size)
	numbers.R.FillBytes(raw[:size])
	numbers.S.FillBytes(raw[size:])
	return raw, nil
}

func refuseLogin(w http.ResponseWriter, err *refusal) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(err.status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": err.code, "error_description": err.message})
}

// login answers discovery and the client credentials grant (RFC 6749, section 4.4).
func (a *Azure) login(r *http.Request, body []byte) ([]byte, error) {
	base := "https://" + azureLogin + "/" + azureTenant
	switch r.URL.Path {
	case "/common/discovery/instance":
		return json.Marshal(map[string]any{
			"tenant_discovery_endpoint": base + "/v2.0/.well-known/openid-configuration", "api-version": "1.1",
			"metadata": []any{map[string]any{"preferred_network": azureLogin, "preferred_cache": "login.windows.net", "aliases": []string{azureLogin, "login.windows.net"}}},
		})
	case "/" + azureTenant + "/v2.0/.well-known/openid-configuration":
		return json.Marshal(map[string]string{"issuer": base + "/v2.0", "authorization_endpoint": base + "/oauth2/v2.0/authorize", "token_endpoint": base + "/oauth2/v2.0/token"})
	case "/" + azureTenant + "/oauth2/v2.0/token":
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, err
		}
		if form.Get("client_id") != a.clientID || form.Get("client_secret") != a.secret || form.Get("grant_type") != "client_credentials" {
			return nil, &refusal{http.StatusUnauthorized, "invalid_client", "AADSTS7000215: Invalid client secret provided."}
		}
		return json.Marshal(map[string]any{"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": a.jwt})
	}
	return nil, &refusal{http.StatusBadRequest, "invalid_tenant", "AADSTS90002: Tenant not found: " + r.URL.Path}
}
