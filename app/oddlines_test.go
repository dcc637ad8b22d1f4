// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/server"
)

// oddServer is a server with log lines that the test measures.
type oddServer struct {
	*running
	t      *testing.T
	client *http.Client
	scheme string
	tls    bool
	sent   int
}

// startOdd serves REST, gRPC and mounts on one port, with a pattern of misbehaving issuers.
func startOdd(t *testing.T, format string, useTLS bool) (s *oddServer, misbehaving string) {
	t.Helper()
	bad := newBadIssuer(t, misbehave)
	w := newWorld(t)
	s = &oddServer{running: &running{World: w, log: &buffer{}}, t: t, client: &http.Client{}, scheme: "http://", tls: useTLS}
	replace(t, w.ConfigFile, "log: {format: text, level: error}", fmt.Sprintf("log: {format: %s, level: debug}\npublic_url: https://ca.example\ntrusted_proxies: [127.0.0.0/8]", format))
	replace(t, w.ConfigFile, "grpc: localhost:0", "grpc: 127.0.0.1:0")
	edit(t, w, "issuers.yaml", "oidc-issuers:\n", fmt.Sprintf("meta-issuers:\n  \"%s/*\": {client-id: sigstore, type: email}\noidc-issuers:\n", bad.URL))
	if useTLS {
		pool := writeTLS(t, w.Dir, 1)
		replace(t, w.ConfigFile, "issuers: issuers.yaml", "issuers: issuers.yaml\ntls: {certificate: cert.pem, key: key.pem, min: \"1.2\"}")
		s.client.Transport, s.scheme = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}, "https://"
	}
	a, err := app.Build(t.Context(), app.Options{ConfigFile: w.ConfigFile, LogOutput: s.log, Mounts: []server.Mount{
		{Path: "/dev/", Name: "dev", Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { panic(r.URL.Path + strings.Repeat("\x00", 3000)) })},
	}})
	if err != nil {
		t.Fatal(err)
	}
	listeners, err := a.Listen()
	if err != nil {
		t.Fatal(err)
	}
	s.rest, s.ops = listeners.HTTP.Addr().String(), listeners.Ops.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, listeners) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
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
		fmt.Fprint(rw, long)
		return
	case strings.Contains(issuer, "redirect"):
		http.Redirect(rw, r, "https://other.example/"+strings.Repeat("x", 30_000), http.StatusFound)
		return
	case strings.Contains(issuer, "other"):
		document["issuer"] = long
	case strings.Contains(issuer, "jwks"):
		document["jwks_uri"] = "https://" + long
	case strings.HasSuffix(r.URL.Path, "/keys"):
		document = map[string]any{"keys": []any{map[string]any{"kty": long, "kid": long}, map[string]any{"kty": "EC", "crv": long, "x": long}}}
	default:
		document["id_token_signing_alg_values_supported"] = []string{long}
	}
	_ = json.NewEncoder(rw).Encode(document)
}

// oddJSON are values of JSON that are large, or that grow when they are written.
func oddJSON() []string {
	repeat := func(piece string, times int) string { return `"` + strings.Repeat(piece, times) + `"` }
	list := make([]string, 400)
	members := make([]string, 300)
	for i := range list {
		list[i] = `"an element of a list"`
	}
	for i := range members {
		members[i] = fmt.Sprintf(`"member-%d": "value"`, i)
	}
	return []string{
		repeat("x", 8000), repeat(`\u0000`, 1300), repeat("ä", 4000), repeat(`\"`, 4000), repeat(`\\`, 4000), repeat("\U000e0001", 2000),
		repeat(`\u202e`, 1300), repeat("</a>", 2000), "1" + strings.Repeat("0", 4000), "1e999999", "-1", "null", "true", `""`, "[]", "{}",
		strings.Repeat("[", 2000) + strings.Repeat("]", 2000), "[" + strings.Join(list, ",") + "]", "{" + strings.Join(members, ",") + "}",
		"[" + repeat("x", 8000) + "]", `{"a":` + repeat("x", 8000) + "}",
	}
}

