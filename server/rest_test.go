// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/proof"
)

// goodV2 is a correct request of API v2.
const goodV2 = `{"credentials":{"oidcIdentityToken":"a.b.c"},"publicKeyRequest":{"publicKey":{"algorithm":"ECDSA","content":"KEY"},"proofOfPossession":"AQID"}}`

func TestSigningCertEmbedded(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	resp := f.do(t, "POST", "/api/v2/signingCert", goodV2)
	if resp.StatusCode != http.StatusOK {
		t.Errorf("status is %d, want exactly 200", resp.StatusCode)
	}
	want := map[string]any{"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{
		"certificates": []any{fakePEM("leaf"), fakePEM("intermediate"), fakePEM("root")},
	}}}
	if diff := cmp.Diff(want, decodeJSON(t, resp)); diff != "" {
		t.Error(diff)
	}
}

func TestSigningCertDetachedHasEmptyBytesWithoutALog(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.authority.issue = func(context.Context, ca.Request) (*ca.Issued, error) {
		return &ca.Issued{Certificate: []byte("leaf"), Chain: fakeChain("root")}, nil
	}
	want := map[string]any{"signedCertificateDetachedSct": map[string]any{
		"chain":                      map[string]any{"certificates": []any{fakePEM("leaf"), fakePEM("root")}},
		"signedCertificateTimestamp": "",
	}}
	if diff := cmp.Diff(want, decodeJSON(t, f.do(t, "POST", "/api/v2/signingCert", goodV2))); diff != "" {
		t.Error(diff)
	}
}

// TestSigningCertRequestForms compares the JSON that clients send with the request that the
// authority gets.
func TestSigningCertRequestForms(t *testing.T) {
	t.Parallel()
	bytesWithBothAlphabets := []byte{0xfb, 0xff, 0xfe, 0x01}
	std := base64.StdEncoding.EncodeToString(bytesWithBothAlphabets)
	url := base64.URLEncoding.EncodeToString(bytesWithBothAlphabets)
	raw := base64.RawURLEncoding.EncodeToString(bytesWithBothAlphabets)
	key := func(pop string) string {
		return `{"credentials":{"oidcIdentityToken":"a.b.c"},"publicKeyRequest":{"publicKey":{"content":"KEY"},"proofOfPossession":"` + pop + `"}}`
	}
	challenge := proof.SignedChallenge{PublicKey: []byte("KEY"), Signature: bytesWithBothAlphabets}
	for _, tt := range []struct {
		name, body string
		headers    []string
		want       ca.Proof
	}{
		{"camelCase", key(std), nil, challenge},
		{"URL-safe base64", key(url), nil, challenge},
		{"URL-safe base64 without padding", key(raw), nil, challenge},
		{"snake_case", `{"credentials":{"oidc_identity_token":"a.b.c"},"public_key_request":{"public_key":{"content":"KEY"},"proof_of_possession":"` + std + `"}}`, nil, challenge},
		{"unknown fields are ignored", `{"x":1,"credentials":{"oidcIdentityToken":"a.b.c","y":[{}]},"publicKeyRequest":{"publicKey":{"content":"KEY","z":null},"proofOfPossession":"` + std + `"}}`, nil, challenge},
		{"an unknown name of the enum is ignored", `{"credentials":{"oidcIdentityToken":"a.b.c"},"publicKeyRequest":{"publicKey":{"algorithm":"RSA","content":"KEY"},"proofOfPossession":"` + std + `"}}`, nil, challenge},
		{"an enum as a number", `{"credentials":{"oidcIdentityToken":"a.b.c"},"publicKeyRequest":{"publicKey":{"algorithm":2,"content":"KEY"},"proofOfPossession":"` + std + `"}}`, nil, challenge},
		{"CSR", `{"credentials":{"oidcIdentityToken":"a.b.c"},"certificateSigningRequest":"` + std + `"}`, nil, proof.CSR{PEM: bytesWithBothAlphabets}},
		{"the token in the header", `{"certificateSigningRequest":"` + std + `"}`, []string{"Authorization", "Bearer a.b.c"}, proof.CSR{PEM: bytesWithBothAlphabets}},
		{"the same token twice", key(std), []string{"Authorization", "bearer a.b.c"}, challenge},
		{"a null member of the oneof", `{"credentials":{"oidcIdentityToken":"a.b.c"},"publicKeyRequest":null,"certificateSigningRequest":"` + std + `"}`, nil, proof.CSR{PEM: bytesWithBothAlphabets}},
		{"no key at all", `{"credentials":{"oidcIdentityToken":" a.b.c\n"}}`, nil, noProof{}},
		{"Content-Type and Accept are ignored", key(std), []string{"Content-Type", "application/x-www-form-urlencoded", "Accept", "application/pem-certificate-chain"}, challenge},
		{"an odd Content-Type is ignored", key(std), []string{"Content-Type", ";;;/"}, challenge},
		{"headers that mean something to the gateway are ignored", key(std), []string{"Grpc-Timeout", "bogus", "X-HTTP-Method-Override", "GET", "TE", "trailers", "Grpc-Metadata-Oidcidentitytoken", "other", "Foo-Bin", "!"}, challenge},
		{"white space around the JSON", " \n" + key(std) + "\r\n ", nil, challenge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			resp := f.do(t, "POST", "/api/v2/signingCert", tt.body, append(tt.headers, "X-Request-Id", "id-1")...)
			if body := decodeJSON(t, resp); resp.StatusCode != http.StatusOK || len(body) != 1 {
				t.Fatalf("%d, %v", resp.StatusCode, body)
			}
			want := ca.Request{IDToken: "a.b.c", Proof: tt.want, RequestID: "id-1"}
			if diff := cmp.Diff(want, f.asked(t), cmpopts.IgnoreFields(ca.Request{}, "Client")); diff != "" {
				t.Error(diff)
			}
			for name := range resp.Header {
				if strings.HasPrefix(name, "Grpc-") || name == "Trailer" || name == "Transfer-Encoding" {
					t.Errorf("header %s in the answer", name)
				}
			}
		})
	}
}

