// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/x509/pkix"
	stdasn1 "encoding/asn1"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
)

// A trial reports exactly the kinds of name that no leaf can have, and the unusable chains.
func TestTrial(t *testing.T) {
	t.Parallel()
	const emailKind = certs.SANEmail
	all := SANKinds()
	explicitPolicy := extensionOf(true, "\x30\x03\x80\x01\x00", 2, 5, 29, 36)
	for name, test := range map[string]struct {
		change   func(b *chainBuilder)
		unusable []certs.SANKind
		// verified is a name to verify below the chain itself: both verifiers, or one of them,
		// judge it as the trial does.
		verified certs.SAN
		cause    string
	}{
		"plain":           {change: func(*chainBuilder) {}, verified: uri("https://a.example/")},
		"explicit policy": {func(b *chainBuilder) { b.issuing.ExtraExtensions = []pkix.Extension{explicitPolicy} }, all, uri("https://a.example/"), "invalid policies"},
		"explicit policy, inhibited anyPolicy": {func(b *chainBuilder) {
			b.upper.ExtraExtensions = []pkix.Extension{explicitPolicy, extensionOf(true, "\x02\x01\x00", 2, 5, 29, 54)}
			b.upper.PolicyIdentifiers = []stdasn1.ObjectIdentifier{{2, 5, 29, 32, 0}}
		}, all, uri("https://a.example/"), "invalid policies"},
		"policies that nothing requires": {func(b *chainBuilder) {
			b.upper.PolicyIdentifiers = []stdasn1.ObjectIdentifier{{1, 2, 3, 4}}
			b.issuing.PolicyIdentifiers = []stdasn1.ObjectIdentifier{{1, 2, 3, 4}}
		}, nil, uri("https://a.example/"), ""},
		"some email":      {func(b *chainBuilder) { b.issuing.ExcludedEmailAddresses = []string{"example", "invalid"} }, nil, uri("https://a.example/"), ""},
		"no email at all": {func(b *chainBuilder) { constrain(b.issuing, true, nil, []base{{tag: tagEmail}}) }, []certs.SANKind{emailKind}, email("a@b.example"), "no rfc822Name is permitted"},
		"email nowhere": {func(b *chainBuilder) {
			b.root.PermittedEmailAddresses, b.issuing.PermittedEmailAddresses = []string{"a.example"}, []string{"b.example"}
		}, []certs.SANKind{emailKind}, email("x@a.example"), `permit only ["b.example"]`},
		"email in a corner": {func(b *chainBuilder) {
			b.root.PermittedEmailAddresses, b.upper.PermittedEmailAddresses = []string{"x.org", ".example"}, []string{"corp.example", "x.com"}
			b.issuing.PermittedEmailAddresses, b.issuing.ExcludedEmailAddresses = []string{"ada@corp.example", "ada@x.com"}, []string{"mayfly-trial@corp.example"}
		}, nil, email("ada@corp.example"), ""},
		"URI in a corner": {func(b *chainBuilder) {
			b.root.PermittedURIDomains, b.issuing.PermittedURIDomains = []string{".example"}, []string{".ci.example"}
		}, nil, uri("https://a.ci.example/"), ""},
		"address of a CA": {func(b *chainBuilder) {
			b.root.PermittedEmailAddresses = []string{"corp.example"}
			b.issuing.EmailAddresses = []string{"pki@vendor.example"}
		}, all, uri("https://a.example/"), "pki@vendor.example"},
		"host name of a CA": {func(b *chainBuilder) {
			b.root.PermittedDNSDomains = []string{"corp.example"}
			b.issuing.DNSNames = []string{"pki.vendor.example"}
		}, all, uri("https://a.example/"), "is not permitted by any constraint"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newChainBuilder(t)
			test.change(b)
			chain := parsed(t, b)
			unusable, err := chain.Trial(chain.NotBefore.Add(time.Hour))
			if len(test.unusable) == len(all) {
				if err == nil || !strings.Contains(err.Error(), test.cause) {
					t.Errorf("got error %v, want one that says %q", err, test.cause)
				}
			} else {
				if kinds := slices.Sorted(maps.Keys(unusable)); err != nil || !slices.Equal(kinds, test.unusable) {
					t.Errorf("got %v and error %v, want %v", unusable, err, test.unusable)
				}
				for _, cause := range unusable {
					if !strings.Contains(cause.Error(), test.cause) {
						t.Errorf("got %v, want one that says %q", cause, test.cause)
					}
				}
			}
			verifies := verifyBoth(t, b, chain, test.verified)
			if refused := len(test.unusable) == len(all) || slices.Contains(test.unusable, test.verified.Kind); refused != (verifies != nil) {
				t.Errorf("verifying %q below the chain itself: %v", test.verified.Value, verifies)
			}
		})
	}
}

// A chain is tried at any time: before its beginning, at its end and afterwards.
func TestTrialAtAnyTime(t *testing.T) {
	t.Parallel()
	b := newChainBuilder(t)
	chain := parsed(t, b)
	b.order = "r"
	if unusable, err := parsed(t, b).Trial(chain.NotBefore); err != nil || len(unusable) > 0 {
		t.Errorf("a root that issues leaves: %v, %v", unusable, err)
	}
	for _, now := range []time.Time{{}, chain.NotBefore.Add(-time.Hour), chain.NotBefore, chain.NotAfter, chain.NotAfter.AddDate(20, 0, 0)} {
		if unusable, err := chain.Trial(now); err != nil || len(unusable) > 0 {
			t.Errorf("at %s: %v, %v", now, unusable, err)
		}
	}
}
