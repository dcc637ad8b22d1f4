//go:build cgo

// SPDX-License-Identifier: Apache-2.0

package pkcs11

import (
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	p11 "github.com/miekg/pkcs11"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// maxObjects bounds the results of a search. The results serve only to detect several matches and
// to name some.
const maxObjects = 64

func atLabel(format string, args ...any) error {
	return keypath.Errorf([]string{"label"}, format, args...)
}

// find returns the configured private key and its public key. Its caller holds token.use.
func (v *visit) find() (p11.ObjectHandle, crypto.PublicKey, error) {
	v.unread = nil
	private, public, err := v.findUsable()
	if v.unread != nil { // the other error may result from it
		err = v.unread
	}
	return private, public, err
}

func (v *visit) findUsable() (p11.ObjectHandle, crypto.PublicKey, error) {
	private, err := v.findPrivate()
	if err != nil {
		return 0, nil, err
	}
	if v.flag(private, p11.CKA_ALWAYS_AUTHENTICATE, false) {
		return 0, nil, atLabel("the key %q wants the PIN for each signature (CKA_ALWAYS_AUTHENTICATE), which a CA cannot give; make a key without this attribute", v.cfg.Label)
	}
	if !v.flag(private, p11.CKA_SIGN, true) {
		return 0, nil, atLabel("the key %q may not sign (its CKA_SIGN is false); set the attribute, or make a key that has it", v.cfg.Label)
	}
	public, err := v.public(private)
	if err != nil {
		return 0, nil, err
	}
	return private, public, nil
}

// findPrivate returns the one private key that is configured.
func (v *visit) findPrivate() (p11.ObjectHandle, error) {
	template := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY),
		p11.NewAttribute(p11.CKA_LABEL, v.cfg.Label),
	}
	if len(v.cfg.ID) > 0 {
		template = append(template, p11.NewAttribute(p11.CKA_ID, v.cfg.ID))
	}
	found, err := v.search(template)
	if err != nil {
		return 0, err
	}
	switch len(found) {
	case 0:
		return 0, v.noKey()
	case 1:
		return found[0], nil
	}
	var ids []string
	for _, object := range found {
		ids = append(ids, fmt.Sprintf("%x", v.bytes(object, p11.CKA_ID)))
	}
	slices.Sort(ids)
	if len(slices.Compact(slices.Clone(ids))) == 1 {
		return 0, atLabel("%d private keys of the token %q are labelled %q, all with the ID %q; give each an ID of its own", len(found), v.cfg.Token, v.cfg.Label, ids[0])
	}
	return 0, atLabel("%d private keys of the token %q are labelled %q; choose one by its ID (the setting id): %s", len(found), v.cfg.Token, v.cfg.Label, list(ids))
}

// noKey returns the error for a missing key.
func (v *visit) noKey() error {
	all, err := v.search([]*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY)})
	if err != nil {
		return err
	}
	var labels []string
	for _, object := range all {
		labels = append(labels, string(v.bytes(object, p11.CKA_LABEL)))
	}
	slices.Sort(labels)
	labels = slices.Compact(labels)
	which := fmt.Sprintf("labelled %q", v.cfg.Label)
	if len(v.cfg.ID) > 0 {
		which += fmt.Sprintf(" with the ID %x", v.cfg.ID)
	}
	if len(labels) == 0 {
		return atLabel("%w %s: the token %q shows no private key at all", ErrNoKey, which, v.cfg.Token)
	}
	return atLabel("%w %s; those of the token %q are labelled: %s", ErrNoKey, which, v.cfg.Token, list(labels))
}

// public returns the public key of a private one.
func (v *visit) public(private p11.ObjectHandle) (public crypto.PublicKey, err error) {
	kind, err := v.kind(private)
	if err != nil {
		return nil, err
	}
	switch kind {
	case p11.CKK_EC:
		var object p11.ObjectHandle
		if object, err = v.publicObject(private, kind); err == nil {
			public, err = parseECPublic(v.bytes(object, p11.CKA_EC_PARAMS), v.bytes(object, p11.CKA_EC_POINT))
		}
	case p11.CKK_RSA:
		// An RSA private key object usually includes its public half.
		object := private
		if len(v.bytes(object, p11.CKA_MODULUS)) == 0 || len(v.bytes(object, p11.CKA_PUBLIC_EXPONENT)) == 0 {
			object, err = v.publicObject(private, kind)
		}
		if err == nil {
			public, err = parseRSAPublic(v.bytes(object, p11.CKA_MODULUS), v.bytes(object, p11.CKA_PUBLIC_EXPONENT))
		}
	default:
		err = fmt.Errorf("it is of the kind CKK 0x%X; it should be an ECDSA key on P-256, P-384 or P-521, or an RSA key", kind)
	}
	if err != nil && !signer.IsTransient(err) {
		return nil, atLabel("the key %q of the token %q: %w", v.cfg.Label, v.cfg.Token, err)
	}
	return public, err
}

