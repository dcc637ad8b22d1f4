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
	"time"

	"github.com/mayfly-ca/mayfly/internal/httputil"
)

const (
	// AuthorizationPath is the path of the sign-in page, to which other sites send a browser.
	AuthorizationPath = "/auth"
	tokenPath         = "/token"
	// outOfBand is the redirect URI of a program without a local browser: the page shows the code
	// instead. sigstore's clients fall back to it.
	outOfBand = "urn:ietf:wg:oauth:2.0:oob"

	codeLifetime = 10 * time.Minute // RFC 6749, section 4.1.2: the recommended maximum
	maxCodes     = 1000
	maxForm      = 64 << 10
)

//go:embed signin.html
var signInHTML string

var signInPage = template.Must(template.New("signin").Parse(signInHTML))

// grant is the content of a code.
type grant struct {
	redirectURI, challenge, nonce, email string
	expires                              time.Time
}

// pageData is what the page shows: a code, a form, or only a problem. The form is sent to the page's own
// URL, with the parameters in it.
type pageData struct {
	Title, Warning, Problem, Email, Code string
	Form                                 bool
}

func (p *Provider) show(w http.ResponseWriter, status int, data pageData) {
	data.Warning = p.cfg.Warning
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'")
	// Not no-referrer: the form's own POST would send the Origin null, as a sandboxed page does.
	h.Set("Referrer-Policy", "same-origin")
	w.WriteHeader(status)
	_ = signInPage.Execute(w, data) // fails only if the client is gone
}

// authorize answers the authorization endpoint (RFC 6749, section 4.1, with PKCE by RFC 7636), for
// public clients on this machine: GET shows the form, POST accepts it. Nothing verifies the address.
func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, format string, args ...any) {
		p.show(w, status, pageData{Title: "Sign-in failed", Problem: fmt.Sprintf(format, args...)})
	}
	if err := http.NewCrossOriginProtection().Check(r); err != nil {
		refuse(http.StatusForbidden, "the form was sent from another site")
		return
	}
	if err := r.ParseForm(); err != nil {
		refuse(http.StatusBadRequest, "the request's parameters cannot be read")
		return
	}
	// RFC 6749, section 4.1.2.1: if the client or its redirect URI, which must be on this machine (RFC
	// 8252, section 7.3), is wrong, do not redirect.
	redirectURI := r.Form.Get("redirect_uri")
	client, err := url.Parse(redirectURI)
	switch code, problem := checkRequest(r.Form); {
	case r.Form.Get("client_id") != audience:
		refuse(http.StatusBadRequest, "the client_id is %q; the only client here is %q", r.Form.Get("client_id"), audience)
	case redirectURI != outOfBand && (err != nil || client.Scheme != "http" || client.User != nil || client.Fragment != "" || !httputil.IsLoopback(client.Hostname())):
		refuse(http.StatusBadRequest, "the redirect_uri is %q; it must be an http URL on this machine, such as http://localhost:1234/auth/callback, or %s", redirectURI, outOfBand)
	case problem != "" && redirectURI == outOfBand:
		refuse(http.StatusBadRequest, "%s", problem)
	case problem != "":
		redirect(w, r, client, url.Values{"error": {code}, "error_description": {problem}})
	default:
		p.askOrGrant(w, r, client)
	}
}

// askOrGrant shows the form, or issues a code for the address in it.
func (p *Provider) askOrGrant(w http.ResponseWriter, r *http.Request, client *url.URL) {
	form := pageData{Title: "Sign in", Email: r.Form.Get("login_hint"), Form: true}
	if r.Method == http.MethodGet {
		p.show(w, http.StatusOK, form)
		return
	}
	form.Email = strings.TrimSpace(r.PostForm.Get("email"))
	if address, err := mail.ParseAddress(form.Email); err != nil || address.Address != form.Email {
		form.Problem = fmt.Sprintf("%q is no email address; it looks like person@example.com", form.Email)
		p.show(w, http.StatusBadRequest, form)
		return
	}
	code, redirectURI := rand.Text(), r.Form.Get("redirect_uri")
	p.mu.Lock()
	if len(p.codes) >= maxCodes {
		clear(p.codes) // their users sign in again
	}
	p.codes[code] = grant{
		redirectURI: redirectURI, challenge: r.Form.Get("code_challenge"), nonce: r.Form.Get("nonce"),
		email: form.Email, expires: p.cfg.Now().Add(codeLifetime),
	}
	p.mu.Unlock()
	if redirectURI == outOfBand {
		p.show(w, http.StatusOK, pageData{Title: "Signed in", Code: code})
		return
	}
	redirect(w, r, client, url.Values{"code": {code}})
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

// redirect sends the browser back to the client, with values and state added to its URI's query.
func redirect(w http.ResponseWriter, r *http.Request, client *url.URL, values url.Values) {
	query := client.Query()
	maps.Copy(query, values)
	if state := r.Form.Get("state"); state != "" {
		query.Set("state", state)
	}
	client.RawQuery = query.Encode()
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, client.String(), http.StatusSeeOther)
}

// spend returns the grant of code, only once.
func (p *Provider) spend(code string) (grant, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g, ok := p.codes[code]
	delete(p.codes, code)
	return g, ok && p.cfg.Now().Before(g.expires)
}

// token answers the token endpoint (RFC 6749, section 4.1.3). Clients are public: only the name
// matters, wherever the request has it, and no secret is required.
func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	refuse := func(code, format string, args ...any) {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": code, "error_description": fmt.Sprintf(format, args...)})
	}
	if err := r.ParseForm(); err != nil {
		refuse("invalid_request", "the form cannot be read")
		return
	}
	form, client := r.PostForm, r.PostForm.Get("client_id")
	if name, _, ok := r.BasicAuth(); ok {
		client = name
	}
	switch g, ok := p.spend(form.Get("code")); {
	case client != audience:
		refuse("invalid_client", "the client_id is %q; the only client here is %q", client, audience)
	case form.Get("grant_type") != "authorization_code":
		refuse("unsupported_grant_type", "the grant_type is %q; it must be authorization_code", form.Get("grant_type"))
	case !ok:
		refuse("invalid_grant", "the code is unknown, was used before, or is older than ten minutes; sign in again")
	case g.redirectURI != form.Get("redirect_uri"):
		refuse("invalid_grant", "the redirect_uri is not the one that the code was asked for with")
	case !provesChallenge(form.Get("code_verifier"), g.challenge):
		refuse("invalid_grant", "the code_verifier does not belong to the code_challenge")
	default:
		claims := map[string]any{"sub": g.email, "email": g.email, "email_verified": true, "nonce": g.nonce}
		if g.nonce == "" {
			delete(claims, "nonce")
		}
		idToken, err := p.Mint(claims)
		if err != nil {
			http.Error(w, "minting the token failed", http.StatusInternalServerError)
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{
			"id_token": idToken, "access_token": rand.Text(), "token_type": "Bearer",
			"expires_in": int(p.cfg.Lifetime.Seconds()),
		})
	}
}

// provesChallenge implements RFC 7636, sections 4.1 and 4.6, for S256.
func provesChallenge(verifier, challenge string) bool {
	sum := sha256.Sum256([]byte(verifier))
	return len(verifier) >= 43 && len(verifier) <= 128 &&
		subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) == 1
}
