// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
	"github.com/mayfly-ca/mayfly/internal/trustroot"
	"github.com/mayfly-ca/mayfly/oidc"
)

// Names and errors are of others: in the page they are text, and nothing else.
func TestPageEscapes(t *testing.T) {
	t.Parallel()
	w, _ := run(t, Config{})
	const hostile = "\"><script>alert(1)</script><img src=x onerror=alert(2)>\u202e"
	var page bytes.Buffer
	err := pageTemplate.Execute(&page, pageData{
		World: w, Nonce: "n", Problem: errors.New(hostile),
		Logs:    []trustroot.CTLog{{URL: "javascript:alert(1)"}},
		Issuers: []oidc.IssuerStatus{{Entry: hostile, IssuerURL: "javascript:alert(1)", LastError: hostile}, {Entry: hostile}},
		Kinds:   Kinds{{About: hostile}},
	})
	found := &reader.Found{SAN: certs.SAN{Value: hostile}, Issuer: hostile, Certificate: &x509.Certificate{SerialNumber: big.NewInt(0x0abc)}}
	if err == nil {
		err = pageTemplate.Execute(&page, pageData{World: w, Nonce: "n", Certificates: []*reader.Found{found}})
	}
	text := page.String()
	if err != nil || strings.Count(text, "<script") != 2 || strings.Contains(text, "<img") || strings.Contains(text, `href="javascript:`) {
		t.Errorf("%v: %s", err, text)
	}
	if !strings.Contains(text, `onerror=alert(2)&gt;\u202e`) || !strings.Contains(text, ">0abc<") || !strings.Contains(text, ">elsewhere<") {
		t.Errorf("the page lacks an escaped name, a serial number, or the state of a log elsewhere: %s", text)
	}
}

// A world that has not issued a certificate, or cannot read its log, has a page that states it.
func TestPageWithoutCertificates(t *testing.T) {
	t.Parallel()
	w, _ := run(t, Config{})
	page := get(t, w.URL()+"/dev/", http.StatusOK)
	for _, want := range []string{"None yet", `<td class="good">answers</td>`, w.IssuerURL(), w.TimestampURL(), w.RekorURL(), w.TUFMirror(), "/ctlog/dev"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Count(page, `class="good"`) != 5+len(w.kinds) || strings.Contains(page, `class="bad"`) || strings.Contains(page, `id="exposed"`) {
		t.Errorf("not every service answers, or one too many: %s", page)
	}
	broken := &World{dir: t.TempDir()}
	if list, err := broken.recent(t.Context()); err == nil || len(list) > 0 {
		t.Errorf("a log that is absent has %v, %v", list, err)
	}
	if state := w.State(w.URL() + "/dev/nothing"); state != "HTTP 404 Not Found" {
		t.Errorf("a service that is absent: %s", state)
	}
}

// Browsers are led to the page from / and from /dev. To any other client, / has nothing, as before.
func TestBrowsersFindThePage(t *testing.T) {
	t.Parallel()
	w, _ := run(t, Config{})
	const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	for _, test := range []struct {
		method, path, accept string
		status               int
		location             string
	}{
		{"GET", "/", browser, 303, "/dev/"},
		{"HEAD", "/", browser, 303, "/dev/"},
		{"GET", "/", "*/*", 404, ""},
		{"GET", "/", "", 404, ""},
		{"GET", "/nothing", browser, 404, ""},
		{"GET", "/api/v2/configuration", browser, 200, ""},
		{"GET", "/dev", "*/*", 303, "/dev/"},
		{"HEAD", "/dev/", browser, 200, ""},
		{"POST", "/dev/", browser, 405, ""},
		{"HEAD", "/dev/oidc/", "*/*", 303, "/dev/oidc/.well-known/openid-configuration"},
		{"HEAD", "/dev/tuf/", "*/*", 200, ""},
		{"HEAD", "/dev/rekor/", "*/*", 303, "/dev/rekor/api/v2/checkpoint"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), test.method, w.URL()+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.accept != "" {
			request.Header.Set("Accept", test.accept)
		}
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != test.status || response.Header.Get("Location") != test.location {
			t.Errorf("%s %s for %q: %s to %q", test.method, test.path, test.accept, response.Status, response.Header.Get("Location"))
		}
		if test.path == "/" && test.status == 404 && !strings.Contains(string(body), "the APIs are at") {
			t.Errorf("a program's / is %s", body)
		}
	}
	policy := func() string {
		response, err := http.Get(w.URL() + "/dev/")
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		wantGuarded(t, "the page", response.Header)
		return response.Header.Get("Content-Security-Policy")
	}
	if first, second := policy(), policy(); first == second || !strings.HasPrefix(first, "default-src 'none'; style-src 'nonce-") || strings.Contains(first, "unsafe") {
		t.Errorf("the policies %s and %s", first, second)
	}
}
