// SPDX-License-Identifier: Apache-2.0

package keyring

import (
	"context"
	"fmt"
	"strings"

	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// opener opens the key of a key-management service.
type opener func(ctx context.Context, named *config.SignerKMS) (signer.Key, error)

// uriOpener opens the key of a service whose keys only a URI names.
type uriOpener func(ctx context.Context, uri string) (signer.Key, error)

func byURI(open uriOpener) opener {
	if open == nil {
		return nil
	}
	return func(ctx context.Context, named *config.SignerKMS) (signer.Key, error) { return open(ctx, named.URI) }
}

// built has the openers of this binary: a file with the build tag of a service declares the method
// that replaces the one of absent.
type built struct{ absent }

type absent struct{}

func (absent) AWSKMS() uriOpener   { return nil }
func (absent) GCPKMS() uriOpener   { return nil }
func (absent) AzureKMS() uriOpener { return nil }
func (absent) Hashivault() opener  { return nil }

// service is a key-management service, whether or not this binary was built with it.
type service struct {
	scheme, tag string
	open        opener // nil where the service was not built in
}

func services() []service {
	b := built{absent{}}
	return []service{
		{"awskms", "awskms", byURI(b.AWSKMS())},
		{"gcpkms", "gcpkms", byURI(b.GCPKMS())},
		{"azurekms", "azurekms", byURI(b.AzureKMS())},
		{"hashivault", "hashivault", b.Hashivault()},
		{"openbao", "hashivault", b.Hashivault()},
	}
}

// Kinds are the kinds of signers that this binary was built with.
func Kinds() []string {
	kinds := []string{"file"}
	if builtWithPKCS11 {
		kinds = append(kinds, "pkcs11")
	}
	for _, kind := range services() {
		if kind.open != nil {
			kinds = append(kinds, kind.scheme)
		}
	}
	return kinds
}

// check reports whether this binary was built with the kind of signer that named has, and what is
// wrong with its files.
func (r *Ring) check(named config.Signer) (warnings []error, err error) {
	switch {
	case named.PKCS11 != nil:
		warnings, err = r.modules.check(named.PKCS11)
		for i := range warnings {
			warnings[i] = keypath.Prefix(warnings[i], "pkcs11")
		}
		return warnings, keypath.Prefix(err, "pkcs11")
	case named.KMS != nil:
		_, err := openerOf(named.KMS)
		return nil, keypath.Prefix(err, "kms")
	default:
		return nil, nil
	}
}

func notBuilt(tag string) string {
	return fmt.Sprintf("this binary was built without %s; build one that has it: make build SIGNERS=%[1]s (docs/signers.md)", tag)
}

// openerOf returns the opener of the service that the URI of named selects.
func openerOf(named *config.SignerKMS) (opener, error) {
	scheme, _, _ := strings.Cut(named.URI, "://")
	for _, service := range services() {
		switch {
		case service.scheme != scheme:
		case service.open == nil:
			return nil, keypath.Errorf([]string{"uri"}, "%s", notBuilt(service.tag))
		default:
			return service.open, nil
		}
	}
	return nil, keypath.Errorf([]string{"uri"}, "the service %.40q is not known", scheme)
}

func openKMS(ctx context.Context, named *config.SignerKMS) (signer.Key, error) {
	open, err := openerOf(named)
	if err != nil {
		return nil, err
	}
	return open(ctx, named)
}
