// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/certificate-transparency-go/ctutil"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// wireCase is one HTTP request; want is a status, and a reason or nothing.
type wireCase struct {
	Name, method, path, Body string
	Header                   []string
	Want                     string
}

// wireCases are those of testdata/wire.yaml, which describes its form, and those that are computed.
func wireCases() []wireCase {
	const v2, v1 = "/api/v2/signingCert", "/api/v1/signingCert"
	var groups map[string][]wireCase
	decoder := yaml.NewDecoder(bytes.NewReader(must(os.ReadFile("testdata/wire.yaml"))))
	decoder.KnownFields(true)
	if err := decoder.Decode(&groups); err != nil {
		panic(err)
	}
	padded := func(head string, n int) string { return head + `,"pad":"` + strings.Repeat("p", n) + `"}` }
	bearer := []string{"Authorization", "Bearer TOKEN"}
	groups[v2] = append(groups[v2],
		wireCase{Name: "garbage", Want: "400 REQUEST_MALFORMED", Body: "\x00\x01\xff"},
		wireCase{Name: "invalid UTF-8", Want: "400 REQUEST_MALFORMED", Body: `{"x":"` + "\xff" + `",CREDENTIALS,KEYREQUEST}`},
		wireCase{Name: "deep nesting", Want: "400 REQUEST_MALFORMED", Body: strings.Repeat(`{"credentials":`, 10001)},
		wireCase{Name: "deep unknown nesting", Want: "400 REQUEST_MALFORMED", Body: `{"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + "}"},
		wireCase{Name: "too large", Want: "400 REQUEST_MALFORMED", Body: padded("{CREDENTIALS,KEYREQUEST", 64<<10)},
		wireCase{Name: "large", Want: "200", Body: padded("{CREDENTIALS,KEYREQUEST", 60<<10)},
		wireCase{Name: "large header", Want: "200", Body: "V2", Header: []string{"X-Pad", strings.Repeat("p", 20<<10)}})
	groups[v1] = append(groups[v1], wireCase{Name: "too large", Want: "400 REQUEST_MALFORMED", Body: padded("{KEY1", 64<<10), Header: bearer})
	var cases []wireCase
	for _, path := range slices.Sorted(maps.Keys(groups)) {
		for _, c := range groups[path] {
			c.method, c.path = "POST", path
			cases = append(cases, c)
		}
	}
	for _, p := range []string{"/", "/api", "/api/v2", "/api/v2/", "/api/v2/signingCert/", "/api/v2/signingcert", "/api/v2//signingCert", "/api/v3/signingCert", "/api/v2/signingCert.json", "/api/v2/trustbundle", "/api/v1/rootCert/", "/x/../api/v2/trustBundle", "/metrics",
		"/debug/pprof/", "/dev.sigstore.fulcio.v2.CA/GetTrustBundle", "/dev/token", "/ctlog/x/checkpoint", "/favicon.ico", "/api/v2/signingCert;x", "/swaggerui/", "/ct/v1/get-sth", "/%2fapi/v2/trustBundle%00", "/.well-known/openid-configuration"} {
		for _, method := range []string{"GET", "POST"} {
			cases = append(cases, wireCase{"nothing there", method, p, "", nil, "404 NOT_FOUND"})
		}
	}
	for path, only := range map[string]string{v2: "POST", v1: "POST", "/api/v2/trustBundle": "GET", "/api/v2/configuration": "GET", "/api/v1/rootCert": "GET", "/healthz": "GET", "/livez": "GET", "/readyz": "GET"} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "FOO", "TRACE"} {
			want := "405 METHOD_NOT_ALLOWED"
			switch {
			case method == only && only == "POST":
				continue
			case method == "OPTIONS":
				want = "204"
			case method == only, method == "HEAD" && only == "GET":
				want = "200"
			}
			cases = append(cases, wireCase{"method", method, path, "", nil, want})
		}
		cases = append(cases, wireCase{"double slash", only, "/" + path, "{}", bearer, map[string]string{"POST": "400", "GET": "200"}[only]})
	}
	return cases
}

func TestWire(t *testing.T) {
	t.Parallel()
	key := newKey()
	token := mint("email", email.payload("email"))
	proof := sign(key, person)
	for len(proof)%3 == 0 || !strings.ContainsAny(base64.StdEncoding.EncodeToString(proof), "+/") {
		proof = sign(key, person)
	}
	csr := pemOf("CERTIFICATE REQUEST", csrOf(key, 0))
	text := publicPEM(key.Public())
	std := base64.StdEncoding
	block, _ := pem.Decode([]byte(text))
	parts := strings.NewReplacer("V2", "{CREDENTIALS,KEYREQUEST}")
	fields := strings.NewReplacer("CREDENTIALS", `"credentials":{"oidcIdentityToken":"TOKEN"}`,
		"KEYREQUEST", `"publicKeyRequest":{"publicKey":{"algorithm":"ECDSA","content":"KEY"},"proofOfPossession":"PROOF"}`,
		"KEY1", `"publicKey":{"content":"PEM64","algorithm":"ecdsa"},"signedEmailAddress":"PROOF"`)
	fill := strings.NewReplacer("TOKEN_", "TOKEN_", "TOKEN", token, `"KEY"`, quoted(text), "PROOFLINES", lines(std.EncodeToString(proof)), "PEMLINES", lines(std.EncodeToString([]byte(text))), "CSRLINES", lines(std.EncodeToString([]byte(csr))), "PROOFURL", base64.URLEncoding.EncodeToString(proof), "PROOFRAW", base64.RawStdEncoding.EncodeToString(proof),
		"PROOF", std.EncodeToString(proof), "CSRRAWURL", base64.RawURLEncoding.EncodeToString([]byte(csr)), `"CSR"`, quoted(std.EncodeToString([]byte(csr))), "PEM64", std.EncodeToString([]byte(text)), "DER64", std.EncodeToString(block.Bytes))
	for i, tt := range wireCases() {
		c := []*ca{w.logged, w.unlogged}[i%2]
		t.Run(fmt.Sprintf("%s %s/%s", tt.method, tt.path, tt.Name), func(t *testing.T) {
			t.Parallel()
			var header []string
			for _, h := range tt.Header {
				header = append(header, fill.Replace(h))
			}
			g := c.http(t, tt.method, tt.path, fill.Replace(fields.Replace(parts.Replace(tt.Body))), header...)
			code, reason, _ := strings.Cut(tt.Want, " ")
			if fmt.Sprint(g.http) != code || reason != "" && g.reason != reason && tt.method != "HEAD" {
				t.Errorf("got %d %s (%s), want %s", g.http, g.reason, g.message, tt.Want)
			}
			if code == "200" && tt.method == "POST" || code == "201" {
				g.certificate(t, c, key.Public(), w.base+"/email", "subject", personName)
			}
			if (code == "405" || code == "204") && g.header.Get("Allow") == "" {
				t.Errorf("%s without Allow", code)
			}
			for _, parser := range []string{"proto:", "syntax", "unexpected", "invalid character"} {
				if strings.Contains(g.message, parser) {
					t.Errorf("the message has text of a parser: %s", g.message)
				}
			}
			if tt.method == "HEAD" && g.body != "" {
				t.Error("HEAD with a body")
			}
		})
	}
}

// TestAlgorithmNames sends every value that an enum may have in JSON. The server ignores it.
func TestAlgorithmNames(t *testing.T) {
	t.Parallel()
	token := mint("email", email.payload("email"))
	for _, alg := range []string{`"RSA"`, `"ECDSA"`, `"RSA_PSS"`, `"ED25519"`, `"PUBLIC_KEY_ALGORITHM_UNSPECIFIED"`, `""`, `"x"`, "0", "1", "3", "99", "null", `"ecdsa"`} {
		t.Run(alg, func(t *testing.T) {
			t.Parallel()
			key := newKey()
			body := fmt.Sprintf(`{"credentials":{"oidcIdentityToken":%q},"publicKeyRequest":{"publicKey":{"algorithm":%s,"content":%s},"proofOfPossession":%q}}`,
				token, alg, quoted(publicPEM(key.Public())), base64.StdEncoding.EncodeToString(sign(key, person)))
			w.logged.http(t, "POST", "/api/v2/signingCert", body).certificate(t, w.logged, key.Public(), w.base+"/email", "subject", personName)
		})
	}
}

func TestTrustBundle(t *testing.T) {
	t.Parallel()
	var chain []string
	for _, c := range w.chain {
		chain = append(chain, pemOf("CERTIFICATE", c.Raw))
	}
	for _, c := range []*ca{w.logged, w.unlogged} {
		g := c.http(t, "GET", "/api/v2/trustBundle", "")
		want := map[string]any{"chains": []any{map[string]any{"certificates": []any{chain[0], chain[1]}}}}
		var found map[string]any
		if err := json.Unmarshal([]byte(g.body), &found); err != nil || fmt.Sprint(found) != fmt.Sprint(want) || g.header.Get("Content-Type") != "application/json" {
			t.Errorf("trustBundle: %s", g.body)
		}
		g = c.http(t, "GET", "/api/v1/rootCert", "")
		if g.http != 200 || g.body != strings.TrimSpace(chain[0]+"\n"+chain[1]) || g.header.Get("Content-Type") != "application/pem-certificate-chain" {
			t.Errorf("rootCert: %q", g.body)
		}
		m, err := c.client.GetTrustBundle(t.Context(), &fulciov2.GetTrustBundleRequest{})
		if err != nil || len(m.GetChains()) != 1 || strings.Join(m.GetChains()[0].GetCertificates(), "|") != strings.Join(chain, "|") {
			t.Errorf("%v %v", m, err)
		}
	}
}

func TestConfiguration(t *testing.T) {
	t.Parallel()
	for _, c := range []*ca{w.logged, w.unlogged} {
		g := c.http(t, "GET", "/api/v2/configuration", "")
		var found struct{ Issuers []map[string]any }
		if err := json.Unmarshal([]byte(g.body), &found); err != nil {
			t.Fatal(err)
		}
		byURL := map[string]map[string]any{}
		for _, i := range found.Issuers {
			u, _ := i["issuerUrl"].(string)
			v, _ := i["wildcardIssuerUrl"].(string)
			if len(i) != 7 || (u == "") == (v == "") {
				t.Errorf("entry %v", i)
			}
			byURL[strings.TrimPrefix(u+v, w.base)] = i
		}
		if len(byURL) != 38+14 || len(found.Issuers) != len(byURL) {
			t.Errorf("%d issuers", len(byURL))
		}
		for url, want := range map[string]string{
			"/email": "issuerUrl sigstore email  email  false", "/email-skip": "issuerUrl sigstore email  email  true", "/challenge": "issuerUrl sigstore sub  email  false", "/audiences": "issuerUrl primary email  email  false",
			"/github": "issuerUrl sigstore sub  ci-provider  false", "/github-old": "issuerUrl sigstore sub  github-workflow  false", "/spiffe": "issuerUrl sigstore sub example.com spiffe  false",
			"/spiffe-id": "issuerUrl sigstore sub spiffe://a_b-c.example spiffe  false",
			"/uri":       "issuerUrl sigstore sub  uri http://127.0.0.1 false", "/username": "issuerUrl sigstore sub  username 127.0.0.1 false", "/chainguard": "issuerUrl sigstore sub  chainguard-identity  false",
			"/wild/email/*": "wildcardIssuerUrl sigstore email  email  false", "/wild/*": "wildcardIssuerUrl wildcard email  email  false", "/kubernetes": "issuerUrl sigstore sub  kubernetes  false", "/slash/": "issuerUrl sigstore email  email  false",
		} {
			i := byURL[url]
			kind := "issuerUrl"
			if i["wildcardIssuerUrl"] != nil {
				kind = "wildcardIssuerUrl"
			}
			if got := fmt.Sprintf("%s %v %v %v %v %v %v", kind, i["audience"], i["challengeClaim"], i["spiffeTrustDomain"], i["issuerType"], i["subjectDomain"], i["skipEmailVerification"]); got != want {
				t.Errorf("%s: %q, want %q", url, got, want)
			}
		}
		m, err := c.client.GetConfiguration(t.Context(), &fulciov2.GetConfigurationRequest{})
		if err != nil || len(m.GetIssuers()) != len(found.Issuers) {
			t.Errorf("%v %v", m, err)
		}
	}
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	own := regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)
	for id, kept := range map[string]bool{"a": true, "A.b_c-9": true, strings.Repeat("x", 128): true, strings.Repeat("x", 129): false, "a b": false, "é": false, "a/b": false, "": false, "a,b": false, "{}": false} {
		for _, path := range []string{"/api/v2/trustBundle", "/api/v1/rootCert", "/nothing", "/healthz", "/api/v2/signingCert"} {
			g := w.logged.http(t, "GET", path, "", "X-Request-Id", id)
			if (g.requestID == id) != kept || !own.MatchString(g.requestID) {
				t.Errorf("%s: %q became %q", path, id, g.requestID)
			}
		}
		if id == "é" {
			continue
		}
		for _, c := range []*ca{w.logged, w.unlogged} {
			g := c.grpcCreate(t, &fulciov2.CreateSigningCertificateRequest{}, "x-request-id", id)
			if (g.requestID == id) != kept || !own.MatchString(g.requestID) || g.reason != "TOKEN_MISSING" {
				t.Errorf("gRPC: %q became %q (%s)", id, g.requestID, g.reason)
			}
		}
	}
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	token := mint("email", email.payload("email"))
	for _, c := range []*ca{w.logged, w.unlogged} {
		key := newKey()
		bare := &fulciov2.CreateSigningCertificateRequest{Key: &fulciov2.CreateSigningCertificateRequest_PublicKeyRequest{PublicKeyRequest: &fulciov2.PublicKeyRequest{
			PublicKey: &fulciov2.PublicKey{Algorithm: 77, Content: publicPEM(key.Public())}, ProofOfPossession: sign(key, person)}}}
		full := &fulciov2.CreateSigningCertificateRequest{Key: bare.Key, Credentials: &fulciov2.Credentials{Credentials: &fulciov2.Credentials_OidcIdentityToken{OidcIdentityToken: token}}}
		for name, g := range map[string]got{
			"message": c.grpcCreate(t, full), "oidcidentitytoken": c.grpcCreate(t, bare, "oidcidentitytoken", token), "OIDCIdentityToken": c.grpcCreate(t, bare, "OIDCIdentityToken", token), "authorization": c.grpcCreate(t, bare, "authorization", "Bearer "+token),
			"all": c.grpcCreate(t, full, "authorization", "Bearer "+token, "oidcidentitytoken", token), "foreign scheme": c.grpcCreate(t, full, "authorization", "Basic eDp5"),
		} {
			t.Log(name)
			g.certificate(t, c, key.Public(), w.base+"/email", "subject", personName)
		}
		c.grpcCreate(t, full, "oidcidentitytoken", "x.y.z").refused(t, "400 REQUEST_MALFORMED")
		c.grpcCreate(t, full, "authorization", "Bearer x.y.z").refused(t, "400 REQUEST_MALFORMED")
		c.grpcCreate(t, bare).refused(t, "401 TOKEN_MISSING")
		c.grpcCreate(t, bare, "authorization", "Basic eDp5").refused(t, "401 TOKEN_MISSING")
		c.grpcCreate(t, &fulciov2.CreateSigningCertificateRequest{Credentials: full.Credentials}).refused(t, "400")
		large := &fulciov2.CreateSigningCertificateRequest{Credentials: full.Credentials, Key: &fulciov2.CreateSigningCertificateRequest_CertificateSigningRequest{CertificateSigningRequest: make([]byte, 65<<10)}}
		c.grpcCreate(t, large).refused(t, "400 REQUEST_MALFORMED")
		large.Key = &fulciov2.CreateSigningCertificateRequest_CertificateSigningRequest{CertificateSigningRequest: make([]byte, 5<<20)}
		c.grpcCreate(t, large).refused(t, "400 REQUEST_MALFORMED")
		var header metadata.MD
		err := c.conn.Invoke(t.Context(), "/dev.sigstore.fulcio.v2.CA/Nothing", &fulciov2.GetTrustBundleRequest{}, &fulciov2.TrustBundle{}, grpc.Header(&header))
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("unknown method: %v", err)
		}
		err = c.conn.Invoke(t.Context(), "/dev.sigstore.fulcio.v1beta.CA/CreateSigningCertificate", &fulciov2.GetTrustBundleRequest{}, &fulciov2.TrustBundle{})
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("unknown service: %v", err)
		}
		for service, want := range map[string]codes.Code{"": codes.OK, "dev.sigstore.fulcio.v2.CA": codes.OK, "x": codes.NotFound} {
			resp, err := healthpb.NewHealthClient(c.conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
			if status.Code(err) != want || want == codes.OK && resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				t.Errorf("health of %q: %v %v", service, resp, err)
			}
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	for _, c := range []*ca{w.logged, w.unlogged} {
		for _, path := range []string{"/healthz", "/readyz", "/livez", "//healthz"} {
			g := c.http(t, "GET", path, "")
			if g.http != 200 || g.body != `{"status":"SERVING"}` || g.header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: %d %s", path, g.http, g.body)
			}
		}
		g := c.http(t, "GET", "/readyz?verbose", "")
		var report struct {
			Status string
			Checks []map[string]any
		}
		if err := json.Unmarshal([]byte(g.body), &report); err != nil || report.Status != "SERVING" || len(report.Checks) == 0 {
			t.Errorf("verbose: %s", g.body)
		}
	}
}

// TestHTTP2 speaks HTTP/2 without TLS to the port that REST and gRPC share, and to REST's own.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols}, Timeout: 5 * time.Second}
	for _, c := range []*ca{w.logged, w.unlogged} {
		resp, err := client.Get("http://" + c.rest + "/api/v2/trustBundle")
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 200 || resp.ProtoMajor != 2 {
			t.Errorf("%s: %d over %s", c.name, resp.StatusCode, resp.Proto)
		}
		big, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+c.rest+"/api/v2/trustBundle", nil)
		big.Header.Set("X-Pad", strings.Repeat("p", 60<<10))
		if resp, err := client.Do(big); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode < 400 {
				t.Errorf("%s: headers of 60 KiB got %d over HTTP/2", c.name, resp.StatusCode)
			}
		}
	}
}

// raw writes bytes to a connection and reads one answer.
func raw(t *testing.T, address, text string) (*http.Response, error) {
	t.Helper()
	requests.Add(1)
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Error(err)
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience)) // long after the server's own limits
	_, _ = conn.Write([]byte(text))
	return http.ReadResponse(bufio.NewReader(conn), nil)
}

func TestRawConnections(t *testing.T) {
	t.Parallel()
	var waits sync.WaitGroup
	for name, tt := range map[string]struct {
		text string
		want []int // 0: no answer
	}{
		"no header":           {"GET /healthz HTTP/1.1\r\n\r\n", []int{400}},
		"HTTP/1.0":            {"GET /healthz HTTP/1.0\r\n\r\n", []int{200}},
		"HTTP/0.9":            {"GET /healthz\r\n\r\n", []int{400}},
		"garbage":             {"\x16\x03\x01\x00\x00" + strings.Repeat("x", 40) + "\r\n\r\n", []int{400, 0}},
		"two lengths":         {"POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ", []int{400}},
		"length and chunked":  {"POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", []int{400, 401}},
		"negative length":     {"POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", []int{400}},
		"huge length":         {"POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", []int{400}},
		"chunked and endless": {"POST /api/v2/signingCert HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n20000\r\n" + strings.Repeat("x", 0x20000) + "\r\n", []int{400, 0}},
		"large header":        {"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Pad: " + strings.Repeat("p", 64<<10) + "\r\n\r\n", []int{431}},
		"absolute form":       {"GET http://x/healthz HTTP/1.1\r\nHost: x\r\n\r\n", []int{200}},
		"CONNECT":             {"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", []int{404, 405, 400}},
		"OPTIONS *":           {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", []int{200, 404, 204}},
		"slow header":         {"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ", []int{0, 408, 400}},
	} {
		for _, c := range []*ca{w.logged, w.unlogged} {
			if name == "slow header" && (testing.Short() || c == w.logged) {
				continue // takes 5 s, and one listener is as the other
			}
			waits.Go(func() { // some take 10 s, so all at once
				code := 0
				resp, err := raw(t, c.rest, tt.text)
				if err == nil {
					code = resp.StatusCode
					_ = resp.Body.Close()
				}
				if !slices.Contains(tt.want, code) || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s, %s: got %d (%v), want %v", name, c.name, code, err, tt.want)
				}
			})
		}
	}
	waits.Wait()
}

// TestLogged compares the precertificates in the log with the certificates (RFC 6962, section 3.1):
// one entry for each certificate, complete chain, poisoned.
func TestLogged(t *testing.T) {
	key := newKey()
	before := w.log.Size()
	g := w.logged.do(t, restV2, ask{token: mint("email", email.with("sub", `"logged once"`).payload("email")), publicKey: publicPEM(key.Public()), proof: sign(key, person)})
	g.certificate(t, w.logged, key.Public(), w.base+"/email", "logged once", personName)
	entries := must(w.log.Entries())
	found := 0
	for _, e := range entries[before:] {
		if !bytes.Contains(e.Cert.Data, []byte("logged once")) {
			continue
		}
		found++
		if len(e.Chain) != 2 || !bytes.Equal(e.Chain[0].Data, w.chain[0].Raw) || !bytes.Equal(e.Chain[1].Data, w.chain[1].Raw) {
			t.Error("the chain in the log is not the whole chain")
		}
		if !bytes.Contains(e.Cert.Data, []byte{6, 10, 0x2b, 6, 1, 4, 1, 0xd6, 0x79, 2, 4, 3, 1, 1, 0xff, 4, 2, 5, 0}) {
			t.Error("no critical poison")
		}
		if e.Leaf.TimestampedEntry.PrecertEntry.IssuerKeyHash != sha256.Sum256(w.chain[0].RawSubjectPublicKeyInfo) {
			t.Error("issuer key hash")
		}
	}
	if found != 1 {
		t.Errorf("%d entries", found)
	}
	var chain []*ctx509.Certificate
	for _, text := range g.certs[:2] {
		block, _ := pem.Decode([]byte(text))
		c, err := ctx509.ParseCertificate(block.Bytes)
		if ctx509.IsFatal(err) {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	scts := must(x509util.ParseSCTsFromSCTList(&chain[0].SCTList))
	block, _ := pem.Decode(w.log.PublicKeyPEM())
	if err := ctutil.VerifySCT(must(x509.ParsePKIXPublicKey(block.Bytes)), chain, scts[0], true); err != nil {
		t.Error(err)
	}
}

// lines breaks base64 as old libraries do, in a JSON string.
func lines(s string) string {
	var b strings.Builder
	for len(s) > 60 {
		b.WriteString(s[:60] + `\n`)
		s = s[60:]
	}
	return b.String() + s + `\n`
}