// kind returns CKA_KEY_TYPE.
func (v *visit) kind(object p11.ObjectHandle) (uint, error) {
	attributes, err := v.lib.GetAttributeValue(v.session, object, []*p11.Attribute{p11.NewAttribute(p11.CKA_KEY_TYPE, nil)})
	if err != nil {
		return 0, atLabel("reading the kind of the key %q: %w", v.cfg.Label, failure("C_GetAttributeValue", err))
	}
	// The value is a CK_ULONG, in this machine's byte order and width.
	switch value := attributes[0].Value; len(value) {
	case 4:
		return uint(binary.NativeEndian.Uint32(value)), nil
	case 8:
		return uint(binary.NativeEndian.Uint64(value)), nil
	default:
		return 0, atLabel("the kind of the key %q is a value of %d octets, which should be a CK_ULONG", v.cfg.Label, len(value))
	}
}

// publicObject returns the public key object of a private key: the object with its ID or, if the
// pair was created without an ID, the object with its label.
func (v *visit) publicObject(private p11.ObjectHandle, kind uint) (p11.ObjectHandle, error) {
	class := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), p11.NewAttribute(p11.CKA_KEY_TYPE, kind)}
	id := v.bytes(private, p11.CKA_ID)
	var found []p11.ObjectHandle
	var err error
	if len(id) > 0 {
		if found, err = v.search(append(class[:2:2], p11.NewAttribute(p11.CKA_ID, id))); err != nil {
			return 0, err
		}
	}
	if len(found) == 0 {
		if found, err = v.search(append(class[:2:2], p11.NewAttribute(p11.CKA_LABEL, v.cfg.Label))); err != nil {
			return 0, err
		}
	}
	switch len(found) {
	case 0:
		option := ""
		if len(id) > 0 {
			option = fmt.Sprintf(" --id %x", id)
		}
		return 0, fmt.Errorf("its public key is not in the token, so that it is unknown whether it is the certificate's; add it: openssl x509 -in CERTIFICATE -noout -pubkey | openssl pkey -pubin -outform DER -out public.der, and pkcs11-tool --module %s --token-label %q --login --write-object public.der --type pubkey --label %q%s", v.cfg.Module, v.cfg.Token, v.cfg.Label, option)
	case 1:
		return found[0], nil
	default:
		return 0, fmt.Errorf("the token has %d public keys with its ID %x or its label; delete those that are not of it", len(found), id)
	}
}

// search returns up to maxObjects objects.
func (v *visit) search(template []*p11.Attribute) (found []p11.ObjectHandle, err error) {
	if err := v.lib.FindObjectsInit(v.session, template); err != nil {
		return nil, atToken(failure("C_FindObjectsInit", err))
	}
	for len(found) < maxObjects {
		more, _, err := v.lib.FindObjects(v.session, maxObjects-len(found))
		if err != nil {
			return nil, atToken(errors.Join(failure("C_FindObjects", err), v.lib.FindObjectsFinal(v.session)))
		}
		if len(more) == 0 {
			break
		}
		found = append(found, more...)
	}
	if err := v.lib.FindObjectsFinal(v.session); err != nil {
		return nil, atToken(failure("C_FindObjectsFinal", err))
	}
	return found, nil
}

// bytes returns an attribute's value; nil if the object has none or hides it. Each attribute needs
// a call of its own, since one missing attribute fails the call for all. Any other error is in
// v.unread.
func (v *visit) bytes(object p11.ObjectHandle, attribute uint) []byte {
	attributes, err := v.lib.GetAttributeValue(v.session, object, []*p11.Attribute{p11.NewAttribute(attribute, nil)})
	switch {
	case is(err, p11.CKR_ATTRIBUTE_TYPE_INVALID, p11.CKR_ATTRIBUTE_SENSITIVE):
		return nil
	case err != nil:
		v.unread = atToken(failure("C_GetAttributeValue", err))
		return nil
	}
	return attributes[0].Value
}

// flag returns a CK_BBOOL; fallback if the object has none.
func (v *visit) flag(object p11.ObjectHandle, attribute uint, fallback bool) bool {
	if value := v.bytes(object, attribute); len(value) == 1 {
		return value[0] != 0
	}
	return fallback
}
