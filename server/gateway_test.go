// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-ca/mayfly/ca"
	mayflyproof "github.com/mayfly-ca/mayfly/proof"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// bodiesV2 are bodies of requests; decodeV2 decodes those for which the value is true.
func bodiesV2() map[string]bool {
	return map[string]bool{
		goodV2: true,
		`{"publicKeyRequest":{"proofOfPossession":"+/8=","publicKey":{"content":"K\nE\u0059"}},"credentials":{"oidcIdentityToken":"\/"}}`: true,
		` {"certificateSigningRequest" : "Q1NS"} ` + "\n":                         true,
		`{"certificateSigningRequest":""}`:                                        true,
		`{"publicKeyRequest":{}}`:                                                 true,
		`{"publicKeyRequest":{"publicKey":{"algorithm":"RSA","content":"ä\\/"}}}`: true,
		`{"certificateSigningRequest":null,"credentials":null}`:                   true,
		`{"publicKeyRequest":{"publicKey":null,"proofOfPossession":null}}`:        true,
		`{"publicKeyRequest":null,"certificateSigningRequest":""}`:                true,
		`{"credentials":{"oidcIdentityToken":null}}`:                              true,
		`{"credentials":{}}`:                                                      true,
		`{}`:                                                                      true,
		// Correct, but left to the gateway.
		`{"publicKeyRequest":{"publicKey":{"algorithm":1},"proofOfPossession":"-_8"}}`:  false,
		`{"certificate_signing_request":"", "credentials":{"oidc_identity_token":"a"}}`: false,
		`{"unknown":[{}]}`:                                                 false,
		`{"credentials/oidcIdentityToken":"a"}`:                            false,
		`{"publicKeyRequest/publicKey/content":"a","publicKeyRequest":{}}`: false,
		`{"certificateSigningRequest":"Q1M=\n"}`:                           false,
		`{"certificateSigningRequest":"Q1M"}`:                              false,
		// Refused.
		``: false, `null`: false, `[]`: false, `{} {}`: false, `{"credentials":`: false, `{"credentials":"x"}`: false,
		`{"credentials":null,"credentials":{}}`:                                   false,
		`{"credentials":{},"credentials":{}}`:                                     false,
		`{"publicKeyRequest":{},"public_key_request":{}}`:                         false,
		`{"publicKeyRequest":{"publicKey":{},"publicKey":{}}}`:                    false,
		`{"certificateSigningRequest":"","certificate_signing_request":""}`:       false,
		`{"publicKeyRequest":{},"certificateSigningRequest":""}`:                  false,
		`{"publicKeyRequest":{"publicKey":{"content":"","content":""}}}`:          false,
		`{"publicKeyRequest":{"publicKey":{"algorithm":""}}`:                      false,
		`{"credentials":{"oidcIdentityToken":"a","oidc_identity_token":"a"}}`:     false,
		`{"credentials":{"oidcIdentityToken":"` + "\xff" + `"}}`:                  false,
		`{"credentials":{"oidcIdentityToken":"\ud800"}}`:                          false,
		`{"certificateSigningRequest":"Q1N*"}`:                                    false,
		`{"publicKeyRequest":{"publicKey":{"algorithm":1.5}}}`:                    false,
		`{"credentials":` + strings.Repeat(`{"credentials":`, 20_000) + `{}`:      false,
		`{"credentials":{"oidcIdentityToken":"a` + "\n" + `"}}`:                   false,
		`{"unknown":` + strings.Repeat(`[`, 9_999) + strings.Repeat(`]`, 9_999):   false,
		`{"unknown":` + strings.Repeat("[", 11_000) + strings.Repeat("]", 11_000): false,
	}
}

func TestDecodeV2(t *testing.T) {
	t.Parallel()
	for body, want := range bodiesV2() {
		if got := checkDecodeV2(t, []byte(body)); got != want {
			t.Errorf("%.80s: decodes here: %t, want %t", body, got, want)
		}
	}
}

// FuzzDecodeV2: protojson accepts what decodeV2 decodes, and finds the same in it.
func FuzzDecodeV2(f *testing.F) {
	for body := range bodiesV2() {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) { checkDecodeV2(t, body) })
}

func checkDecodeV2(t *testing.T, body []byte) bool {
	t.Helper()
	sent := bytes.Clone(body)
	token, p, ok := decodeV2(body)
	if !bytes.Equal(body, sent) {
		t.Errorf("%.80q was changed to %.80q", sent, body)
	}
	if !ok {
		return false
	}
	var want fulciov2.CreateSigningCertificateRequest
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, &want); err != nil {
		t.Fatalf("%q: protojson refuses it: %v", body, err)
	}
	same := false
	switch oracle := proofOf(&want).(type) {
	case mayflyproof.SignedChallenge:
		got, ok := p.(mayflyproof.SignedChallenge)
		same = ok && bytes.Equal(got.PublicKey, oracle.PublicKey) && bytes.Equal(got.Signature, oracle.Signature)
	case mayflyproof.CSR:
		got, ok := p.(mayflyproof.CSR)
		same = ok && bytes.Equal(got.PEM, oracle.PEM)
	case noProof:
		_, same = p.(noProof)
	}
	if !same || token != want.GetCredentials().GetOidcIdentityToken() {
		t.Fatalf("%q: %q and %v, want %v", body, token, p, &want)
	}
	return true
}

// FuzzAnswer: an answer is what encoding/pem and protojson render, for a leaf
// of any length.
func FuzzAnswer(f *testing.F) {
	for _, length := range []int{0, 1, 47, 48, 49, 96, 1000} {
		f.Add(bytes.Repeat([]byte{0xfb, 0xff}, length)[:length], true)
	}
	f.Add([]byte("leaf"), false)
	fix := newFixture(f, nil)
	f.Fuzz(func(t *testing.T, leaf []byte, embedded bool) {
		issued := &ca.Issued{Certificate: leaf, Chain: fakeChain("i", string(leaf)+"r"), SCTEmbedded: embedded}
		block := strings.TrimSuffix(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})), "\n")
		fix.issue = fixedIssue(issued)
		body := answerV2(issued)
		var got fulciov2.SigningCertificate
		if err := protojson.Unmarshal(body, &got); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
		want, err := service{Server: fix.Server}.CreateSigningCertificate(new(request).with(t.Context()), csrRequest("a.b.c"))
		if err != nil || !proto.Equal(&got, want) {
			t.Errorf("%s, want %v, %v", body, want, err)
		}
		var compact bytes.Buffer
		rendered, _ := marshalJSON.Marshal(&got)
		if err := json.Compact(&compact, rendered); err != nil || compact.String() != string(body) {
			t.Errorf("%s, want %s", body, rendered)
		}
		if certificates := chainPEM(issued); certificates[0] != block || len(certificates) != 3 {
			t.Errorf("%s, want %s first", certificates, block)
		}
	})
}
