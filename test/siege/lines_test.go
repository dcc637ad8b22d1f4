// SPDX-License-Identifier: Apache-2.0

package siege

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

const (
	longestLine   = 2 << 10
	deadIssuers   = 20
	outage        = 22 * time.Second
	outageLines   = 30 // one for each issuer, and summaries
	longToken     = 15 << 10
	longestHeader = 30 << 10
)

// oddValues are values for a field of a token, each as JSON.
func oddValues() []string {
	long := strings.Repeat("A", longToken/2)
	quotes := strings.Repeat(`\"`, longToken/8)
	return []string{
		`null`, `true`, `-1`, `1e999`, `[]`, `{}`, `""`, `"` + long + `"`, `["` + long + `"]`, `[["` + long + `"]]`, `{"x":"` + long + `"}`,
		`"` + quotes + `"`, `"` + strings.Repeat(`\u0000`, longToken/16) + `"`, `"` + strings.Repeat(`\n\u001b[31m`, longToken/24) + `"`,
		`"` + strings.Repeat("\u202e", longToken/8) + `"`, `"` + strings.Repeat("é", longToken/4) + `"`, `"` + strings.Repeat("\xff", longToken/2) + `"`,
		strings.Repeat("[", longToken/2), strings.Repeat("9", longToken/2), `"https://` + strings.Repeat("a.", longToken/4) + `example"`,
		strings.Repeat(`{"a":`, longToken/12) + `1` + strings.Repeat(`}`, longToken/12),
	}
}

// oddTokens are tokens of every form that differs from an ordinary one in one field, and some that
// are no tokens.
func (s *server) oddTokens() (tokens []string) {
	encode := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	object := func(fields map[string]string, name, value string) string {
		var parts []string
		for field, v := range fields {
			if field != name {
				parts = append(parts, fmt.Sprintf("%q:%s", field, v))
			}
		}
		return "{" + strings.Join(append(parts, fmt.Sprintf("%q:%s", name, value)), ",") + "}"
	}
	ordinary := strings.Split(must(s.provider.Mint(map[string]any{"sub": "person-1", "email": email, "email_verified": true})), ".")
	fields := func(segment string) map[string]string {
		var raw map[string]json.RawMessage
		text, _ := base64.RawURLEncoding.DecodeString(segment)
		if err := json.Unmarshal(text, &raw); err != nil {
			s.t.Fatal(err)
		}
		values := make(map[string]string)
		for name, value := range raw {
			values[name] = string(value)
		}
		return values
	}
	header, claims := fields(ordinary[0]), fields(ordinary[1])
	for _, value := range oddValues() {
		for _, name := range []string{"alg", "kid", "typ", "cty", "crit", "jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "nonce", "b64", "enc", "zip", "unknown", strings.Repeat("n", longToken/2)} {
			tokens = append(tokens, encode(object(header, name, value))+"."+ordinary[1]+"."+ordinary[2])
		}
		for _, name := range []string{"iss", "sub", "aud", "exp", "nbf", "iat", "email", "email_verified", "nonce", "unknown", strings.Repeat("n", longToken/2)} {
			tokens = append(tokens, ordinary[0]+"."+encode(object(claims, name, value))+"."+ordinary[2])
		}
		tokens = append(tokens, encode(value)+"."+ordinary[1]+"."+ordinary[2], ordinary[0]+"."+encode(value)+"."+ordinary[2],
			ordinary[0]+"."+ordinary[1]+"."+encode(value), value, encode(value))
	}
	return append(tokens, "", ".", "..", "...", strings.Repeat(".", longToken), strings.Repeat("a", longToken), strings.Repeat("a", 40<<10),
		ordinary[0]+"."+ordinary[1], ordinary[0]+"."+ordinary[1]+".", strings.Join(ordinary, ".")+".", strings.Join(ordinary, "\n."))
}

func must(text string, err error) string {
	if err != nil {
		return err.Error()
	}
	return text
}

