// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	stdasn1 "encoding/asn1"
	"encoding/pem"
	"fmt"
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
	return string(must(stdasn1.Marshal(name.ToRDNSequence()))(t))
}

// userNameBase is an otherName of the type of user names, as in a constraint.
const userNameBase = "\x06\x0a\x2b\x06\x01\x04\x01\x83\xbf\x30\x01\x07\xa0\x0e\x0c\x0c!example.com"

func parsed(t testing.TB, b *chainBuilder) *Chain { return must(ParseChain(b.make(t)))(t) }

func email(address string) certs.SAN { return certs.SAN{Kind: certs.SANEmail, Value: address} }
func uri(text string) certs.SAN      { return certs.SAN{Kind: certs.SANURI, Value: text} }

// sanOf returns the name of the kind that text looks like.
func sanOf(text string) certs.SAN {
	switch {
	case strings.Contains(text, "!"):
		return certs.SAN{Kind: certs.SANUserName, Value: text}
	case strings.Contains(text, ":"):
		return uri(text)
	default:
		return email(text)
	}
}

// The stricter reading of crypto/x509 and OpenSSL counts. Both verify a leaf with each permitted
// name, and at least one of them refuses each other name.
func TestNameConstraints(t *testing.T) {
	t.Parallel()
	file := string(must(os.ReadFile("testdata/constraints.txt"))(t))
	sections := strings.Split(file, "\n== ")[1:]
	if len(sections) < 15 {
		t.Errorf("there are %d sections only", len(sections))
	}
	for _, section := range sections {
		name, lines, _ := strings.Cut(strings.TrimSpace(section), "\n")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newChainBuilder(t)
			templates := map[string]*x509.Certificate{"root": b.root, "upper": b.upper, "issuing": b.issuing}
			subtrees, names := map[string][]base{}, map[string][]string{}
			for line := range strings.Lines(lines) {
				words := strings.Fields(line)
				switch {
				case words[0] == "permits" || words[0] == "forbids":
					names[words[0]] = words[1:]
					continue
				case templates[words[0]] == nil:
					t.Fatalf("the line %q is of no known form", line)
				}
				one := base{tag: map[string]asn1.Tag{"email": tagEmail, "dns": asn1.Tag(2).ContextSpecific(), "uri": tagURI, "ip": asn1.Tag(7).ContextSpecific()}[words[2]]}
				if one.value = words[3]; one.value == "-" {
					one.value = map[string]string{"ip": string(make([]byte, 8))}[words[2]]
				}
				subtrees[words[0]+words[1]] = append(subtrees[words[0]+words[1]], one)
			}
			for of, template := range templates {
				if permitted, excluded := subtrees[of+"permitted"], subtrees[of+"excluded"]; len(permitted)+len(excluded) > 0 {
					constrain(template, true, permitted, excluded)
				}
			}
			chain := parsed(t, b)
			for _, name := range names["permits"] {
				if err := chain.Permits(sanOf(name)); err != nil {
					t.Errorf("%q: %v", name, err)
				}
				if err := verifyBoth(t, b, chain, sanOf(name)); err != nil {
					t.Errorf("%q is permitted, but %v", name, err)
				}
			}
			for _, name := range names["forbids"] {
				if err := chain.Permits(sanOf(name)); refusal.From(err).Reason != refusal.PolicyDenied {
					t.Errorf("%q: got error %v, want POLICY_DENIED", name, err)
				}
				if err := verifyBoth(t, b, chain, sanOf(name)); err == nil {
					t.Errorf("%q is forbidden, and both verifiers accept it", name)
				}
			}
			if len(names["permits"])+len(names["forbids"]) == 0 {
				t.Error("the section has no names")
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
	template := benchOf(t, chain).template
	template.NotBefore, template.NotAfter, template.SAN = chain.NotBefore, chain.NotAfter, san
	signed := must(certs.NewTBS(template))(t).Certificate(nil)
	return certs.Assemble(signed, template.SignatureAlgorithm, must(template.SignatureAlgorithm.Sign(rand.Reader, b.issuingKey, signed))(t))
}

func verifyGo(chain *Chain, der []byte, kind certs.SANKind) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if kind == certs.SANUserName {
		leaf.UnhandledCriticalExtensions = nil
	}
	_, err = leaf.Verify(certs.CodeSigning(chain.Certificates, chain.NotAfter))
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
