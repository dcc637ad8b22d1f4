// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"
)

// The page shows issued certificates as counts alone, and by name only to a search. It is on no public
// listener, and off where the operator says so.
func TestPage(t *testing.T) {
	t.Parallel()
	const person = "person@example.com"
	r := start(t, newWorld(t, withEmbedded, edited("mayfly.yaml", "oidc: {allow_loopback: true}", "oidc: {allow_loopback: true, proxy: \"http://user:hunter2@proxy.example\"}")))
	chain, err := r.request(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := pem.Decode([]byte(chain[0]))
	issued, err := x509.ParseCertificate(leaf.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, r, map[string]any{"email_verified": false}, "EMAIL_UNVERIFIED")
	s := r.state(t)
	if len(s.Certificates) != 1 || s.Certificates[0].Total != 1 || !strings.HasPrefix(s.Certificates[0].Name, "http://127.0.0.1") {
		t.Errorf("certificates: %+v", s.Certificates)
	}
	if len(s.Refusals) != 1 || s.Refusals[0].Name != "EMAIL_UNVERIFIED" {
		t.Errorf("refusals: %+v", s.Refusals)
	}
	pages := map[string][]string{
		"/":                             {"<h1", s.Certificates[0].Name, "EMAIL_UNVERIFIED", "What signs"},
		"/page/configuration":           {"mayfly.yaml:", "default", "oidc.proxy: <b>(secret)", "ct.logs.0.embedded.origin: <b>log.example/2026"},
		"/page/search?identity=nobody*": {"0 found", "covered all 1 entries"},
	}
	for path, wants := range pages {
		body := fetch(t, r.ops+path)
		for _, want := range wants {
			if !strings.Contains(body, want) {
				t.Errorf("%s lacks %q", path, want)
			}
		}
		for _, secret := range []string{person, "hunter2", "person"} {
			if strings.Contains(body, secret) {
				t.Errorf("%s has %q", path, secret)
			}
		}
		if public := fetch(t, r.rest+path); !strings.Contains(public, "NOT_FOUND") {
			t.Errorf("the public listener answers %s", path)
		}
	}
	body := fetch(t, r.ops+"/page/search?identity="+url.QueryEscape(person))
	const link = "/page/certificate?log=2026&amp;index=0"
	if !strings.Contains(body, person) || !strings.Contains(body, link) {
		t.Errorf("the search answers %s", body)
	}
	certificate := strings.ReplaceAll(link, "&amp;", "&")
	body = fetch(t, r.ops+certificate)
	for _, want := range []string{person, issued.SerialNumber.Text(16), "Precertificate poison", "in the trust bundle", "IssuerV2"} {
		if !strings.Contains(body, want) {
			t.Errorf("the certificate lacks %q", want)
		}
	}
	first, rest := pem.Decode([]byte(fetch(t, r.ops+certificate+"&pem=1")))
	if first == nil || len(rest) == 0 {
		t.Fatal("the download has no chain")
	}
	if logged, err := x509.ParseCertificate(first.Bytes); err != nil || logged.SerialNumber.Cmp(issued.SerialNumber) != 0 {
		t.Errorf("the download is of another certificate: %v", err)
	}
}

func TestPageIsOff(t *testing.T) {
	t.Parallel()
	r := start(t, newWorld(t, setting("ops: {page: false}")))
	for _, path := range []string{"/", "/page/search", "/page/style.css"} {
		if body := fetch(t, r.ops+path); !strings.Contains(body, "NOT_FOUND") {
			t.Errorf("%s: %s", path, body)
		}
	}
}
