// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// requests counts the requests that were sent.
var requests atomic.Int64

// claims are the members of a token as JSON texts; "" omits a member.
type claims map[string]string

// with returns c with changes.
func (c claims) with(pairs ...string) claims {
	c = maps.Clone(c)
	if c == nil {
		c = claims{}
	}
	for i := 0; i < len(pairs); i += 2 {
		c[pairs[i]] = pairs[i+1]
	}
	return c
}

// payload is the JSON of the token with c at issuer.
func (c claims) payload(issuer string) string {
	now := time.Now().Unix()
	all := claims{
		"iss": quoted(w.base + "/" + issuer), "sub": `"subject"`, "aud": `"sigstore"`,
		"iat": fmt.Sprint(now), "exp": fmt.Sprint(now + 600),
	}
	maps.Copy(all, c)
	var members []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] != "" {
			members = append(members, quoted(name)+":"+all[name])
		}
	}
	return "{" + strings.Join(members, ",") + "}"
}

func quoted(s string) string { return string(must(json.Marshal(s))) }

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// mint signs a payload with the current key of issuer.
func mint(issuer, payload string) string {
	key := w.providers[issuer].SigningKey()
	return jws(fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, key.Algorithm, key.KeyID), payload, key)
}

// jws creates a compact JWS with any header.
func jws(header, payload string, key jose.JSONWebKey) string {
	input := b64(header) + "." + b64(payload)
	return input + "." + b64(string(joseSign(key, input)))
}

// joseSign signs as RFC 7518 defines for the key's algorithm.
func joseSign(key jose.JSONWebKey, input string) []byte {
	var h crypto.Hash
	var digest []byte
	switch key.Algorithm[2:] {
	case "256":
		d := sha256.Sum256([]byte(input))
		h, digest = crypto.SHA256, d[:]
	case "384":
		d := sha512.Sum384([]byte(input))
		h, digest = crypto.SHA384, d[:]
	case "512":
		d := sha512.Sum512([]byte(input))
		h, digest = crypto.SHA512, d[:]
	}
	switch k := key.Key.(type) {
	case *rsa.PrivateKey:
		if key.Algorithm[:2] == "PS" {
			return must(rsa.SignPSS(rand.Reader, k, h, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}))
		}
		return must(rsa.SignPKCS1v15(rand.Reader, k, h, digest))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, digest)
		if err != nil {
			panic(err)
		}
		n := (k.Curve.Params().BitSize + 7) / 8
		return append(r.FillBytes(make([]byte, n)), s.FillBytes(make([]byte, n))...)
	case ed25519.PrivateKey:
		return ed25519.Sign(k, []byte(input))
	}
	panic(fmt.Sprintf("%T", key.Key))
}

// sign signs a challenge as FACTS section 2 requires for the key.
func sign(key crypto.Signer, challenge string) []byte {
	switch k := key.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(k, []byte(challenge))
	case *ecdsa.PrivateKey:
		switch k.Curve {
		case elliptic.P384():
			d := sha512.Sum384([]byte(challenge))
			return must(k.Sign(rand.Reader, d[:], crypto.SHA384))
		case elliptic.P521():
			d := sha512.Sum512([]byte(challenge))
			return must(k.Sign(rand.Reader, d[:], crypto.SHA512))
		}
	}
	d := sha256.Sum256([]byte(challenge))
	return must(key.Sign(rand.Reader, d[:], crypto.SHA256))
}

func publicPEM(pub any) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(pub))}))
}

// ask is one request for a certificate, over any API.
type ask struct {
	token     string
	publicKey string // PEM; v1 also DER
	proof     []byte
	csr       string
}

// got is an answer, over any API.
type got struct {
	api       string
	http      int // as HTTP, also of gRPC
	reason    string
	message   string
	requestID string
	header    http.Header
	body      string
	certs     []string // PEM
	detached  *string
}

const (
	restV2 = "REST v2"
	restV1 = "REST v1"
	overG  = "gRPC"
)

