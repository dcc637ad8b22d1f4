// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/server"
)

// oddServer is a server with log lines that the test measures.
type oddServer struct {
	*running
	t       *testing.T
	client  *http.Client
	address string
}

// startOdd serves REST, gRPC and a mount that panics on one port, with a pattern of misbehaving issuers.
func startOdd(t *testing.T, format string, useTLS bool) (s *oddServer, misbehaving string) {
	t.Helper()
	bad := httptest.NewServer(http.HandlerFunc(misbehave))
	t.Cleanup(bad.Close)
	w := newWorld(t, setting("public_url: https://ca.example\ntrusted_proxies: [127.0.0.0/8]"),
		edited("mayfly.yaml", "log: {format: text, level: error}", "log: {format: "+format+", level: debug}"),
		edited("mayfly.yaml", "grpc: localhost:0", "grpc: 127.0.0.1:0"),
		edited("issuers.yaml", "oidc-issuers:\n", fmt.Sprintf("meta-issuers:\n  \"%s/*\": {client-id: sigstore, type: email}\noidc-issuers:\n", bad.URL)))
	s = &oddServer{t: t, client: &http.Client{}}
	if useTLS {
		pool := writeTLS(t, w.Dir, 1, time.Hour)
		setting(`tls: {certificate: cert.pem, key: key.pem, min: "1.2"}`)(t, w)
		s.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	}
	s.running = start(t, w, server.Mount{Path: "/dev/", Name: "dev", Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		panic(r.URL.Path + strings.Repeat("\x00", 3000))
	})})
	if s.address = strings.TrimPrefix(s.rest, "http://"); useTLS {
		s.rest = "https://" + s.address
	}
	return s, bad.URL
}

// misbehave answers for issuers with content that causes long errors.
func misbehave(rw http.ResponseWriter, r *http.Request) {
	long := strings.Repeat("ä\\\"", 4000)
	issuer := "http://" + r.Host + strings.TrimSuffix(r.URL.Path, "/.well-known/openid-configuration")
	document := map[string]any{"issuer": issuer, "jwks_uri": issuer + "/keys"}
	switch {
	case strings.Contains(issuer, "type"):
		rw.Header().Set("Content-Type", long)
	case strings.Contains(issuer, "redirect"):
		http.Redirect(rw, r, "https://other.example/"+strings.Repeat("x", 30_000), http.StatusFound)
		return
	case strings.Contains(issuer, "other"):
		document["issuer"] = long
	case strings.Contains(issuer, "jwks"):
		document["jwks_uri"] = "https://" + long
	case strings.HasSuffix(r.URL.Path, "/keys"):
		document = map[string]any{"keys": []any{map[string]any{"kty": long, "kid": long}, map[string]any{"kty": "EC", "crv": long, "x": long}}}
	}
	_ = json.NewEncoder(rw).Encode(document)
}

// oddJSON are values of JSON that are large, or that grow when they are written.
var oddJSON = []string{
	`"` + strings.Repeat("x", 8000) + `"`, `"` + strings.Repeat(`\u0000`, 1300) + `"`, "1" + strings.Repeat("0", 4000),
	strings.Repeat("[", 2000) + strings.Repeat("]", 2000), `[` + strings.Repeat(`"an element of a list",`, 400) + `1]`,
}

// tokens are signed, and have members of the header and claims with odd values.
func (s *oddServer) tokens(misbehaving string) (tokens []string) {
	quoted := func(text string) json.RawMessage { return must(json.Marshal(text))(s.t) }
	header := map[string]json.RawMessage{"alg": quoted("RS256"), "kid": quoted(s.Provider.SigningKey().KeyID)}
	claims := map[string]json.RawMessage{
		"iss": quoted(s.Provider.IssuerURL()), "sub": quoted("person-1"), "aud": quoted("sigstore"), "email": quoted("person@example.com"),
		"email_verified": json.RawMessage("true"), "exp": json.RawMessage(fmt.Sprint(time.Now().Add(time.Hour).Unix())),
	}
	// add adds a token with another value in one of its parts.
	add := func(part map[string]json.RawMessage, name string, value json.RawMessage) {
		old, had := part[name]
		part[name] = value
		signed := base64.RawURLEncoding.EncodeToString(must(json.Marshal(header))(s.t)) + "." + base64.RawURLEncoding.EncodeToString(must(json.Marshal(claims))(s.t))
		digest := sha256.Sum256([]byte(signed))
		signature := must(rsa.SignPKCS1v15(rand.Reader, s.Provider.SigningKey().Key.(*rsa.PrivateKey), crypto.SHA256, digest[:]))(s.t)
		tokens = append(tokens, signed+"."+base64.RawURLEncoding.EncodeToString(signature))
		if part[name] = old; !had {
			delete(part, name)
		}
	}
	for _, value := range oddJSON {
		for _, name := range []string{"alg", "kid", "crit", strings.Repeat("n", 8000)} {
			add(header, name, json.RawMessage(value))
		}
		for _, name := range []string{"iss", "sub", "aud", "exp", "email", strings.Repeat("n", 8000)} {
			add(claims, name, json.RawMessage(value))
		}
	}
	for _, name := range []string{"type", "redirect", "other", "jwks", "keys", strings.Repeat("x", 2000)} {
		add(claims, "iss", quoted(misbehaving+"/"+name))
	}
	return append(tokens, "", strings.Repeat(".", 20_000), strings.Repeat("\xff", 5000), tokens[0]+strings.Repeat("A", 8000))
}

