// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/server"
)

// mounts returns what the world serves beside the CA: everything below /dev/, and the way there for
// people who type less. The server removes the prefix.
func (w *World) mounts() []server.Mount {
	home := http.RedirectHandler(homePath, http.StatusSeeOther)
	return []server.Mount{
		{Path: homePath, Name: "dev", Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			r = r.Clone(r.Context())
			r.URL.Path = "/dev" + r.URL.Path
			w.handler.ServeHTTP(rw, r)
		})},
		{Path: "/dev", Name: "dev", Handler: home},
		{Path: "/", Accept: "text/html", Name: "dev", Handler: home},
	}
}

// newHandler returns what serves the paths below /dev/.
func (w *World) newHandler() http.Handler {
	mux := http.NewServeMux()
	timestamp := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "A timestamp authority. It answers POST (RFC 3161).\n")
	})
	mux.HandleFunc("GET "+homePath+"{$}", w.servePage)
	mux.HandleFunc("GET "+tokenPath, w.serveToken)
	mux.Handle(tufPath+"/", http.StripPrefix(tufPath, http.FileServer(http.Dir(w.path(tufFolder)))))
	mux.Handle(failingPath, w.unless("ct", http.NotFoundHandler()))
	mux.Handle("GET "+timestampPath, w.unless("tsa", timestamp))
	mux.Handle("POST "+timestampPath, w.unless("tsa", w.tsa))
	checkpoint := http.RedirectHandler(rekorPath+"/api/v2/checkpoint", http.StatusSeeOther)
	mux.Handle("GET "+rekorPath+"/{$}", w.unless("rekor", checkpoint))
	mux.Handle(rekorPath+"/", w.unless("rekor", http.StripPrefix(rekorPath, w.rekor)))
	for _, kind := range w.kinds {
		home := http.RedirectHandler(kind.Path+provider.DiscoveryPath, http.StatusSeeOther)
		mux.Handle("GET "+kind.Path+"/{$}", w.unless("issuer", home))
		mux.Handle(kind.Path+"/", w.unless("issuer", w.issuers[kind.Name]))
	}
	return guard(w.config.Expose, mux)
}

