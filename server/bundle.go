// SPDX-License-Identifier: Apache-2.0

package server

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/mayfly-ca/mayfly/ca"
	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// bundle is a trust bundle in every form in which it is served. It is immutable.
type bundle struct {
	chains  []*ca.Chain
	message *fulciov2.TrustBundle // gRPC
	json    []byte                // REST v2
	pem     []byte                // REST v1
}

// trustBundle returns all forms of the current trust bundle. Chains are immutable and compared by
// address, so a new bundle is created only when an authority is added, removed or moved.
func (s *Server) trustBundle() *bundle {
	chains := s.chains()
	if b := s.bundle.Load(); b != nil && slices.Equal(b.chains, chains) {
		return b
	}
	b := newBundle(chains)
	s.bundle.Store(b)
	return b
}

// newBundle renders chains.
func newBundle(chains []*ca.Chain) *bundle {
	b := &bundle{chains: slices.Clone(chains), message: &fulciov2.TrustBundle{}}
	var all []string
	for _, chain := range chains {
		lines := make([]string, len(chain.PEM))
		for i, block := range chain.PEM {
			lines[i] = block + "\n" // v2 has a newline after each here, but not in signingCert
		}
		b.message.Chains = append(b.message.Chains, &fulciov2.CertificateChain{Certificates: lines})
		all = append(all, chain.PEM...)
	}
	// v1 has an empty line between certificates and no newline at the end.
	b.pem = []byte(strings.Join(all, "\n\n"))
	// The message is this package's own and holds only PEM, which is ASCII, so this cannot fail. If
	// it failed, the gateway would marshal the message itself and report the error.
	b.json, _ = protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(b.message)
	return b
}
