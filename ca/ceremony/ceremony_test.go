// SPDX-License-Identifier: Apache-2.0

package ceremony_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
)

func now() time.Time { return time.Date(2026, 11, 5, 12, 0, 0, 987e6, time.FixedZone("", 3600)) }

func subject(name string) ceremony.Subject {
	return ceremony.Subject{CommonName: name, Organization: "mayfly tests"}
}

func newKey(t testing.TB, algorithm string) crypto.Signer {
	t.Helper()
	key, err := ceremony.GenerateKey(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newChain(t testing.TB, algorithm string, begin time.Time) (root, intermediate *x509.Certificate) {
	t.Helper()
	rootKey := newKey(t, algorithm)
	root, err := ceremony.Root(ceremony.RootConfig{Subject: subject("root"), Signer: rootKey, NotBefore: begin})
	if err != nil {
		t.Fatal(err)
	}
	intermediate, err = ceremony.Intermediate(ceremony.IntermediateConfig{
		Subject: subject("intermediate"), PublicKey: newKey(t, algorithm).Public(),
		Parent: root, ParentSigner: rootKey, NotBefore: begin,
	})
	if err != nil {
		t.Fatal(err)
	}
	return root, intermediate
}

func verify(t *testing.T, root, intermediate *x509.Certificate, at time.Time) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(root)
	_, err := intermediate.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}})
	if err != nil {
		t.Errorf("at %s: %v", at, err)
	}
}

// The certificates have exactly the content of the certificate specification.
func TestCertificatesFollowTheSpecification(t *testing.T) {
	t.Parallel()
	for algorithm, want := range map[string]x509.SignatureAlgorithm{
		"ecdsa-p256": x509.ECDSAWithSHA256, "ecdsa-p384": x509.ECDSAWithSHA384, "rsa-4096": x509.SHA256WithRSA,
	} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			root, intermediate := newChain(t, algorithm, now())
			begin := now().UTC().Truncate(time.Second)
			type facts struct {
				CommonName, Organization string
				NotBefore, NotAfter      time.Time
				KeyUsage                 x509.KeyUsage
				ExtKeyUsage              []x509.ExtKeyUsage
				IsCA                     bool
				MaxPathLen               int
				Extensions               []string // with ! where critical
				Algorithm                x509.SignatureAlgorithm
				AuthorityKeyID           []byte
			}
			factsOf := func(c *x509.Certificate) facts {
				f := facts{
					c.Subject.CommonName, strings.Join(c.Subject.Organization, ","), c.NotBefore, c.NotAfter,
					c.KeyUsage, c.ExtKeyUsage, c.IsCA && c.BasicConstraintsValid, c.MaxPathLen, nil, c.SignatureAlgorithm, c.AuthorityKeyId,
				}
				for _, e := range c.Extensions {
					f.Extensions = append(f.Extensions, e.Id.String()+map[bool]string{true: "!"}[e.Critical])
				}
				return f
			}
			const usage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
			wantRoot := facts{"root", "mayfly tests", begin, begin.AddDate(10, 0, 0), usage, nil, true, -1,
				[]string{"2.5.29.15!", "2.5.29.19!", "2.5.29.14"}, want, nil}
			if diff := cmp.Diff(wantRoot, factsOf(root)); diff != "" {
				t.Errorf("root (-want +got):\n%s", diff)
			}
			wantIntermediate := facts{"intermediate", "mayfly tests", begin, begin.AddDate(3, 0, 0), usage,
				[]x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, true, 0,
				[]string{"2.5.29.15!", "2.5.29.37", "2.5.29.19!", "2.5.29.14", "2.5.29.35"}, want, root.SubjectKeyId}
			if diff := cmp.Diff(wantIntermediate, factsOf(intermediate)); diff != "" {
				t.Errorf("intermediate (-want +got):\n%s", diff)
			}
			for _, c := range []*x509.Certificate{root, intermediate} {
				// RFC 7093, section 2, method 1, from the key's bits.
				var spki struct {
					Algorithm asn1.RawValue
					Key       asn1.BitString
				}
				if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &spki); err != nil {
					t.Fatal(err)
				}
				sum := sha256.Sum256(spki.Key.Bytes)
				if !bytes.Equal(c.SubjectKeyId, sum[:20]) {
					t.Errorf("%s: SKI %x, want %x", c.Subject, c.SubjectKeyId, sum[:20])
				}
				if bits := c.SerialNumber.BitLen(); c.SerialNumber.Sign() <= 0 || bits <= 152 || bits >= 160 {
					t.Errorf("%s: the serial number has %d bits; it should fill 20 octets and be positive", c.Subject, bits)
				}
			}
			if root.SerialNumber.Cmp(intermediate.SerialNumber) == 0 {
				t.Error("both have the same serial number")
			}
			verify(t, root, intermediate, begin)
			verify(t, root, intermediate, begin.AddDate(3, 0, 0))
		})
	}
}

