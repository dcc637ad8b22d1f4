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

// kmsKind is a key-management service, whether or not this binary was built with it.
type kmsKind struct {
	scheme string
	// tag is the build tag that adds it.
	tag string
	// open is nil where it was not built in.
	open func(ctx context.Context, named *config.SignerKMS) (signer.Key, error)
}

// kmsKinds are all services. Each comes from a file that its tag builds.
func kmsKinds() []kmsKind {
	return []kmsKind{
		{"awskms", "awskms", openAWSKMS()},
		{"gcpkms", "gcpkms", openGCPKMS()},
		{"azurekms", "azurekms", openAzureKMS()},
		{"hashivault", "hashivault", openHashivault()},
		{"openbao", "hashivault", openHashivault()},
	}
}

// Kinds are the kinds of signers that this binary was built with.
func Kinds() []string {
	kinds := []string{"file"}
	if builtWithPKCS11 {
		kinds = append(kinds, "pkcs11")
	}
	for _, kind := range kmsKinds() {
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
		_, err := findKMS(named.KMS)
		return nil, keypath.Prefix(err, "kms")
	default:
		return nil, nil
	}
}

func notBuilt(tag string) string {
	return fmt.Sprintf("this binary was built without %s; build one that has it: make build SIGNERS=%[1]s (docs/signers.md)", tag)
}

func findKMS(named *config.SignerKMS) (kmsKind, error) {
	scheme, _, _ := strings.Cut(named.URI, "://")
	for _, kind := range kmsKinds() {
		switch {
		case kind.scheme != scheme:
		case kind.open == nil:
			return kind, keypath.Errorf([]string{"uri"}, "%s", notBuilt(kind.tag))
		default:
			return kind, nil
		}
	}
	return kmsKind{}, keypath.Errorf([]string{"uri"}, "the service %.40q is not known", scheme)
}

func openKMS(ctx context.Context, named *config.SignerKMS) (signer.Key, error) {
	kind, err := findKMS(named)
	if err != nil {
		return nil, err
	}
	return kind.open(ctx, named)
}
