// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	stdasn1 "encoding/asn1"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

var (
	tagEmail     = asn1.Tag(1).ContextSpecific()
	tagURI       = asn1.Tag(6).ContextSpecific()
	tagDirectory = asn1.Tag(4).ContextSpecific().Constructed()
	tagOther     = asn1.Tag(0).ContextSpecific().Constructed()
)

// base is a GeneralSubtree: a name, and what follows it.
type base struct {
	tag   asn1.Tag
	value string
	rest  string
}

// constrain adds name constraints to template that crypto/x509 cannot encode.
func constrain(template *x509.Certificate, critical bool, permitted, excluded []base) {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for i, list := range [][]base{permitted, excluded} {
			if len(list) == 0 {
				continue
			}
			b.AddASN1(asn1.Tag(i).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				for _, one := range list {
					b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1(one.tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(one.value)) })
						b.AddBytes([]byte(one.rest))
					})
				}
			})
		}
	})
	template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oidNameConstraints, Critical: critical, Value: b.BytesOrPanic()})
}

func directoryName(t testing.TB, name pkix.Name) string {
	t.Helper()
	der, err := stdasn1.Marshal(name.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	return string(der)
}

// userNameBase is an otherName of the type of user names, as in a constraint.
const userNameBase = "\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01\x07\xa0\x0e\x0c\x0c!example.com"

func parsed(t testing.TB, b *chainBuilder) *Chain {
	t.Helper()
	chain, err := ParseChain(b.make(t))
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func email(address string) certs.SAN { return certs.SAN{Kind: certs.SANEmail, Value: address} }
func uri(text string) certs.SAN      { return certs.SAN{Kind: certs.SANURI, Value: text} }
func user(text string) certs.SAN     { return certs.SAN{Kind: certs.SANUserName, Value: text} }

// The stricter reading of crypto/x509 and OpenSSL counts. Both verify a leaf with each permitted
// name, and at least one of them refuses each other name.
func TestNameConstraints(t *testing.T) {
	t.Parallel()
	const far = "https://elsewhere.example/x"
	for name, test := range map[string]struct {
		constrain        func(b *chainBuilder)
		permits, forbids []certs.SAN
	}{
		"none":       {constrain: func(*chainBuilder) {}, permits: []certs.SAN{email("a@b.example"), uri("urn:x:y"), user("a!b")}},
		"email host": {constrain: func(b *chainBuilder) { b.issuing.PermittedEmailAddresses = []string{"corp.example"} }, permits: []certs.SAN{email("ada@corp.example"), email("Ada@CORP.example"), uri(far), user("ada!other.example")}, forbids: []certs.SAN{email("ada@other.example"), email("ada@sub.corp.example"), email("ada@xcorp.example"), email("ada@corp.example.org"), uri("urn:x:y"), uri("https://192.0.2.1/x"), uri("https://[2001:db8::1]/x")}},
		"email domain": {constrain: func(b *chainBuilder) { b.upper.PermittedEmailAddresses = []string{".corp.example"} },
			permits: []certs.SAN{email("ada@sub.corp.example"), email("ada@a.b.corp.example")}, forbids: []certs.SAN{email("ada@corp.example"), email("ada@xcorp.example")}},
		"email mailbox": {constrain: func(b *chainBuilder) {
			b.issuing.PermittedEmailAddresses = []string{"ada@corp.example", "b@x.example"}
		},
			permits: []certs.SAN{email("ada@corp.example"), email("ada@Corp.Example"), email("b@x.example")}, forbids: []certs.SAN{email("Ada@corp.example"), email("ada@sub.corp.example"), email("b@corp.example"), email("xada@corp.example")}},
		"email excluded host": {constrain: func(b *chainBuilder) { b.issuing.ExcludedEmailAddresses = []string{"corp.example"} },
			permits: []certs.SAN{email("ada@xcorp.example"), uri(far)}, forbids: []certs.SAN{email("ada@corp.example"), email("ada@sub.corp.example"), email("ada@CORP.example")}},
		"email excluded domain": {constrain: func(b *chainBuilder) { b.issuing.ExcludedEmailAddresses = []string{".corp.example"} },
			permits: []certs.SAN{email("ada@corp.example")}, forbids: []certs.SAN{email("ada@sub.corp.example")}},
		"email excluded mailbox": {constrain: func(b *chainBuilder) {
			b.issuing.ExcludedEmailAddresses = []string{`"eve"@corp.example`, "mallory@corp.example"}
		},
			permits: []certs.SAN{email("ada@corp.example")}, forbids: []certs.SAN{email("eve@corp.example"), email("mallory@CORP.example")}},
		"permitted but for a part": {constrain: func(b *chainBuilder) {
			b.issuing.PermittedEmailAddresses, b.issuing.ExcludedEmailAddresses = []string{".example"}, []string{"corp.example"}
		}, permits: []certs.SAN{email("ada@other.example")}, forbids: []certs.SAN{email("ada@corp.example"), email("ada@other.org")}},
		"root and issuing": {constrain: func(b *chainBuilder) {
			b.root.PermittedEmailAddresses, b.issuing.PermittedEmailAddresses = []string{".example"}, []string{"corp.example", "other.org"}
		}, permits: []certs.SAN{email("ada@corp.example")}, forbids: []certs.SAN{email("ada@other.example"), email("ada@other.org")}},
		"root alone": {constrain: func(b *chainBuilder) { b.root.PermittedURIDomains = []string{"ci.example"} },
			permits: []certs.SAN{uri("https://ci.example/a"), uri("https://CI.example"), uri("spiffe://ci.example/x"), uri("https://ci.example:8443/a"), email("ada@x.example")},
			forbids: []certs.SAN{uri("https://sub.ci.example/a"), uri(far), uri("https://ci.example/a:b"), uri("https://ci.example?a"), uri("urn:ci.example"), uri("https:ci.example/x")}},
		"URI domain": {constrain: func(b *chainBuilder) { b.upper.PermittedURIDomains = []string{".ci.example"} },
			permits: []certs.SAN{uri("https://a.ci.example/x"), uri("https://a.b.ci.example/")}, forbids: []certs.SAN{uri("https://ci.example/"), uri("https://xci.example/")}},
		"URI wildcard": {constrain: func(b *chainBuilder) { b.upper.ExcludedURIDomains = []string{"a.ci.example"} },
			permits: []certs.SAN{uri("https://ci.example/")}, forbids: []certs.SAN{uri("https://*.ci.example/"), uri("https://a.ci.example/")}},
		"URI excluded": {constrain: func(b *chainBuilder) { b.upper.ExcludedURIDomains = []string{"ci.example"} },
			permits: []certs.SAN{uri("https://other.example/a:b"), uri("https://xci.example/")}, forbids: []certs.SAN{uri("https://ci.example/"), uri("https://sub.ci.example/"), uri("https://ci.example/a:b")}},
		"everything excluded": {constrain: func(b *chainBuilder) {
			constrain(b.issuing, true, nil, []base{{tag: tagEmail}, {tag: tagURI}})
		},
			permits: []certs.SAN{user("ada!x.example")}, forbids: []certs.SAN{email("ada@x.example"), uri(far)}},
		"empty base permitted": {constrain: func(b *chainBuilder) { constrain(b.issuing, true, []base{{tag: tagEmail}}, nil) },
			forbids: []certs.SAN{email("ada@x.example")}},
		"DNS alone": {constrain: func(b *chainBuilder) { b.issuing.PermittedDNSDomains = []string{"corp.example"} },
			permits: []certs.SAN{email("a@b.example"), uri(far), user("a!b")}, forbids: []certs.SAN{uri("arn:aws:iam::1:role/x"), uri("https://127.0.0.1/")}},
		"IP alone": {constrain: func(b *chainBuilder) {
			b.issuing.ExcludedIPRanges = []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}}
		},
			permits: []certs.SAN{email("a@b.example"), uri(far), user("a!b")}, forbids: []certs.SAN{uri("urn:x:y")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newChainBuilder(t)
			test.constrain(b)
			chain := parsed(t, b)
			for _, san := range test.permits {
				if err := chain.Permits(san); err != nil {
					t.Errorf("%q: %v", san.Value, err)
				}
				if err := verifyBoth(t, b, chain, san); err != nil {
					t.Errorf("%q is permitted, but %v", san.Value, err)
				}
			}
			for _, san := range test.forbids {
				if err := chain.Permits(san); refusal.From(err).Reason != refusal.PolicyDenied {
					t.Errorf("%q: got error %v, want POLICY_DENIED", san.Value, err)
				}
				if err := verifyBoth(t, b, chain, san); err == nil {
					t.Errorf("%q is forbidden, and both verifiers accept it", san.Value)
				}
			}
		})
	}
}