var apis = []string{restV2, restV1, overG}

// do sends a, and compares the result of explain for its token with the answer.
func (c *ca) do(t *testing.T, api string, a ask) got {
	t.Helper()
	g := c.send(t, api, a)
	c.explain(t, a.token, g)
	return g
}

func (c *ca) send(t *testing.T, api string, a ask) got {
	t.Helper()
	switch api {
	case restV2:
		body := map[string]any{"credentials": map[string]any{"oidcIdentityToken": a.token}}
		if a.csr != "" {
			body["certificateSigningRequest"] = []byte(a.csr)
		}
		if a.publicKey != "" {
			body["publicKeyRequest"] = map[string]any{"publicKey": map[string]any{"algorithm": "ECDSA", "content": a.publicKey}, "proofOfPossession": a.proof}
		}
		return c.http(t, "POST", "/api/v2/signingCert", string(must(json.Marshal(body))))
	case restV1:
		body := map[string]any{"certificateSigningRequest": nil}
		if a.csr != "" {
			body["certificateSigningRequest"] = []byte(a.csr)
		}
		if a.publicKey != "" {
			body["publicKey"] = map[string]any{"content": []byte(a.publicKey), "algorithm": "ecdsa"}
			body["signedEmailAddress"] = a.proof
		}
		return c.http(t, "POST", "/api/v1/signingCert", string(must(json.Marshal(body))), "Authorization", "Bearer "+a.token)
	default:
		req := &fulciov2.CreateSigningCertificateRequest{Credentials: &fulciov2.Credentials{Credentials: &fulciov2.Credentials_OidcIdentityToken{OidcIdentityToken: a.token}}}
		if a.csr != "" {
			req.Key = &fulciov2.CreateSigningCertificateRequest_CertificateSigningRequest{CertificateSigningRequest: []byte(a.csr)}
		} else if a.publicKey != "" {
			req.Key = &fulciov2.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciov2.PublicKeyRequest{
				PublicKey: &fulciov2.PublicKey{Content: a.publicKey}, ProofOfPossession: a.proof}}
		}
		return c.grpcCreate(t, req)
	}
}

var httpOf = map[uint32]int{0: 200, 3: 400, 16: 401, 7: 403, 5: 404, 12: 405, 8: 429, 14: 503, 13: 500}

func (c *ca) grpcCreate(t *testing.T, req *fulciov2.CreateSigningCertificateRequest, pairs ...string) got {
	t.Helper()
	requests.Add(1)
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), pairs...), patience)
	defer cancel()
	var header metadata.MD
	resp, err := c.client.CreateSigningCertificate(ctx, req, grpc.Header(&header))
	g := got{api: overG, header: http.Header{}}
	for k, v := range header {
		g.header[http.CanonicalHeaderKey(k)] = v
	}
	g.requestID = g.header.Get("X-Request-Id")
	st := status.Convert(err)
	var ok bool
	if g.http, ok = httpOf[uint32(st.Code())]; !ok {
		t.Errorf("gRPC code %v", st)
	}
	if err != nil {
		g.message, g.body = st.Message(), st.String()
		for _, d := range st.Details() {
			switch d := d.(type) {
			case *errdetails.ErrorInfo:
				g.reason = d.GetReason()
				if d.GetDomain() != "mayfly-ca.dev" {
					t.Errorf("domain %q", d.GetDomain())
				}
			case *errdetails.RequestInfo:
				if d.GetRequestId() != g.requestID || g.requestID == "" {
					t.Errorf("RequestInfo %q, header %q", d.GetRequestId(), g.requestID)
				}
			}
		}
		return g
	}
	if e := resp.GetSignedCertificateEmbeddedSct(); e != nil {
		g.certs = e.GetChain().GetCertificates()
	}
	if d := resp.GetSignedCertificateDetachedSct(); d != nil {
		g.certs = d.GetChain().GetCertificates()
		s := string(d.GetSignedCertificateTimestamp())
		g.detached = &s
	}
	return g
}

