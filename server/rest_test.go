// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// TestTrustBundle: a bundle is kept only while its chains are the same.
func TestTrustBundle(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	one, two := fakeChain("i1", "r1"), fakeChain("i2", "r2")
	for _, chains := range [][]*ca.Chain{{one, two}, {one, two}, {two, one}, nil} {
		f.bundle = func() []*ca.Chain { return chains }
		var got fulciov2.TrustBundle
		if err := protojson.Unmarshal([]byte(readAll(t, f.do(t, "GET", "/api/v2/trustBundle", ""))), &got); err != nil || len(got.GetChains()) != len(chains) {
			t.Fatalf("%v, %v", &got, err)
		}
		for i, chain := range chains {
			if listed := strings.Join(got.GetChains()[i].GetCertificates(), ""); listed != strings.Join(chain.PEM, "\n")+"\n" {
				t.Errorf("chain %d of %d is %s", i, len(chains), listed)
			}
		}
	}
}

// echo answers with the path that it gets.
func echo(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" { // must not look like a success in the log
			w.WriteHeader(http.StatusForbidden)
		}
		_, _ = io.WriteString(w, name+" "+r.Method+" "+r.URL.Path)
	})
}

func TestMounts(t *testing.T) {
	t.Parallel()
	f := newFixture(t, func(c *Config) {
		c.Mounts = []Mount{
			{Path: "/ctlog/a/", Name: "ctlog", Handler: echo("a")},
			{Path: "/ctlog/a/b/", Name: "ctlog", Handler: echo("b")},
			{Path: "/trusted_root.json", Name: "trust", Handler: echo("t")},
			{Path: "/", Accept: "text/html", Name: "home", Handler: echo("h")},
			{Path: "/panics/", Name: "panics", Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret") })},
		}
	})
	for _, test := range []struct {
		method, path string
		status       int
		want, logged string
	}{
		{"GET", "/ctlog/a/tile/0/000", 200, "a GET /tile/0/000", "OK"},
		{"GET", "/ctlog/a/refused", 403, "a GET /refused", "HTTP_403"},
		{"POST", "//ctlog/a/ct/v1/add-chain", 200, "a POST /ct/v1/add-chain", "OK"},
		{"GET", "/ctlog/a/b/x", 200, "b GET /x", "OK"},
		{"GET", "/trusted_root.json", 200, "t GET /trusted_root.json", "OK"},
		{"GET", "/trusted_root.json/x", 404, "NOT_FOUND", "NOT_FOUND"},
		{"GET", "/ctlog/", 404, "NOT_FOUND", "NOT_FOUND"},
		{"GET", "/panics/", 500, "INTERNAL", "INTERNAL"},
		{"GET", "/", 200, "h GET /", "OK"},
		{"GET", "/nothing", 404, "NOT_FOUND", "NOT_FOUND"},
		{"GET", "/api/v2/configuration", 200, "issuers", "OK"},
	} {
		resp := f.do(t, test.method, test.path, "", "Accept", "text/html,*/*;q=0.8")
		body := readAll(t, resp)
		if resp.StatusCode != test.status || !strings.Contains(body, test.want) || strings.Contains(body, "secret") {
			t.Errorf("%s %s: got %d %s, want %d with %q", test.method, test.path, resp.StatusCode, body, test.status, test.want)
		}
		if record := f.log.request(t, resp.Header.Get("X-Request-Id")); record["reason"] != test.logged {
			t.Errorf("%s: record %v, want %s", test.path, record, test.logged)
		}
	}
	if resp := f.do(t, "GET", "/", "", "Accept", "*/*"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("the mount for text/html answers any client: %s", resp.Status)
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
		switch p, err := decodeV1(body); {
		case err != nil && refusal.From(err).Reason != refusal.RequestMalformed:
			t.Fatalf("refused with %v", err)
		case err == nil && p == nil:
			t.Fatal("no proof")
		}
	})
}
