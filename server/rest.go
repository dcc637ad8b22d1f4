// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// route is one path of the REST APIs.
type route struct {
	path, api, method string
	verb              string // GET or POST
	handle            func(s *Server, ctx context.Context, a *answer, q *request) error
}

// routes are the REST APIs. Health is not among them: it is answered even when all slots are in use.
var routes = []route{
	{"/api/v2/signingCert", apiRESTv2, methodCreate, http.MethodPost, (*Server).serveGateway},
	{"/api/v2/trustBundle", apiRESTv2, methodTrust, http.MethodGet, (*Server).serveGateway},
	{"/api/v2/configuration", apiRESTv2, methodConfig, http.MethodGet, (*Server).serveGateway},
	{"/api/v1/signingCert", apiRESTv1, methodCreate, http.MethodPost, (*Server).serveSigningCertV1},
	{"/api/v1/rootCert", apiRESTv1, methodTrust, http.MethodGet, (*Server).serveRootCertV1},
}

// answer keeps the answer of an API until the request has given back its slot. So a client that does
// not read its answer blocks no other client.
type answer struct {
	header http.Header
	status int // 0 means 200
	body   bytes.Buffer
}

// Header, WriteHeader and Write implement http.ResponseWriter.
func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// serveREST answers every HTTP request that is not gRPC.
func (s *Server) serveREST(w http.ResponseWriter, r *http.Request) {
	q := s.newRequest(w, r)
	// A client can join a base URL that ends in a slash with a path, and request //api/….
	path := "/" + strings.TrimLeft(r.URL.Path, "/")
	if s.serveHealth(w, r, path, q.id, false) {
		return
	}
	if m := s.mountOf(path); m != nil {
		s.serveMount(w, r, q, m, path)
		return
	}
	q.api, q.method = apiOf(path), methodUnknown
	if i := slices.IndexFunc(routes, func(to route) bool { return to.path == path }); i >= 0 {
		q.route = routes[i]
		q.api, q.method = q.route.api, q.route.method
		if r.Method == http.MethodOptions {
			writeOptions(w, q.route.verb)
			return
		}
	}
	q.authorization = r.Header["Authorization"]
	q.err = s.acceptREST(w, r, q)
	a := &answer{header: w.Header()}
	refused := s.run(r.Context(), q, s.slots, nil, func(ctx context.Context) error { return q.route.handle(s, ctx, a, q) })
	if refused != nil {
		writeRefusal(w, refused, q.id)
		return
	}
	write(s.steady(w), cmp.Or(a.status, http.StatusOK), a.header.Get("Content-Type"), a.body.Bytes())
}

// acceptREST checks the request line, and reads the body of a POST.
func (s *Server) acceptREST(w http.ResponseWriter, r *http.Request, q *request) (err error) {
	if q.route.handle == nil {
		return refusal.New(refusal.PathNotFound, "there is nothing at this path; the APIs are at /api/v2/signingCert, /api/v2/trustBundle, /api/v2/configuration, /api/v1/signingCert and /api/v1/rootCert")
	}
	if err := checkVerb(w, r, q.route.verb); err != nil {
		return err
	}
	if q.route.verb == http.MethodPost {
		q.body, err = s.readBody(w, r, 0)
	}
	return err
}

// checkVerb refuses a request with another method than verb. A path for GET also takes HEAD.
func checkVerb(w http.ResponseWriter, r *http.Request, verb string) error {
	if r.Method == verb || verb == http.MethodGet && r.Method == http.MethodHead {
		return nil
	}
	w.Header().Set("Allow", allow(verb)) // RFC 9110, section 15.5.6
	method := r.Method                   // token characters only, since net/http has parsed it (RFC 9110, section 5.6.2)
	if len(method) > 20 {
		method = method[:20] + "…"
	}
	return refusal.New(refusal.MethodNotPermitted, "the method of the request was %s, and this path takes %s", method, verb)
}

// writeOptions answers OPTIONS.
func writeOptions(w http.ResponseWriter, verb string) {
	w.Header().Set("Allow", allow(verb))
	w.WriteHeader(http.StatusNoContent)
}

// allow returns the Allow header of a path for verb.
func allow(verb string) string {
	if verb == http.MethodGet {
		verb = "GET, HEAD"
	}
	return verb + ", OPTIONS"
}

// apiOf returns the API that counts a request for a path that is not a route.
func apiOf(path string) string {
	if strings.HasPrefix(path, "/api/v1/") {
		return apiRESTv1
	}
	return apiRESTv2
}

// write writes a complete answer.
func write(w http.ResponseWriter, httpStatus int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(httpStatus)
	_, _ = w.Write(body) // an error means that the client has disconnected
}
