// SPDX-License-Identifier: Apache-2.0

//go:build pkcs11 && cgo && awskms && gcpkms && azurekms && hashivault

package keyring_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// The scheme of a URI selects a service, whose errors get the key path.
func TestSignerServices(t *testing.T) {
	t.Parallel()
	ring := keyring.New(keyring.Config{})
	for _, scheme := range []string{"awskms", "gcpkms", "azurekms", "hashivault", "openbao"} {
		_, _, err := ring.Open(t.Context(), config.Signer{KMS: &signer.KMS{URI: scheme + "://"}})
		var mistake *keypath.Error
		if !errors.As(err, &mistake) || strings.Join(mistake.Path, ".") != "kms.uri" || !strings.Contains(err.Error(), "should be "+strings.Replace(scheme, "openbao", "hashivault", 1)+"://") {
			t.Errorf("%s: got error %v", scheme, err)
		}
	}
	if got := keyring.Kinds(); !slices.Equal(got, []string{"file", "pkcs11", "awskms", "gcpkms", "azurekms", "hashivault", "openbao"}) {
		t.Errorf("this binary was built with %q", got)
	}
}
