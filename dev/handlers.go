// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/httputil"
	"github.com/mayfly-ca/mayfly/oidc/provider"
	"github.com/mayfly-ca/mayfly/server"
)

// mounts returns what the world serves beside the CA: everything below /dev/, and the way there for
// people who type less.
func (w *World) mounts() []server.Mount {
	home := http.RedirectHandler(homePath, http.StatusSeeOther)
	return []server.Mount{
		{Path: homePath, Name: "dev", Handler: w.handler()},
		{Path: "/dev", Name: "dev", Handler: home},
		{Path: "/", Accept: "text/html", Name: "dev", Handler: home},
	}
}

// handler serves the paths below /dev/. The prefix has been removed.
func (w *World) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+homePath+"{$}", w.servePage)
	for path, text := range map[string]string{
		rekorPath + "/{$}": "A Rekor v2 log. Below this path, it answers POST api/v2/log/entries, GET api/v2/checkpoint and GET api/v2/tile/…\n",
		timestampPath:      "A timestamp authority. It answers POST (RFC 3161).\n",
	} {
		mux.HandleFunc("GET "+path, func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, text) })
	}
	for _, kind := range w.kinds {
		mux.Handle("GET "+kind.Path+"/{$}", http.RedirectHandler(kind.Path+provider.DiscoveryPath, http.StatusSeeOther))
		mux.Handle(kind.Path+"/", w.issuers[kind.Name])
	}
	mux.HandleFunc("GET "+tokenPath, w.serveToken)
	mux.Handle("POST "+timestampPath, w.tsa)
	mux.Handle(rekorPath+"/", http.StripPrefix(rekorPath, w.rekor))
	mux.Handle(tufPath+"/", http.StripPrefix(tufPath, http.FileServer(http.Dir(w.path(tufFolder)))))
	guarded := guard(w.config.Expose, w.unavailable(mux))
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		r.URL.Path = "/dev" + r.URL.Path
		if r.URL.RawPath != "" {
			r.URL.RawPath = "/dev" + r.URL.RawPath
		}
		guarded.ServeHTTP(rw, r)
	})
}

// guard keeps web pages of other origins away from next, which gives tokens to any caller. A
// browser reports where a request comes from (Fetch Metadata, W3C; RFC 6454 for Origin), and
// programs such as curl and cosign report nothing.
//
// A page of another site may send the browser itself to the landing page, and to the sign-in page,
// which shows a form and gives nothing before a person submits it. exposed is the only host under
// which next answers; "" for all names of the loopback addresses.
func guard(exposed string, next http.Handler) http.Handler {
	navigable := []string{homePath, providerPath + provider.AuthorizationPath}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		// For browsers that report nothing: a token is no script, and no page embeds an answer.
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("X-Frame-Options", "DENY")
		switch {
		// The owner of a name can make it lead to this machine (DNS rebinding).
		case exposed == "" && !httputil.IsLoopback(hostname(r.Host)):
			http.Error(w, "a development world answers under loopback names only; mayfly dev --expose HOST gives it another", http.StatusForbidden)
		case exposed != "" && !strings.EqualFold(hostname(r.Host), exposed):
			http.Error(w, "this development world answers under the name that it is exposed by, and no other: "+exposed, http.StatusForbidden)
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

func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

// DefaultEmail is the address in a token for which the caller named none.
const DefaultEmail = "you@example.com"

// serveToken gives a script a token: GET /dev/token?email=…&<claim>=…, or, as a kind of identity,
// GET /dev/token?as=<kind>&<parameter>=…&claim=<claim>=….
func (w *World) serveToken(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Cache-Control", "no-store")
	query, err := url.ParseQuery(r.URL.RawQuery)
	var token string
	if err == nil {
		token, err = w.tokenFor(query)
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(rw, token)
}

// tokenFor returns the token that a query asks for.
func (w *World) tokenFor(query url.Values) (string, error) {
	if !query.Has("as") {
		claims, err := claimsOf(query)
		if err != nil {
			return "", err
		}
		return w.Token(claims)
	}
	given, parameters := make(url.Values), make(map[string]string)
	for _, claim := range query["claim"] {
		name, value, ok := strings.Cut(claim, "=")
		if !ok || name == "" {
			return "", fmt.Errorf("claim is %q; it looks like name=value", claim)
		}
		given.Add(name, value)
	}
	kind := query.Get("as")
	query.Del("as")
	query.Del("claim")
	for name, values := range query {
		if parameters[name] = values[0]; len(values) > 1 {
			return "", fmt.Errorf("the parameter %s is given %d times; give it once", name, len(values))
		}
	}
	claims, err := claimsOf(given)
	if err != nil {
		return "", err
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
		claims[name] = list
		if len(list) == 1 {
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
	case isTime:
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("the claim %s is %q; it is a time, a whole number of seconds since 1970", name, value)
		}
		return seconds, nil
	case value == "true", value == "false":
		return value == "true", nil
	case strings.HasPrefix(value, "{"), strings.HasPrefix(value, "["):
		if !json.Valid([]byte(value)) {
			return nil, fmt.Errorf("the claim %s begins like JSON and is none", name)
		}
		return json.RawMessage(value), nil
	}
	return value, nil
}

// complete returns claims with those of a person's token: an address, that it was verified, and a
// subject.
func complete(given map[string]any) map[string]any {
	claims := make(map[string]any)
	maps.Copy(claims, given)
	_, hasEmail := claims["email"]
	_, hasSubject := claims["sub"]
	if !hasEmail && !hasSubject {
		claims["email"], hasEmail = DefaultEmail, true
	}
	if _, ok := claims["email_verified"]; !ok && hasEmail {
		claims["email_verified"] = true
	}
	if !hasSubject {
		claims["sub"] = claims["email"]
	}
	return claims
}