// patience is how long the tests wait for an expected event, on any machine.
const patience = 30 * time.Second

var plain = &http.Client{Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// http sends a request with header pairs and reads its answer. It checks the properties that every
// answer must have.
func (c *ca) http(t *testing.T, method, path, body string, pairs ...string) got {
	t.Helper()
	requests.Add(1)
	r := must(http.NewRequestWithContext(t.Context(), method, "http://"+c.rest+path, strings.NewReader(body)))
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i] == "Host" {
			r.Host = pairs[i+1]
			continue
		}
		r.Header.Add(pairs[i], pairs[i+1])
	}
	resp, err := plain.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return readHTTP(t, method, path, resp, string(data))
}

func readHTTP(t *testing.T, method, path string, resp *http.Response, body string) got {
	t.Helper()
	g := got{api: restV2, http: resp.StatusCode, header: resp.Header, body: body, requestID: resp.Header.Get("X-Request-Id")}
	if strings.Contains(path, "/v1/") {
		g.api = restV1
	}
	if g.requestID == "" {
		t.Errorf("no X-Request-Id in %v", resp.Header)
	}
	for name := range resp.Header {
		if strings.HasPrefix(name, "Grpc-") {
			t.Errorf("header %s in an answer", name)
		}
	}
	if method == "HEAD" || method == "OPTIONS" || resp.StatusCode == 204 {
		return g
	}
	if resp.StatusCode >= 400 {
		var e struct {
			Code    int
			Message string
			Details []map[string]any
		}
		dec := json.NewDecoder(strings.NewReader(body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&e); err != nil || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("the error is not of the shape: %v, %s: %s", err, resp.Header.Get("Content-Type"), body)
			return g
		}
		if httpOf[uint32(e.Code)] != resp.StatusCode || e.Message == "" {
			t.Errorf("status %d with %s", resp.StatusCode, body)
		}
		seen := false
		for _, d := range e.Details {
			switch d["@type"] {
			case "type.googleapis.com/google.rpc.ErrorInfo":
				g.reason, _ = d["reason"].(string)
				if d["domain"] != "mayfly-ca.dev" {
					t.Errorf("domain: %v", d)
				}
			case "type.googleapis.com/google.rpc.RequestInfo":
				seen = d["requestId"] == g.requestID
			}
		}
		if g.reason == "" || !seen {
			t.Errorf("reason or request ID is missing: %s", body)
		}
		if (g.http == 429 || g.http == 503) != (resp.Header.Get("Retry-After") != "") {
			t.Errorf("%d with Retry-After %q", g.http, resp.Header.Get("Retry-After"))
		}
		g.message = e.Message
		return g
	}
	path, _, _ = strings.Cut(path, "?")
	switch path = "/" + strings.TrimLeft(path, "/"); path {
	case "/api/v2/signingCert":
		g.readV2(t)
	case "/api/v1/signingCert":
		g.readV1(t)
	}
	return g
}

func (g *got) readV2(t *testing.T) {
	t.Helper()
	var top map[string]struct {
		Chain                      struct{ Certificates []string }
		SignedCertificateTimestamp *string
	}
	if err := json.Unmarshal([]byte(g.body), &top); err != nil || len(top) != 1 || g.http != 200 || g.header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s %v: %s", g.http, g.header.Get("Content-Type"), err, g.body)
		return
	}
	for key, value := range top {
		g.certs = value.Chain.Certificates
		switch key {
		case "signedCertificateEmbeddedSct":
		case "signedCertificateDetachedSct":
			if value.SignedCertificateTimestamp == nil {
				t.Error("signedCertificateTimestamp is not emitted")
			}
			g.detached = value.SignedCertificateTimestamp
		default:
			t.Errorf("key %s", key)
		}
	}
}

