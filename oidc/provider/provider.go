// SPDX-License-Identifier: Apache-2.0

// Package provider is a real OpenID Provider in this process. It publishes a discovery document and
// a key set, and mints ID tokens. Tests, the demo and `mayfly dev` use it; no package that serves
// real requests may import it.
package provider

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// DiscoveryPath is the path of the discovery document.
	DiscoveryPath = "/.well-known/openid-configuration"

	audience = "sigstore" // the default `aud`, and the only client of the sign-in
	keysPath = "/keys"
)

// Config is the setting of a Provider.
type Config struct {
	// IssuerURL is `iss`. The provider serves the paths below it. With a test server, take it from
	// the listener before the server starts.
	IssuerURL string
	// Algorithm signs the tokens: RS, PS or ES with 256, 384 or 512, or EdDSA; default RS256.
	Algorithm string
	// Lifetime is the time from `iat` to the default `exp`; default 10 minutes.
	Lifetime time.Duration
	// SignIn adds the authorization-code flow with PKCE and a page that accepts any email address.
	// Any client of the page can claim any identity: for development only.
	SignIn bool
	// Warning is shown on each page of the sign-in; "" for none.
	Warning string
	// Key is the first signing key, of the type that Algorithm needs; nil for a new one.
	Key crypto.Signer
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Provider serves its discovery document and its key set, and mints tokens; safe for concurrent use.
type Provider struct {
	cfg Config
	mux *http.ServeMux

	// Discoveries and KeyFetches are the numbers of times that the documents have been served.
	Discoveries, KeyFetches atomic.Int64

	mu        sync.RWMutex // guards the fields below
	current   jose.JSONWebKey
	published []jose.JSONWebKey // public halves
	minted    int               // number of keys created
	codes     map[string]grant  // of the sign-in
}

// New returns a provider with one published key.
func New(cfg Config) (*Provider, error) {
	u, err := url.Parse(cfg.IssuerURL)
	if err != nil || u.Scheme == "" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("parsing issuer URL: %q is not an absolute URL without query and fragment", cfg.IssuerURL)
	}
	cfg.Algorithm = cmp.Or(cfg.Algorithm, string(jose.RS256))
	cfg.Lifetime = cmp.Or(cfg.Lifetime, 10*time.Minute)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	root, base := strings.TrimSuffix(cfg.IssuerURL, "/"), strings.TrimSuffix(u.Path, "/")
	document := map[string]any{ // what OpenID Connect Discovery 1.0, section 3, requires
		"issuer":                                cfg.IssuerURL,
		"jwks_uri":                              root + keysPath,
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{cfg.Algorithm},
	}
	p := &Provider{cfg: cfg, mux: http.NewServeMux(), codes: make(map[string]grant)}
	p.mux.HandleFunc("GET "+base+DiscoveryPath, func(w http.ResponseWriter, _ *http.Request) {
		p.Discoveries.Add(1)
		writeJSON(w, http.StatusOK, document)
	})
	p.mux.HandleFunc("GET "+base+keysPath, func(w http.ResponseWriter, _ *http.Request) {
		p.KeyFetches.Add(1)
		p.mu.RLock()
		defer p.mu.RUnlock()
		writeJSON(w, http.StatusOK, jose.JSONWebKeySet{Keys: p.published})
	})
	if cfg.SignIn {
		maps.Copy(document, map[string]any{
			"authorization_endpoint":                root + AuthorizationPath,
			"token_endpoint":                        root + tokenPath,
			"response_types_supported":              []string{"code"},
			"scopes_supported":                      []string{"openid", "email"},
			"grant_types_supported":                 []string{"authorization_code"},
			"code_challenge_methods_supported":      []string{"S256"},
			"token_endpoint_auth_methods_supported": []string{"none"},
		})
		p.mux.HandleFunc("GET "+base+AuthorizationPath, p.authorize)
		p.mux.HandleFunc("POST "+base+AuthorizationPath, p.authorize)
		p.mux.HandleFunc("POST "+base+tokenPath, p.token)
	}
	if _, err := p.rotate(cfg.Key); err != nil {
		return nil, err
	}
	return p, nil
}

// IssuerURL returns Config.IssuerURL.
func (p *Provider) IssuerURL() string { return p.cfg.IssuerURL }

// Mint returns a signed ID token with claims, which encoding/json encodes. Mint adds iss, aud, iat
// (now) and exp if they are absent; a claim with the value nil stays absent.
func (p *Provider) Mint(claims map[string]any) (string, error) {
	now := p.cfg.Now()
	all := map[string]any{
		"iss": p.cfg.IssuerURL, "aud": audience,
		"iat": now.Unix(), "exp": now.Add(p.cfg.Lifetime).Unix(),
	}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	payload, err := json.Marshal(all)
	if err != nil {
		return "", fmt.Errorf("encoding claims: %w", err)
	}
	key := jose.SigningKey{Algorithm: jose.SignatureAlgorithm(p.cfg.Algorithm), Key: p.SigningKey()}
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("creating signer: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing token: %w", err)
	}
	return signed.CompactSerialize()
}

// Rotate creates a new key, publishes it beside the others, signs with it from now on, and returns
// its `kid`.
func (p *Provider) Rotate() (keyID string, err error) { return p.rotate(nil) }

// rotate is Rotate with the given key; nil for a new one.
func (p *Provider) rotate(private crypto.Signer) (keyID string, err error) {
	if private == nil { // create the key without the lock, because an RSA key takes time
		if private, err = generateKey(p.cfg.Algorithm); err != nil {
			return "", err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.minted++
	p.current = jose.JSONWebKey{Key: private, KeyID: fmt.Sprintf("key-%d", p.minted), Algorithm: p.cfg.Algorithm, Use: "sig"}
	p.published = append(p.published, p.current.Public())
	return p.current.KeyID, nil
}

// Withdraw stops publishing the key. If this key signs now, it continues to sign, so that verifiers
// must refuse the tokens.
func (p *Provider) Withdraw(keyID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.published, func(key jose.JSONWebKey) bool { return key.KeyID == keyID })
	if i < 0 {
		return fmt.Errorf("no published key is named %q", keyID)
	}
	p.published = slices.Delete(p.published, i, i+1)
	return nil
}

// SigningKey returns the private key that signs at present, with its `kid`. Tests use it to create
// tokens that Mint does not.
func (p *Provider) SigningKey() jose.JSONWebKey {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.current
}

// ServeHTTP serves the discovery document, the key set at IssuerURL + "/keys", and with Config.SignIn
// the sign-in page at IssuerURL + "/auth" and the token endpoint at IssuerURL + "/token".
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	p.mux.ServeHTTP(w, r)
}

func writeJSON(w http.ResponseWriter, status int, document any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(document) // fails only if the client is gone
}

// generateKey returns a new private key of the type that alg needs (RFC 7518, section 3.1).
func generateKey(alg string) (crypto.Signer, error) {
	curves := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}
	switch {
	case slices.Contains([]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, alg):
		return rsa.GenerateKey(rand.Reader, 2048)
	case curves[alg] != nil:
		return ecdsa.GenerateKey(curves[alg], rand.Reader)
	case alg == "EdDSA":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("choosing a key: %q is none of RS, PS and ES with 256, 384 or 512, and EdDSA", alg)
}
