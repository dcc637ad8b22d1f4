// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"cmp"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestWebPagesGetNoTokens sends what browsers send for pages of each kind of origin. The suite
// of clients shows the same in a browser.
func TestWebPagesGetNoTokens(t *testing.T) {
	t.Parallel()
	served := guard("/oidc/auth", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	navigate := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site"}
	frame := []string{"Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe", "Sec-Fetch-Site"}
	const allowed, refused = http.StatusOK, http.StatusForbidden
	for name, test := range map[string]struct {
		method, path, host string
		header             []string
		want               int
	}{
		"a program":                        {want: allowed},
		"a program's form":                 {method: "POST", path: "/oidc/token", want: allowed},
		"a typed address":                  {header: append(navigate, "none"), want: allowed},
		"a page of its own":                {header: []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://127.0.0.1:5555"}, want: allowed},
		"the form of the sign-in page":     {method: "POST", path: "/oidc/auth", header: append(navigate, "same-origin", "Origin", "http://127.0.0.1:5555"), want: allowed},
		"the same from an older browser":   {method: "POST", path: "/oidc/auth", header: []string{"Origin", "http://127.0.0.1:5555"}, want: allowed},
		"under the name localhost":         {host: "localhost:5555", header: []string{"Origin", "http://localhost:5555"}, want: allowed},
		"an IPv6 address":                  {host: "[::1]:5555", want: allowed},
		"an IPv6 address, no port":         {host: "[::1]", want: allowed},
		"another site opens the sign-in":   {path: "/oidc/auth", header: append(navigate, "cross-site"), want: allowed},
		"another port opens the sign-in":   {path: "/oidc/auth", header: append(navigate, "same-site"), want: allowed},
		"another site frames the sign-in":  {path: "/oidc/auth", header: append(frame, "cross-site"), want: refused},
		"another site fetches the sign-in": {path: "/oidc/auth", header: []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "empty"}, want: refused},
		"another site submits the form":    {method: "POST", path: "/oidc/auth", header: append(navigate, "cross-site", "Origin", "https://evil.example"), want: refused},
		"the same without an origin":       {method: "POST", path: "/oidc/auth", header: append(navigate, "cross-site"), want: refused},
		"a navigation with two sources":    {path: "/oidc/auth", header: append(navigate, "cross-site", "Sec-Fetch-Dest", "iframe"), want: refused},
		"a navigation with an origin":      {path: "/oidc/auth", header: append(navigate, "cross-site", "Origin", "https://evil.example"), want: refused},
		"a path like the sign-in's":        {path: "/oidc/auth/", header: append(navigate, "cross-site"), want: refused},
		"another site opens a token":       {header: append(navigate, "cross-site"), want: refused},
		"a script of another site":         {header: []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "script"}, want: refused},
		"a script of another port":         {header: []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "script"}, want: refused},
		"a value of no specification":      {header: []string{"Sec-Fetch-Site", "Same-Origin"}, want: refused},
		"an empty value":                   {header: []string{"Sec-Fetch-Site", ""}, want: refused},
		"two values":                       {header: []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Site", "cross-site"}, want: refused},
		"a frame of another site":          {header: append(frame, "cross-site"), want: refused},
		"a fetch of another site":          {header: []string{"Origin", "https://evil.example"}, want: refused},
		"a fetch of another port":          {header: []string{"Origin", "http://127.0.0.1:5556"}, want: refused},
		"another name of this machine":     {header: []string{"Origin", "http://localhost:5555"}, want: refused},
		"another scheme":                   {header: []string{"Origin", "https://127.0.0.1:5555"}, want: refused},
		"a sandboxed page":                 {header: []string{"Origin", "null"}, want: refused},
		"a sandboxed page, as its own":     {header: []string{"Origin", "null", "Sec-Fetch-Site", "same-origin"}, want: refused},
		"an empty origin":                  {header: []string{"Origin", ""}, want: refused},
		"a preflight":                      {method: "OPTIONS", header: []string{"Origin", "https://evil.example", "Access-Control-Request-Method", "GET"}, want: refused},
		"a preflight to this machine":      {method: "OPTIONS", header: []string{"Origin", "https://evil.example", "Access-Control-Request-Private-Network", "true"}, want: refused},
		"a WebSocket of another site":      {header: []string{"Origin", "https://evil.example", "Connection", "Upgrade", "Upgrade", "websocket"}, want: refused},
		"a name that leads here":           {host: "evil.example:5555", want: refused},
		"the same for its own page":        {host: "evil.example:5555", header: []string{"Sec-Fetch-Site", "same-origin", "Origin", "http://evil.example:5555"}, want: refused},
		"a name that begins like ours":     {host: "localhost.evil.example", want: refused},
		"an address in a name":             {host: "127.0.0.1.nip.example", want: refused},
		"every interface":                  {host: "0.0.0.0:5555", want: refused},
		"no name":                          {host: " ", want: refused},
	} {
		request := httptest.NewRequest(cmp.Or(test.method, "GET"), cmp.Or(test.path, "/token"), nil)
		request.Host = strings.TrimSpace(cmp.Or(test.host, "127.0.0.1:5555"))
		for i := 0; i < len(test.header); i += 2 {
			request.Header.Add(test.header[i], test.header[i+1])
		}
		recorder := httptest.NewRecorder()
		served.ServeHTTP(recorder, request)
		if recorder.Code != test.want {
			t.Errorf("%s: %d, want %d", name, recorder.Code, test.want)
		}
		wantGuarded(t, name, recorder.Header())
		if allow := recorder.Header().Get("Access-Control-Allow-Origin"); allow != "" {
			t.Errorf("%s: %s may read the answer", name, allow)
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
