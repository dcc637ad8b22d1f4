// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"fmt"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/tls"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

// leafEntry returns the entry as get-entries has it (RFC 6962, section 4.6).
func leafEntry(l *reader.Entry, issuers *issuers) (*ct.LeafEntry, error) {
	chain := make([]ct.ASN1Cert, 0, len(l.Issuers))
	for _, fingerprint := range l.Issuers {
		der, err := issuers.get(fingerprint)
		if err != nil {
			return nil, fmt.Errorf("the issuer %x of entry %d: %w", fingerprint, l.Index, err)
		}
		chain = append(chain, ct.ASN1Cert{Data: der})
	}
	var extra any = ct.CertificateChain{Entries: chain}
	if l.Precert {
		extra = ct.PrecertChainEntry{PreCertificate: ct.ASN1Cert{Data: l.Certificate}, CertificateChain: chain}
	}
	encoded, err := tls.Marshal(extra)
	return &ct.LeafEntry{LeafInput: l.MerkleTreeLeaf(), ExtraData: encoded}, err
}
