// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

func plannedCertificate(name string) PlannedCertificate {
	return PlannedCertificate{Subject: subject(name)}
}

func newRequest(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "requested", Organization: []string{"mayfly tests"}, Country: []string{"XX"}},
		// None of this may enter the certificate.
		DNSNames: []string{"evil.example"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// A ceremony now and one past 2050, checked with zlint and openssl.
func TestRunAgainstZlintAndOpenSSL(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("there is no openssl")
	}
	for _, begin := range []time.Time{now(), time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC), time.Date(2061, 1, 1, 0, 0, 0, 0, time.UTC)} {
		dir := filepath.Join(t.TempDir(), "out")
		second := plannedCertificate("second")
		if begin.Year() == 2026 { // an RSA key takes a second
			second.Algorithm = "rsa-4096"
		}
		transcript, err := Run(Plan{
			Dir: dir, Now: begin, Root: plannedCertificate("root"),
			Intermediates: []PlannedIntermediate{
				{ID: "a", PlannedCertificate: plannedCertificate("first")},
				{ID: "b", PlannedCertificate: second},
				{ID: "c", Request: newRequest(t, testKey(t, "ecdsa-p384"))},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		run := func(arguments ...string) string {
			out, err := exec.CommandContext(t.Context(), openssl, arguments...).CombinedOutput()
			if err != nil {
				t.Errorf("%d: openssl %s: %v: %s", begin.Year(), strings.Join(arguments, " "), err, out)
			}
			return string(out)
		}
		for _, id := range []string{"a", "b", "c"} {
			in := func(name string) string { return filepath.Join(dir, id, name) }
			run("verify", "-x509_strict", "-check_ss_sig", "-attime", fmt.Sprint(begin.Add(time.Hour).Unix()), "-CAfile", filepath.Join(dir, "root", "root.pem"), in("chain.pem"))
			chain := certificates(t, in("chain.pem"))
			for _, c := range chain {
				lintCertificate(t, c.Raw)
			}
			if bytes.Contains(chain[0].Raw, []byte("evil.example")) || len(chain[0].Subject.Country) > 0 {
				t.Errorf("what the request asked for is in the certificate of %s", id)
			}
			if id == "c" { // its key is elsewhere
				continue
			}
			key := run("pkey", "-in", in("key.pem"), "-passin", "file:"+in("pass"), "-pubout")
			if block, _ := pem.Decode([]byte(key)); block == nil || !bytes.Equal(block.Bytes, chain[0].RawSubjectPublicKeyInfo) {
				t.Errorf("%s: openssl opens another key:\n%s", id, key)
			}
		}
		if strings.Count(transcript, "it conforms") != 8 || strings.Contains(transcript, "PRIVATE") {
			t.Errorf("the transcript:\n%s", transcript)
		}
	}
}

func lintCertificate(t *testing.T, der []byte) {
	t.Helper()
	parsed, err := zx509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for name, result := range zlint.LintCertificate(parsed).Results {
		if result.Status >= lint.Notice && name != "e_ca_country_name_missing" && name != "n_ca_digital_signature_not_set" {
			t.Errorf("%s: %s: %s %s", parsed.Subject.CommonName, name, result.Status, result.Details)
		}
	}
}

func TestRunLeavesNothingAfterAnError(t *testing.T) {
	t.Parallel()
	late := plannedCertificate("late")
	late.NotAfter = now().AddDate(11, 0, 0)
	for name, test := range map[string]struct {
		plan Plan
		want string
	}{
		"intermediate outlives the root": {Plan{Root: plannedCertificate("root"), Intermediates: []PlannedIntermediate{{ID: "a", PlannedCertificate: late}}}, "not within its parent's"},
		"root without a name":            {Plan{Root: PlannedCertificate{}}, "root: the CA has no common name"},
		"broken request":                 {Plan{Root: plannedCertificate("root"), Intermediates: []PlannedIntermediate{{ID: "a", Request: []byte("x")}}}, "intermediates: 0: reading the"},
		"same name as the root":          {Plan{Root: plannedCertificate("root"), Intermediates: []PlannedIntermediate{{ID: "a", PlannedCertificate: plannedCertificate("root")}}}, "different names"},
	} {
		dir := filepath.Join(t.TempDir(), "out")
		test.plan.Dir, test.plan.Now = dir, now()
		if _, err := Run(test.plan); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got error %v, want one that says %q", name, err, test.want)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: something is left", name)
		}
	}
}

