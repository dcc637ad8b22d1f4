// SPDX-License-Identifier: Apache-2.0

// Package provider is a real OpenID Provider in this process. It publishes a discovery document and
// a key set, and mints ID tokens. Tests, the demo and `mayfly dev` use it; no package that serves
// real requests may import it.
package provider

import (
	"crypto"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
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
	// Algorithm signs the tokens: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384,
	// ES512 or EdDSA; default RS256.
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

// Provider is an http.Handler that serves its discovery document and its key set. It mints the
// tokens that verify with these keys. It is safe for concurrent use.
type Provider struct {
	cfg  Config
	base string // the path of IssuerURL, without a slash at the end
	// signIn is nil unless Config.SignIn is set.
	signIn *signIn

	discoveries, keyFetches atomic.Int64

	mu        sync.RWMutex // guards the fields below
	current   *signingKey
	published []*signingKey
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
	if cfg.Algorithm == "" {
		cfg.Algorithm = string(jose.RS256)
	}
	if cfg.Audience == "" {
		cfg.Audience = "sigstore"
	}
	if cfg.Lifetime == 0 {
		cfg.Lifetime = 10 * time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Provider{cfg: cfg, base: strings.TrimSuffix(u.Path, "/")}
	if cfg.SignIn {
		if p.signIn, err = newSignIn(p); err != nil {
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
	signer := p.current.signer
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
	p.mu.Lock()
	p.minted++
	id := fmt.Sprintf("key-%d", p.minted)
	p.mu.Unlock()
	// Create the key without the lock, because an RSA key takes time.
	key, err := newSigningKey(jose.SignatureAlgorithm(p.cfg.Algorithm), id, private)
	if err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = key
	p.published = append(p.published, key)
	return id, nil
}

// Withdraw stops publishing the key. If this key signs now, it continues to sign, so that verifiers
// must refuse the tokens.
func (p *Provider) Withdraw(keyID string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, key := range p.published {
		if key.private.KeyID == keyID {
			p.published = append(p.published[:i:i], p.published[i+1:]...)
			return nil
		}
	}
	return fmt.Errorf("no published key is named %q", keyID)
}

// SigningKey returns the private key that signs at present, with its `kid`. Tests use it to create
// tokens that Mint does not.
func (p *Provider) SigningKey() jose.JSONWebKey {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.current.private
}

// Discoveries returns the number of times that the discovery document has been served.
func (p *Provider) Discoveries() int64 { return p.discoveries.Load() }

// KeyFetches returns the number of times that the key set has been served.
func (p *Provider) KeyFetches() int64 { return p.keyFetches.Load() }

// ServeHTTP implements http.Handler. The discovery document is at IssuerURL +
// "/.well-known/openid-configuration", the key set at IssuerURL + "/keys"; with Config.SignIn,
// the sign-in page at IssuerURL + "/auth" and the token endpoint at IssuerURL + "/token".
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, p.base)
	if !ok {
		http.NotFound(w, r)
		return
	}
	if p.signIn != nil && path == AuthorizationPath {
		p.signIn.authorize(w, r)
		return
	}
	if p.signIn != nil && path == tokenPath {
		p.signIn.token(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	switch path {
	case discoveryPath:
		p.discoveries.Add(1)
		writeJSON(w, p.discovery())
	case keysPath:
		p.keyFetches.Add(1)
		writeJSON(w, p.keySet())
	default:
		http.NotFound(w, r)
	}
}

// discoveryDocument has the members that OpenID Connect Discovery 1.0, section 3, requires of a
// provider, and those of its sign-in if it has one.
type discoveryDocument struct {
	Issuer        string   `json:"issuer"`
	JWKSURI       string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`

	AuthorizationEndpoint string   `json:"authorization_endpoint,omitempty"`
	TokenEndpoint         string   `json:"token_endpoint,omitempty"`
	Scopes                []string `json:"scopes_supported,omitempty"`
	GrantTypes            []string `json:"grant_types_supported,omitempty"`
	ChallengeMethods      []string `json:"code_challenge_methods_supported,omitempty"`
	ClientAuthentication  []string `json:"token_endpoint_auth_methods_supported,omitempty"`
}

func (p *Provider) discovery() discoveryDocument {
	root := strings.TrimSuffix(p.cfg.IssuerURL, "/")
	document := discoveryDocument{
		Issuer:        p.cfg.IssuerURL,
		JWKSURI:       root + keysPath,
		ResponseTypes: []string{"id_token"},
		SubjectTypes:  []string{"public"},
		Algorithms:    []string{p.cfg.Algorithm},
	}
	if p.signIn != nil {
		document.AuthorizationEndpoint = root + AuthorizationPath
		document.TokenEndpoint = root + tokenPath
		document.ResponseTypes = []string{"code"}
		document.Scopes = []string{"openid", "email"}
		document.GrantTypes = []string{"authorization_code"}
		document.ChallengeMethods = []string{"S256"}
		document.ClientAuthentication = []string{"none"}
	}
	return document
}

// keySet returns the public halves of the published keys (RFC 7517, section 5).
func (p *Provider) keySet() jose.JSONWebKeySet {
	p.mu.RLock()
	defer p.mu.RUnlock()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, key := range p.published {
		set.Keys = append(set.Keys, key.private.Public())
	}
	return set
}

func writeJSON(w http.ResponseWriter, document any) {
	writeJSONStatus(w, http.StatusOK, document)
}

func writeJSONStatus(w http.ResponseWriter, status int, document any) {
	body, err := json.Marshal(document)
	if err != nil {
		http.Error(w, "encoding failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails only if the client is gone
}
