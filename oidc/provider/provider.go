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

// The paths below the issuer URL.
const (
	discoveryPath = "/.well-known/openid-configuration"
	keysPath      = "/keys"
)

// Config is the setting of a Provider.
type Config struct {
	// IssuerURL is `iss`. The provider serves the paths below it. With a test server, take it from
	// the listener before the server starts:
	//
	//	server := httptest.NewUnstartedServer(nil)
	//	p, err := provider.New(provider.Config{IssuerURL: "http://" + server.Listener.Addr().String()})
	//	server.Config.Handler = p
	//	server.Start()
	IssuerURL string
	// Algorithm signs the tokens: RS, PS or ES with 256, 384 or 512, or EdDSA; default RS256.
	Algorithm string
	// Audience is the default `aud`; default "sigstore".
	Audience string
	// Lifetime is the time from `iat` to the default `exp`; default 10 minutes.
	Lifetime time.Duration
	// SignIn adds the authorization-code flow with PKCE and a page that accepts any email address.
	// Any client of the page can claim any identity: for development only.
	SignIn bool
	// Key is the first signing key, of the type that Algorithm needs; nil for a new one.
	Key crypto.Signer
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Provider is an http.Handler that serves its discovery document and its key set, and mints tokens.
// It is safe for concurrent use.
type Provider struct {
	cfg  Config
	base string // the path of IssuerURL, without a slash at the end
	mux  *http.ServeMux

	discoveries, keyFetches atomic.Int64

	mu        sync.RWMutex // guards the fields below
	current   jose.JSONWebKey
	signer    jose.Signer // with current
	published []jose.JSONWebKey
	minted    int // number of keys created
}

// New returns a provider with one published key.
func New(cfg Config) (*Provider, error) {
	u, err := url.Parse(cfg.IssuerURL)
	if err != nil {
		return nil, fmt.Errorf("parsing issuer URL: %w", err)
	}
	if u.Scheme == "" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("parsing issuer URL: %q is not an absolute URL without query and fragment", cfg.IssuerURL)
	}
	cfg.Algorithm = cmp.Or(cfg.Algorithm, string(jose.RS256))
	cfg.Audience = cmp.Or(cfg.Audience, "sigstore")
	cfg.Lifetime = cmp.Or(cfg.Lifetime, 10*time.Minute)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Provider{cfg: cfg, base: strings.TrimSuffix(u.Path, "/"), mux: http.NewServeMux()}
	p.mux.HandleFunc("GET "+p.base+discoveryPath, func(w http.ResponseWriter, _ *http.Request) {
		p.discoveries.Add(1)
		writeJSON(w, http.StatusOK, p.discovery())
	})
	p.mux.HandleFunc("GET "+p.base+keysPath, func(w http.ResponseWriter, _ *http.Request) {
		p.keyFetches.Add(1)
		writeJSON(w, http.StatusOK, p.keySet())
	})
	if cfg.SignIn {
		if err := p.serveSignIn(); err != nil {
			return nil, err
		}
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
		"iss": p.cfg.IssuerURL,
		"aud": p.cfg.Audience,
		"iat": now.Unix(),
		"exp": now.Add(p.cfg.Lifetime).Unix(),
	}
	for name, value := range claims {
		if value == nil {
			delete(all, name)
		} else {
			all[name] = value
		}
	}
	payload, err := json.Marshal(all)
	if err != nil {
		return "", fmt.Errorf("encoding claims: %w", err)
	}
	p.mu.RLock()
	signer := p.signer
	p.mu.RUnlock()
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
	alg := jose.SignatureAlgorithm(p.cfg.Algorithm)
	if private == nil { // create the key without the lock, because an RSA key takes time
		if private, err = generateKey(alg); err != nil {
			return "", err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.minted++
	key := jose.JSONWebKey{Key: private, KeyID: fmt.Sprintf("key-%d", p.minted), Algorithm: p.cfg.Algorithm, Use: "sig"}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("creating signer: %w", err)
	}
	p.current, p.signer, p.published = key, signer, append(p.published, key)
	return key.KeyID, nil
}

// Withdraw stops publishing the key. If this key signs now, it continues to sign, so that verifiers
// must refuse the tokens.
func (p *Provider) Withdraw(keyID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := len(p.published)
	p.published = slices.DeleteFunc(p.published, func(key jose.JSONWebKey) bool { return key.KeyID == keyID })
	if len(p.published) == before {
		return fmt.Errorf("no published key is named %q", keyID)
	}
	return nil
}

// SigningKey returns the private key that signs at present, with its `kid`. Tests use it to create
// tokens that Mint does not.
func (p *Provider) SigningKey() jose.JSONWebKey {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.current
}

// Discoveries returns the number of times that the discovery document has been served.
func (p *Provider) Discoveries() int64 { return p.discoveries.Load() }

// KeyFetches returns the number of times that the key set has been served.
func (p *Provider) KeyFetches() int64 { return p.keyFetches.Load() }

// ServeHTTP implements http.Handler. The discovery document is at IssuerURL +
// "/.well-known/openid-configuration", the key set at IssuerURL + "/keys"; with Config.SignIn,
// the sign-in page at IssuerURL + "/auth" and the token endpoint at IssuerURL + "/token".
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.mux.ServeHTTP(w, r) }

// discovery returns the members that OpenID Connect Discovery 1.0, section 3, requires of a provider,
// and those of its sign-in if it has one.
func (p *Provider) discovery() map[string]any {
	root := strings.TrimSuffix(p.cfg.IssuerURL, "/")
	document := map[string]any{
		"issuer":                                p.cfg.IssuerURL,
		"jwks_uri":                              root + keysPath,
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{p.cfg.Algorithm},
	}
	if p.cfg.SignIn {
		maps.Copy(document, map[string]any{
			"authorization_endpoint":                root + AuthorizationPath,
			"token_endpoint":                        root + tokenPath,
			"response_types_supported":              []string{"code"},
			"scopes_supported":                      []string{"openid", "email"},
			"grant_types_supported":                 []string{"authorization_code"},
			"code_challenge_methods_supported":      []string{"S256"},
			"token_endpoint_auth_methods_supported": []string{"none"},
		})
	}
	return document
}

// keySet returns the public halves of the published keys (RFC 7517, section 5).
func (p *Provider) keySet() jose.JSONWebKeySet {
	p.mu.RLock()
	defer p.mu.RUnlock()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, key := range p.published {
		set.Keys = append(set.Keys, key.Public())
	}
	return set
}

func writeJSON(w http.ResponseWriter, status int, document any) {
	body, err := json.Marshal(document)
	if err != nil {
		http.Error(w, "encoding failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails only if the client is gone
}

// generateKey returns a new private key of the type that alg needs (RFC 7518, section 3.1).
func generateKey(alg jose.SignatureAlgorithm) (key crypto.Signer, err error) {
	switch alg {
	case jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.ES384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case jose.ES512:
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case jose.EdDSA:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, fmt.Errorf("choosing a key: %q is none of RS, PS and ES with 256, 384 or 512, and EdDSA", alg)
	}
	if err != nil {
		return nil, fmt.Errorf("generating key: %w", err)
	}
	return key, nil
}
