// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/http"
	"strings"

	"github.com/go-json-experiment/json"
	jsonv1 "github.com/go-json-experiment/json/v1"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/proof"
)

// The media types of answers (RFC 8555, section 9.1, for v1's).
const (
	typeJSON = "application/json"
	typePEM  = "application/pem-certificate-chain"
)

// route is a path of an API.
type route struct {
	api, method string
	handle      func(s *Server, ctx context.Context, q *request) ([]byte, error)
	// For REST: GET or POST, and the media type and the status of the answer.
	verb, mediaType string
	status          int
}

// routes are the REST APIs by their paths. Health is not among them: it is answered even when all
// slots are in use.
var routes = map[string]route{
	"/api/v2/signingCert":   {apiRESTv2, methodCreate, (*Server).createV2, http.MethodPost, typeJSON, http.StatusOK},
	"/api/v2/trustBundle":   {apiRESTv2, methodTrust, (*Server).trustBundleV2, http.MethodGet, typeJSON, http.StatusOK},
	"/api/v2/configuration": {apiRESTv2, methodConfig, (*Server).configurationV2, http.MethodGet, typeJSON, http.StatusOK},
	"/api/v1/signingCert":   {apiRESTv1, methodCreate, (*Server).createV1, http.MethodPost, typePEM, http.StatusCreated},
	"/api/v1/rootCert":      {apiRESTv1, methodTrust, (*Server).rootCertV1, http.MethodGet, typePEM, http.StatusOK},
}

// serveREST answers every HTTP request that is not gRPC.
func (s *Server) serveREST(w http.ResponseWriter, r *http.Request, q *request) {
	// A client can join a base URL that ends in a slash with a path, and request //api/….
	path := "/" + strings.TrimLeft(r.URL.Path, "/")
	if s.serveHealth(w, r, q, path, false) {
		return
	}
	if m := s.mountOf(path, r.Header.Get("Accept")); m != nil {
		s.serveMount(w, r, q, m, path)
		return
	}
	var found, done bool
	if q.route, found = routes[path]; !found {
		q.route = route{api: apiRESTv2, method: methodUnknown}
		q.err = refusal.New(refusal.PathNotFound, "there is nothing at this path; the APIs are at /api/v2/signingCert, /api/v2/trustBundle, /api/v2/configuration, /api/v1/signingCert and /api/v1/rootCert")
	} else if done, q.err = checkVerb(w, r, q.verb); done {
		return
	} else if q.err == nil && q.verb == http.MethodPost {
		if q.err = s.admitUnread(q); q.err == nil {
			q.body, q.err = s.readBody(w, r, q, 0)
		}
	}
	q.authorization, q.path = r.Header["Authorization"], path
	body, refused := s.call(r.Context(), q)
	if refused != nil {
		q.refuse(w, refused)
		return
	}
	// The request has given back its slot: a client that does not read its answer blocks no other.
	q.write(s.steady(w), q.status, q.mediaType, body)
}

// checkVerb answers OPTIONS, and refuses any other method than verb. A path for GET also takes HEAD.
func checkVerb(w http.ResponseWriter, r *http.Request, verb string) (done bool, err error) {
	also := "OPTIONS"
	if verb == http.MethodGet {
		also = "HEAD, OPTIONS"
	}
	if r.Method == verb || verb == http.MethodGet && r.Method == http.MethodHead {
		return false, nil
	}
	w.Header().Set("Allow", verb+", "+also) // RFC 9110, section 15.5.6
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return true, nil
	}
	return false, refusal.New(refusal.MethodNotPermitted, "the method of the request was %.20s, and this path takes %s", r.Method, verb)
}

// requestV1 is the body of POST /api/v1/signingCert. Names match exactly, unknown names are
// ignored, and bytes are standard base64.
type requestV1 struct {
	PublicKey struct {
		// Content is PEM or DER. The algorithm next to it is ignored; the key determines it.
		Content []byte `json:"content"`
	} `json:"publicKey"`
	// SignedEmailAddress is the proof of possession; the name is older than other challenges.
	SignedEmailAddress []byte `json:"signedEmailAddress"`
	// CertificateSigningRequest is PEM. If it is not empty, the other fields are ignored.
	CertificateSigningRequest []byte `json:"certificateSigningRequest"`
}

// decodeV1 returns the proof of possession in a request. It refuses duplicate names and trailing
// data.
func decodeV1(body []byte) (ca.Proof, error) {
	var req requestV1
	// Clients of v1 could always send base64 with line breaks, as base64(1) writes it.
	if err := json.Unmarshal(body, &req, jsonv1.ParseBytesWithLooseRFC4648(true)); err != nil {
		// The parser's text may quote the body, so it is dropped.
		return nil, refusal.New(refusal.RequestMalformed, "the request body is not what API v1 takes: one JSON object with publicKey.content and signedEmailAddress, or with certificateSigningRequest, each given once and in standard base64")
	}
	switch {
	case len(req.CertificateSigningRequest) > 0:
		return proof.CSR{PEM: req.CertificateSigningRequest}, nil
	case len(req.PublicKey.Content) > 0:
		return proof.SignedChallenge{PublicKey: req.PublicKey.Content, Signature: req.SignedEmailAddress}, nil
	default:
		return noProof{}, nil
	}
}

// createV1 answers with the leaf first and the root last. There is no SCT header, since an SCT is
// either embedded or absent.
func (s *Server) createV1(ctx context.Context, q *request) ([]byte, error) {
	p, err := decodeV1(q.body)
	if err != nil {
		return nil, err
	}
	issued, err := s.issue(ctx, q, "", p)
	if err != nil {
		return nil, err
	}
	return []byte(strings.Join(chainPEM(issued), "\n")), nil
}

// trustBundleV2 and configurationV2 answer with the JSON that protojson has rendered once. All answers share it.
func (s *Server) trustBundleV2(context.Context, *request) ([]byte, error) {
	return s.trustBundle().json, nil
}

func (s *Server) configurationV2(context.Context, *request) ([]byte, error) {
	return s.configuration().json, nil
}

// rootCertV1 answers with the trust bundle.
func (s *Server) rootCertV1(context.Context, *request) ([]byte, error) {
	return s.trustBundle().pem, nil
}
