// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/proof"
)

// SANKinds returns the kinds of name that a leaf can hold.
func SANKinds() []certs.SANKind {
	return []certs.SANKind{certs.SANEmail, certs.SANURI, certs.SANUserName}
}

// Trial issues a leaf with each kind of name below a copy of the chain, and verifies it for code
// signing, as clients do. It does so at now, or at the nearest time at which the chain is valid. In
// the copy, the issuing CA has a throwaway key. So the CA's own key never signs a trial.
//
// The map has the kinds of name that no verifier accepts, with the cause. If that is every kind,
// Trial returns an error: the chain is unusable.
func (c *Chain) Trial(now time.Time) (unusable map[certs.SANKind]error, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	copied, issuing := *c, *c.Certificates[0]
	issuing.PublicKey, issuing.PublicKeyAlgorithm = key.Public(), x509.ECDSA
	copied.Certificates = append([]*x509.Certificate{&issuing}, c.Certificates[1:]...)
	s, err := signer.Local("trial", key, nil)
	if err != nil {
		return nil, err
	}
	authority, err := NewAuthority("trial", &copied, s)
	if err != nil {
		return nil, err
	}
	unusable = map[certs.SANKind]error{}
	var causes []string
	for _, kind := range SANKinds() {
		if err := authority.try(kind, now); err != nil {
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

// try issues and verifies a leaf with a name of kind.
func (a *Authority) try(kind certs.SANKind, now time.Time) error {
	san, err := a.chain.permittedName(kind)
	if err != nil {
		return err
	}
	profile := &Profile{lifetime: minLifetime}
	if end := a.chain.NotAfter.Add(-profile.lifetime); now.After(end) {
		now = end
	}
	if now.Before(a.chain.NotBefore) {
		now = a.chain.NotBefore
	}
	spki, err := x509.MarshalPKIXPublicKey(a.signer.Public())
	if err != nil {
		return err
	}
	draft, err := profile.draft(a, now, &identity.Identity{SAN: san}, &proof.PublicKey{SPKI: spki})
	if err != nil {
		return fmt.Errorf("issuing a trial leaf: %w", err)
	}
	der, err := draft.finish(context.Background(), nil, nil)
	if err != nil {
		return fmt.Errorf("issuing a trial leaf: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("parsing a trial leaf: %w", err)
	}
	if kind == certs.SANUserName {
		leaf.UnhandledCriticalExtensions = nil // crypto/x509 does not read otherName; clients do
	}
	options := certs.CodeSigning(a.chain.Certificates, draft.template.NotBefore)
	if _, err := leaf.Verify(options); err != nil {
		return fmt.Errorf("a trial leaf with a %s does not verify at %s: %w", kind, stamp(options.CurrentTime), err)
	}
	return nil
}

// permittedName returns a name of kind that the chain permits. Two subtrees are disjoint or one
// contains the other. So if a permitted name exists, the base of a subtree gives one.
func (c *Chain) permittedName(kind certs.SANKind) (certs.SAN, error) {
	form := map[certs.SANKind]string{certs.SANEmail: "mayfly-trial@%s", certs.SANURI: "https://%s/mayfly-trial", certs.SANUserName: "mayfly-trial!%s"}[kind]
	values := []string{fmt.Sprintf(form, "mayfly-trial.mayfly-trial")}
	for _, of := range c.constrained {
		permitted, _ := constraints(of, kind)
		for _, base := range permitted {
			if strings.HasPrefix(base, ".") {
				base = "mayfly-trial" + base
			}
			values = append(values, base, fmt.Sprintf(form, base)) // a mailbox is a name itself
		}
	}
	var err error
	for _, value := range values {
		name := certs.SAN{Kind: kind, Value: value}
		if err = name.Check(); err == nil {
			err = c.Permits(name)
		}
		if err == nil {
			return name, nil
		}
	}
	if e := new(refusal.Error); errors.As(err, &e) {
		err = fmt.Errorf("no %s is permitted: %w", kind, e.Cause)
	}
	return certs.SAN{}, err
}
