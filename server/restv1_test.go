// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/proof"
)

const goodV1 = `{"publicKey":{"content":"S0VZ","algorithm":"ecdsa"},"signedEmailAddress":"AQID","certificateSigningRequest":null}`

func TestV1SigningCert(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	resp := f.do(t, "POST", "/api/v1/signingCert", goodV1, "Authorization", "Bearer a.b.c", "X-Request-Id", "id-1")
	if resp.StatusCode != http.StatusCreated {
		t.Errorf("status is %d, want exactly 201", resp.StatusCode)
	}
	if got := resp.Header.Get("Content-Type"); got != "application/pem-certificate-chain" {
		t.Errorf("Content-Type is %q", got)
	}
	if _, ok := resp.Header["Sct"]; ok {
		t.Error("there is an SCT header, though no SCT is detached")
	}
	want := fakePEM("leaf") + "\n" + fakePEM("intermediate") + "\n" + fakePEM("root")
	if diff := cmp.Diff(want, readAll(t, resp)); diff != "" {
		t.Error(diff)
	}
	wantRequest := ca.Request{
		IDToken: "a.b.c", RequestID: "id-1",
		Proof: proof.SignedChallenge{PublicKey: []byte("KEY"), Signature: []byte{1, 2, 3}},
	}
	if diff := cmp.Diff(wantRequest, f.asked(t), cmpopts.IgnoreFields(ca.Request{}, "Client")); diff != "" {
		t.Error(diff)
	}
	if got := f.count(t, "rest_v1", "CreateSigningCertificate", "OK"); got != 1 {
		t.Errorf("counted %v times", got)
	}
}

func TestV1RequestForms(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, body string
		want       ca.Proof
	}{
		{"a CSR", `{"certificateSigningRequest":"Q1NS"}`, proof.CSR{PEM: []byte("CSR")}},
		{"a non-empty CSR wins", `{"publicKey":{"content":"S0VZ"},"signedEmailAddress":"AQID","certificateSigningRequest":"Q1NS"}`, proof.CSR{PEM: []byte("CSR")}},
		{"an empty CSR does not", `{"publicKey":{"content":"S0VZ"},"signedEmailAddress":"AQID","certificateSigningRequest":""}`, proof.SignedChallenge{PublicKey: []byte("KEY"), Signature: []byte{1, 2, 3}}},
		{"unknown fields are ignored", `{"x":{"y":1},"certificateSigningRequest":"Q1NS","publicKey":{"z":[]}}`, proof.CSR{PEM: []byte("CSR")}},
		{"snake_case is unknown", `{"certificate_signing_request":"Q1NS"}`, noProof{}},
		{"another case is unknown", `{"CertificateSigningRequest":"Q1NS"}`, noProof{}},
		{"nothing", `{}`, noProof{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			resp := f.do(t, "POST", "/api/v1/signingCert", tt.body, "Authorization", "Bearer a.b.c")
			if resp.StatusCode != http.StatusCreated {
				t.Fatalf("%d: %s", resp.StatusCode, readAll(t, resp))
			}
			if diff := cmp.Diff(tt.want, f.asked(t).Proof); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestV1Refusals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, body, authorization string
		want                      refusal.Reason
	}{
		{"an empty body", "", "Bearer a.b.c", refusal.RequestMalformed},
		{"not JSON", "secret", "Bearer a.b.c", refusal.RequestMalformed},
		{"trailing garbage", goodV1 + "secret", "Bearer a.b.c", refusal.RequestMalformed},
		{"a name twice", `{"certificateSigningRequest":"AQID","certificateSigningRequest":"AQID"}`, "Bearer a.b.c", refusal.RequestMalformed},
		{"what is not base64", `{"certificateSigningRequest":"secret!"}`, "Bearer a.b.c", refusal.RequestMalformed},
		{"a number for bytes", `{"signedEmailAddress":1}`, "Bearer a.b.c", refusal.RequestMalformed},
		{"an array", `[]`, "Bearer a.b.c", refusal.RequestMalformed},
		{"no token", goodV1, "", refusal.TokenMissing},
		{"another scheme", goodV1, "Basic YTpi", refusal.TokenMissing},
		{"a token in the body", `{"credentials":{"oidcIdentityToken":"a.b.c"},"certificateSigningRequest":"AQID"}`, "", refusal.TokenMissing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			message := checkRefusal(t, f.do(t, "POST", "/api/v1/signingCert", tt.body, "Authorization", tt.authorization), tt.want)
			if strings.Contains(message, "secret") || strings.Contains(message, "json") {
				t.Errorf("the message has parser's text: %q", message)
			}
		})
	}
}

func TestV1RootCert(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	chains := []*ca.Chain{fakeChain("i1", "r1"), fakeChain("r2")}
	f.authority.bundle = func() []*ca.Chain { return chains }
	resp := f.do(t, "GET", "/api/v1/rootCert", "")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/pem-certificate-chain" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	want := fakePEM("i1") + "\n\n" + fakePEM("r1") + "\n\n" + fakePEM("r2")
	if diff := cmp.Diff(want, readAll(t, resp)); diff != "" {
		t.Error(diff)
	}
}

func FuzzDecodeV1(f *testing.F) {
	f.Add([]byte(goodV1))
	f.Add([]byte(`{"certificateSigningRequest":"Q1NS"}`))
	f.Add([]byte(`{"publicKey":null,"signedEmailAddress":null}`))
	f.Add([]byte(`{"PublicKey":{}} `))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := decodeV1(body)
		if err != nil {
			if refusal.From(err).Reason != refusal.RequestMalformed {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		if req.proof() == nil {
			t.Fatal("no proof")
		}
		if len(req.CertificateSigningRequest)+len(req.PublicKey.Content)+len(req.SignedEmailAddress) > len(body) {
			t.Fatal("more bytes out than in")
		}
	})
}

// base64(1) breaks its lines, and v1 accepts them.
func TestDecodeV1TakesLineBreaksInBase64(t *testing.T) {
	t.Parallel()
	req, err := decodeV1([]byte(`{"publicKey":{"content":"aGVs\nbG8=\n"},"signedEmailAddress":"aGk=\r\n"}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(req.PublicKey.Content) + " " + string(req.SignedEmailAddress); got != "hello hi" {
		t.Errorf("got %q, want %q", got, "hello hi")
	}
}
