// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// goodV1 is a correct request of API v1.
const goodV1 = `{"publicKey":{"content":"S0VZ","algorithm":"ecdsa"},"signedEmailAddress":"AQID","certificateSigningRequest":null}`

// goodV2 is a correct request of API v2.
const goodV2 = `{"credentials":{"oidcIdentityToken":"a.b.c"},"publicKeyRequest":{"publicKey":{"algorithm":"ECDSA","content":"KEY"},"proofOfPossession":"AQID"}}`

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