// verifyBoth reports why crypto/x509 or openssl refuses a leaf that names san.
func verifyBoth(t *testing.T, b *chainBuilder, chain *Chain, san certs.SAN) error {
	t.Helper()
	leaf := signedBy(t, b, chain, san)
	if err := verifyGo(chain, leaf, san.Kind); err != nil {
		return fmt.Errorf("crypto/x509: %w", err)
	}
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("openssl is not on PATH")
		}
		return nil
	}
	dir := t.TempDir()
	write := func(name string, ders ...[]byte) string {
		var text []byte
		for _, der := range ders {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	end := len(chain.DER) - 1
	out, err := exec.CommandContext(t.Context(), openssl, "verify", "-attime", fmt.Sprint(chain.NotBefore.Unix()+1),
		"-CAfile", write("root.pem", chain.DER[end]), "-untrusted", write("ca.pem", chain.DER[:end]...), write("leaf.pem", leaf)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("openssl: %s", out)
	}
	return nil
}

// signedBy returns a leaf of the profile, DER, signed with the key of the builder's issuing CA.
func signedBy(t testing.TB, b *chainBuilder, chain *Chain, san certs.SAN) []byte {
	t.Helper()
	key := b.issuingKey.(*ecdsa.PrivateKey)
	template := benchOf(t, chain).template
	template.NotBefore, template.NotAfter, template.SAN = chain.NotBefore, chain.NotAfter, san
	tbs, err := certs.NewTBS(template)
	if err != nil {
		t.Fatal(err)
	}
	signed := tbs.Certificate(nil)
	digest := sha256.Sum256(signed)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return certs.Assemble(signed, template.SignatureAlgorithm, signature)
}

func verifyGo(chain *Chain, der []byte, kind certs.SANKind) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if kind == certs.SANUserName {
		leaf.UnhandledCriticalExtensions = nil
	}
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: chain.NotAfter,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	end := len(chain.Certificates) - 1
	options.Roots.AddCert(chain.Certificates[end])
	for _, c := range chain.Certificates[:end] {
		options.Intermediates.AddCert(c)
	}
	_, err = leaf.Verify(options)
	return err
}

