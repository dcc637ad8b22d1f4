// SPDX-License-Identifier: Apache-2.0

package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestTokenFollowsNoRedirect: a CA that redirects gets no token sent elsewhere.
func TestTokenFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s was asked, with %q", r.URL, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	ca := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer ca.Close()

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{URL: ca.URL})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.SigningCertificate(t.Context(), Request{IDToken: "a.b.c", Signer: key, Challenge: "someone"})
	if err == nil || !strings.Contains(err.Error(), "307") {
		t.Errorf("got error %v, want one that tells the status", err)
	}
}
