// SPDX-License-Identifier: Apache-2.0

package signer

// PKCS11 is `signer.pkcs11`.
type PKCS11 struct {
	// Module is `module`: the file of the PKCS#11 library. It is loaded into this process, and is
	// therefore trusted as much as mayfly itself.
	Module string `key:"module" kind:"path" required:"it names the file of the PKCS#11 library"`
	// Token is `token`: the label of the token.
	Token string `key:"token" required:"it is the label of the token"`
	// Label is `label`: the CKA_LABEL of the key.
	Label string `key:"label" required:"it is the label of the key in the token"`
	// ID is `id`: the CKA_ID of the key in hexadecimal digits, for a token with several keys of the
	// same label.
	ID []byte `key:"id" kind:"hex"`
	// PINFile is `pin_file`: the file of the user PIN, without the newline at its end. It may be
	// absent for a token that requires no login.
	PINFile string `key:"pin_file" kind:"path"`
}

// KMS is `signer.kms`.
type KMS struct {
	// URI is the key, as in awskms://…, gcpkms://…, azurekms://…, hashivault://NAME or openbao://NAME.
	// It names one version of the key if the service has versions in its URIs.
	URI string `key:"uri" required:"it names the key, as in awskms://…, gcpkms://…, azurekms://…, hashivault://NAME or openbao://NAME"`
	// Version is `version`: the version of the key, from 1 on. hashivault and openbao require it,
	// and no other service permits it.
	Version uint64 `key:"version"`
	// Address is the URL of hashivault and openbao. By default VAULT_ADDR or BAO_ADDR.
	Address string `key:"address"`
	// CAFile is a PEM file of the CA certificates to which the server of hashivault and openbao may chain, in
	// place of the system's. By default VAULT_CACERT. It is read again with token_file.
	CAFile string `key:"ca_file" kind:"path"`
	// TokenFile is the file of the token of hashivault and openbao, read again
	// whenever the service refuses the previous one. By default VAULT_TOKEN or BAO_TOKEN.
	TokenFile string `key:"token_file" kind:"path"`
	// Mount is the path of the transit engine of hashivault and openbao, by default transit.
	Mount string `key:"mount"`
}
