// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"bytes"
	"cmp"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestWebPagesGetNoTokens sends what browsers send for pages of each kind of origin. The suite
// of clients shows the same in a browser.
func TestWebPagesGetNoTokens(t *testing.T) {
	t.Parallel()
	var pages []struct {
		Name, Method, Path, Host, Exposed string
		Header                            []string
		Refused                           bool
	}
	text, err := os.ReadFile("testdata/pages.yaml")
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := errors.Join(err, decoder.Decode(&pages)); err != nil || len(pages) < 40 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	for _, page := range pages {
		request := httptest.NewRequest(cmp.Or(page.Method, "GET"), cmp.Or(page.Path, "/token"), nil)
		request.Host = strings.TrimSpace(cmp.Or(page.Host, "127.0.0.1:5555"))
		for i := 0; i < len(page.Header); i += 2 {
			request.Header.Add(page.Header[i], page.Header[i+1])
		}
		recorder := httptest.NewRecorder()
		guard(page.Exposed, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(recorder, request)
		if refused := recorder.Code == http.StatusForbidden; refused != page.Refused {
			t.Errorf("%s: %d, want it refused: %t", page.Name, recorder.Code, page.Refused)
		}
		wantGuarded(t, page.Name, recorder.Header())
		if allow := recorder.Header().Get("Access-Control-Allow-Origin"); allow != "" {
			t.Errorf("%s: %s may read the answer", page.Name, allow)
		}
	}
}

func wantGuarded(t *testing.T, name string, header http.Header) {
	t.Helper()
	for key, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin", "X-Frame-Options": "DENY"} {
		if got := header.Values(key); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %s is %q, want %s", name, key, got, want)
		}
	}
}