func TestSigningCertRefusesMalformedBodies(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, body string }{
		{"empty", ""},
		{"white space", " \n"},
		{"null", "null"},
		{"not an object", `[]`},
		{"a string", `"secret"`},
		{"not JSON", `secret: yes`},
		{"cut off", `{"credentials":{"oidcIdentityToken":"secret`},
		{"trailing garbage", goodV2 + "secret"},
		{"a second value", goodV2 + goodV2},
		{"a field twice", `{"certificateSigningRequest":"AQID","certificateSigningRequest":"AQID"}`},
		{"a field twice under both names", `{"certificateSigningRequest":"AQID","certificate_signing_request":"AQID"}`},
		{"both members of the oneof", `{"publicKeyRequest":{},"certificateSigningRequest":"AQID"}`},
		{"a number for a string", `{"credentials":{"oidcIdentityToken":12345}}`},
		{"what is not base64", `{"certificateSigningRequest":"secret.secret!"}`},
		{"invalid UTF-8", "{\"credentials\":{\"oidcIdentityToken\":\"\xff\"}}"},
		{"depth", strings.Repeat(`{"credentials":`, 5000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			message := checkRefusal(t, f.do(t, "POST", "/api/v2/signingCert", tt.body, "X-Request-Id", "id-1"), refusal.RequestMalformed)
			for _, leak := range []string{"proto", "syntax", "unexpected", "secret", "line", "12345"} {
				if strings.Contains(message, leak) {
					t.Errorf("the message has parser's text: %q", message)
				}
			}
			if strings.Contains(f.log.String(), "secret") {
				t.Error("the log has the body")
			}
			if got := f.count(t, "rest_v2", "CreateSigningCertificate", "REQUEST_MALFORMED"); got != 1 {
				t.Errorf("counted %v times", got)
			}
		})
	}
}

// TestBodyOverTheLimit: every API refuses such a body as malformed, whether or not its length is
// announced, and reads a body of exactly the limit.
func TestBodyOverTheLimit(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	for _, path := range []string{"/api/v2/signingCert", "/api/v1/signingCert"} {
		for name, length := range map[string]int64{"announced": limit + 1, "not announced": -1} {
			t.Run(path+" "+name, func(t *testing.T) {
				t.Parallel()
				f := newFixture(t, nil)
				resp := f.doWithLength(t, path, strings.Repeat(" ", limit+1), length)
				if message := checkRefusal(t, resp, refusal.RequestMalformed); !strings.Contains(message, "65536") {
					t.Errorf("the message does not name the limit: %q", message)
				}
			})
		}
		t.Run(path+" at the limit", func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			body := goodV2
			if strings.Contains(path, "v1") {
				body = `{"certificateSigningRequest":"AQID"}`
			}
			resp := f.do(t, "POST", path, body+strings.Repeat(" ", limit-len(body)), "Authorization", "Bearer a.b.c")
			if resp.StatusCode >= 300 {
				t.Errorf("status is %d: %s", resp.StatusCode, readAll(t, resp))
			}
		})
	}
}

