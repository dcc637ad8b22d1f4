// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/proof"
)

const (
	// maxAge is how long before the clock's time a certificate may begin. It covers the log's
	// answer, a queue, and clock differences.
	maxAge = 10 * time.Minute
	// maxLead is how long after the clock's time a certificate may begin. With MaxLifetime it
	// limits how long a certificate that passes now is valid.
	maxLead = time.Minute

	// An SCT's signature is an ECDSA-Sig-Value on P-256: a SEQUENCE of two INTEGERs of 1 to 33
	// octets. Its extensions are empty, or one leaf_index of static-ct-api.
	minSCTSignature, maxSCTSignature = 8, 72
	leafIndexExtension               = 8
)

// LeafPolicy is what a process that holds CA keys requires of each message that it signs for
// another process, which an attacker may control. It knows neither tokens nor configuration. What
// passes is a certificate of the profile, of the authority and of now. Only the other process
// vouches for the names in it. LeafPolicy is safe for concurrent use.
type LeafPolicy struct {
	unlogged bool
	keys     *proof.KeyPolicy
}

// NewLeafPolicy returns the policy. If unlogged is set, certificates without poison and SCT list
// pass too, only for a CA without Certificate Transparency.
func NewLeafPolicy(unlogged bool) (*LeafPolicy, error) {
	keys, err := proof.NewKeyPolicy() // the most that a server may allow
	if err != nil {
		return nil, err
	}
	return &LeafPolicy{unlogged, keys}, nil
}

// Check returns nil if the key of chain's first certificate may sign message at now. message must
// be the TBS of a precertificate or certificate of the profile, or signer.SelfTestMessage, which is
// neither. A TBS that passes is what certs.TBS encodes, octet for octet.
func (p *LeafPolicy) Check(chain *Chain, message []byte, now time.Time) error {
	if string(message) == signer.SelfTestMessage {
		return nil
	}
	algorithm, err := certs.SignatureAlgorithmFor(chain.Certificates[0].PublicKey)
	if err != nil {
		return err
	}
	if err := p.admit(chain, message, algorithm, now); err != nil {
		return fmt.Errorf("what is to be signed is no certificate of the profile: %w", err)
	}
	return nil
}

// admit checks what differs between certificates, encodes it again in the authority's name, and requires
// the same octets. So it needs no list of what else message could hold: unique identifiers (RFC 5280,
// section 4.1.2.8), another order, another form (X.690, section 10). crypto/x509 only finds the fields.
func (p *LeafPolicy) admit(chain *Chain, message []byte, algorithm certs.SignatureAlgorithm, now time.Time) error {
	c, err := x509.ParseCertificate(certs.Assemble(message, algorithm, nil))
	if err != nil {
		return fmt.Errorf("parsing it as a certificate that is signed with %s (RFC 5280, sections 4.1 and 4.1.2.3): %w", algorithm, err)
	}
	want := certs.Template{
		SerialNumber: c.SerialNumber.Bytes(), SignatureAlgorithm: algorithm, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		Issuer: chain.Certificates[0].RawSubject, AuthorityKeyID: chain.Certificates[0].SubjectKeyId,
	}
	if err := checkValidity(c.NotBefore, c.NotAfter, chain, now); err != nil {
		return err
	}
	if want.SAN, err = certs.SANOf(c); err != nil {
		return fmt.Errorf("reading its one name (RFC 5280, section 4.2.1.6): %w", err)
	}
	if err := chain.Permits(want.SAN); err != nil {
		return err
	}
	if want.Extensions, err = certs.ParseExtensions(c.Extensions); err != nil {
		return fmt.Errorf("reading its claims: %w", err)
	}
	if err := p.keys.Check(c.PublicKey); err != nil {
		return fmt.Errorf("no such key is certified (RFC 5280, section 4.1.2.7): %w", err)
	}
	// crypto/x509 ignores octets after the parameters of a key's algorithm and after its integers.
	if want.PublicKey, err = x509.MarshalPKIXPublicKey(c.PublicKey); err != nil {
		return err
	}
	tbs, err := certs.NewTBS(want)
	if err != nil {
		return fmt.Errorf("encoding it again: %w", err)
	}
	var list []byte
	last, again := c.Extensions[len(c.Extensions)-1], tbs.Precertificate()
	poisoned := last.Id.Equal(certs.OIDPoison)
	if !poisoned {
		if list, err = p.sctList(last); err != nil {
			return err
		}
		again = tbs.Certificate(list)
	}
	if err := compare(message, &want, poisoned, list); err != nil {
		return err
	}
	if !bytes.Equal(again, message) {
		return errors.New("it has the fields of one, and is not their one encoding (X.690, section 10; RFC 5280, section 4.1)")
	}
	return nil
}

// checkValidity checks RFC 5280, section 4.1.2.5, and the clock.
func checkValidity(notBefore, notAfter time.Time, chain *Chain, now time.Time) error {
	lifetime := notAfter.Sub(notBefore)
	if lifetime <= 0 || lifetime > MaxLifetime || notBefore.Before(now.Add(-maxAge)) || notBefore.After(now.Add(maxLead)) ||
		notBefore.Before(chain.NotBefore) || notAfter.After(chain.NotAfter) {
		return fmt.Errorf("it is valid from %s to %s, and now is %s; it must be valid for at most %s, from %s before now to %s after it, and within the validity of its chain, %s to %s (RFC 5280, section 4.1.2.5)",
			stamp(notBefore), stamp(notAfter), stamp(now), MaxLifetime, maxAge, maxLead, stamp(chain.NotBefore), stamp(chain.NotAfter))
	}
	return nil
}

// sctList returns the SCT list in the last extension. The list holds exactly one SCT, since clients
// refuse others. If unlogged is set, it may be absent. sctList cannot check that a log signed the SCT.
func (p *LeafPolicy) sctList(last pkix.Extension) ([]byte, error) {
	logged := last.Id.Equal(certs.OIDSCTList)
	if !logged && p.unlogged {
		return nil, nil
	} else if !logged {
		return nil, errors.New("it has neither poison nor SCT list, and certificates of this CA are logged (RFC 6962, sections 3.1 and 3.3)")
	}
	value, list := cryptobyte.String(last.Value), cryptobyte.String(nil)
	if !value.ReadASN1(&list, asn1.OCTET_STRING) || list.Empty() {
		return nil, errors.New("its SCT list is not one OCTET STRING with a list in it (RFC 6962, section 3.3)")
	}
	scts, err := ctlog.ParseSCTList(list)
	if err != nil {
		return nil, fmt.Errorf("reading its SCT list (RFC 6962, section 3.3): %w", err)
	}
	for _, sct := range scts {
		signature, extensions := len(sct.Signature), len(sct.Extensions)
		if len(scts) != 1 || signature < minSCTSignature || signature > maxSCTSignature || extensions != 0 && extensions != leafIndexExtension {
			return nil, fmt.Errorf("its SCT list holds %d SCTs, the first with a signature of %d octets and extensions of %d; it must hold one, with a signature of %d to %d, and with no extension or a leaf index of %d (RFC 6962, sections 2.1.4, 3.2 and 3.3)",
				len(scts), signature, extensions, minSCTSignature, maxSCTSignature, leafIndexExtension)
		}
	}
	return list, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
