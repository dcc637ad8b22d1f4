// SPDX-License-Identifier: Apache-2.0

package azurekms

import (
	"bytes"
	"encoding/asn1"
	"math/big"
	"testing"
)

// wrap wraps a signature as sigstore's client does.
func wrap(signature []byte) []byte {
	half := len(signature) / 2
	der, _ := asn1.Marshal(struct{ First, Second *big.Int }{new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])})
	return der
}

// Wrapping an unwrapped signature gives the same bytes again.
func FuzzUnwrapRSA(f *testing.F) {
	f.Add(wrap(bytes.Repeat([]byte{0xff}, 256)))
	f.Add(wrap(make([]byte, 256)))
	f.Add([]byte{0x30, 0x06, 0x02, 0x01, 0xff, 0x02, 0x01, 0x01})
	f.Fuzz(func(t *testing.T, der []byte) {
		signature, err := unwrapRSA(der, 256)
		if err != nil {
			return
		}
		if len(signature) != 256 || !bytes.Equal(wrap(signature), der) {
			t.Errorf("%x becomes %x", der, signature)
		}
	})
}
