// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/mail"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// The paths below the issuer URL that Config.SignIn adds.
const (
	// AuthorizationPath is the path of the sign-in page, to which other sites send a browser.
	AuthorizationPath = "/auth"
	tokenPath         = "/token"
)

// outOfBand is the redirect URI of a program without a local browser: the page shows the code
// instead. sigstore's clients fall back to it.
const outOfBand = "urn:ietf:wg:oauth:2.0:oob"

const (
	codeLifetime = 10 * time.Minute // RFC 6749, section 4.1.2: the recommended maximum
	maxCodes     = 1000
	maxForm      = 64 << 10
)

//go:embed signin.html
var signInHTML string

// signIn is the authorization-code flow (RFC 6749, section 4.1) with PKCE (RFC 7636), only with
// method S256, for public clients on this machine. The sign-in page asks for an email address and
// does not verify it.
type signIn struct {
	provider *Provider
	page     *template.Template
	foreign  *http.CrossOriginProtection

	mu    sync.Mutex
	codes map[string]grant // guarded by mu
}

// grant is the content of a code.
type grant struct {
	redirectURI, challenge, nonce, email string
	expires                              time.Time
}

func (p *Provider) serveSignIn() error {
	page, err := template.New("signin").Parse(signInHTML)
	if err != nil {
		return fmt.Errorf("parsing sign-in page: %w", err)
	}
	s := &signIn{provider: p, page: page, foreign: http.NewCrossOriginProtection(), codes: make(map[string]grant)}
	p.mux.HandleFunc("GET "+p.base+AuthorizationPath, s.authorize)
	p.mux.HandleFunc("POST "+p.base+AuthorizationPath, s.authorize)
	p.mux.HandleFunc("POST "+p.base+tokenPath, s.token)
	return nil
}

// pageData is what the page shows: a code, a form, or only a problem.
type pageData struct {
	Title, Problem, Email, Code, Action string
	Fields                              map[string]string
}

func (s *signIn) show(w http.ResponseWriter, status int, data pageData) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'")
	// Not no-referrer: the form's own POST would send the Origin null, as a sandboxed page does.
	h.Set("Referrer-Policy", "same-origin")
	w.WriteHeader(status)
	_ = s.page.Execute(w, data) // fails only if the client is gone
}

// requestFields are the parameters of an authorization request that the form repeats.
var requestFields = [...]string{"response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge", "code_challenge_method"}

// authorize answers the authorization endpoint: GET shows the form, POST accepts it.
func (s *signIn) authorize(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, problem string) {
		s.show(w, status, pageData{Title: "Sign-in failed", Problem: problem})
	}
	if err := s.foreign.Check(r); err != nil {
		refuse(http.StatusForbidden, "the form was sent from another site")
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		refuse(http.StatusBadRequest, "the request's parameters cannot be read")
		return
	}
	// RFC 6749, section 4.1.2.1: if one of these two is wrong, do not redirect.
	client, redirectURI := r.Form.Get("client_id"), r.Form.Get("redirect_uri")
	if want := s.provider.cfg.Audience; client != want {
		refuse(http.StatusBadRequest, fmt.Sprintf("the client_id is %q; the only client here is %q", client, want))
		return
	}
	if !usableRedirect(redirectURI) {
		refuse(http.StatusBadRequest, fmt.Sprintf("the redirect_uri is %q; it must be an http URL on this machine, such as http://localhost:1234/auth/callback, or %s", redirectURI, outOfBand))
		return
	}
	if code, problem := checkRequest(r.Form); problem != "" {
		if redirectURI == outOfBand {
			refuse(http.StatusBadRequest, problem)
			return
		}
		redirect(w, r, redirectURI, url.Values{"error": {code}, "error_description": {problem}, "state": {r.Form.Get("state")}})
		return
	}
	s.askOrGrant(w, r, redirectURI)
}

// askOrGrant shows the form, or issues a code for the address in it.
func (s *signIn) askOrGrant(w http.ResponseWriter, r *http.Request, redirectURI string) {
	form := pageData{Title: "Sign in", Email: r.Form.Get("login_hint"), Action: s.provider.base + AuthorizationPath, Fields: make(map[string]string)}
	for _, name := range requestFields {
		form.Fields[name] = r.Form.Get(name)
	}
	if r.Method == http.MethodGet {
		s.show(w, http.StatusOK, form)
		return
	}
	form.Email = strings.TrimSpace(r.PostForm.Get("email"))
	if address, err := mail.ParseAddress(form.Email); err != nil || address.Address != form.Email {
		form.Problem = fmt.Sprintf("%q is no email address; it looks like person@example.com", form.Email)
		s.show(w, http.StatusBadRequest, form)
		return
	}
	code := s.newCode(grant{
		redirectURI: redirectURI, challenge: r.Form.Get("code_challenge"), nonce: r.Form.Get("nonce"),
		email: form.Email, expires: s.provider.cfg.Now().Add(codeLifetime),
	})
	if redirectURI == outOfBand {
		s.show(w, http.StatusOK, pageData{Title: "Signed in", Code: code})
		return
	}
	redirect(w, r, redirectURI, url.Values{"code": {code}, "state": {r.Form.Get("state")}})
}

