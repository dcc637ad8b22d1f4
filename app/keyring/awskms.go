// SPDX-License-Identifier: Apache-2.0

//go:build awskms

package keyring

import "github.com/mayfly-ca/mayfly/ca/signer/kms/awskms"

func (built) AWSKMS() uriOpener { return awskms.Open }
