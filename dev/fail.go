// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/mayfly-ca/mayfly/internal/suggest"
)

// The services that can fail on request.
const (
	failCT        = "ct"
	failAuthority = "authority"
	failIssuer    = "issuer"
	failTSA       = "tsa"
	failRekor     = "rekor"
)

// Failures are the services that Config.Fail can name. Without the log, the authority or the issuers,
// the CA refuses requests as it does in production: its log answers 503, the process that signs does not
// run, the providers' documents are unavailable. The timestamp authority and Rekor answer 503.
func Failures() []string { return []string{failCT, failAuthority, failIssuer, failTSA, failRekor} }

// CheckFailures returns why names are not all among Failures.
func CheckFailures(names []string) error {
	for _, name := range names {
		if !slices.Contains(Failures(), name) {
			return fmt.Errorf("%q is no service that can fail on request%s", name, suggest.DidYouMeanOr(name, Failures(), "these can:"))
		}
	}
	return nil
}

func (w *World) fails(name string) bool { return slices.Contains(w.config.Fail, name) }

// unless returns handler, or one that answers 503 where the service fails.
func (w *World) unless(service string, handler http.Handler) http.Handler {
	if !w.fails(service) {
		return handler
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, "this service fails, as mayfly dev --fail requests", http.StatusServiceUnavailable)
	})
}
