// SPDX-License-Identifier: Apache-2.0

//go:build azurekms

package keyring

import "github.com/mayfly-ca/mayfly/ca/signer/kms/azurekms"

func (built) AzureKMS() uriOpener { return azurekms.Open }