// do sends a request and ignores the result.
func (s *oddServer) do(method, path, body string, header map[string]string) {
	r := must(http.NewRequestWithContext(s.t.Context(), method, s.rest+"/", strings.NewReader(body)))(s.t)
	r.URL.Opaque = "//" + s.address + path
	for name, value := range header {
		r.Header[name] = []string{value}
	}
	if response, err := s.client.Do(r); err == nil {
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
}

// sendAll sends every odd shape, over REST, gRPC and TCP.
func (s *oddServer) sendAll(misbehaving string) {
	const v1, v2, grpc = "/api/v1/signingCert", "/api/v2/signingCert", "/dev.sigstore.fulcio.v2.CA/CreateSigningCertificate"
	token := mintEmail(s.t, s.Provider)
	bodies := []string{strings.Repeat("x", 70_000), fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q}}`, token)}
	for _, token := range s.tokens(misbehaving) {
		quoted, _ := json.Marshal(token)
		bodies = append(bodies, fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%s},"publicKeyRequest":{"publicKey":{"content":"x"}}}`, quoted))
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(s.t)
	csr := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: strings.Repeat("ä", 9000)}}, key))(s.t)
	for _, content := range []string{"-----BEGIN " + strings.Repeat("x\\n", 9000), string(pem.Encode("CERTIFICATE REQUEST", csr[:len(csr)/2])), string(pem.Encode("CERTIFICATE REQUEST", csr))} {
		quoted, _ := json.Marshal(content)
		encoded := base64.StdEncoding.EncodeToString([]byte(content))
		bodies = append(bodies, fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q},"publicKeyRequest":{"publicKey":{"content":%s},"proofOfPossession":%q}}`, token, quoted, encoded),
			fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q},"certificateSigningRequest":%q}`, token, encoded))
	}
	for _, value := range oddJSON {
		bodies = append(bodies, value, `{"credentials":`+value+"}", "{"+value+":1}")
	}
	for _, body := range bodies {
		s.do("POST", v1, body, map[string]string{"Authorization": "Bearer a.b.c"})
		s.do("POST", v2, body, nil)
		framed := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
		s.do("POST", grpc, string(framed), map[string]string{"Content-Type": "application/grpc"})
	}
	for _, long := range []string{strings.Repeat("x", 9000), strings.Repeat("%00", 3000), strings.Repeat("\"", 9000)} {
		for _, prefix := range []string{"/", "/api/v2/signingCert/", "/dev/", "/trusted_root.json/", "/readyz?verbose="} {
			s.do("GET", prefix+strings.ReplaceAll(long, "\"", "%22"), "", nil)
		}
		for _, name := range []string{"X-Request-Id", "User-Agent", "Content-Type", "X-Forwarded-For", "Authorization", "Grpc-Timeout", "Grpc-Encoding"} {
			s.do("POST", v2, "{}", map[string]string{name: long})
			s.do("POST", grpc, "\x00\x00\x00\x00\x00", map[string]string{"Content-Type": "application/grpc", name: long})
		}
		s.do(strings.Repeat("X", 9000), v2, "", nil)
		for _, text := range []string{
			"GET /" + long + " HTTP/1.1\r\nHost: " + long + "\r\n\r\n", "GET / HTTP/" + long + "\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n" + long + "\r\n\r\n",
			"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + long, "\x16\x03\x01\x20\x00" + long,
		} {
			connection := must(net.Dial("tcp", s.address))(s.t)
			_, _ = io.WriteString(connection, text)
			_ = connection.(*net.TCPConn).CloseWrite()
			_, _ = connection.Read(make([]byte, 1)) // the server answers or closes
			_ = connection.Close()
		}
	}
}

// TestNoCallerWritesALongLine: whatever a caller sends, each line of the log has at most 2 KiB,
// also at level debug, and is well formed.
func TestNoCallerWritesALongLine(t *testing.T) {
	t.Parallel()
	for format, useTLS := range map[string]bool{"json": false, "text": true} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			s, misbehaving := startOdd(t, format, useTLS)
			s.sendAll(misbehaving)
			for line := range strings.SplitAfterSeq(s.log.String(), "\n") {
				if line != "" && format == "json" && !json.Valid([]byte(line)) || !utf8.ValidString(line) || len(line) > 2<<10 {
					t.Errorf("not well formed, or long: %d bytes: %q", len(line), line)
				}
			}
			for _, reason := range []string{"TOKEN_MALFORMED", "SIGNATURE_INVALID", "REQUEST_MALFORMED", "KEY_UNSUPPORTED", "CSR_INVALID", "ISSUER_UNREACHABLE", "CLAIM_INVALID", "INTERNAL", "NOT_FOUND", "METHOD_NOT_ALLOWED", "TLS handshake error"} {
				if !strings.Contains(s.log.String(), reason) && (useTLS || reason != "TLS handshake error") {
					t.Errorf("no line has %s: the shapes do not reach everything", reason)
				}
			}
			if !strings.Contains(s.log.String(), " bytes)") {
				t.Error("no line was cut: the shapes are too small")
			}
		})
	}
}