// token signs any header and payload with the provider's key.
func (s *oddServer) token(header, payload string) string {
	s.t.Helper()
	key, ok := s.Provider.SigningKey().Key.(*rsa.PrivateKey)
	if !ok {
		s.t.Fatalf("the provider's key is a %T", s.Provider.SigningKey().Key)
	}
	signed := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	digest := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		s.t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// tokens have each member of the header, and each claim, with each odd value.
func (s *oddServer) tokens(misbehaving string) (tokens []string) {
	object := func(members map[string]string) string {
		var list []string
		for _, name := range slices.Sorted(maps.Keys(members)) {
			list = append(list, fmt.Sprintf("%q:%s", name, members[name]))
		}
		return "{" + strings.Join(list, ",") + "}"
	}
	header := map[string]string{"alg": `"RS256"`, "kid": fmt.Sprintf("%q", s.Provider.SigningKey().KeyID)}
	claims := map[string]string{
		"iss": fmt.Sprintf("%q", s.Provider.IssuerURL()), "sub": `"person-1"`, "aud": `"sigstore"`, "email": `"person@example.com"`,
		"email_verified": "true", "exp": fmt.Sprint(time.Now().Add(time.Hour).Unix()),
	}
	with := func(members map[string]string, name, value string) string {
		odd := maps.Clone(members)
		odd[name] = value
		return object(odd)
	}
	long := strings.Repeat("n", 8000)
	for _, value := range oddJSON() {
		for _, name := range []string{"alg", "kid", "typ", "cty", "crit", "b64", "nonce", "jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "zip", "enc", "epk", "iss", long} {
			tokens = append(tokens, s.token(with(header, name, value), object(claims)))
		}
		for _, name := range []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "email", "email_verified", "name", long} {
			tokens = append(tokens, s.token(object(header), with(claims, name, value)))
		}
		tokens = append(tokens, s.token(value, object(claims)), s.token(object(header), value))
	}
	for _, name := range []string{"type", "redirect", "other", "jwks", "keys", strings.Repeat("x", 2000)} {
		tokens = append(tokens, s.token(object(header), with(claims, "iss", fmt.Sprintf("%q", misbehaving+"/"+name))))
	}
	good := s.token(object(header), object(claims))
	return append(tokens, "", ".", "..", strings.Repeat(".", 20_000), strings.Repeat("x", 30_000), strings.Repeat("\xff", 5000), good+strings.Repeat("A", 8000),
		strings.Replace(good, ".", strings.Repeat("\n", 5000)+".", 1), good)
}

// bodies contain odd keys and requests, for v2.
func (s *oddServer) bodies() (bodies []string) {
	long := strings.Repeat("x\\n", 9000)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         pkix.Name{CommonName: strings.Repeat("ä", 9000)},
		DNSNames:        []string{strings.Repeat("x", 9000)},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte(long)}},
	}, key)
	if err != nil {
		s.t.Fatal(err)
	}
	token := s.token(fmt.Sprintf(`{"alg":"RS256","kid":%q}`, s.Provider.SigningKey().KeyID), fmt.Sprintf(
		`{"iss":%q,"sub":"person-1","aud":"sigstore","email":"person@example.com","email_verified":true,"exp":%d}`, s.Provider.IssuerURL(), time.Now().Add(time.Hour).Unix()))
	for _, content := range []string{
		long, "-----BEGIN " + long, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte(long)})),
		string(pem.EncodeToMemory(&pem.Block{Type: strings.Repeat("X", 9000), Bytes: []byte("x")})),
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Headers: map[string]string{"a": strings.Repeat("x", 9000)}, Bytes: csr})),
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr[:len(csr)/2]})),
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
	} {
		quoted, _ := json.Marshal(content)
		encoded := base64.StdEncoding.EncodeToString([]byte(content))
		bodies = append(bodies,
			fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q},"publicKeyRequest":{"publicKey":{"content":%s},"proofOfPossession":%q}}`, token, quoted, encoded),
			fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q},"certificateSigningRequest":%q}`, token, encoded),
			fmt.Sprintf(`{"publicKey":{"content":%q,"algorithm":%s},"signedEmailAddress":%q}`, encoded, quoted, encoded),
			fmt.Sprintf(`{"certificateSigningRequest":%q}`, encoded))
	}
	for _, value := range oddJSON() {
		bodies = append(bodies, value, `{"credentials":`+value+"}", `{"publicKeyRequest":{"publicKey":`+value+"}}", "{"+value+":1}", `{"publicKey":`+value+"}", value[:len(value)/2])
	}
	return append(bodies, fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q}}`, token), strings.Repeat("x", 70_000), "\xff\xfe")
}

// do sends a request and ignores the result.
func (s *oddServer) do(method, path, body string, header map[string]string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.scheme+s.rest+"/", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.URL.Opaque = "//" + s.rest + path
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
func (s *oddServer) raw(plain bool, text string) {
	s.t.Helper()
	connection, err := net.Dial("tcp", s.rest)
	if err != nil {
		s.t.Fatal(err)
	}
	defer connection.Close()
	if s.tls && !plain {
		connection = tls.Client(connection, &tls.Config{InsecureSkipVerify: true, ServerName: strings.Repeat("a", 60) + ".example"})
	}
	_, _ = io.WriteString(connection, text)
	if tcp, ok := connection.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	_, _ = connection.Read(make([]byte, 1))
	s.sent++
}

// sendAll sends every odd shape.
func (s *oddServer) sendAll(misbehaving string) {
	const v1, v2 = "/api/v1/signingCert", "/api/v2/signingCert"
	for i, token := range s.tokens(misbehaving) {
		forwarded := map[string]string{"X-Forwarded-For": fmt.Sprintf("192.0.2.%d", i%250)}
		quoted, _ := json.Marshal(token)
		s.do("POST", v2, fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%s},"publicKeyRequest":{"publicKey":{"content":"x"}}}`, quoted), forwarded)
		if i%5 == 0 && utf8.ValidString(token) && !strings.Contains(token, "\n") {
			forwarded["Authorization"] = "Bearer " + token
			s.do("POST", v1, `{"publicKey":{"content":"eA=="}}`, forwarded)
		}
	}
	for _, body := range s.bodies() {
		s.do("POST", v1, body, map[string]string{"Authorization": "Bearer a.b.c"})
		s.do("POST", v2, body, nil)
		framed := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
		s.do("POST", "/dev.sigstore.fulcio.v2.CA/CreateSigningCertificate", string(framed), map[string]string{"Content-Type": "application/grpc"})
	}
	for _, long := range []string{strings.Repeat("x", 9000), strings.Repeat("ä", 4000), strings.Repeat("\"", 9000), strings.Repeat("%00", 3000), strings.Repeat("%ff", 3000), strings.Repeat("%0a", 3000), strings.Repeat("../", 3000)} {
		path := strings.ReplaceAll(strings.ReplaceAll(long, "\"", "%22"), "ä", "%c3%a4")
		for _, prefix := range []string{"/", "/api/v1/", "/api/v2/signingCert/", "/dev/", "/trusted_root.json/", "/ctlog/2026/", "/dev.sigstore.fulcio.v2.CA/", "/readyz?verbose=", "//"} {
			s.do("GET", prefix+path, "", nil)
			s.do("POST", prefix+path, "x", map[string]string{"Content-Type": "application/grpc+" + long})
		}
		for _, name := range []string{"X-Request-Id", "User-Agent", "Content-Type", "Accept", "X-Forwarded-For", "Forwarded", "Authorization", "Oidcidentitytoken", "Grpc-Timeout", "Grpc-Encoding", "Content-Encoding", "Cookie", "Origin", "Te", "Grpc-Metadata-X", "Traceparent"} {
			s.do("POST", v2, "{}", map[string]string{name: long})
			s.do("POST", "/dev.sigstore.fulcio.v2.CA/CreateSigningCertificate", "\x00\x00\x00\x00\x00", map[string]string{"Content-Type": "application/grpc", name: long})
		}
		if token := strings.Trim(long, "x") == ""; token {
			s.do(long, v2, "", nil)
			s.do("GET", "/"+long, "", map[string]string{long: long})
		}
		s.raw(false, "GET /"+long+" HTTP/1.1\r\nHost: "+long+"\r\n\r\n")
		s.raw(false, long+" / HTTP/1.1\r\nHost: x\r\n\r\n")
		s.raw(false, "GET / HTTP/"+long+"\r\n\r\n")
		s.raw(false, "POST "+v2+" HTTP/1.1\r\nHost: x\r\nContent-Length: "+long+"\r\n\r\n")
		s.raw(false, "POST "+v2+" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "+long+"\r\n\r\n")
		s.raw(false, "POST "+v2+" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"+long)
		s.raw(false, "GET / HTTP/1.1\r\nHost: x\r\n"+long+"\r\n\r\n")
		s.raw(false, "GET / HTTP/1.1\r\nHost: x\r\nA: "+strings.Repeat(long, 10)+"\r\n\r\n")
		s.raw(false, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+long)
		s.raw(true, long)
		s.raw(true, "\x16\x03\x01\x20\x00"+long)
	}
}

