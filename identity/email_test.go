// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/mail"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
)

func TestEmailIdentity(t *testing.T) {
	t.Parallel()
	const address = "First.Last+Tag@Mail.Example.COM"
	claims := mustClaims(t, `{"iss":"`+issuerURL+`","sub":"1098","email":"`+address+`","email_verified":true,
		"federated_claims":{"connector_id":"https://accounts.google.com","user_id":"7"}}`)
	want := Identity{
		IssuerURL: issuerURL, Subject: "1098", SAN: certs.SAN{Kind: certs.SANEmail, Value: address},
		Extensions: ext(issuerURL, "1098", nil), Challenge: address, ChallengeClaim: "email",
	}
	got := mustIdentify(t, rulesOf(t, entryOf(TypeEmail)), claims)
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}

	entry := entryOf(TypeEmail)
	entry.IssuerClaim = "$.federated_claims.connector_id"
	want.Extensions = ext("https://accounts.google.com", "1098", nil)
	got = mustIdentify(t, rulesOf(t, entry), claims)
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Errorf("identity with issuer-claim (-want +got):\n%s", diff)
	}
}

func TestEmailVerified(t *testing.T) {
	t.Parallel()
	verifying := rulesOf(t, entryOf(TypeEmail))
	entry := entryOf(TypeEmail)
	entry.SkipEmailVerification = true
	skipping := rulesOf(t, entry)
	claims := mustClaims(t, `{"sub":"s","email":"a@example.com"}`)
	for _, c := range []struct {
		value             string // of email_verified
		verified, refused bool
	}{
		{`true`, true, false}, {`"true"`, true, false}, {`"True"`, true, false},
		{`"DELETE"`, false, false}, {`false`, false, false}, {`"false"`, false, false}, {`"False"`, false, false},
		{`null`, false, true}, {`""`, false, true}, {`"TRUE"`, false, true}, {`"FALSE"`, false, true}, {`"yes"`, false, true}, {`" true"`, false, true},
		{`1`, false, true}, {`0`, false, true}, {`[true]`, false, true}, {`{}`, false, true},
	} {
		t.Run(c.value, func(t *testing.T) {
			t.Parallel()
			claims := with(t, claims, `{"email_verified":`+c.value+`}`)
			switch {
			case c.refused:
				wantRefusal(t, verifying, claims, refusal.ClaimInvalid, `"email_verified"`)
				wantRefusal(t, skipping, claims, refusal.ClaimInvalid, `"email_verified"`)
			case c.verified:
				mustIdentify(t, verifying, claims)
				mustIdentify(t, skipping, claims)
			default:
				wantRefusal(t, verifying, claims, refusal.EmailUnverified, `"email_verified"`)
				mustIdentify(t, skipping, claims)
			}
		})
	}
}

func TestEmailRefusals(t *testing.T) {
	t.Parallel()
	entry := entryOf(TypeEmail)
	entry.IssuerClaim = "$.federated_claims.connector_id"
	rules := rulesOf(t, entry)
	claims := mustClaims(t, `{"sub":"s","email":"a@example.com","email_verified":true,"federated_claims":{"connector_id":"https://accounts.google.com"}}`)
	mustIdentify(t, rules, claims)
	for _, c := range []struct {
		name, change string
		reason       refusal.Reason
	}{
		{"email missing", `{"email":"DELETE"}`, refusal.ClaimMissing},
		{"email empty", `{"email":""}`, refusal.ClaimMissing},
		{"email null", `{"email":null}`, refusal.ClaimMissing},
		{"email not an address", `{"email":"joe"}`, refusal.ClaimInvalid},
		{"email quoted", `{"email":"\"joe b\"@example.com"}`, refusal.ClaimInvalid},
		{"email with a control character", `{"email":"joe@example.com\u0000"}`, refusal.ClaimInvalid},
		{"email a number", `{"email":5}`, refusal.ClaimInvalid},
		{"email a list", `{"email":["a@example.com"]}`, refusal.ClaimInvalid},
		{"issuer-claim: parent missing", `{"federated_claims":"DELETE"}`, refusal.ClaimMissing},
		{"issuer-claim: parent is text", `{"federated_claims":"x"}`, refusal.ClaimMissing},
		{"issuer-claim: missing", `{"federated_claims":{}}`, refusal.ClaimMissing},
		{"issuer-claim: empty", `{"federated_claims":{"connector_id":""}}`, refusal.ClaimMissing},
		{"issuer-claim: null", `{"federated_claims":{"connector_id":null}}`, refusal.ClaimMissing},
		{"issuer-claim: a number", `{"federated_claims":{"connector_id":7}}`, refusal.ClaimInvalid},
		{"issuer-claim: an object", `{"federated_claims":{"connector_id":{}}}`, refusal.ClaimInvalid},
		{"issuer-claim: a control character", `{"federated_claims":{"connector_id":"a\tb"}}`, refusal.ClaimInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			wantRefusal(t, rules, with(t, claims, c.change), c.reason)
		})
	}
}

