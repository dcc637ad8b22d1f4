// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	stdasn1 "encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

// SANKinds returns the kinds of name that a leaf can hold.
func SANKinds() []certs.SANKind {
	return []certs.SANKind{certs.SANEmail, certs.SANURI, certs.SANUserName}
}

// Trial signs a leaf with each kind of name below a copy of the chain and verifies it for code
// signing, as clients do. It verifies at the later of now and the chain's NotBefore, and at the
// latest NotAfter of a leaf. The copy has the chain's names, dates and extensions, but throwaway
// keys. So the CA's own key never signs a trial.
//
// The map has the kinds of name that no verifier accepts, with the cause. If that is every kind,
// Trial returns an error: the chain is unusable.
func (c *Chain) Trial(now time.Time) (unusable map[certs.SANKind]error, err error) {
	trial, err := newTrial(c, now)
	if err != nil {
		return nil, fmt.Errorf("no verifier accepts a certificate below the chain: %w", err)
	}
	unusable = map[certs.SANKind]error{}
	var causes []string
	for _, kind := range SANKinds() {
		if err := trial.run(kind); err != nil {
			unusable[kind] = err
			if !slices.Contains(causes, err.Error()) {
				causes = append(causes, err.Error())
			}
		}
	}
	if len(unusable) == len(SANKinds()) {
		return unusable, fmt.Errorf("no verifier accepts a certificate below the chain: %s", strings.Join(causes, "; "))
	}
	return unusable, nil
}

// trial is a copy of a chain with throwaway keys.
type trial struct {
	chain                *Chain
	begin                time.Time
	key                  *ecdsa.PrivateKey // of the issuing CA's copy, and of the leaves
	roots, intermediates *x509.CertPool
}

func newTrial(chain *Chain, now time.Time) (*trial, error) {
	if err := chain.checkSubjects(); err != nil {
		return nil, err
	}
	t := &trial{chain: chain, begin: now, roots: x509.NewCertPool(), intermediates: x509.NewCertPool()}
	if t.begin.Before(chain.NotBefore) {
		t.begin = chain.NotBefore
	}
	if !t.begin.Before(chain.NotAfter) { // an expired chain is tried at its end
		t.begin = chain.NotAfter.Add(-time.Second)
	}
	t.begin = t.begin.UTC().Truncate(time.Second)
	var parent *x509.Certificate
	var parentKey *ecdsa.PrivateKey
	for i, c := range slices.Backward(chain.Certificates) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i) + 1), RawSubject: c.RawSubject,
			NotBefore: c.NotBefore, NotAfter: c.NotAfter, ExtraExtensions: c.Extensions,
		}
		if parent == nil {
			parent, parentKey = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
		if err != nil {
			return nil, fmt.Errorf("copying the certificate %s: %w", c.Subject, err)
		}
		if parent, err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("copying the certificate %s: %w", c.Subject, err)
		}
		parentKey, t.key = key, key
		if i == len(chain.Certificates)-1 {
			t.roots.AddCert(parent)
		} else {
			t.intermediates.AddCert(parent)
		}
	}
	return t, nil
}

// run verifies a leaf with a name of kind.
func (t *trial) run(kind certs.SANKind) error {
	san, err := t.chain.trialName(kind)
	if err != nil {
		return err
	}
	der, err := t.sign(san)
	if err != nil {
		return fmt.Errorf("signing a trial leaf: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("parsing a trial leaf: %w", err)
	}
	if kind == certs.SANUserName {
		leaf.UnhandledCriticalExtensions = nil // crypto/x509 does not read otherName; clients do
	}
	for _, at := range []time.Time{t.begin, t.chain.NotAfter} {
		if _, err := leaf.Verify(x509.VerifyOptions{
			Roots: t.roots, Intermediates: t.intermediates, CurrentTime: at,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		}); err != nil {
			return fmt.Errorf("a trial leaf with a %s does not verify at %s: %w", kind, stamp(at), err)
		}
	}
	return nil
}

// sign returns a leaf of the profile that is valid from t.begin until the chain expires.
func (t *trial) sign(san certs.SAN) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(t.key.Public())
	if err != nil {
		return nil, err
	}
	algorithm, err := certs.SignatureAlgorithmFor(t.key.Public())
	if err != nil {
		return nil, err
	}
	serial, err := certs.NewSerial(rand.Reader)
	if err != nil {
		return nil, err
	}
	issuing := t.chain.Certificates[0]
	template := certs.Template{
		SerialNumber: serial, SignatureAlgorithm: algorithm, Issuer: issuing.RawSubject,
		NotBefore: t.begin, NotAfter: t.chain.NotAfter.UTC(), PublicKey: spki, AuthorityKeyID: issuing.SubjectKeyId, SAN: san,
	}
	tbs, err := certs.NewTBS(template)
	if err != nil {
		return nil, err
	}
	signed := tbs.Certificate(nil)
	digest := sha256.Sum256(signed)
	signature, err := ecdsa.SignASN1(rand.Reader, t.key, digest[:])
	return certs.Assemble(signed, algorithm, signature), err
}

