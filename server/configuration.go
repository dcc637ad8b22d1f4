// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/gen/fulcio/v2"
)

// GetConfiguration returns the trusted issuers.
func (s service) GetConfiguration(context.Context, *fulciov2.GetConfigurationRequest) (*fulciov2.Configuration, error) {
	return s.configuration().message, nil
}

// configuration returns both forms of the trusted issuers. There may be thousands, and any client can
// request them, so they are rendered only when the issuers change.
func (s *Server) configuration() *configuration {
	issuers := s.cfg.Issuers()
	c := s.issuers.Load()
	if c == nil || len(c.issuers) != len(issuers) || len(issuers) > 0 && &c.issuers[0] != &issuers[0] {
		c = newConfiguration(issuers)
		s.issuers.Store(c)
	}
	return c
}

// configuration is the trusted issuers in every form in which they are served. It is immutable.
type configuration struct {
	issuers []IssuerInfo
	message *fulciov2.Configuration // v2
	json    []byte                  // v2, REST
}

func newConfiguration(issuers []IssuerInfo) *configuration {
	out := make([]*fulciov2.OIDCIssuer, len(issuers))
	for i, entry := range issuers {
		out[i] = &fulciov2.OIDCIssuer{
			Audience:              entry.Audience,
			ChallengeClaim:        entry.ChallengeClaim,
			SpiffeTrustDomain:     entry.SPIFFETrustDomain,
			IssuerType:            entry.Type,
			SubjectDomain:         entry.SubjectDomain,
			SkipEmailVerification: entry.SkipEmailVerification,
		}
		if entry.Wildcard {
			out[i].Issuer = &fulciov2.OIDCIssuer_WildcardIssuerUrl{WildcardIssuerUrl: entry.URL}
		} else {
			out[i].Issuer = &fulciov2.OIDCIssuer_IssuerUrl{IssuerUrl: entry.URL}
		}
	}
	message := &fulciov2.Configuration{Issuers: out}
	rendered, _ := marshalJSON.Marshal(message) // package config admits only valid UTF-8, so this cannot fail
	return &configuration{issuers, message, rendered}
}
