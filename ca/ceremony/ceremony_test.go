// SPDX-License-Identifier: Apache-2.0

package ceremony

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
)

func now() time.Time { return time.Date(2026, 11, 5, 12, 0, 0, 987e6, time.FixedZone("", 3600)) }

func subject(name string) Subject {
	return Subject{CommonName: name, Organization: "mayfly tests"}
}

func testKey(t testing.TB, algorithm string) crypto.Signer {
	t.Helper()
	key, err := GenerateKey(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newTestRoot(t testing.TB, planned PlannedCertificate, algorithm string) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key := testKey(t, algorithm)
	root, err := newRoot(planned, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return root, key
}

func newChain(t testing.TB, algorithm string, begin time.Time) (root, intermediate *x509.Certificate) {
	t.Helper()
	root, key := newTestRoot(t, PlannedCertificate{Subject: subject("root"), NotBefore: begin}, algorithm)
	intermediate, err := newIntermediate(PlannedCertificate{Subject: subject("intermediate"), NotBefore: begin}, testKey(t, algorithm).Public(), root, key)
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

func TestIntermediateNeverOutlivesItsParent(t *testing.T) {
	t.Parallel()
	root, key := newTestRoot(t, PlannedCertificate{Subject: subject("root"), NotBefore: now(), NotAfter: now().AddDate(1, 0, 0)}, "ecdsa-p256")
	intermediate, err := newIntermediate(PlannedCertificate{Subject: subject("intermediate"), NotBefore: now()}, testKey(t, "ecdsa-p256").Public(), root, key)
	if err != nil {
		t.Fatal(err)
	}
	if !intermediate.NotAfter.Equal(root.NotAfter) {
		t.Errorf("it ends at %s, the root at %s", intermediate.NotAfter, root.NotAfter)
	}
}

func TestIntermediateRefuses(t *testing.T) {
	t.Parallel()
	type request struct {
		PlannedCertificate
		public crypto.PublicKey
		parent *x509.Certificate
		key    crypto.Signer
	}
	root, rootKey := newTestRoot(t, PlannedCertificate{Subject: subject("root"), NotBefore: now()}, "ecdsa-p256")
	key := testKey(t, "ecdsa-p256")
	good := request{PlannedCertificate{Subject: subject("intermediate"), NotBefore: now()}, key.Public(), root, rootKey}
	intermediate, err := newIntermediate(good.PlannedCertificate, good.public, good.parent, good.key)
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
		change func(*request)
		want   string
	}{
		"ends after its parent":        {func(c *request) { c.NotAfter = root.NotAfter.Add(time.Second) }, "not within its parent's"},
		"begins before its parent":     {func(c *request) { c.NotBefore = root.NotBefore.Add(-time.Second) }, "not within its parent's"},
		"begins after its parent ends": {func(c *request) { c.NotBefore = root.NotAfter.AddDate(1, 0, 0) }, "not after its beginning"},
		"ends before it begins":        {func(c *request) { c.NotAfter = c.NotBefore }, "not after its beginning"},
		"below another intermediate":   {func(c *request) { c.parent, c.key = intermediate, key }, "path length 0"},
		"signed with another key":      {func(c *request) { c.key = key }, "signing: x509"},
		"named as its parent":          {func(c *request) { c.Subject = subject("root") }, "different names"},
		"without a common name":        {func(c *request) { c.Subject.CommonName = "" }, "no common name"},
		"without an organization":      {func(c *request) { c.Subject.Organization = "" }, "no organization"},
		"with a control in its name":   {func(c *request) { c.Subject.CommonName = "a\nb" }, "cannot be printed"},
		"with broken UTF-8":            {func(c *request) { c.Subject.CommonName = "a\xff" }, "not valid UTF-8"},
		"with a name of 65 characters": {func(c *request) { c.Subject.Organization = strings.Repeat("ü", 65) }, "64 at most"},
		"Ed25519":                      {func(c *request) { c.public = edKey }, "not all clients accept"},
		"RSA of 1024 bits":             {func(c *request) { c.public = small.Public() }, "at least 2048 bits"},
		"P-224":                        {func(c *request) { c.public = p224.Public() }, "P-256, P-384 or P-521"},
		"below no CA":                  {func(c *request) { c.parent = &x509.Certificate{NotBefore: root.NotBefore, NotAfter: root.NotAfter} }, "is no CA"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := good
			test.change(&cfg)
			if _, err := newIntermediate(cfg.PlannedCertificate, cfg.public, cfg.parent, cfg.key); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestGenerateKeyRefuses(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"", "ed25519", "rsa-2048", "ECDSA-P256"} {
		if key, err := GenerateKey(algorithm); err == nil || key != nil || !strings.Contains(err.Error(), "one of ecdsa-p384, ecdsa-p256, rsa-4096") {
			t.Errorf("%q: %v", algorithm, err)
		}
	}
}