func (g *got) readV1(t *testing.T) {
	t.Helper()
	if g.http != 201 || g.header.Get("Content-Type") != "application/pem-certificate-chain" || g.header["Sct"] != nil {
		t.Errorf("%d %v", g.http, g.header)
	}
	if strings.TrimSpace(g.body) != g.body {
		t.Error("the chain is not trimmed")
	}
	for rest := g.body; rest != ""; {
		const end = "-----END CERTIFICATE-----"
		i := strings.Index(rest, end)
		if i < 0 {
			t.Fatalf("v1 body %q", g.body)
		}
		g.certs = append(g.certs, rest[:i+len(end)])
		if rest = rest[i+len(end):]; rest != "" && !strings.HasPrefix(rest, "\n-") {
			t.Errorf("between certificates stands %.10q", rest)
		}
		rest = strings.TrimPrefix(rest, "\n")
	}
}

// refused checks that g is a refusal: "401" or "401 CLAIM_MISSING".
func (g got) refused(t *testing.T, want string) {
	t.Helper()
	code, reason, _ := strings.Cut(want, " ")
	if fmt.Sprint(g.http) != code || reason != "" && g.reason != reason {
		t.Errorf("%s: got %d %s (%s), want %s", g.api, g.http, g.reason, g.message, want)
	}
}

// name is the expected content of a certificate.
type name struct {
	san string         // "email:", "uri:" or "user:" and the name
	ext map[int]string // without .1, .8 and .24, unless they differ from iss and sub
}

// certificate checks that g is a certificate for key with the content want and not a byte more.
func (g got) certificate(t *testing.T, c *ca, pub any, issuer, sub string, want name) {
	t.Helper()
	if g.http != 200 && g.http != 201 {
		t.Errorf("%s: got %d %s (%s), want a certificate for %s", g.api, g.http, g.reason, g.message, want.san)
		return
	}
	if len(g.certs) != 3 {
		t.Fatalf("%s: %d certificates", g.api, len(g.certs))
	}
	if g.api != restV1 && (g.detached != nil) == c.sct || g.detached != nil && *g.detached != "" {
		t.Errorf("%s: detached: %v", g.api, g.detached)
	}
	for i, text := range g.certs {
		if strings.HasSuffix(text, "\n") {
			t.Errorf("certificate %d ends with a newline", i)
		}
		block, rest := pem.Decode([]byte(text))
		if block == nil || block.Type != "CERTIFICATE" || len(rest) != 0 {
			t.Fatalf("certificate %d is %q", i, text)
		}
		if i > 0 && !bytes.Equal(block.Bytes, w.chain[i-1].Raw) {
			t.Errorf("certificate %d is not the chain's", i)
		}
	}
	block, _ := pem.Decode([]byte(g.certs[0]))
	checkLeaf(t, block.Bytes, c.sct, pub, issuer, sub, want)
}

type extension struct {
	id       string
	critical bool
	value    []byte
}

