// SPDX-License-Identifier: Apache-2.0

//go:build gcpkms

package keyring

import "github.com/mayfly-ca/mayfly/ca/signer/kms/gcpkms"

func (built) GCPKMS() uriOpener { return gcpkms.Open }