func TestZlintFindsNothing(t *testing.T) {
	t.Parallel()
	// The findings, and why they do not matter for this CA.
	ignored := map[string]string{
		"e_ca_country_name_missing":      "CA/B Forum BR 7.1.2: CAs for web servers; our specification asks for CN and O",
		"n_ca_digital_signature_not_set": "for a root that signs OCSP answers; our specification asks for certSign and cRLSign alone",
	}
	found := make(map[string]bool)
	for _, begin := range []time.Time{now(), time.Date(2045, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2060, 1, 1, 0, 0, 0, 0, time.UTC)} {
		for _, algorithm := range ceremony.Algorithms() {
			if algorithm == "rsa-4096" && begin.Year() > 2026 {
				continue // each key takes a second, and dates do not depend on it
			}
			root, intermediate := newChain(t, algorithm, begin)
			for _, c := range []*x509.Certificate{root, intermediate} {
				parsed, err := zx509.ParseCertificate(c.Raw)
				if err != nil {
					t.Fatal(err)
				}
				for name, result := range zlint.LintCertificate(parsed).Results {
					if result.Status < lint.Notice {
						continue
					}
					found[name] = true
					if ignored[name] == "" {
						t.Errorf("%d %s %s: %s: %s %s", begin.Year(), algorithm, c.Subject.CommonName, name, result.Status, result.Details)
					}
				}
			}
		}
	}
	for name := range ignored {
		if !found[name] {
			t.Errorf("%s is ignored, and was not found", name)
		}
	}
}

// From 2050 on, dates have four digits for the year (RFC 5280, section 4.1.2.5).
func TestDatesAroundTheYear2050(t *testing.T) {
	t.Parallel()
	for _, begin := range []time.Time{
		time.Date(2039, 12, 31, 23, 59, 59, 0, time.UTC), // the root's last second is UTCTime's last
		time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2048, 2, 29, 12, 0, 0, 0, time.UTC),
		time.Date(2055, 6, 1, 0, 0, 0, 0, time.UTC),
	} {
		root, intermediate := newChain(t, "ecdsa-p256", begin)
		verify(t, root, intermediate, begin)
		for _, c := range []*x509.Certificate{root, intermediate} {
			for _, date := range []time.Time{c.NotBefore, c.NotAfter} {
				utc := []byte("\x17\x0d" + date.Format("060102150405Z"))
				generalized := []byte("\x18\x0f" + date.Format("20060102150405Z"))
				if date.Year() < 2050 && !bytes.Contains(c.RawTBSCertificate, utc) || date.Year() >= 2050 && !bytes.Contains(c.RawTBSCertificate, generalized) {
					t.Errorf("%s: %s is in the wrong form", c.Subject, date)
				}
			}
		}
	}
}

