// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bytes"
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
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
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
	sent    int
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
		pool := writeTLS(t, w.Dir, 1)
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
func oddJSON() []string {
	return []string{
		`"` + strings.Repeat("x", 8000) + `"`, `"` + strings.Repeat(`\u0000`, 1300) + `"`, "1" + strings.Repeat("0", 4000),
		strings.Repeat("[", 2000) + strings.Repeat("]", 2000), `[` + strings.Repeat(`"an element of a list",`, 400) + `1]`,
		`{"a":"` + strings.Repeat("x", 8000) + `"}`,
	}
}

// token signs any header and payload with the provider's key.
func (s *oddServer) token(header, payload string) string {
	signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	digest := sha256.Sum256([]byte(signed))
	signature := must(rsa.SignPKCS1v15(rand.Reader, s.Provider.SigningKey().Key.(*rsa.PrivateKey), crypto.SHA256, digest[:]))(s.t)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// tokens have members of the header, and claims, with each odd value.
func (s *oddServer) tokens(misbehaving string) (tokens []string) {
	with := func(members map[string]string, name, value string) string {
		odd := maps.Clone(members)
		odd[name] = value
		var list []string
		for _, name := range slices.Sorted(maps.Keys(odd)) {
			list = append(list, fmt.Sprintf("%q:%s", name, odd[name]))
		}
		return "{" + strings.Join(list, ",") + "}"
	}
	header := map[string]string{"alg": `"RS256"`, "kid": fmt.Sprintf("%q", s.Provider.SigningKey().KeyID)}
	claims := map[string]string{
		"iss": fmt.Sprintf("%q", s.Provider.IssuerURL()), "sub": `"person-1"`, "aud": `"sigstore"`, "email": `"person@example.com"`,
		"email_verified": "true", "exp": fmt.Sprint(time.Now().Add(time.Hour).Unix()),
	}
	good, goodHeader := with(claims, "sub", claims["sub"]), with(header, "alg", header["alg"])
	long := strings.Repeat("n", 8000)
	for _, value := range oddJSON() {
		for _, name := range []string{"alg", "kid", "crit", long} {
			tokens = append(tokens, s.token(with(header, name, value), good))
		}
		for _, name := range []string{"iss", "sub", "aud", "exp", "email", long} {
			tokens = append(tokens, s.token(goodHeader, with(claims, name, value)))
		}
	}
	for _, name := range []string{"type", "redirect", "other", "jwks", "keys", strings.Repeat("x", 2000)} {
		tokens = append(tokens, s.token(goodHeader, with(claims, "iss", fmt.Sprintf("%q", misbehaving+"/"+name))))
	}
	return append(tokens, "", strings.Repeat(".", 20_000), strings.Repeat("\xff", 5000), s.token(goodHeader, good)+strings.Repeat("A", 8000))
}

// bodies contain odd keys and requests, for v1 and v2.
func (s *oddServer) bodies() (bodies []string) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(s.t)
	csr := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: strings.Repeat("ä", 9000)}}, key))(s.t)
	token := mintEmail(s.t, s.Provider)
	for _, content := range []string{
		"-----BEGIN " + strings.Repeat("x\\n", 9000), string(pem.Encode(strings.Repeat("X", 9000), []byte("x"))),
		string(pem.Encode("CERTIFICATE REQUEST", csr[:len(csr)/2])), string(pem.Encode("CERTIFICATE REQUEST", csr)),
	} {
		quoted, _ := json.Marshal(content)
		encoded := base64.StdEncoding.EncodeToString([]byte(content))
		bodies = append(bodies,
			fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q},"publicKeyRequest":{"publicKey":{"content":%s},"proofOfPossession":%q}}`, token, quoted, encoded),
			fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q},"certificateSigningRequest":%q}`, token, encoded),
			fmt.Sprintf(`{"certificateSigningRequest":%q}`, encoded))
	}
	for _, value := range oddJSON() {
		bodies = append(bodies, value, `{"credentials":`+value+"}", "{"+value+":1}")
	}
	return append(bodies, strings.Repeat("x", 70_000), fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q}}`, token))
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
	s.sent++
}

// raw sends bytes on its own connection, and waits until the server closes it or answers.
func (s *oddServer) raw(text string) {
	connection := must(net.Dial("tcp", s.address))(s.t)
	defer connection.Close()
	_, _ = io.WriteString(connection, text)
	_ = connection.(*net.TCPConn).CloseWrite()
	_, _ = connection.Read(make([]byte, 1))
	s.sent++
}

// sendAll sends every odd shape.
func (s *oddServer) sendAll(misbehaving string) {
	const v1, v2, grpc = "/api/v1/signingCert", "/api/v2/signingCert", "/dev.sigstore.fulcio.v2.CA/CreateSigningCertificate"
	for _, token := range s.tokens(misbehaving) {
		quoted, _ := json.Marshal(token)
		s.do("POST", v2, fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%s},"publicKeyRequest":{"publicKey":{"content":"x"}}}`, quoted), nil)
	}
	for _, body := range s.bodies() {
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
			"POST " + v2 + " HTTP/1.1\r\nHost: x\r\nContent-Length: " + long + "\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + long,
			"\x16\x03\x01\x20\x00" + long,
		} {
			s.raw(text)
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
			longest := 0
			for line := range strings.SplitAfterSeq(s.log.String(), "\n") {
				longest = max(longest, len(line))
				if line != "" && format == "json" && !json.Valid([]byte(line)) || !utf8.ValidString(line) {
					t.Errorf("not well formed: %q", line)
				}
				if len(line) > 2<<10 {
					t.Errorf("a line of %d bytes: %s", len(line), line)
				}
			}
			t.Logf("%d requests; the longest line has %d bytes", s.sent, longest)
			for _, reason := range []string{"TOKEN_MALFORMED", "SIGNATURE_INVALID", "REQUEST_MALFORMED", "KEY_UNSUPPORTED", "CSR_INVALID", "ISSUER_UNREACHABLE", "CLAIM_INVALID", "INTERNAL", "NOT_FOUND", "METHOD_NOT_ALLOWED", "TLS handshake error"} {
				if !strings.Contains(s.log.String(), reason) && (useTLS || reason != "TLS handshake error") {
					t.Errorf("no line has %s: the shapes do not reach everything", reason)
				}
			}
			if !bytes.Contains(s.log.Bytes(), []byte(" bytes)")) {
				t.Error("no line was cut: the shapes are too small")
			}
		})
	}
}
