// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"fmt"
	"maps"

	"github.com/mayfly-ca/mayfly/oidc/provider"
)

// emailKind is the kind of people, whose issuer has the sign-in page.
const emailKind = "email"

// makeProviders creates the issuer of each kind. They share a key, which the CA does not notice.
func (w *World) makeProviders() (err error) {
	w.issuers = make(map[string]*provider.Provider)
	for _, kind := range w.kinds {
		// RS256: cosign treats a token of another algorithm in --identity-token as a file name.
		w.issuers[kind.Name], err = provider.New(provider.Config{
			IssuerURL: w.url + kind.Path, Algorithm: "RS256", SignIn: kind.Name == emailKind, Warning: w.Warning(), Key: w.providerKey,
		})
		if err != nil {
			return fmt.Errorf("making the OpenID provider of %s: %w", kind.Name, err)
		}
	}
	return nil
}

// IssuerURLAs is the URL of the issuer of a kind of identity.
func (w *World) IssuerURLAs(kind string) (string, error) {
	k, err := w.kinds.Find(kind)
	if err != nil {
		return "", err
	}
	return w.url + k.Path, nil
}

// TokenAs returns an ID token of a kind of identity, with parameters of the kind. claims replace
// those of the kind; nil removes one.
func (w *World) TokenAs(kind string, parameters map[string]string, claims map[string]any) (string, error) {
	k, err := w.kinds.Find(kind)
	if err != nil {
		return "", err
	}
	all, err := k.claims(parameters, w.url)
	if err != nil {
		return "", err
	}
	maps.Copy(all, claims)
	return w.issuers[kind].Mint(all)
}
