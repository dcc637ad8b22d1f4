// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"cmp"
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// route is one path of the REST APIs.
type route struct {
	api, method string // as in call
	verb        string // GET or POST
	handle      func(s *Server, ctx context.Context, a *answer, r *http.Request) error
}

// newRoutes returns the REST APIs. Health is not among them: it is answered even when all slots are
// in use.
func newRoutes(*Server) map[string]route {
	return map[string]route{
		"/api/v2/signingCert":   {apiRESTv2, methodCreate, http.MethodPost, (*Server).serveGateway},
		"/api/v2/trustBundle":   {apiRESTv2, methodTrust, http.MethodGet, (*Server).serveGateway},
		"/api/v2/configuration": {apiRESTv2, methodConfig, http.MethodGet, (*Server).serveGateway},
		"/api/v1/signingCert":   {apiRESTv1, methodCreate, http.MethodPost, (*Server).serveSigningCertV1},
		"/api/v1/rootCert":      {apiRESTv1, methodTrust, http.MethodGet, (*Server).serveRootCertV1},
	}
}

// answer is the response to one REST request while its handler writes it. It keeps an error instead
// of writing it, so that only serveREST writes refusals.
//
// It also keeps an answer of the APIs until the request has given back its slot. So a client that
// does not read its answer blocks no other client.
type answer struct {
	http.ResponseWriter
	requestID string
	client    netip.Addr // from clientAddr
	path      string     // of the route
	body      []byte     // of the request
	err       error
	wrote     bool
	status    int           // set by the handler; 0 if it did not
	kept      *bytes.Buffer // the answer of an API; nil where a mount writes it
}

// WriteHeader records that there is an answer.
func (a *answer) WriteHeader(status int) {
	a.wrote, a.status = true, status
	if a.kept == nil {
		a.ResponseWriter.WriteHeader(status)
	}
}

// Write records that there is an answer.
func (a *answer) Write(p []byte) (int, error) {
	a.wrote = true
	if a.kept != nil {
		return a.kept.Write(p)
	}
	return a.ResponseWriter.Write(p)
}

// send writes the answer that was kept.
func (a *answer) send(w http.ResponseWriter) {
	w.Header().Set("Content-Length", strconv.Itoa(a.kept.Len()))
	w.WriteHeader(cmp.Or(a.status, http.StatusOK))
	_, _ = w.Write(a.kept.Bytes()) // an error means that the client has disconnected
}

// serveREST answers every HTTP request that is not gRPC.
func (s *Server) serveREST(w http.ResponseWriter, r *http.Request) {
	id := requestID(r.Header.Get(requestIDHeader))
	w.Header().Set(requestIDHeader, id)
	// A client can join a base URL that ends in a slash with a path, and request //api/….
	path := "/" + strings.TrimLeft(r.URL.Path, "/")
	if s.serveHealth(w, r, path, id, false) {
		return
	}
	if m := s.mountOf(path); m != nil {
		s.serveMount(w, r, m, path, id)
		return
	}
	to, found := s.routes[path]
	c := call{api: to.api, method: to.method, requestID: id, peer: r.RemoteAddr, client: s.clientAddr(r)}
	if !found {
		c.api, c.method = apiOf(path), methodUnknown
	}
	if found && r.Method == http.MethodOptions {
		w.Header().Set("Allow", allow(to.verb))
		w.WriteHeader(http.StatusNoContent)
		return
	}
	a := &answer{ResponseWriter: w, requestID: id, client: c.client, path: path, kept: new(bytes.Buffer)}
	err := s.acceptREST(a, r, to, found)
	refused := s.run(r.Context(), c, func(ctx context.Context) error {
		if err != nil {
			return err
		}
		return to.handle(s, ctx, a, r)
	})
	if refused != nil {
		writeRefusal(w, refused, id)
		return
	}
	a.send(s.steady(w))
}

// acceptREST checks the request line, and reads the body of a POST.
func (s *Server) acceptREST(a *answer, r *http.Request, to route, found bool) (err error) {
	if !found {
		return refusal.New(refusal.PathNotFound, "there is nothing at this path; the APIs are at /api/v2/signingCert, /api/v2/trustBundle, /api/v2/configuration, /api/v1/signingCert and /api/v1/rootCert")
	}
	if !slices.Contains(verbs(to.verb), r.Method) {
		a.Header().Set("Allow", allow(to.verb)) // RFC 9110, section 15.5.6
		return refusal.New(refusal.MethodNotPermitted, "the method of the request was %s, and this path takes %s", printableMethod(r.Method), to.verb)
	}
	if to.verb == http.MethodPost {
		a.body, err = s.readBody(a.ResponseWriter, r, 0)
	}
	return err
}

// verbs returns the HTTP methods that a route for verb answers, without OPTIONS.
func verbs(verb string) []string {
	if verb == http.MethodGet {
		return []string{http.MethodGet, http.MethodHead}
	}
	return []string{verb}
}

// allow returns the Allow header of a route for verb.
func allow(verb string) string {
	return strings.Join(append(verbs(verb), http.MethodOptions), ", ")
}

// printableMethod shortens an invented method. It holds token characters only, since net/http has
// parsed it (RFC 9110, section 5.6.2).
func printableMethod(m string) string {
	if len(m) > 20 {
		return m[:20] + "…"
	}
	return m
}

// apiOf returns the API that counts a request for a path that is not a route.
func apiOf(path string) string {
	if strings.HasPrefix(path, "/api/v1/") {
		return apiRESTv1
	}
	return apiRESTv2
}
