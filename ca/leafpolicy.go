// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/proof"
)

const (
	// maxAge is how long before the clock's time a certificate may begin. It covers the log's
	// answer, a queue, and clock differences.
	maxAge = 10 * time.Minute
	// maxLead is how long after the clock's time a certificate may begin. With maxLifetime it
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
	keys, err := proof.NewKeyPolicy(proof.KeyPolicyConfig{}) // the most that a server may allow
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
	issuing := chain.Certificates[0]
	algorithm, err := certs.SignatureAlgorithmFor(issuing.PublicKey)
	if err != nil {
		return err
	}
	authority := certs.Template{SignatureAlgorithm: algorithm, Issuer: issuing.RawSubject, AuthorityKeyID: issuing.SubjectKeyId}
	if err := p.admit(chain, authority, message, now); err != nil {
		if why := explain(&authority, message); why != nil {
			err = why
		}
		return fmt.Errorf("what is to be signed is no certificate of the profile: %w", err)
	}
	return nil
}

// admit decides. It decodes from message what differs between certificates, checks it, encodes it
// again in the authority's name, and requires the same octets. So it needs no list of what else
// message could hold. Examples are other extensions, criticalities, key usages, names, unique
// identifiers (RFC 5280, section 4.1.2.8), another order, or another form (X.690, section 10).
func (p *LeafPolicy) admit(chain *Chain, t certs.Template, message []byte, now time.Time) error {
	v, err := decodeTBS(message)
	if err != nil {
		return err
	}
	if err := checkValidity(v.notBefore, v.notAfter, chain, now); err != nil {
		return err
	}
	if err := p.checkLogged(v); err != nil {
		return err
	}
	if err := chain.Permits(v.san); err != nil {
		return err
	}
	if t.PublicKey, err = p.publicKey(v.publicKey); err != nil {
		return err
	}
	t.SerialNumber, t.NotBefore, t.NotAfter = v.serialNumber, v.notBefore, v.notAfter
	t.SAN, t.Extensions = v.san, v.extensions
	tbs, err := certs.NewTBS(t)
	if err != nil {
		return fmt.Errorf("encoding it again: %w", err)
	}
	want := tbs.Certificate(v.sctList)
	if v.poison {
		want = tbs.Precertificate()
	}
	if !bytes.Equal(want, message) {
		return errors.New("it has the fields of one, and is not their one encoding (X.690, section 10; RFC 5280, section 4.1)")
	}
	return nil
}

// publicKey checks the key in spki, and encodes it again. crypto/x509 ignores octets after the
// parameters of its algorithm and after its integers.
func (p *LeafPolicy) publicKey(spki []byte) ([]byte, error) {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("parsing its public key (RFC 5280, section 4.1.2.7): %w", err)
	}
	if err := p.keys.Check(key); err != nil {
		return nil, fmt.Errorf("no such key is certified (RFC 5280, section 4.1.2.7): %w", err)
	}
	return x509.MarshalPKIXPublicKey(key)
}

// explain returns why message was not admitted, with the same errors as all checks of the profile;
// nil if it finds no reason. It decides nothing.
func explain(t *certs.Template, message []byte) error {
	l, err := parseLeaf(message, t)
	if err != nil {
		return err
	}
	if sign, size := l.SerialNumber.Sign(), l.SerialNumber.BitLen()/8+1; sign != 1 || size != certs.SerialNumberSize {
		return fmt.Errorf("its serial number has the sign %d and %d octets; it is positive and of %d (RFC 5280, section 4.1.2.2)", sign, size, certs.SerialNumberSize)
	}
	switch end := l.Extensions[len(l.Extensions)-1]; {
	case end.Id.Equal(certs.OIDPoison), end.Id.Equal(certs.OIDSCTList):
		return l.checkExtensionList(end.Id)
	default:
		return l.checkExtensionList(nil)
	}
}

// checkValidity checks RFC 5280, section 4.1.2.5, and the clock.
func checkValidity(notBefore, notAfter time.Time, chain *Chain, now time.Time) error {
	switch lifetime := notAfter.Sub(notBefore); {
	case lifetime <= 0 || lifetime > maxLifetime:
		return fmt.Errorf("it is valid for %s, not for up to %s (RFC 5280, section 4.1.2.5)", lifetime, maxLifetime)
	case notBefore.Before(now.Add(-maxAge)) || notBefore.After(now.Add(maxLead)):
		return fmt.Errorf("it is valid from %s, and now is %s; it may begin from %s before to %s after it (RFC 5280, section 4.1.2.5)",
			stamp(notBefore), stamp(now), maxAge, maxLead)
	case notBefore.Before(chain.NotBefore) || notAfter.After(chain.NotAfter):
		return fmt.Errorf("it is valid from %s to %s, outside the validity of its chain, %s to %s (RFC 5280, section 4.1.2.5)",
			stamp(notBefore), stamp(notAfter), stamp(chain.NotBefore), stamp(chain.NotAfter))
	}
	return nil
}

// checkLogged requires a poison, or an SCT list of exactly one SCT, since clients refuse others. If
// unlogged is set, both may be absent. It cannot check that a log signed the SCT.
func (p *LeafPolicy) checkLogged(v *variable) error {
	switch {
	case v.poison && v.sctList != nil:
		return errors.New("it has both poison and SCT list (RFC 6962, sections 3.1 and 3.3)")
	case v.poison, v.sctList == nil && p.unlogged:
		return nil
	case v.sctList == nil:
		return errors.New("it has neither poison nor SCT list, and certificates of this CA are logged (RFC 6962, sections 3.1 and 3.3)")
	}
	scts, err := ctlog.ParseSCTList(v.sctList)
	switch {
	case err != nil:
		return fmt.Errorf("reading its SCT list (RFC 6962, section 3.3): %w", err)
	case len(scts) != 1:
		return fmt.Errorf("its SCT list holds %d SCTs, not one (RFC 6962, section 3.3)", len(scts))
	}
	if n := len(scts[0].Signature); n < minSCTSignature || n > maxSCTSignature {
		return fmt.Errorf("its SCT has a signature of %d octets, not of %d to %d (RFC 6962, section 2.1.4)", n, minSCTSignature, maxSCTSignature)
	}
	if n := len(scts[0].Extensions); n != 0 && n != leafIndexExtension {
		return fmt.Errorf("its SCT has extensions of %d octets, not none or one leaf index of %d (RFC 6962, section 3.2)", n, leafIndexExtension)
	}
	return nil
}
