// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mayfly-ca/mayfly/oidc"
)

// chainguardIdentity is the rule of type chainguard-identity. It names the caller by the provider's
// own path for the caller, under the issuer URL.
type chainguardIdentity struct{}

func (chainguardIdentity) identify(tok *oidc.Token, id *Identity) error {
	address, err := optionalText(tok.Claims, "email")
	if err != nil {
		return err
	}
	verified, err := emailVerified(tok.Claims)
	if err != nil {
		return err
	}
	if address != "" {
		if !verified {
			return unverified()
		}
		// Clients sign the address if the token has one; the SAN does not show it.
		id.Challenge, id.ChallengeClaim = address, "email"
	}
	if err := checkActor(tok.Claims); err != nil {
		return err
	}
	// The operator configures the issuer URL; a pattern fixes how many segments it has.
	scheme, rest, _ := strings.Cut(strings.TrimRight(tok.IssuerURL, "/"), ":")
	base := strings.ToLower(scheme) + ":" + rest
	name := fixedName{
		parts:  []part{{literal, base + "/"}, {field, "sub"}},
		format: func(string) (string, error) { return joinPath(base, id.Subject) },
		joined: true,
	}
	id.SAN, err = name.san(map[string]string{"sub": id.Subject})
	return err
}

// checkActor refuses a claim `act`, which names the party for which the caller acts (RFC 8693,
// section 4.1), unless it is an object of texts.
func checkActor(claims oidc.Claims) error {
	if claims["act"] == nil {
		return nil
	}
	actor, err := memberObject(claims, "act", `claim "act"`)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(actor)) {
		if _, ok := actor[name].(string); !ok {
			return unusable(fmt.Sprintf(`claim "act", member %s,`, quote(name)), actor[name], "text")
		}
	}
	return nil
}