func TestSignRequestRefuses(t *testing.T) {
	t.Parallel()
	root, rootKey := newTestRoot(t, PlannedCertificate{Subject: subject("root"), NotBefore: now()}, "ecdsa-p256")
	good := newRequest(t, testKey(t, "ecdsa-p256"))
	block, _ := pem.Decode(good)
	tampered := bytes.Clone(block.Bytes)
	tampered[len(tampered)-1] ^= 1
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		request []byte
		want    string
	}{
		"text":           {[]byte("hello"), "must begin with -----BEGIN CERTIFICATE REQUEST"},
		"two":            {append(bytes.Clone(good), good...), "more than one PEM block"},
		"broken DER":     {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{0x30}}), "parsing the request"},
		"another's key":  {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: tampered}), "signature does not verify"},
		"an unknown key": {newRequest(t, p224), "P-256, P-384 or P-521"},
	} {
		_, _, err := SignRequest(SignRequestConfig{
			Request: test.request, Parent: Parent{Chain: []*x509.Certificate{root}, Signer: rootKey}, NotBefore: now(),
		})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got error %v, want one that says %q", name, err, test.want)
		}
	}
}

// Conform reports every departure from the specification.
func TestConformNoticesEveryDeparture(t *testing.T) {
	t.Parallel()
	root, intermediate := newChain(t, "ecdsa-p256", now())
	if err := Conform(root, nil); err != nil {
		t.Errorf("the root: %v", err)
	}
	if err := Conform(intermediate, root); err != nil {
		t.Errorf("the intermediate: %v", err)
	}
	for want, change := range map[string]func(root, intermediate *x509.Certificate){
		"root: one common name":         func(r, _ *x509.Certificate) { r.Subject.CommonName = "" },
		"root: serial number":           func(r, _ *x509.Certificate) { r.SerialNumber = big.NewInt(1) },
		"root: key usage":               func(r, _ *x509.Certificate) { r.KeyUsage |= x509.KeyUsageDigitalSignature },
		"root: CA:TRUE":                 func(r, _ *x509.Certificate) { r.IsCA = false },
		"root: extended key usages":     func(r, _ *x509.Certificate) { r.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"root: authority key":           func(r, _ *x509.Certificate) { r.AuthorityKeyId = []byte{1} },
		"root: issuer":                  func(r, _ *x509.Certificate) { r.RawIssuer = []byte{1} },
		"intermediate: one common name": func(_, i *x509.Certificate) { i.Subject.Organization = nil },
		"intermediate: path length":     func(_, i *x509.Certificate) { i.MaxPathLen, i.MaxPathLenZero = -1, false },
		"intermediate: extended key":    func(_, i *x509.Certificate) { i.ExtKeyUsage = append(i.ExtKeyUsage, x509.ExtKeyUsageServerAuth) },
		"intermediate: authority key":   func(_, i *x509.Certificate) { i.AuthorityKeyId = nil },
		"intermediate: subject key":     func(_, i *x509.Certificate) { i.SubjectKeyId = nil },
		"intermediate: not within":      func(r, i *x509.Certificate) { i.NotAfter = r.NotAfter.Add(time.Second) },
		"intermediate: ends before":     func(_, i *x509.Certificate) { i.NotAfter = i.NotBefore },
		"intermediate: critical": func(_, i *x509.Certificate) {
			i.UnhandledCriticalExtensions = append(i.UnhandledCriticalExtensions, []int{1, 2})
		},
	} {
		r, i := *root, *intermediate
		change(&r, &i)
		which, text, _ := strings.Cut(want, ": ")
		err := Conform(&i, &r)
		if which == "root" {
			err = Conform(&r, nil)
		}
		if text == "not within" {
			text = "is not within its parent's"
		}
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v", want, err)
		}
	}
}