// trialName returns a name of kind that the chain permits. Two subtrees are disjoint or one
// contains the other. So if a permitted name exists, the base of a subtree gives one.
func (c *Chain) trialName(kind certs.SANKind) (certs.SAN, error) {
	name := func(host string) certs.SAN {
		switch kind {
		case certs.SANEmail:
			return certs.SAN{Kind: kind, Value: "mayfly-trial@" + host}
		case certs.SANURI:
			return certs.SAN{Kind: kind, Value: "https://" + host + "/mayfly-trial"}
		default:
			return certs.SAN{Kind: kind, Value: "mayfly-trial!" + host}
		}
	}
	candidates := []certs.SAN{name("mayfly-trial.mayfly-trial")}
	for _, n := range c.constraints {
		for _, s := range n.permitted {
			switch {
			case s.kind != kind || s.base == "":
			case strings.Contains(s.base, "@"):
				candidates = append(candidates, certs.SAN{Kind: kind, Value: s.base})
			case strings.HasPrefix(s.base, "."):
				candidates = append(candidates, name("mayfly-trial"+s.base))
			default:
				candidates = append(candidates, name(s.base))
			}
		}
	}
	var err error
	for _, candidate := range candidates {
		if err = candidate.Check(); err == nil {
			err = c.Permits(candidate)
		}
		if err == nil {
			return candidate, nil
		}
	}
	if e := new(refusal.Error); errors.As(err, &e) {
		err = fmt.Errorf("no %s is permitted: %w", kind, e.Cause)
	}
	return certs.SAN{}, err
}

// checkSubjects reports a CA certificate that is outside the name constraints of one above it, by
// its subject, email address or URI. crypto/x509 ignores subjects, and OpenSSL then refuses every
// leaf. A self-issued certificate is exempt (RFC 5280, section 6.1.3).
func (c *Chain) checkSubjects() error {
	for _, n := range c.constraints {
		for _, below := range c.Certificates {
			if below == n.of {
				break
			}
			if bytes.Equal(below.RawIssuer, below.RawSubject) {
				continue
			}
			if err := n.checkSubject(below); err != nil {
				return fmt.Errorf("the CA certificate %s is outside the name constraints of %s: %w", below.Subject, n.of.Subject, err)
			}
		}
	}
	return nil
}

var oidEmailAddress = stdasn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}

func (n *nameConstraints) checkSubject(c *x509.Certificate) error {
	var subject pkix.RDNSequence
	if _, err := stdasn1.Unmarshal(c.RawSubject, &subject); err != nil {
		return fmt.Errorf("reading its subject: %w", err)
	}
	directories := []pkix.RDNSequence{subject}
	if e := extension(c, certs.OIDSubjectAltName); e != nil {
		in := cryptobyte.String(e.Value)
		var content cryptobyte.String
		if !in.ReadASN1(&content, asn1.SEQUENCE) {
			return errors.New("its subject alternative names are not DER")
		}
		more, err := directoryNames(content)
		if err != nil {
			return fmt.Errorf("reading its subject alternative names: %w", err)
		}
		directories = append(directories, more...)
	}
	for _, directory := range directories {
		if err := n.checkDirectory(directory); err != nil {
			return err
		}
	}
	var names []certs.SAN
	for _, address := range c.EmailAddresses {
		names = append(names, certs.SAN{Kind: certs.SANEmail, Value: address})
	}
	for _, uri := range c.URIs {
		names = append(names, certs.SAN{Kind: certs.SANURI, Value: uri.String()})
	}
	addresses, err := subjectAddresses(c)
	if err != nil {
		return err
	}
	for _, address := range addresses {
		names = append(names, certs.SAN{Kind: certs.SANEmail, Value: address})
	}
	for _, name := range names {
		host, opensslHost, _ := uriHosts(name)
		if err := n.permits(name, host, opensslHost); err != nil {
			return fmt.Errorf("it holds %q: %w", name.Value, refusal.From(err).Cause)
		}
	}
	return nil
}