// guard keeps web pages of other origins away from next, which gives tokens to any caller. A
// browser reports where a request comes from (Fetch Metadata, W3C; RFC 6454 for Origin), and
// programs such as curl and cosign report nothing.
//
// A page of another site may send the browser itself to the landing page, and to the sign-in page,
// which shows a form and gives nothing before a person submits it. exposed is the only host, beside the
// names of the loopback addresses, under which next answers; "" for none.
func guard(exposed string, next http.Handler) http.Handler {
	navigable := []string{homePath, providerPath + provider.AuthorizationPath}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		// For browsers that report nothing: a token is no script, and no page embeds an answer.
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("X-Frame-Options", "DENY")
		host := (&url.URL{Host: r.Host}).Hostname()
		switch {
		// The owner of a name can make it lead to this machine (DNS rebinding), but for loopback names.
		case !httputil.IsLoopback(host) && (exposed == "" || !strings.EqualFold(host, exposed)):
			http.Error(w, "a development world answers under loopback names, and the name that mayfly dev --expose gives it", http.StatusForbidden)
		case foreign(r) && !(slices.Contains(navigable, r.URL.Path) && navigation(r)):
			http.Error(w, "a development world answers programs and its own pages, and no page of another origin", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// foreign reports whether a page of another origin causes the request. Other ports of this
// machine are other origins. An Origin of null is one too: a sandboxed page sends it.
func foreign(r *http.Request) bool {
	return slices.ContainsFunc(r.Header.Values("Sec-Fetch-Site"), func(site string) bool {
		return site != "same-origin" && site != "none" // none: a person typed the address
	}) || slices.ContainsFunc(r.Header.Values("Origin"), func(origin string) bool {
		return origin != "http://"+r.Host
	})
}

// navigation reports whether the request opens its page in a window of its own, and not in a
// frame of another page, and submits nothing.
func navigation(r *http.Request) bool {
	return r.Method == http.MethodGet && len(r.Header.Values("Origin")) == 0 &&
		slices.Equal(r.Header.Values("Sec-Fetch-Mode"), []string{"navigate"}) &&
		slices.Equal(r.Header.Values("Sec-Fetch-Dest"), []string{"document"})
}

// DefaultEmail is the address in a token for which the caller named none.
const DefaultEmail = "you@example.com"

// serveToken gives a script a token: GET /dev/token?email=…&<claim>=…, or, as a kind of identity,
// GET /dev/token?as=<kind>&<parameter>=…. Both take claim=<claim>=… too.
func (w *World) serveToken(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Cache-Control", "no-store")
	token, err := w.tokenFor(r.URL.RawQuery)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(rw, token)
}

// tokenFor returns the token that a query asks for.
func (w *World) tokenFor(text string) (string, error) {
	query, err := url.ParseQuery(text)
	if err != nil {
		return "", err
	}
	given := make(url.Values)
	for _, claim := range query["claim"] {
		name, value, ok := strings.Cut(claim, "=")
		if !ok || name == "" {
			return "", fmt.Errorf("a claim is %q; it looks like name=value", claim)
		}
		given.Add(name, value)
	}
	delete(query, "claim")
	kind, isKind := query.Get("as"), query.Has("as")
	delete(query, "as")
	if !isKind {
		maps.Copy(query, given)
		given = query
	}
	claims, err := claimsOf(given)
	if err != nil {
		return "", err
	}
	if !isKind {
		return w.Token(claims)
	}
	parameters := make(map[string]string)
	for name, values := range query {
		if parameters[name] = values[0]; len(values) > 1 {
			return "", fmt.Errorf("the parameter %s is given %d times; give it once", name, len(values))
		}
	}
	return w.TokenAs(kind, parameters, claims)
}

// claimsOf turns a query into claims. A name that occurs twice is a list.
func claimsOf(query url.Values) (map[string]any, error) {
	claims := make(map[string]any)
	for name, values := range query {
		list := make([]any, len(values))
		for i, value := range values {
			var err error
			if list[i], err = claimOf(name, value); err != nil {
				return nil, err
			}
		}
		if claims[name] = list; len(list) == 1 {
			claims[name] = list[0]
		}
	}
	return claims, nil
}

// claimOf returns a value of a query as a claim. It is text by default. An empty value omits the
// claim, true and false are booleans, time claims are numbers, and what begins like a JSON object or
// list is one.
func claimOf(name, value string) (any, error) {
	isTime := slices.Contains([]string{"exp", "iat", "nbf", "auth_time"}, name)
	switch {
	case value == "":
		return nil, nil
	case isTime && strings.Trim(value, "-0123456789") != "":
		return nil, fmt.Errorf("the claim %s is %q; it is a time, a whole number of seconds since 1970", name, value)
	case !isTime && value != "true" && value != "false" && value[0] != '{' && value[0] != '[':
		return value, nil
	case !json.Valid([]byte(value)):
		return nil, fmt.Errorf("the claim %s is %q, which is no JSON", name, value)
	}
	return json.RawMessage(value), nil
}

// complete returns claims with those of a person's token: an address, that it was verified, and a
// subject.
func complete(given map[string]any) map[string]any {
	claims := make(map[string]any)
	email, hasEmail := given["email"]
	if _, hasSubject := given["sub"]; !hasEmail && !hasSubject {
		email, hasEmail = DefaultEmail, true
	}
	if hasEmail {
		claims = map[string]any{"sub": email, "email": email, "email_verified": true}
	}
	maps.Copy(claims, given)
	return claims
}

// Failures are the services that Config.Fail can name. Without the log, the authority or the issuers,
// the CA refuses requests as it does in production: its log answers 503, the process that signs does not
// run, the providers' documents are unavailable. The timestamp authority and Rekor answer 503.
func Failures() []string { return []string{"ct", "authority", "issuer", "tsa", "rekor"} }

func (w *World) fails(name string) bool { return slices.Contains(w.config.Fail, name) }

// unless returns handler, or one that answers 503 where the service fails.
func (w *World) unless(service string, handler http.Handler) http.Handler {
	if !w.fails(service) {
		return handler
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, "this service fails, as mayfly dev --fail requests", http.StatusServiceUnavailable)
	})
}
