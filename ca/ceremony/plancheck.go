// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"crypto"
	"crypto/x509"
	"errors"
	"strconv"

	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Check reports every mistake that can be found without opening or generating a key: it
// rehearses the whole ceremony with temporary keys. Its errors are those of Run.
func (p Plan) Check() error {
	errs := []error{checkEmpty(p.Dir)}
	if p.Parent == nil {
		errs = append(errs, keypath.Prefix(p.Root.check(), "root"))
	} else {
		errs = append(errs, keypath.Prefix(Conform(p.Parent.Chain[len(p.Parent.Chain)-1], nil), "root"))
	}
	for i, planned := range p.Intermediates {
		if len(planned.Request) == 0 {
			errs = append(errs, keypath.Prefix(planned.check(), "intermediates", strconv.Itoa(i)))
		}
	}
	if err := errors.Join(append(errs, checkDistinct(p.keys()...))...); err != nil {
		return err
	}
	return p.rehearse()
}

func (p PlannedCertificate) check() error {
	return errors.Join(p.Subject.check(), checkAlgorithm(p.Algorithm), checkKeySource(p.Signer, p.Algorithm, "password", p.Password))
}

// keys returns the external keys, the root's first; nil for a key in a file.
func (p Plan) keys() (keys []*ExternalKey) {
	if p.Parent == nil {
		keys = append(keys, p.Root.Signer)
	}
	for _, planned := range p.Intermediates {
		keys = append(keys, planned.Signer)
	}
	return keys
}

// rehearse creates all certificates with a temporary root.
func (p Plan) rehearse() error {
	parent := Parent{}
	if p.Parent != nil {
		parent = *p.Parent
	} else {
		key, err := standIn()
		if err != nil {
			return err
		}
		root, err := Root(p.root(key))
		if err != nil {
			return keypath.Prefix(err, "root")
		}
		parent = Parent{Chain: []*x509.Certificate{root}, Signer: key}
	}
	var errs []error
	for i, planned := range p.Intermediates {
		errs = append(errs, keypath.Prefix(p.rehearseIntermediate(planned, parent), "intermediates", strconv.Itoa(i)))
	}
	return errors.Join(errs...)
}

func (p Plan) rehearseIntermediate(planned PlannedIntermediate, parent Parent) error {
	if len(planned.Request) > 0 {
		intermediate, err := p.request(planned, parent).intermediate()
		if err != nil {
			return err
		}
		return intermediate.rehearse()
	}
	public, err := publicOrStandIn(planned.Signer)
	if err != nil {
		return err
	}
	return p.intermediate(planned, parent, public).rehearse()
}

func (p Plan) root(key crypto.Signer) RootConfig {
	return RootConfig{Subject: p.Root.Subject, Signer: key, NotBefore: p.orNow(p.Root.NotBefore), NotAfter: p.Root.NotAfter}
}

func (p Plan) intermediate(planned PlannedIntermediate, parent Parent, public crypto.PublicKey) IntermediateConfig {
	return IntermediateConfig{
		Subject: planned.Subject, PublicKey: public, Parent: parent.Chain[0], ParentSigner: parent.Signer,
		NotBefore: p.orNow(planned.NotBefore), NotAfter: planned.NotAfter,
	}
}

func (p Plan) request(planned PlannedIntermediate, parent Parent) SignRequestConfig {
	return SignRequestConfig{
		Request: planned.Request, Subject: planned.Subject, Parent: parent,
		NotBefore: p.orNow(planned.NotBefore), NotAfter: planned.NotAfter,
	}
}
