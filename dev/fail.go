// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"

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

// failingLogPath is the path of a log that always fails, below the world's URL.
const failingLogPath = "/dev/fail/ct"

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

// unavailable answers 503 below the paths of the services that fail, and otherwise calls next.
func (w *World) unavailable(next http.Handler) http.Handler {
	paths := map[string][]string{
		failCT: {failingLogPath}, failIssuer: {providerPath + "/", issuersPath}, failTSA: {timestampPath}, failRekor: {rekorPath + "/"},
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		below := func(prefix string) bool { return strings.HasPrefix(r.URL.Path, prefix) }
		if slices.ContainsFunc(w.config.Fail, func(name string) bool { return slices.ContainsFunc(paths[name], below) }) {
			http.Error(rw, "this service fails, as mayfly dev --fail requests", http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(rw, r)
	})
}

// writeLogKey writes the public key of the log, for a settings file without the log itself.
func (w *World) writeLogKey() error {
	key, err := loadOrMakeKey(w.path(ctKey), newKey)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return writePEM(w.path(ctPublicKey), "PUBLIC KEY", spki)
}
