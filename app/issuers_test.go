// SPDX-License-Identifier: Apache-2.0

package app

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/oidc"
)

// expectation is the certificate for a claim set of config/testdata/claims.
type expectation struct {
	Entry      string            `json:"entry"`
	Issuer     string            `json:"issuer"`
	SAN        string            `json:"san"`
	Extensions map[string]string `json:"extensions"`
}

// The shipped issuers turn each provider's claims into the certificate that FACTS names: with the
// real matching, the real rules and the real table.
func TestShippedIssuers(t *testing.T) {
	t.Parallel()
	issuers, warnings, err := config.LoadIssuers("../config/issuers.yaml", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := newTrust(&config.Server{}, issuers, slog.New(slog.DiscardHandler), trustObserver{})
	if err != nil {
		t.Fatal(issuers.WithPlaces(err))
	}
	if len(warnings)+len(trust.warnings) > 0 {
		t.Errorf("the shipped issuers have warnings: %v %v", warnings, trust.warnings)
	}
	files, err := filepath.Glob("../config/testdata/claims/*.json")
	if err != nil || len(files) < 15 {
		t.Fatalf("found %d claim sets (%v)", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			claims, err := oidc.ParseClaims(data)
			if err != nil {
				t.Fatal(err)
			}
			wanted, err := os.ReadFile("../config/testdata/want/" + filepath.Base(file))
			if err != nil {
				t.Fatal(err)
			}
			var want expectation
			if err := json.Unmarshal(wanted, &want); err != nil {
				t.Fatal(err)
			}
			issuerURL, _ := claims["iss"].(string)
			subject, _ := claims["sub"].(string)
			identity, err := trust.rules.Identify(&oidc.Token{
				Entry: entryOf(t, issuers, issuerURL), IssuerURL: issuerURL, Subject: subject, Claims: claims,
			})
			if err != nil {
				t.Fatal(err)
			}
			got := expectation{
				Entry: entryOf(t, issuers, issuerURL), Issuer: identity.Extensions[certs.IssuerV1],
				SAN: identity.SAN.Value, Extensions: make(map[string]string),
			}
			for _, extension := range certs.Table() {
				if value := identity.Extensions[extension.Arc]; extension.Key != "" && value != "" {
					got.Extensions[extension.Key] = value
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("certificate (-want +got):\n%s", diff)
			}
			if identity.Extensions[certs.TokenSubject] != subject || identity.Extensions[certs.IssuerV2] != want.Issuer {
				t.Errorf("subject %q and issuer %q are not the token's", identity.Extensions[certs.TokenSubject], identity.Extensions[certs.IssuerV2])
			}
		})
	}
}

// entryOf is the entry that matches an issuer URL. There must be one.
func entryOf(t *testing.T, issuers *config.Issuers, issuerURL string) string {
	t.Helper()
	var found []string
	for _, issuer := range issuers.Entries {
		if issuer.Static && issuer.Key == issuerURL {
			return issuer.Key
		}
		if issuer.Static {
			continue
		}
		pattern, err := oidc.ParsePattern(issuer.Key)
		if err != nil {
			t.Fatal(err)
		}
		if pattern.Match(issuerURL) {
			found = append(found, issuer.Key)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s matches the entries %v, want one", issuerURL, found)
	}
	return found[0]
}