func checkLeaf(t *testing.T, raw []byte, sct bool, pub any, issuer, sub string, want name) {
	t.Helper()
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.CheckSignatureFrom(w.chain[0]); err != nil {
		t.Error(err)
	}
	spki := must(x509.MarshalPKIXPublicKey(pub))
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, spki) {
		t.Error("another key was certified")
	}
	if !bytes.Equal(leaf.RawSubject, []byte{0x30, 0}) || !bytes.Equal(leaf.RawIssuer, w.chain[0].RawSubject) {
		t.Errorf("subject %x", leaf.RawSubject)
	}
	if leaf.NotAfter.Sub(leaf.NotBefore) != 10*time.Minute || time.Since(leaf.NotBefore) > time.Minute || leaf.NotBefore.After(time.Now()) || leaf.NotBefore.Before(w.chain[0].NotBefore) {
		t.Errorf("valid from %s to %s", leaf.NotBefore, leaf.NotAfter)
	}
	serial := leaf.SerialNumber.Bytes()
	if leaf.SerialNumber.Sign() <= 0 || len(serial) > 20 || len(serial) < 17 || len(serial) == 20 && serial[0] >= 0x80 {
		t.Errorf("serial %x", serial)
	}
	var key struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	must(asn1.Unmarshal(spki, &key))
	ski := sha256.Sum256(key.Key.Bytes) // RFC 7093, section 2, method 1
	wanted := []extension{
		{"2.5.29.15", true, []byte{3, 2, 7, 0x80}},
		{"2.5.29.37", false, []byte{0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 3}},
		{"2.5.29.14", false, der(4, ski[:20])},
		{"2.5.29.35", false, der(0x30, der(0x80, w.chain[0].SubjectKeyId))},
		{"2.5.29.17", true, wantSAN(want.san)},
	}
	texts := map[int]string{1: issuer, 8: issuer, 24: sub}
	maps.Copy(texts, want.ext)
	for _, arc := range slices.Sorted(maps.Keys(texts)) {
		value := []byte(texts[arc])
		if arc >= 8 {
			value = der(12, value)
		}
		wanted = append(wanted, extension{fmt.Sprintf("1.3.6.1.4.1.57264.1.%d", arc), false, value})
	}
	var found []extension
	for _, e := range leaf.Extensions {
		found = append(found, extension{e.Id.String(), e.Critical, e.Value})
	}
	if sct {
		last := found[len(found)-1]
		found = found[:len(found)-1]
		if last.id != "1.3.6.1.4.1.11129.2.4.2" || last.critical {
			t.Errorf("the last extension is %s", last.id)
		}
		checkSCT(t, last.value)
	}
	for i := range max(len(found), len(wanted)) {
		switch {
		case i >= len(found):
			t.Errorf("extension %s (%q) is missing", wanted[i].id, wanted[i].value)
		case i >= len(wanted):
			t.Errorf("extension %s (%q) is too much", found[i].id, found[i].value)
		case found[i].id != wanted[i].id || found[i].critical != wanted[i].critical || !bytes.Equal(found[i].value, wanted[i].value):
			t.Errorf("extension %d is %s %v %q, want %s %v %q", i, found[i].id, found[i].critical, found[i].value, wanted[i].id, wanted[i].critical, wanted[i].value)
			return
		}
	}
}

// der4 is one DER element.
func der(tag byte, value []byte) []byte {
	return must(asn1.Marshal(asn1.RawValue{Class: int(tag >> 6), IsCompound: tag&0x20 != 0, Tag: int(tag & 0x1f), Bytes: value}))
}

func wantSAN(san string) []byte {
	kind, text, _ := strings.Cut(san, ":")
	var general []byte
	switch kind {
	case "email":
		general = der(0x81, []byte(text))
	case "uri":
		general = der(0x86, []byte(text))
	case "user":
		oid := []byte{6, 10, 0x2b, 6, 1, 4, 1, 0x83, 0xbf, 0x30, 1, 7}
		general = der(0xa0, append(oid, der(0xa0, der(12, []byte(text)))...))
	default:
		panic("SAN " + san)
	}
	return der(0x30, general)
}

// checkSCT checks the form of a list of one SCT (RFC 6962, section 3.3); TestLogged verifies a
// signature.
func checkSCT(t *testing.T, value []byte) {
	t.Helper()
	var list []byte
	if rest, err := asn1.Unmarshal(value, &list); err != nil || len(rest) != 0 || len(list) < 4 {
		t.Errorf("SCT list %x", value)
		return
	}
	whole, first := int(list[0])<<8|int(list[1]), int(list[2])<<8|int(list[3])
	if whole != len(list)-2 || first != whole-2 {
		t.Errorf("the list does not hold exactly one SCT: %x", list)
	}
	block, _ := pem.Decode(w.log.PublicKeyPEM())
	id := sha256.Sum256(block.Bytes)
	if list[4] != 0 || !bytes.Equal(list[5:37], id[:]) {
		t.Errorf("version or log ID: %x", list)
	}
}