// checkRequest returns an error code of RFC 6749, section 4.1.2.1, and a sentence; or "".
func checkRequest(form url.Values) (code, problem string) {
	sum, err := base64.RawURLEncoding.Strict().DecodeString(form.Get("code_challenge"))
	switch {
	case form.Get("response_type") != "code":
		return "unsupported_response_type", fmt.Sprintf("the response_type is %q; only code is supported", form.Get("response_type"))
	case !slices.Contains(strings.Fields(form.Get("scope")), "openid"):
		return "invalid_scope", "the scope lacks openid"
	case form.Get("code_challenge_method") != "S256" || err != nil || len(sum) != sha256.Size:
		return "invalid_request", "a code_challenge with the code_challenge_method S256 is required (PKCE, RFC 7636): the base64url form of a SHA-256 hash"
	default:
		return "", ""
	}
}

// usableRedirect reports whether a code may be sent to uri, which must be on this machine (RFC
// 8252, section 7.3).
func usableRedirect(uri string) bool {
	if uri == outOfBand {
		return true
	}
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "http" || u.User != nil || u.Fragment != "" {
		return false
	}
	return slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, u.Hostname())
}

// redirect sends the browser back to the client with values added to its URI's query.
func redirect(w http.ResponseWriter, r *http.Request, uri string, values url.Values) {
	u, err := url.Parse(uri)
	if err != nil { // parsed before
		http.Error(w, "unusable redirect_uri", http.StatusBadRequest)
		return
	}
	query := u.Query()
	maps.Copy(query, values)
	if query.Get("state") == "" {
		query.Del("state")
	}
	u.RawQuery = query.Encode()
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, u.String(), http.StatusSeeOther)
}

// newCode stores g under a new code.
func (s *signIn) newCode(g grant) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.codes) >= maxCodes {
		clear(s.codes) // their users sign in again
	}
	code := rand.Text()
	s.codes[code] = g
	return code
}

// spend returns the grant of code, only once.
func (s *signIn) spend(code string) (grant, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.codes[code]
	delete(s.codes, code)
	return g, ok && s.provider.cfg.Now().Before(g.expires)
}

// token answers the token endpoint (RFC 6749, section 4.1.3).
func (s *signIn) token(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	refuse := func(code, problem string) {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": code, "error_description": problem})
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		refuse("invalid_request", "the form cannot be read")
		return
	}
	form := r.PostForm
	// Clients are public: only the name matters, wherever the request has it. No secret is
	// required.
	client := form.Get("client_id")
	if name, _, ok := r.BasicAuth(); ok {
		client = name
	}
	if want := s.provider.cfg.Audience; client != want {
		refuse("invalid_client", fmt.Sprintf("the client_id is %q; the only client here is %q", client, want))
		return
	}
	if form.Get("grant_type") != "authorization_code" {
		refuse("unsupported_grant_type", fmt.Sprintf("the grant_type is %q; it must be authorization_code", form.Get("grant_type")))
		return
	}
	g, ok := s.spend(form.Get("code"))
	switch {
	case !ok:
		refuse("invalid_grant", "the code is unknown, was used before, or is older than ten minutes; sign in again")
	case g.redirectURI != form.Get("redirect_uri"):
		refuse("invalid_grant", "the redirect_uri is not the one that the code was asked for with")
	case !provesChallenge(form.Get("code_verifier"), g.challenge):
		refuse("invalid_grant", "the code_verifier does not belong to the code_challenge")
	default:
		s.answer(w, g)
	}
}

// provesChallenge implements RFC 7636, section 4.6, for S256.
func provesChallenge(verifier, challenge string) bool {
	if len(verifier) < 43 || len(verifier) > 128 { // section 4.1
		return false
	}
	sum := sha256.Sum256([]byte(verifier))
	return subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) == 1
}

func (s *signIn) answer(w http.ResponseWriter, g grant) {
	claims := map[string]any{"sub": g.email, "email": g.email, "email_verified": true}
	if g.nonce != "" {
		claims["nonce"] = g.nonce
	}
	idToken, err := s.provider.Mint(claims)
	if err != nil {
		http.Error(w, "minting the token failed", http.StatusInternalServerError)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"id_token": idToken, "access_token": rand.Text(), "token_type": "Bearer",
		"expires_in": int(s.provider.cfg.Lifetime.Seconds()),
	})
}
