//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
)

// recipe describes how a token generates a key pair of one algorithm.
type recipe struct {
	mechanism uint
	public    []*p11.Attribute // further attributes of the public half
}

func recipeFor(algorithm string) (recipe, error) {
	onCurve := func(params string) recipe {
		return recipe{p11.CKM_EC_KEY_PAIR_GEN, []*p11.Attribute{p11.NewAttribute(p11.CKA_EC_PARAMS, params)}}
	}
	switch algorithm {
	case "ecdsa-p256":
		return onCurve(paramsP256), nil
	case "ecdsa-p384":
		return onCurve(paramsP384), nil
	case "rsa-4096":
		return recipe{p11.CKM_RSA_PKCS_KEY_PAIR_GEN, []*p11.Attribute{
			p11.NewAttribute(p11.CKA_MODULUS_BITS, 4096),
			p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
		}}, nil
	default:
		return recipe{}, fmt.Errorf("unknown algorithm %q; it should be ecdsa-p256, ecdsa-p384 or rsa-4096", algorithm)
	}
}

// Generate generates a key pair in the token, of algorithm "ecdsa-p256", "ecdsa-p384" or
// "rsa-4096", and opens it. The private key cannot leave the token and can only sign. Its CKA_ID
// is cfg.ID, otherwise random. If the token has a private key of that name, Generate generates
// nothing, and ErrKeyExists is in the error's chain.
func (m *Modules) Generate(ctx context.Context, cfg Config, algorithm string) (signer.Key, error) {
	r, err := recipeFor(algorithm)
	if err != nil {
		return nil, err
	}
	module, err := m.moduleOf(cfg)
	if err != nil {
		return nil, err
	}
	v, err := module.visit(ctx, cfg, p11.CKF_RW_SESSION)
	if err != nil {
		return nil, err
	}
	defer v.end() // after the key is open, so that the login lasts
	if v.cfg.ID, err = v.generate(ctx, r); err != nil {
		return nil, err
	}
	k, err := m.Open(ctx, v.cfg)
	if err != nil {
		return nil, fmt.Errorf("opening the key that was made: %w", err)
	}
	return k, nil
}

// generate generates the key pair and returns its ID.
func (v *visit) generate(ctx context.Context, r recipe) (id []byte, err error) {
	// Not a share, which could be revoked: generating an RSA key may take a minute.
	if err := v.token.use.Acquire(ctx, 1); err != nil {
		return nil, atToken(fmt.Errorf("waiting for another login to end: %w", err))
	}
	defer v.token.use.Release(1)
	if v.token.login() != v.login {
		return nil, atToken(signer.Transient(errAnotherLogin, 0))
	}
	switch _, err := v.findPrivate(); {
	case err == nil:
		return nil, atLabel("%w labelled %q (the token %q); use it, or choose another label", ErrKeyExists, v.cfg.Label, v.cfg.Token)
	case !errors.Is(err, ErrNoKey):
		return nil, err
	}
	id = v.cfg.ID
	if len(id) == 0 {
		id = make([]byte, 16)
		_, _ = rand.Read(id) // it never fails
	}
	public, private := v.templates(r, id)
	locked := p11.NewAttribute(p11.CKA_MODIFIABLE, false)
	mechanism := []*p11.Mechanism{p11.NewMechanism(r.mechanism, nil)}
	_, made, err := v.lib.GenerateKeyPair(v.session, mechanism, append(public, locked), append(private, locked))
	if is(err, p11.CKR_ATTRIBUTE_TYPE_INVALID, p11.CKR_ATTRIBUTE_VALUE_INVALID, p11.CKR_ATTRIBUTE_READ_ONLY, p11.CKR_TEMPLATE_INCONSISTENT) {
		_, made, err = v.lib.GenerateKeyPair(v.session, mechanism, public, private) // the token does not know this attribute
	}
	if err != nil {
		return nil, atToken(failure("C_GenerateKeyPair", err))
	}
	// A token that cannot protect a key may return an error, or ignore the attributes.
	if v.flag(made, p11.CKA_EXTRACTABLE, false) || !v.flag(made, p11.CKA_SENSITIVE, true) {
		return nil, atToken(fmt.Errorf("it made the key %q with the ID %x such that it can leave the token; delete it, and use a token that keeps its keys", v.cfg.Label, id))
	}
	return id, nil
}

// templates returns the attributes of both halves (sections 4.8 and 4.9).
func (v *visit) templates(r recipe, id []byte) (public, private []*p11.Attribute) {
	both := func(isPrivate bool) []*p11.Attribute {
		return []*p11.Attribute{
			p11.NewAttribute(p11.CKA_TOKEN, true),
			p11.NewAttribute(p11.CKA_PRIVATE, isPrivate),
			p11.NewAttribute(p11.CKA_LABEL, v.cfg.Label),
			p11.NewAttribute(p11.CKA_ID, id),
		}
	}
	public = append(both(false), p11.NewAttribute(p11.CKA_VERIFY, true))
	public = append(public, r.public...)
	private = append(both(true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		p11.NewAttribute(p11.CKA_SIGN, true),
		p11.NewAttribute(p11.CKA_DECRYPT, false),
		p11.NewAttribute(p11.CKA_UNWRAP, false),
		p11.NewAttribute(p11.CKA_DERIVE, false),
	)
	return public, private
}