func TestIntermediateNeverOutlivesItsParent(t *testing.T) {
	t.Parallel()
	rootKey := newKey(t, "ecdsa-p256")
	root, err := ceremony.Root(ceremony.RootConfig{Subject: subject("root"), Signer: rootKey, NotBefore: now(), NotAfter: now().AddDate(1, 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	cfg := ceremony.IntermediateConfig{
		Subject: subject("intermediate"), PublicKey: newKey(t, "ecdsa-p256").Public(), Parent: root, ParentSigner: rootKey, NotBefore: now(),
	}
	intermediate, err := ceremony.Intermediate(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !intermediate.NotAfter.Equal(root.NotAfter) {
		t.Errorf("it ends at %s, the root at %s", intermediate.NotAfter, root.NotAfter)
	}
}

func TestIntermediateRefuses(t *testing.T) {
	t.Parallel()
	rootKey := newKey(t, "ecdsa-p256")
	root, err := ceremony.Root(ceremony.RootConfig{Subject: subject("root"), Signer: rootKey, NotBefore: now()})
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t, "ecdsa-p256")
	good := ceremony.IntermediateConfig{Subject: subject("intermediate"), PublicKey: key.Public(), Parent: root, ParentSigner: rootKey, NotBefore: now()}
	intermediate, err := ceremony.Intermediate(good)
	if err != nil {
		t.Fatal(err)
	}
	edKey, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*ceremony.IntermediateConfig)
		want   string
	}{
		"ends after its parent":        {func(c *ceremony.IntermediateConfig) { c.NotAfter = root.NotAfter.Add(time.Second) }, "not within its parent's"},
		"begins before its parent":     {func(c *ceremony.IntermediateConfig) { c.NotBefore = root.NotBefore.Add(-time.Second) }, "not within its parent's"},
		"begins after its parent ends": {func(c *ceremony.IntermediateConfig) { c.NotBefore = root.NotAfter.AddDate(1, 0, 0) }, "not after its beginning"},
		"ends before it begins":        {func(c *ceremony.IntermediateConfig) { c.NotAfter = c.NotBefore }, "not after its beginning"},
		"below another intermediate":   {func(c *ceremony.IntermediateConfig) { c.Parent, c.ParentSigner = intermediate, key }, "path length 0"},
		"signed with another key":      {func(c *ceremony.IntermediateConfig) { c.ParentSigner = key }, "signing: x509"},
		"named as its parent":          {func(c *ceremony.IntermediateConfig) { c.Subject = subject("root") }, "different names"},
		"without a common name":        {func(c *ceremony.IntermediateConfig) { c.Subject.CommonName = "" }, "no common name"},
		"without an organization":      {func(c *ceremony.IntermediateConfig) { c.Subject.Organization = "" }, "no organization"},
		"with a control in its name":   {func(c *ceremony.IntermediateConfig) { c.Subject.CommonName = "a\nb" }, "cannot be printed"},
		"with broken UTF-8":            {func(c *ceremony.IntermediateConfig) { c.Subject.CommonName = "a\xff" }, "not valid UTF-8"},
		"with a name of 65 characters": {func(c *ceremony.IntermediateConfig) { c.Subject.Organization = strings.Repeat("ü", 65) }, "64 at most"},
		"Ed25519":                      {func(c *ceremony.IntermediateConfig) { c.PublicKey = edKey }, "not all clients accept"},
		"RSA of 1024 bits":             {func(c *ceremony.IntermediateConfig) { c.PublicKey = small.Public() }, "at least 2048 bits"},
		"P-224":                        {func(c *ceremony.IntermediateConfig) { c.PublicKey = p224.Public() }, "P-256, P-384 or P-521"},
		"below no CA":                  {func(c *ceremony.IntermediateConfig) { c.Parent = &x509.Certificate{} }, "is no CA"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := good
			test.change(&cfg)
			if _, err := ceremony.Intermediate(cfg); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestNameOf64Characters(t *testing.T) {
	t.Parallel()
	name := strings.Repeat("ü", 64)
	root, err := ceremony.Root(ceremony.RootConfig{Subject: subject(name), Signer: newKey(t, "ecdsa-p256"), NotBefore: now()})
	if err != nil {
		t.Fatal(err)
	}
	if root.Subject.CommonName != name {
		t.Errorf("common name %q", root.Subject.CommonName)
	}
}

func TestGenerateKeyRefuses(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"", "ed25519", "rsa-2048", "ECDSA-P256"} {
		if key, err := ceremony.GenerateKey(algorithm); err == nil || key != nil || !strings.Contains(err.Error(), "one of ecdsa-p384, ecdsa-p256, rsa-4096") {
			t.Errorf("%q: %v", algorithm, err)
		}
	}
}