// subjectAddresses returns the email addresses in the subject of c. OpenSSL accepts only IA5String
// for them (RFC 5280, section 4.1.2.6).
func subjectAddresses(c *x509.Certificate) (addresses []string, err error) {
	type attributeSET []struct {
		Type  stdasn1.ObjectIdentifier
		Value stdasn1.RawValue
	}
	var subject []attributeSET
	if _, err := stdasn1.Unmarshal(c.RawSubject, &subject); err != nil {
		return nil, fmt.Errorf("reading its subject: %w", err)
	}
	for _, set := range subject {
		for _, attribute := range set {
			switch {
			case !attribute.Type.Equal(oidEmailAddress):
			case attribute.Value.Tag != stdasn1.TagIA5String:
				return nil, errors.New("its subject holds an email address that is no IA5String, which OpenSSL refuses below name constraints")
			default:
				addresses = append(addresses, string(attribute.Value.Bytes))
			}
		}
	}
	return addresses, nil
}

// checkDirectory reports a directory name of a CA certificate that n does not permit.
func (n *nameConstraints) checkDirectory(name pkix.RDNSequence) error {
	constrained, inside := false, false
	for _, s := range n.permitted {
		constrained = constrained || s.isDirectory
		inside = inside || s.isDirectory && !s.unsupported && isPrefix(s.directory, name, true)
	}
	for _, s := range n.excluded {
		if s.isDirectory && (s.unsupported || isPrefix(s.directory, name, false)) {
			return fmt.Errorf("they exclude the directory name %q", s.directory)
		}
	}
	if constrained && !inside {
		return errors.New("they permit other directory names only")
	}
	return nil
}

// directoryNames returns the directory names of GeneralNames; in is their content.
func directoryNames(in cryptobyte.String) (names []pkix.RDNSequence, err error) {
	for !in.Empty() {
		var value cryptobyte.String
		var tag asn1.Tag
		if !in.ReadAnyASN1(&value, &tag) {
			return nil, errors.New("a name is not DER")
		}
		if tag != asn1.Tag(4).ContextSpecific().Constructed() {
			continue
		}
		var name pkix.RDNSequence
		if _, err := stdasn1.Unmarshal(value, &name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// isPrefix reports whether name begins with all of base. It compares as RFC 5280, section 7.1,
// requires: without regard to case and the number of spaces. If strict is set, it folds only
// letters and spaces of ASCII, as OpenSSL does.
func isPrefix(base, name pkix.RDNSequence, strict bool) bool {
	if len(base) > len(name) {
		return false
	}
	for i, set := range base {
		if len(set) != len(name[i]) {
			return false
		}
		for j, attribute := range set {
			other := name[i][j]
			if !attribute.Type.Equal(other.Type) || !equalText(fmt.Sprint(attribute.Value), fmt.Sprint(other.Value), strict) {
				return false
			}
		}
	}
	return true
}

// equalText compares attribute values for isPrefix.
func equalText(a, b string, strict bool) bool {
	if !strict {
		return strings.EqualFold(strings.Join(strings.Fields(a), " "), strings.Join(strings.Fields(b), " "))
	}
	fold := func(s string) string {
		words := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || '\t' <= r && r <= '\r' })
		return strings.Map(func(r rune) rune {
			if 'A' <= r && r <= 'Z' {
				r += 'a' - 'A'
			}
			return r
		}, strings.Join(words, " "))
	}
	return fold(a) == fold(b)
}