func TestTrustBundle(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	chains := []*ca.Chain{fakeChain("i1", "r1"), fakeChain("i2", "r2")}
	f.authority.bundle = func() []*ca.Chain { return chains }
	get := func() any { return decodeJSON(t, f.do(t, "GET", "/api/v2/trustBundle", ""))["chains"] }
	chain := func(names ...string) any {
		var all []any
		for _, name := range names {
			all = append(all, fakePEM(name)+"\n")
		}
		return map[string]any{"certificates": all}
	}
	for range 2 { // the second answer is from memory
		if diff := cmp.Diff(any([]any{chain("i1", "r1"), chain("i2", "r2")}), get()); diff != "" {
			t.Error(diff)
		}
	}
	chains = []*ca.Chain{chains[1], chains[0]}
	if diff := cmp.Diff(any([]any{chain("i2", "r2"), chain("i1", "r1")}), get()); diff != "" {
		t.Errorf("after the authorities changed places: %s", diff)
	}
	chains = nil
	if diff := cmp.Diff(any([]any{}), get()); diff != "" {
		t.Errorf("of an empty bundle: %s", diff)
	}
}

func TestConfiguration(t *testing.T) {
	t.Parallel()
	var issuers []IssuerInfo
	f := newFixture(t, func(c *Config) { c.Issuers = func() []IssuerInfo { return issuers } })
	if diff := cmp.Diff(map[string]any{"issuers": []any{}}, decodeJSON(t, f.do(t, "GET", "/api/v2/configuration", ""))); diff != "" {
		t.Errorf("of no issuers: %s", diff)
	}
	issuers = []IssuerInfo{
		{URL: "https://a.example", Audience: "sigstore", ChallengeClaim: "email", Type: "email", SkipEmailVerification: true},
		{URL: "https://*.example/x", Wildcard: true, Audience: "b", ChallengeClaim: "sub", Type: "spiffe", SPIFFETrustDomain: "d", SubjectDomain: "s"},
	}
	want := map[string]any{"issuers": []any{
		map[string]any{"issuerUrl": "https://a.example", "audience": "sigstore", "challengeClaim": "email", "spiffeTrustDomain": "", "issuerType": "email", "subjectDomain": "", "skipEmailVerification": true},
		map[string]any{"wildcardIssuerUrl": "https://*.example/x", "audience": "b", "challengeClaim": "sub", "spiffeTrustDomain": "d", "issuerType": "spiffe", "subjectDomain": "s", "skipEmailVerification": false},
	}}
	if diff := cmp.Diff(want, decodeJSON(t, f.do(t, "GET", "/api/v2/configuration", ""))); diff != "" {
		t.Error(diff)
	}
}

func TestPathsAndMethods(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		method, path string
		reason       refusal.Reason
		allow        string
	}{
		{"GET", "/api/v2/signingCert", refusal.MethodNotPermitted, "POST, OPTIONS"},
		{"HEAD", "/api/v1/signingCert", refusal.MethodNotPermitted, "POST, OPTIONS"},
		{"POST", "/api/v2/trustBundle", refusal.MethodNotPermitted, "GET, HEAD, OPTIONS"},
		{"DELETE", "/api/v1/rootCert", refusal.MethodNotPermitted, "GET, HEAD, OPTIONS"},
		{strings.Repeat("M", 500), "/api/v2/configuration", refusal.MethodNotPermitted, "GET, HEAD, OPTIONS"},
		{"POST", "/healthz", refusal.MethodNotPermitted, "GET, HEAD, OPTIONS"},
		{"GET", "/", refusal.PathNotFound, ""},
		{"GET", "/api/v2/trustBundle/", refusal.PathNotFound, ""},
		{"GET", "/api/v3/trustBundle", refusal.PathNotFound, ""},
		{"GET", "/api/v2/trustBundle:verb", refusal.PathNotFound, ""},
		{"GET", "/api//v2/trustBundle", refusal.PathNotFound, ""},
		{"POST", "/dev.sigstore.fulcio.v2.CA/GetTrustBundle", refusal.PathNotFound, ""},
		{"GET", "/metrics", refusal.PathNotFound, ""},
		{"POST", "/api/v1/unknown", refusal.PathNotFound, ""},
	} {
		name := tt.method
		t.Run(name[:min(len(name), 8)]+" "+tt.path, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			resp := f.do(t, tt.method, tt.path, "")
			if got := resp.Header.Get("Allow"); got != tt.allow {
				t.Errorf("Allow is %q, want %q", got, tt.allow)
			}
			if tt.method == "HEAD" {
				// net/http drops the body; the recorder does not.
				if resp.StatusCode != httpStatus(tt.reason) {
					t.Errorf("status is %d", resp.StatusCode)
				}
				return
			}
			if message := checkRefusal(t, resp, tt.reason); len(message) > 300 {
				t.Errorf("the message is %d bytes long", len(message))
			}
		})
	}
}

