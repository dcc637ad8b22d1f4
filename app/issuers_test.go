// SPDX-License-Identifier: Apache-2.0

package app

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/oidc"
)

// certified is the certificate for a claim set of config/testdata/claims.
type certified struct {
	Entry      string            `json:"entry"`
	Issuer     string            `json:"issuer"`
	SAN        string            `json:"san"`
	Extensions map[string]string `json:"extensions"`
}

// The shipped issuers turn each provider's claims into the certificate that FACTS names: with the
// real matching, the real rules and the real table.
func TestShippedIssuers(t *testing.T) {
	t.Parallel()
	trust, warnings, err := loadTrust(&config.Server{}, "../config/issuers.yaml", slog.New(slog.DiscardHandler), trustObserver{})
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	files, err := filepath.Glob("../config/testdata/claims/*.json")
	if err != nil || len(files) < 15 {
		t.Fatalf("found %d claim sets (%v)", len(files), err)
	}
	for _, file := range files {
		data, err1 := os.ReadFile(file)
		wanted, err2 := os.ReadFile("../config/testdata/want/" + filepath.Base(file))
		claims, err3 := oidc.ParseClaims(data)
		var want certified
		if err := errors.Join(err1, err2, err3, json.Unmarshal(wanted, &want)); err != nil {
			t.Fatal(err)
		}
		claims["aud"] = "sigstore"
		token, err := trust.verifier.Judge(claims, nil)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		identity, err := trust.rules.Identify(token)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		got := certified{Entry: token.Entry, Issuer: identity.Extensions[certs.IssuerV2], SAN: identity.SAN.Value, Extensions: map[string]string{}}
		for extension, value := range identity.Extensions.All() {
			if extension.Key != "" {
				got.Extensions[extension.Key] = value
			}
		}
		if identity.Extensions[certs.TokenSubject] != claims["sub"] || identity.Extensions[certs.IssuerV1] != want.Issuer {
			t.Errorf("%s: the subject or the issuer is not the token's: %v", file, identity.Extensions)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}
