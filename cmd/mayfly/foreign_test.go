// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/mayfly-ca/mayfly/certs"
)

// hostile is text that a terminal obeys or hides: an escape sequence in 7 and in 8 bits, a carriage
// return, changes of direction, invisible characters, and a line that this program seems to write.
const hostile = "a\x1b[2J\u009b31m\rb\u202ec\u2066d\u200be\ufeff\u2028\U000e0041\tf\nFORGED line"

// hostileName is the part of it that a name in a leaf certificate can contain: no control
// characters.
const hostileName = "b\u202ec\u2066d\u200be\ufeff\u2028\U000e0041f"

// command runs a command line and returns what it prints, which must be harmless.
func command(t *testing.T, stdin string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, stdio{in: strings.NewReader(stdin), out: &stdout, err: &stderr})
	for name, text := range map[string]string{"stdout": stdout.String(), "stderr": stderr.String()} {
		if !utf8.ValidString(text) {
			t.Errorf("%q: %s holds octets that are no UTF-8: %q", args, name, text)
		}
		for _, r := range text {
			if r != '\n' && (unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) || r == utf8.RuneError) {
				t.Errorf("%q: %s holds %U: %q", args, name, r, text)
			}
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "FORGED") {
				t.Errorf("%q: %s has a line of another's: %q", args, name, text)
			}
		}
	}
	return code, stdout.String(), stderr.String()
}

// hostileCertificate is PEM, of a leaf with hostile names only.
func hostileCertificate(t *testing.T) (certificate string, der []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text := func(tag int, value []byte) []byte {
		der, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassUniversal, Tag: tag, IsCompound: tag == asn1.TagSequence, Bytes: value})
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	explicit := func(value []byte) []byte {
		der, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: value})
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	typeID, err := asn1.Marshal(certs.OIDUserName)
	if err != nil {
		t.Fatal(err)
	}
	name := explicit(append(typeID, explicit(text(asn1.TagUTF8String, []byte(hostileName+"!example.com")))...))
	extensions := []pkix.Extension{{Id: certs.OIDSubjectAltName, Critical: true, Value: text(asn1.TagSequence, name)}}
	for _, known := range certs.Table() {
		value := []byte(hostileName)
		if known.Arc > certs.GithubWorkflowRef {
			value = text(asn1.TagUTF8String, value)
		}
		extensions = append(extensions, pkix.Extension{Id: append(slices.Clone(certs.OIDSigstore), int(known.Arc)), Value: value})
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Minute),
		Subject: pkix.Name{CommonName: hostile}, ExtraExtensions: extensions,
	}
	if der, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key); err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), der
}

func TestInspectEscapesForeignText(t *testing.T) {
	t.Parallel()
	certificate, _ := hostileCertificate(t)
	code, out, errOut := command(t, certificate, "inspect")
	const escaped, controls = `b\u202ec\u2066d\u200be\ufeff\u2028\udb40\udc41f`, `CN=a\u001b[2J\u009b31m\u000db\u202ec`
	if code != 0 || strings.Count(out, escaped) < 10 || !strings.Contains(out, controls) {
		t.Errorf("exit code %d, %s%s", code, out, errOut)
	}
	code, out, errOut = command(t, certificate, "inspect", "--json")
	var r report
	if err := json.Unmarshal([]byte(out), &r); code != 0 || err != nil || r.SubjectAlternativeName.Value != hostileName+"!example.com" || r.Extensions["BuildTrigger"] != hostileName {
		t.Errorf("exit code %d, %v: %+v %s", code, err, r, errOut)
	}
}