func TestAllowedEmailDomains(t *testing.T) {
	t.Parallel()
	entry := entryOf(TypeEmail)
	entry.AllowedEmailDomains = []string{"Example.com", "other.example"}
	verifying := rulesOf(t, entry)
	entry.SkipEmailVerification = true
	skipping := rulesOf(t, entry)
	for address, allowed := range map[string]bool{
		"a@example.com": true, "a@EXAMPLE.COM": true, "a@other.example": true,
		"a@sub.example.com": false, "a@notexample.com": false, "a@example.com.evil.net": false, "a@example.org": false,
	} {
		claims := mustClaims(t, `{"sub":"s","email":"`+address+`","email_verified":true}`)
		if !allowed {
			wantRefusal(t, verifying, claims, refusal.PolicyDenied, "allowed-email-domains")
			wantRefusal(t, skipping, claims, refusal.PolicyDenied, "allowed-email-domains")
			continue
		}
		if id := mustIdentify(t, skipping, claims); id.SAN.Value != address {
			t.Errorf("the SAN is %q, want %q in its own case", id.SAN.Value, address)
		}
		wantRefusal(t, verifying, with(t, claims, `{"email_verified":false}`), refusal.EmailUnverified)
		mustIdentify(t, skipping, with(t, claims, `{"email_verified":false}`))
	}
}

func TestIsAddress(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"a@example.com": true, "a.b.c@example.com": true, "A+b@EXAMPLE.Com": true, "!#$%&'*+-/=?^_`{|}~@x.yz": true, "1@2.c3d": true,
		"a@xn--bcher-kva.example": true, "a@b-c.d.co": true, "a@b.c": true, "user_contoso.com#EXT#@fabrikam.onmicrosoft.com": true,
		"": false, "a": false, "@": false, "a@": false, "@b.com": false, "a@b": false, "a@localhost": false, "a@b@c.com": false,
		".a@b.com": false, "a.@b.com": false, "a..b@c.com": false, "a@.com": false, "a@b.": false, "a@b..com": false, "a@b.com.": false,
		`"a b"@c.com`: false, `"a"@c.com`: false, "a b@c.com": false, "a(c)@b.com": false, "a,b@c.com": false, "<a@b.com>": false, "A <a@b.com>": false,
		"a@[127.0.0.1]": false, "a@127.0.0.1": false, "a@[IPv6:::1]": false, "a@b.c0": false, "a@b.0c": false, "a@b.1": false,
		"a@-b.com": false, "a@b-.com": false, "a@b_c.com": false, "a@" + strings.Repeat("b", 64) + ".com": false,
		"é@example.com": false, "a@bücher.example": false, "a@b.com\n": false, "a\x00@b.com": false, " a@b.com": false, "a@b.com ": false, "mailto:a@b.com": false,
	} {
		if got := isAddress(address); got != want {
			t.Errorf("isAddress(%q) = %t, want %t", address, got, want)
		}
	}
	for s, want := range map[string]bool{"a@b.com": true, "é@b.com": true, "a@bücher.example": true, "alice": false, "a@b": false, "é": false} {
		if got := looksLikeAddress(s); got != want {
			t.Errorf("looksLikeAddress(%q) = %t, want %t", s, got, want)
		}
	}
}

// FuzzIsAddress checks that every accepted address has one "@" and only printable ASCII. net/mail,
// which implements all of RFC 5322, must read it as the same bare address.
func FuzzIsAddress(f *testing.F) {
	for _, s := range []string{"a@example.com", "a.b@c.d", `"a"@b.c`, "a@[1.2.3.4]", "A <a@b.c>", "a@b", "é@b.c", "a@b.c\n", "!#$@x.yz", "a@b.c0", "a(c)@d.e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !isAddress(s) {
			return
		}
		parsed, err := mail.ParseAddress(s)
		if err != nil || parsed.Address != s || parsed.Name != "" {
			t.Fatalf("net/mail reads %q as %v, %v", s, parsed, err)
		}
		for i := range len(s) {
			if s[i] <= ' ' || s[i] > '~' {
				t.Fatalf("%q holds %#x", s, s[i])
			}
		}
		if err := (certs.SAN{Kind: certs.SANEmail, Value: s}).Check(); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if !looksLikeAddress(s) {
			t.Fatalf("%q does not look like an address", s)
		}
	})
}