// oddRequests sends every odd token in a body and in a header, and odd requests around an ordinary
// one.
func (s *server) oddRequests() (sent int) {
	s.t.Helper()
	client := &http.Client{Timeout: 10 * time.Second}
	send := func(method, path string, body []byte, header http.Header) {
		request, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.http+"/", bytes.NewReader(body))
		if err != nil {
			return
		}
		request.URL.Opaque, request.Header = "//"+s.http+path, header
		response, err := client.Do(request)
		if err != nil {
			return // the client itself refuses to send some
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		sent++
	}
	for _, token := range s.oddTokens() {
		body, err := json.Marshal(map[string]any{
			"credentials":      map[string]any{"oidcIdentityToken": token},
			"publicKeyRequest": map[string]any{"publicKey": map[string]any{"content": "x"}, "proofOfPossession": "eHg="},
		})
		if err != nil {
			s.t.Fatal(err)
		}
		send(http.MethodPost, "/api/v2/signingCert", body, http.Header{})
		send(http.MethodPost, "/api/v1/signingCert", []byte(`{"publicKey":{"content":"eA=="},"signedEmailAddress":"eA=="}`), http.Header{"Authorization": {"Bearer " + token}})
	}
	long := strings.Repeat("A", longestHeader)
	for _, value := range oddValues() {
		for _, name := range []string{"credentials", "publicKeyRequest", "certificateSigningRequest", "unknown"} {
			send(http.MethodPost, "/api/v2/signingCert", []byte(fmt.Sprintf(`{%q:%s}`, name, value)), http.Header{})
		}
		send(http.MethodPost, "/api/v2/signingCert", []byte(value), http.Header{})
		send(http.MethodPost, "/api/v1/signingCert", []byte(value), http.Header{})
	}
	for _, name := range []string{"X-Request-Id", "User-Agent", "X-Forwarded-For", "Content-Type", "Accept", "Traceparent", "Cookie", "Range"} {
		for _, path := range []string{"/api/v2/signingCert", "/ctlog/2026/checkpoint", "/healthz"} {
			send(http.MethodGet, path, nil, http.Header{name: {long}})
		}
	}
	for _, prefix := range []string{"/", "/api/v2/", "/ctlog/2026/", "/ctlog/2026/tile/", "/ctlog/2026/issuer/", "/ctlog/2026/ct/v1/get-entries?start=", "/readyz?"} {
		send(http.MethodGet, prefix+long, nil, http.Header{})
		send(strings.Repeat("M", longestHeader), prefix, nil, http.Header{})
	}
	return sent
}

// TestLogLines sends every odd form, and uses issuers that no server answers for.
func TestLogLines(t *testing.T) {
	t.Parallel()
	var issuers strings.Builder
	for i := range deadIssuers {
		fmt.Fprintf(&issuers, "  http://127.0.0.1:1/%[1]d: {issuer-url: http://127.0.0.1:1/%[1]d, client-id: sigstore, type: email}\n", i)
	}
	begin := time.Now()
	s := newServer(t, 4096, issuers.String())
	select {
	case <-time.After(time.Until(begin.Add(outage))):
	case <-s.exited:
	}
	quiet := s.lines()
	t.Logf("log lines: %d in %s while %d issuers are unreachable", len(quiet), time.Since(begin).Round(time.Second), deadIssuers)
	if len(quiet) > outageLines {
		t.Errorf("log lines: %d in %s of %d unreachable issuers; at most %d are expected", len(quiet), outage, deadIssuers, outageLines)
	}
	sent := s.oddRequests()
	s.mustLive()
	longest := ""
	for line := range strings.Lines(string(s.output())) {
		if len(line) > len(longest) {
			longest = line
		}
	}
	t.Logf("log lines: after %d odd requests, the longest has %d bytes", sent, len(longest))
	if len(longest) > longestLine {
		t.Errorf("log lines: the longest has %d bytes; at most %d are expected:\n%.400s", len(longest), longestLine, longest)
	}
	if sent < 500 {
		t.Errorf("log lines: only %d odd requests were sent", sent)
	}
}