// TestNoCallerWritesALongLine: whatever a caller sends, each line of the log has at most 2 KiB,
// also at level debug, and is well formed.
func TestNoCallerWritesALongLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		format string
		tls    bool
	}{{"json", false}, {"text", true}} {
		t.Run(tt.format, func(t *testing.T) {
			t.Parallel()
			s, misbehaving := startOdd(t, tt.format, tt.tls)
			s.sendAll(misbehaving)
			longest, lines := "", strings.SplitAfter(s.log.String(), "\n")
			for _, line := range lines {
				if len(line) > len(longest) {
					longest = line
				}
				if line != "" && tt.format == "json" && !json.Valid([]byte(line)) || !utf8.ValidString(line) {
					t.Errorf("not well formed: %q", line)
				}
				if len(line) > 2<<10 {
					t.Errorf("a line of %d bytes: %s", len(line), line)
				}
			}
			t.Logf("%d requests, %d lines; the longest has %d bytes: %s", s.sent, len(lines), len(longest), longest)
			for _, reason := range []string{"TOKEN_MALFORMED", "SIGNATURE_INVALID", "REQUEST_MALFORMED", "KEY_UNSUPPORTED", "CSR_INVALID", "ISSUER_UNREACHABLE", "CLAIM_INVALID", "INTERNAL", "NOT_FOUND", "METHOD_NOT_ALLOWED", "TLS handshake error"} {
				if !strings.Contains(s.log.String(), reason) && (tt.tls || reason != "TLS handshake error") {
					t.Errorf("no line has %s: the shapes do not reach everything", reason)
				}
			}
			if !bytes.Contains(s.log.Bytes(), []byte(" bytes)")) {
				t.Error("no line was cut: the shapes are too small")
			}
		})
	}
}