// The refusal names the subtree, within the length limit of a message.
func TestNameConstraintIsNamed(t *testing.T) {
	t.Parallel()
	b := newChainBuilder(t)
	for i := range 40 {
		b.issuing.PermittedEmailAddresses = append(b.issuing.PermittedEmailAddresses, fmt.Sprintf("corp%d.example", i))
	}
	b.root.ExcludedURIDomains = []string{"ci.example"}
	chain := parsed(t, b)
	for san, want := range map[certs.SAN]string{
		email("ada@other.example"):  `"corp0.example" "corp1.example"`,
		uri("https://ci.example/x"): `exclude "ci.example"`,
	} {
		e := refusal.From(chain.Permits(san))
		if !strings.Contains(e.Message, want) || len(e.Message) > 500 {
			t.Errorf("the message is %q (%d bytes), want %s in it", e.Message, len(e.Message), want)
		}
		if strings.Contains(e.Message, san.Value) {
			t.Errorf("the message repeats the name: %q", e.Message)
		}
	}
}

// crypto/x509 verifies every name that Permits accepts.
func FuzzPermits(f *testing.F) {
	f.Add("corp.example", ".example", "x.example", uint8(1), "ada@corp.example")
	f.Add("ci.example", "a.ci.example", ".ci.example", uint8(2), "https://b.ci.example:80/x:y")
	f.Add("", "a-b.example", "a.b.example", uint8(2), "https://a.b.example")
	f.Add(`"q"@x.example`, "@", "..", uint8(1), "q@x.example")
	b := newChainBuilder(f)
	// The addresses that package identity accepts.
	address := regexp.MustCompile("^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*@([A-Za-z0-9-]+\\.)+[A-Za-z0-9-]+$")
	f.Fuzz(func(t *testing.T, first, second, third string, kind uint8, name string) {
		one := *b
		issuing, root := *b.issuing, *b.root
		one.issuing, one.root = &issuing, &root
		tag := []asn1.Tag{tagOther, tagEmail, tagURI}[kind%3]
		constrain(one.issuing, true, []base{{tag: tag, value: first}, {tag: tag, value: second}}, nil)
		constrain(one.root, true, []base{{tag: tag, value: second}}, []base{{tag: tag, value: third}})
		data, err := one.tryMake()
		if err != nil {
			t.Skip()
		}
		chain, err := ParseChain(data)
		if err != nil {
			t.Skip()
		}
		san := certs.SAN{Kind: []certs.SANKind{certs.SANUserName, certs.SANEmail, certs.SANURI}[kind%3], Value: name}
		if san.Check() != nil || chain.Permits(san) != nil {
			t.Skip()
		}
		if san.Kind == certs.SANEmail && !address.MatchString(name) {
			t.Skip()
		}
		if err := verifyGo(chain, signedBy(t, &one, chain, san), san.Kind); err != nil {
			t.Errorf("%q below %q, %q and not %q: %v", name, first, second, third, err)
		}
	})
}
