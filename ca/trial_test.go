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

func raw(critical bool, value string, id ...int) pkix.Extension {
	return pkix.Extension{Id: id, Critical: critical, Value: []byte(value)}
}

// A trial reports exactly the kinds of name that no leaf can have, and the unusable chains.
func TestTrial(t *testing.T) {
	t.Parallel()
	const emailKind, uriKind, userKind = certs.SANEmail, certs.SANURI, certs.SANUserName
	all := SANKinds()
	explicitPolicy := raw(true, "\x30\x03\x80\x01\x00", 2, 5, 29, 36)
	for name, test := range map[string]struct {
		change   func(t *testing.T, b *chainBuilder)
		unusable []certs.SANKind
		// verified is a name to verify below the chain itself: both verifiers, or one of them,
		// judge it as the trial does.
		verified certs.SAN
		cause    string
	}{
		"plain":           {change: func(*testing.T, *chainBuilder) {}, verified: uri("https://a.example/")},
		"explicit policy": {func(_ *testing.T, b *chainBuilder) { b.issuing.ExtraExtensions = []pkix.Extension{explicitPolicy} }, all, uri("https://a.example/"), "invalid policies"},
		"explicit policy, inhibited anyPolicy": {func(_ *testing.T, b *chainBuilder) {
			b.upper.ExtraExtensions = []pkix.Extension{explicitPolicy, raw(true, "\x02\x01\x00", 2, 5, 29, 54)}
			b.upper.PolicyIdentifiers = []stdasn1.ObjectIdentifier{{2, 5, 29, 32, 0}}
		}, all, uri("https://a.example/"), "invalid policies"},
		"policies that nothing requires": {func(_ *testing.T, b *chainBuilder) {
			b.upper.PolicyIdentifiers = []stdasn1.ObjectIdentifier{{1, 2, 3, 4}}
			b.issuing.PolicyIdentifiers = []stdasn1.ObjectIdentifier{{1, 2, 3, 4}}
		}, nil, uri("https://a.example/"), ""},
		"some email":      {func(_ *testing.T, b *chainBuilder) { b.issuing.ExcludedEmailAddresses = []string{"example", "invalid"} }, nil, uri("https://a.example/"), ""},
		"no email at all": {func(_ *testing.T, b *chainBuilder) { constrain(b.issuing, true, nil, []base{{tag: tagEmail}}) }, []certs.SANKind{emailKind}, email("a@b.example"), "no rfc822Name is permitted"},
		"email nowhere": {func(_ *testing.T, b *chainBuilder) {
			b.root.PermittedEmailAddresses, b.issuing.PermittedEmailAddresses = []string{"a.example"}, []string{"b.example"}
		}, []certs.SANKind{emailKind}, email("x@a.example"), `permit only "b.example"`},
		"email in a corner": {func(_ *testing.T, b *chainBuilder) {
			b.root.PermittedEmailAddresses, b.upper.PermittedEmailAddresses = []string{"x.org", ".example"}, []string{"corp.example", "x.com"}
			b.issuing.PermittedEmailAddresses, b.issuing.ExcludedEmailAddresses = []string{"ada@corp.example", "ada@x.com"}, []string{"mayfly-trial@corp.example"}
		}, nil, email("ada@corp.example"), ""},
		"URI in a corner": {func(_ *testing.T, b *chainBuilder) {
			b.root.PermittedURIDomains, b.issuing.PermittedURIDomains = []string{".example"}, []string{".ci.example"}
		}, nil, uri("https://a.ci.example/"), ""},
		"nothing at all": {func(_ *testing.T, b *chainBuilder) {
			constrain(b.upper, false, nil, []base{{tag: tagEmail}, {tag: tagURI}, {tag: tagOther, value: userNameBase}})
		}, all, email("a@b.example"), "no verifier accepts"},
		"user names": {func(_ *testing.T, b *chainBuilder) {
			constrain(b.upper, false, []base{{tag: tagOther, value: userNameBase}}, nil)
		}, []certs.SANKind{userKind}, user("a!example.com"), "verifiers cannot match"},
		"URI with a distance": {func(_ *testing.T, b *chainBuilder) {
			constrain(b.upper, true, []base{{tagURI, "ci.example", "\x80\x01\x01"}}, nil)
		}, []certs.SANKind{uriKind}, uri("https://ci.example/"), "verifiers cannot match"},
		"directory name of another": {func(t *testing.T, b *chainBuilder) {
			constrain(b.root, false, []base{{tag: tagDirectory, value: directoryName(t, pkix.Name{Organization: []string{"other"}})}}, nil)
		}, all, uri("https://a.example/"), "permit other directory names"},
		"directory name in another case": {func(t *testing.T, b *chainBuilder) {
			constrain(b.root, false, []base{{tag: tagDirectory, value: directoryName(t, pkix.Name{Organization: []string{"MAYFLY  test"}})}}, nil)
			b.upper.Subject, b.issuing.Subject = pkix.Name{CommonName: "upper", Organization: []string{"mayfly test"}}, pkix.Name{CommonName: "issuing", Organization: []string{"Mayfly Test"}}
		}, nil, uri("https://a.example/"), ""},
		// OpenSSL folds ASCII only.
		"directory name in another case beyond ASCII": {func(t *testing.T, b *chainBuilder) {
			constrain(b.root, false, []base{{tag: tagDirectory, value: directoryName(t, pkix.Name{Organization: []string{"MÜLLER"}})}}, nil)
			b.upper.Subject, b.issuing.Subject = pkix.Name{CommonName: "upper", Organization: []string{"müller"}}, pkix.Name{CommonName: "issuing", Organization: []string{"müller"}}
		}, all, uri("https://a.example/"), "permit other directory names"},
		"directory name beside the subject": {func(t *testing.T, b *chainBuilder) {
			constrain(b.root, false, []base{{tag: tagDirectory, value: directoryName(t, pkix.Name{Organization: []string{"corp"}})}}, nil)
			b.upper.Subject, b.issuing.Subject = pkix.Name{CommonName: "upper", Organization: []string{"corp"}}, pkix.Name{CommonName: "issuing", Organization: []string{"corp"}}
			other := directoryName(t, pkix.Name{CommonName: "other"})
			b.upper.ExtraExtensions = []pkix.Extension{raw(false, "\x30\x14\xa4\x12"+other, 2, 5, 29, 17)}
		}, all, uri("https://a.example/"), "permit other directory names"},
		"every directory name excluded": {func(_ *testing.T, b *chainBuilder) {
			constrain(b.upper, false, nil, []base{{tag: tagDirectory, value: "\x30\x00"}})
		}, all, uri("https://a.example/"), "exclude the directory name"},
		"every directory name excluded by the issuing CA": {func(_ *testing.T, b *chainBuilder) {
			constrain(b.issuing, false, nil, []base{{tag: tagDirectory, value: "\x30\x00"}})
		}, nil, uri("https://a.example/"), ""},
		"address of a CA in its subject": {func(_ *testing.T, b *chainBuilder) {
			b.root.PermittedEmailAddresses = []string{"corp.example"}
			b.upper.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: oidEmailAddress, Value: stdasn1.RawValue{Tag: stdasn1.TagIA5String, Bytes: []byte("pki@vendor.example")}}}
		}, all, uri("https://a.example/"), "pki@vendor.example"},
		// crypto/x509 writes UTF8String where OpenSSL accepts only IA5String (RFC 5280, section
		// 4.1.2.6).
		"address of a CA in its subject as UTF-8": {func(_ *testing.T, b *chainBuilder) {
			b.root.PermittedEmailAddresses = []string{"corp.example"}
			b.upper.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: oidEmailAddress, Value: "pki@corp.example"}}
		}, all, uri("https://a.example/"), "IA5String"},
		"permitted address of a CA in its subject": {func(_ *testing.T, b *chainBuilder) {
			b.root.PermittedEmailAddresses = []string{"corp.example"}
			b.upper.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: oidEmailAddress, Value: stdasn1.RawValue{Tag: stdasn1.TagIA5String, Bytes: []byte("pki@corp.example")}}}
		}, nil, uri("https://a.example/"), ""},
		"address of a CA": {func(_ *testing.T, b *chainBuilder) {
			b.root.PermittedEmailAddresses = []string{"corp.example"}
			b.issuing.EmailAddresses = []string{"pki@vendor.example"}
		}, all, uri("https://a.example/"), "pki@vendor.example"},
		"host name of a CA": {func(_ *testing.T, b *chainBuilder) {
			b.root.PermittedDNSDomains = []string{"corp.example"}
			b.issuing.DNSNames = []string{"pki.vendor.example"}
		}, all, uri("https://a.example/"), "is not permitted by any constraint"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newChainBuilder(t)
			test.change(t, b)
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

// A set with an unusable chain is not put in force, unless the authority has retired.
func TestSetWithAChainOfNoUse(t *testing.T) {
	t.Parallel()
	b := newChainBuilder(t)
	b.issuing.ExtraExtensions = []pkix.Extension{raw(true, "\x30\x03\x80\x01\x00", 2, 5, 29, 36)}
	bad, good := parsed(t, b), parsed(t, newChainBuilder(t))
	now := good.NotBefore.Add(48 * time.Hour)
	for name, test := range map[string]struct {
		member   Member
		warnings int
		refused  bool
	}{
		"staged":    {Member{PublishAt: now.Add(time.Hour)}, 0, true},
		"published": {Member{PublishAt: now.Add(-time.Hour)}, 0, true},
		"retired":   {Member{PublishAt: now.Add(-time.Hour), RetireAt: now.Add(-time.Minute)}, 1, false},
	} {
		test.member.ID, test.member.Chain = "bad", bad
		set, err := NewSet(1, []Member{{ID: "good", Chain: good, PublishAt: good.NotBefore, ActivateAt: good.NotBefore}, test.member})
		if err != nil {
			t.Fatal(err)
		}
		warnings, err := set.CheckAt(now, func(id string) int { return map[string]int{"good": 0, "bad": 1}[id] })
		if (err != nil) != test.refused || len(warnings) != test.warnings {
			t.Errorf("%s: got %v and error %v", name, warnings, err)
		}
	}
}

func BenchmarkTrial(b *testing.B) {
	chain := parsed(b, newChainBuilder(b))
	for b.Loop() {
		if _, err := chain.Trial(chain.NotBefore); err != nil {
			b.Fatal(err)
		}
	}
}