func TestPathsThatBeginWithTwoSlashes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	for _, path := range []string{"//api/v2/trustBundle", "///api/v1/rootCert", "//healthz"} {
		if resp := f.do(t, "GET", path, ""); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: status is %d", path, resp.StatusCode)
		}
	}
	if resp := f.do(t, "POST", "//api/v2/signingCert", goodV2); resp.StatusCode != http.StatusOK {
		t.Errorf("status is %d", resp.StatusCode)
	}
}

func TestOptionsAndHead(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	resp := f.do(t, "OPTIONS", "/api/v2/signingCert", "")
	if resp.StatusCode != http.StatusNoContent || resp.Header.Get("Allow") != "POST, OPTIONS" || resp.Header.Get("X-Request-Id") == "" {
		t.Errorf("OPTIONS: %d %v", resp.StatusCode, resp.Header)
	}
	if resp := f.do(t, "OPTIONS", "/healthz", ""); resp.StatusCode != http.StatusNoContent || resp.Header.Get("Allow") != "GET, HEAD, OPTIONS" {
		t.Errorf("OPTIONS /healthz: %d %v", resp.StatusCode, resp.Header)
	}
	for _, path := range []string{"/api/v2/trustBundle", "/api/v2/configuration", "/api/v1/rootCert", "/healthz"} {
		resp := f.do(t, "HEAD", path, "")
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Length") == "" || resp.Header.Get("X-Request-Id") == "" {
			t.Errorf("HEAD %s: %d %v", path, resp.StatusCode, resp.Header)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	for _, tt := range []struct {
		sent string
		kept bool
	}{
		{"aB9._-", true},
		{strings.Repeat("a", 128), true},
		{strings.Repeat("a", 129), false},
		{"", false},
		{"a b", false},
		{"a/b", false},
		{"ä", false},
	} {
		for _, path := range []string{"/api/v2/trustBundle", "/nowhere", "/readyz", "/api/v1/rootCert"} {
			got := f.do(t, "GET", path, "", "X-Request-Id", tt.sent).Header.Get("X-Request-Id")
			if tt.kept && got != tt.sent {
				t.Errorf("%s: sent %q, got %q", path, tt.sent, got)
			}
			if !tt.kept && (len(got) != 32 || strings.Trim(got, "0123456789abcdef") != "") {
				t.Errorf("%s: sent %q, got %q, want 128 random bits as hex", path, tt.sent, got)
			}
		}
	}
}

func TestRequestWithoutAKeyIsRefusedWhereAKeyIsChecked(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.authority.issue = func(_ context.Context, req ca.Request) (*ca.Issued, error) {
		_, err := req.Proof.Verify(nil, proof.Challenge{})
		return nil, err
	}
	checkRefusal(t, f.do(t, "POST", "/api/v2/signingCert", `{"credentials":{"oidcIdentityToken":"a.b.c"}}`), refusal.KeyUnsupported)
	checkRefusal(t, f.do(t, "POST", "/api/v1/signingCert", `{}`, "Authorization", "Bearer a.b.c"), refusal.KeyUnsupported)
	checkRefusal(t, f.do(t, "POST", "/api/v2/signingCert", `{}`), refusal.TokenMissing)
}

func FuzzRESTv2(f *testing.F) {
	f.Add([]byte(goodV2), "Bearer a.b.c")
	f.Add([]byte(`{"certificateSigningRequest":"AQID"}`), "bearer x")
	f.Add([]byte(`null`), "")
	f.Fuzz(func(t *testing.T, body []byte, authorization string) {
		fix := newFixture(t, nil)
		resp := fix.do(t, "POST", "/api/v2/signingCert", string(body), "Authorization", authorization)
		answer := readAll(t, resp)
		var v map[string]json.RawMessage
		if err := json.Unmarshal([]byte(answer), &v); err != nil {
			t.Fatalf("%v in %q", err, answer)
		}
		switch resp.StatusCode {
		case http.StatusOK, http.StatusBadRequest, http.StatusUnauthorized:
		default:
			t.Fatalf("status %d: %s", resp.StatusCode, answer)
		}
	})
}
