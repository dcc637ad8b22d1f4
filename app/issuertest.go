// SPDX-License-Identifier: Apache-2.0

package app

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/identity"
	"github.com/mayfly-ca/mayfly/internal/keypath"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// Limits of the tests of a file, which bound the time of a start and of a reload.
const (
	maxTests   = 2000
	maxFailing = 100 // mistakes, after which no more tests run
	maxWhy     = 400 // bytes about rules, after which a mistake names no more parts
)

// runTests runs the tests beside the entries as `tests` of cfg states. It returns how many it ran,
// and the mistakes of those that fail as warnings or as an error.
func (t *trust) runTests(cfg *config.Server) (number int, warnings []error, err error) {
	var wrong []error
all:
	for _, profile := range t.issuers.All() {
		for i, test := range profile.Tests {
			if number == maxTests || len(wrong) >= maxFailing {
				wrong = append(wrong, keypath.Errorf(append(slices.Clip(profile.Path), "tests", strconv.Itoa(i)),
					"this test and those after it were not run: a file can have %d tests, and no more run once %d mistakes are found", maxTests, maxFailing))
				break all
			}
			number++
			wrong = append(wrong, t.test(profile, i, test)...)
		}
	}
	if err = t.issuers.WithPlaces(errors.Join(wrong...)); cfg.Tests == "warn" {
		return number, keypath.Split(err), nil
	}
	return number, nil, err
}

// test runs one of the tests beside an entry or profile, whose author may omit iss and aud. It applies
// every check of a token to the claims, except those of times and signature. A policy in mode audit counts as if it were
// enforced, since the test tries that policy. Its errors have key paths.
func (t *trust) test(entry *config.Profile, index int, test config.IssuerTest) (wrong []error) {
	path := append(slices.Clip(entry.Path), "tests", strconv.Itoa(index))
	fail := func(key, format string, args ...any) {
		wrong = append(wrong, keypath.Errorf(append(slices.Clip(path), key), format, args...))
	}
	claims, err := oidc.ParseClaims(test.Claims)
	if err != nil {
		fail("claims", "these could be no token's claims: %w", err)
		return wrong
	}
	if _, ok := claims["iss"]; !ok && entry.Static {
		claims["iss"] = entry.Key
	}
	if _, ok := claims["aud"]; !ok {
		claims["aud"] = entry.ClientID
	}
	key, expected := "san", fmt.Sprintf("a certificate for %q", test.SAN)
	if test.Reason != "" {
		key, expected = "reason", "the refusal "+test.Reason
		if refusal.Reason(test.Reason).Kind() == refusal.Internal {
			expected += ", which is no reason of docs/errors.md"
		}
	}
	token, id, err := t.identify(claims, entry)
	if err != nil {
		if refused := refusal.From(err); string(refused.Reason) != test.Reason {
			cause := cmp.Or(t.why(token, id), "; "+refused.Message)
			fail(key, "the claims are refused with %s; expected is %s%s", refused.Reason, expected, cause)
		}
		return wrong
	}
	if test.Reason != "" || id.SAN.Value != test.SAN {
		allowed := ""
		if id.Policy.Rule != "" {
			allowed = fmt.Sprintf(", as the rule %q allows it", id.Policy.Rule)
		}
		fail(key, "the claims get a certificate for %q%s; expected is %s", id.SAN.Value, allowed, expected)
	}
	for _, key := range slices.Sorted(maps.Keys(test.Extensions)) {
		extension, ok := certs.ExtensionByKey(key)
		at := append(slices.Clip(path), "extensions", key)
		if !ok {
			wrong = append(wrong, keypath.Errorf(at, "there is no extension %q; docs/oids.md lists them", key))
		} else if got := id.Extensions[extension.Arc]; got != test.Extensions[key] {
			wrong = append(wrong, keypath.Errorf(at, "%s would be %q; expected is %q", key, got, test.Extensions[key]))
		}
	}
	return wrong
}

// why states which parts of the rules do not allow the caller that id names; "" for nil. Of a long
// policy it states the first.
func (t *trust) why(token *oidc.Token, id *identity.Identity) (text string) {
	if id == nil {
		return ""
	}
	for _, rule := range t.rules.Explain(token, id) {
		for _, part := range rule.Parts {
			if part.Value != "true" && len(text) < maxWhy {
				text += fmt.Sprintf("; rule %q: %s", rule.Name, part)
			}
		}
	}
	return text
}

// identify is the identity for a token with these claims, which must match entry; also beside the
// refusal of a policy.
func (t *trust) identify(claims oidc.Claims, entry *config.Profile) (*oidc.Token, *identity.Identity, error) {
	token, err := t.verifier.Judge(claims, nil)
	if err != nil {
		return nil, nil, err
	}
	if token.Entry != entry.Key || token.Profile != entry.Profile {
		other := "the entry " + strconv.Quote(token.Entry)
		if token.Profile != "" {
			other += ", profile " + strconv.Quote(token.Profile)
		}
		return nil, nil, refusal.New(refusal.IssuerNotConfigured, "iss and aud make this a token of %s; write the test there", other)
	}
	id, err := t.rules.Name(token)
	if err != nil {
		return nil, nil, err
	}
	id.Policy = t.rules.Decide(token, id)
	enforced := id.Policy
	enforced.Audit = false
	return token, id, enforced.Refusal()
}