// TestForeignAnswersAreEscaped asks a server that answers everything with hostile text.
func TestForeignAnswersAreEscaped(t *testing.T) {
	t.Parallel()
	message, err := json.Marshal(hostile)
	if err != nil {
		t.Fatal(err)
	}
	certificate, _ := hostileCertificate(t)
	chain, err := json.Marshal(hostile + "\n" + certificate)
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]string{
		"refusal":     fmt.Sprintf(`{"code": 3, "message": %[1]s, "details": [{"reason": %[1]s, "requestId": %[1]s}]}`, message),
		"text":        hostile,
		"octets":      "\xff\x9b\xc3" + hostile,
		"certificate": fmt.Sprintf(`{"signedCertificateEmbeddedSct": {"chain": {"certificates": [%s]}}}`, chain),
	}
	token := "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"x"}`)) + ".AAAA"
	for name, answer := range answers {
		for _, status := range []int{200, 400, 404, 500} {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = io.WriteString(w, answer)
			}))
			t.Cleanup(server.Close)
			dir := t.TempDir()
			for _, args := range [][]string{
				{"request", "--url", server.URL, "--token-file", "-", "--key", filepath.Join(dir, "key.pem")},
				{"request", "--grpc", "--url", server.URL, "--token-file", "-", "--key", filepath.Join(dir, "key2.pem")},
				{"token", "--url", server.URL}, {"trusted-root", "--url", server.URL}, {"signing-config", "--url", server.URL},
			} {
				if args[0] != "request" && status == 200 {
					continue // the answer is a document, and it may have several lines
				}
				want := 1
				if args[1] == "--grpc" {
					want = 3 // no gRPC server answers
				}
				if code, out, _ := command(t, token, args...); code != want || out != "" {
					t.Errorf("%s, %d, %q: exit code %d, %q", name, status, args, code, out)
				}
			}
		}
	}
}

func TestForeignConfigurationIsEscaped(t *testing.T) {
	t.Parallel()
	quoted, err := json.Marshal(hostile)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"an unknown key": fmt.Sprintf(`{%s: 1}`, quoted),
		"an issuer":      fmt.Sprintf(`{"oidc-issuers": {%[1]s: {"issuer-url": %[1]s, "client-id": %[1]s, "type": %[1]s, %[1]s: %[1]s}}}`, quoted),
		"a template":     fmt.Sprintf(`{"oidc-issuers": {"https://a.example": {"issuer-url": "https://a.example", "client-id": "s", "type": "ci-provider", "ci-provider": "c"}}, "ci-issuer-metadata": {"c": {"subject-alternative-name-template": %s}}}`, strings.Replace(string(quoted), `"`, `"{{`, 1)),
		"a log":          fmt.Sprintf(`{"issuers": "i.yaml", "ca": {"file": {"chain": %[1]s, "key": %[1]s}}, "ct": {"logs": [{"embedded": {"name": %[1]s, "dir": %[1]s, "guard": %[1]s, "key": "k", "origin": %[1]s}}, {"url": %[1]s}]}, "listen": {"http": %[1]s}}`, quoted),
		"no YAML":        "a: [" + hostile,
	} {
		file := filepath.Join(t.TempDir(), "file.yaml")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"config", "check", file}, {"serve", "--config", file}, {"explain", "--config", file, "--claims", "-"}} {
			if code, _, errOut := command(t, `{"iss": "https://a.example"}`, args...); code != 1 {
				t.Errorf("%s, %q: exit code %d, %s", name, args, code, errOut)
			}
		}
	}
}

func TestForeignClaimsAreEscaped(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "issuers.yaml")
	const issuers = `{"oidc-issuers": {"https://a.example": {"issuer-url": "https://a.example", "client-id": "sigstore", "type": "username", "subject-domain": "https://a.example"}}}`
	if err := os.WriteFile(file, []byte(issuers), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"iss", "aud", "sub", "email"} {
		claims := map[string]any{"iss": "https://a.example", "aud": "sigstore", "sub": "x"}
		claims[name] = hostile
		text, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		command(t, string(text), "explain", "--config", file, "--claims", "-")
		if _, out, _ := command(t, string(text), "explain", "--json", "--config", file, "--claims", "-"); out != "" && !json.Valid([]byte(out)) {
			t.Errorf("no JSON: %s", out)
		}
	}
}
