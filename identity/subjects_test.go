// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

// spiffeEntry, uriEntry and usernameEntry are entries for issuerURL.
func spiffeEntry() IssuerConfig {
	entry := entryOf(TypeSPIFFE)
	entry.SPIFFETrustDomain = "example.com"
	return entry
}

func uriEntry() IssuerConfig {
	entry := entryOf(TypeURI)
	entry.SubjectDomain = "https://users.example.com"
	return entry
}

func usernameEntry() IssuerConfig {
	entry := entryOf(TypeUsername)
	entry.SubjectDomain = "example.com"
	return entry
}

const kubernetesToken = `{"iss":"` + issuerURL + `","sub":"system:serviceaccount:build:signer","kubernetes.io":{"namespace":"build",
	"pod":{"name":"p-0","uid":"1"},"serviceaccount":{"name":"signer","uid":"2"}}}`

func TestSubjectIdentities(t *testing.T) {
	t.Parallel()
	wildcard := func(entry IssuerConfig) IssuerConfig {
		entry.Static, entry.IssuerURL = false, ""
		return entry
	}
	withPort := uriEntry()
	withPort.SubjectDomain = "https://users.example.com:8443"
	for _, c := range []struct {
		name   string
		entry  IssuerConfig
		claims string
		san    certs.SAN
	}{
		{"kubernetes", entryOf(TypeKubernetes), kubernetesToken, certs.SAN{Kind: certs.SANURI, Value: "https://kubernetes.io/namespaces/build/serviceaccounts/signer"}},
		{"kubernetes, dots in the account's name", entryOf(TypeKubernetes), `{"sub":"s","kubernetes.io":{"namespace":"b-1","serviceaccount":{"name":"a.b-2.c"}}}`,
			certs.SAN{Kind: certs.SANURI, Value: "https://kubernetes.io/namespaces/b-1/serviceaccounts/a.b-2.c"}},
		{"kubernetes, the longest account's name", entryOf(TypeKubernetes), `{"sub":"s","kubernetes.io":{"namespace":"b","serviceaccount":{"name":"` + strings.Repeat("n", 253) + `"}}}`,
			certs.SAN{Kind: certs.SANURI, Value: "https://kubernetes.io/namespaces/b/serviceaccounts/" + strings.Repeat("n", 253)}},
		{"spiffe", spiffeEntry(), `{"sub":"spiffe://example.com/Ns/a_b/c.d-e"}`, certs.SAN{Kind: certs.SANURI, Value: "spiffe://example.com/Ns/a_b/c.d-e"}},
		{"spiffe, trust domain alone", spiffeEntry(), `{"sub":"spiffe://example.com"}`, certs.SAN{Kind: certs.SANURI, Value: "spiffe://example.com"}},
		{"uri", uriEntry(), `{"sub":"https://users.example.com/1234?a=b"}`, certs.SAN{Kind: certs.SANURI, Value: "https://users.example.com/1234?a=b"}},
		{"uri, a port does not count", uriEntry(), `{"sub":"https://users.example.com:444/a%20b"}`, certs.SAN{Kind: certs.SANURI, Value: "https://users.example.com:444/a%20b"}},
		{"uri, subject-domain with a port", withPort, `{"sub":"https://users.example.com/1"}`, certs.SAN{Kind: certs.SANURI, Value: "https://users.example.com/1"}},
		{"uri, wildcard", wildcard(uriEntry()), `{"sub":"https://users.example.com/1"}`, certs.SAN{Kind: certs.SANURI, Value: "https://users.example.com/1"}},
		{"username", usernameEntry(), `{"sub":"alice smith"}`, certs.SAN{Kind: certs.SANUserName, Value: "alice smith!example.com"}},
		{"username beyond ASCII", usernameEntry(), `{"sub":"élise"}`, certs.SAN{Kind: certs.SANUserName, Value: "élise!example.com"}},
		{"username, an @ that makes no address", usernameEntry(), `{"sub":"alice@host"}`, certs.SAN{Kind: certs.SANUserName, Value: "alice@host!example.com"}},
		{"chainguard-identity", entryOf(TypeChainguardIdentity), `{"sub":"0ce1d8b5f/8f1a","act":{"aud":"x","sub":"y"}}`,
			certs.SAN{Kind: certs.SANURI, Value: issuerURL + "/0ce1d8b5f/8f1a"}},
		{"chainguard-identity, joined", entryOf(TypeChainguardIdentity), `{"sub":"a/b c/"}`, certs.SAN{Kind: certs.SANURI, Value: issuerURL + "/a/b%20c/"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			claims := mustClaims(t, c.claims)
			sub := claims["sub"].(string)
			got := mustIdentify(t, rulesOf(t, c.entry), claims)
			want := &Identity{IssuerURL: issuerURL, Subject: sub, SAN: c.san, Extensions: ext(issuerURL, sub, nil), Challenge: sub, ChallengeClaim: "sub"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("identity (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSubjectRefusals(t *testing.T) {
	t.Parallel()
	wildcardURI, wildcardName := uriEntry(), usernameEntry()
	wildcardURI.Static, wildcardName.Static = false, false
	kubernetes := func(io string) string { return `{"sub":"s","kubernetes.io":` + io + `}` }
	for _, c := range []struct {
		name   string
		entry  IssuerConfig
		claims string
		reason refusal.Reason
	}{
		{"kubernetes without its claim", entryOf(TypeKubernetes), `{"sub":"s"}`, refusal.ClaimMissing},
		{"kubernetes with a null claim", entryOf(TypeKubernetes), kubernetes(`null`), refusal.ClaimMissing},
		{"kubernetes with text for its claim", entryOf(TypeKubernetes), kubernetes(`"x"`), refusal.ClaimInvalid},
		{"kubernetes without a namespace", entryOf(TypeKubernetes), kubernetes(`{"serviceaccount":{"name":"n"}}`), refusal.ClaimMissing},
		{"kubernetes with an empty namespace", entryOf(TypeKubernetes), kubernetes(`{"namespace":"","serviceaccount":{"name":"n"}}`), refusal.ClaimMissing},
		{"kubernetes with a number for a namespace", entryOf(TypeKubernetes), kubernetes(`{"namespace":1,"serviceaccount":{"name":"n"}}`), refusal.ClaimInvalid},
		{"kubernetes without a service account", entryOf(TypeKubernetes), kubernetes(`{"namespace":"a"}`), refusal.ClaimMissing},
		{"kubernetes with a service account that is text", entryOf(TypeKubernetes), kubernetes(`{"namespace":"a","serviceaccount":"n"}`), refusal.ClaimInvalid},
		{"kubernetes without a name", entryOf(TypeKubernetes), kubernetes(`{"namespace":"a","serviceaccount":{}}`), refusal.ClaimMissing},
		{"kubernetes with an empty name", entryOf(TypeKubernetes), kubernetes(`{"namespace":"a","serviceaccount":{"name":""}}`), refusal.ClaimMissing},
		{"kubernetes with / in the namespace", entryOf(TypeKubernetes), kubernetes(`{"namespace":"a/b","serviceaccount":{"name":"n"}}`), refusal.ClaimInvalid},
		{"kubernetes with / in the name", entryOf(TypeKubernetes), kubernetes(`{"namespace":"a","serviceaccount":{"name":"n/x"}}`), refusal.ClaimInvalid},
		{"kubernetes with .. for a namespace", entryOf(TypeKubernetes), kubernetes(`{"namespace":"..","serviceaccount":{"name":"n"}}`), refusal.ClaimInvalid},
		{"kubernetes with .. for a name", entryOf(TypeKubernetes), kubernetes(`{"namespace":"a","serviceaccount":{"name":".."}}`), refusal.ClaimInvalid},
		{"kubernetes with a name of 254 characters", entryOf(TypeKubernetes), kubernetes(`{"namespace":"a","serviceaccount":{"name":"` + strings.Repeat("n", 254) + `"}}`), refusal.ClaimInvalid},
		{"kubernetes with a namespace of 64 characters", entryOf(TypeKubernetes), kubernetes(`{"namespace":"` + strings.Repeat("n", 64) + `","serviceaccount":{"name":"n"}}`), refusal.ClaimInvalid},
		{"kubernetes with an upper-case namespace", entryOf(TypeKubernetes), kubernetes(`{"namespace":"A","serviceaccount":{"name":"n"}}`), refusal.ClaimInvalid},
		{"kubernetes with a dot in the namespace", entryOf(TypeKubernetes), kubernetes(`{"namespace":"a.b","serviceaccount":{"name":"n"}}`), refusal.ClaimInvalid},

		{"spiffe of another trust domain", spiffeEntry(), `{"sub":"spiffe://other.com/a"}`, refusal.ClaimInvalid},
		{"spiffe of a trust domain that contains ours", spiffeEntry(), `{"sub":"spiffe://example.com.evil.net/a"}`, refusal.ClaimInvalid},
		{"spiffe of a trust domain below ours", spiffeEntry(), `{"sub":"spiffe://a.example.com/a"}`, refusal.ClaimInvalid},
		{"spiffe with our domain in its path", spiffeEntry(), `{"sub":"spiffe://evil.net/example.com"}`, refusal.ClaimInvalid},
		{"spiffe with an upper-case domain", spiffeEntry(), `{"sub":"spiffe://Example.com/a"}`, refusal.ClaimInvalid},
		{"spiffe with an upper-case scheme", spiffeEntry(), `{"sub":"SPIFFE://example.com/a"}`, refusal.ClaimInvalid},
		{"spiffe with a port", spiffeEntry(), `{"sub":"spiffe://example.com:80/a"}`, refusal.ClaimInvalid},

		{"uri of another host", uriEntry(), `{"sub":"https://example.com/1"}`, refusal.ClaimInvalid},
		{"uri of a host below", uriEntry(), `{"sub":"https://a.users.example.com/1"}`, refusal.ClaimInvalid},
		{"uri of a host in another case", uriEntry(), `{"sub":"https://USERS.example.com/1"}`, refusal.ClaimInvalid},
		{"uri of another scheme", uriEntry(), `{"sub":"http://users.example.com/1"}`, refusal.ClaimInvalid},
		{"uri that is an email address", uriEntry(), `{"sub":"joe@users.example.com"}`, refusal.ClaimInvalid},
		{"uri that mails", uriEntry(), `{"sub":"mailto:joe@users.example.com"}`, refusal.ClaimInvalid},
		{"uri with user-info", uriEntry(), `{"sub":"https://joe@users.example.com/1"}`, refusal.ClaimInvalid},
		{"uri that is relative", uriEntry(), `{"sub":"users.example.com/1"}`, refusal.ClaimInvalid},
		{"uri with a dot segment", uriEntry(), `{"sub":"https://users.example.com/1/../2"}`, refusal.ClaimInvalid},
		{"uri with a control character", uriEntry(), `{"sub":"https://users.example.com/\n"}`, refusal.ClaimInvalid},
		{"uri that is no URL", uriEntry(), `{"sub":"https://users.example.com/%zz"}`, refusal.ClaimInvalid},
		{"uri by a wildcard issuer of another domain", wildcardURI, `{"iss":"https://issuer.example.org","sub":"https://users.example.com/1"}`, refusal.ClaimInvalid},
		{"uri by a wildcard issuer of another scheme", wildcardURI, `{"iss":"http://issuer.example.com","sub":"https://users.example.com/1"}`, refusal.ClaimInvalid},

		{"username with an exclamation mark", usernameEntry(), `{"sub":"a!example.org"}`, refusal.ClaimInvalid},
		{"username that is an email address", usernameEntry(), `{"sub":"joe@example.com"}`, refusal.ClaimInvalid},
		{"username that is an email address beyond ASCII", usernameEntry(), `{"sub":"joé@example.com"}`, refusal.ClaimInvalid},
		{"username with a control character", usernameEntry(), `{"sub":"a\u0000b"}`, refusal.ClaimInvalid},
		{"username by a wildcard issuer of another domain", wildcardName, `{"iss":"https://evil.net","sub":"joe"}`, refusal.ClaimInvalid},

		{"chainguard-identity with a dot segment", entryOf(TypeChainguardIdentity), `{"sub":"../a"}`, refusal.ClaimInvalid},
		{"chainguard-identity with an escaped dot segment", entryOf(TypeChainguardIdentity), `{"sub":"a/%2E./b"}`, refusal.ClaimInvalid},
		{"chainguard-identity whose JoinPath would drop the subject", entryOf(TypeChainguardIdentity), `{"sub":"a%zz"}`, refusal.ClaimInvalid},
		{"chainguard-identity with a control character", entryOf(TypeChainguardIdentity), `{"sub":"a\u007fb"}`, refusal.ClaimInvalid},
		{"chainguard-identity, email not verified", entryOf(TypeChainguardIdentity), `{"sub":"a","email":"a@example.com"}`, refusal.EmailUnverified},
		{"chainguard-identity, email verified by a number", entryOf(TypeChainguardIdentity), `{"sub":"a","email":"a@example.com","email_verified":1}`, refusal.ClaimInvalid},
		{"chainguard-identity, email of another kind", entryOf(TypeChainguardIdentity), `{"sub":"a","email":{},"email_verified":true}`, refusal.ClaimInvalid},
		{"chainguard-identity, act is text", entryOf(TypeChainguardIdentity), `{"sub":"a","act":"b"}`, refusal.ClaimInvalid},
		{"chainguard-identity, act nested", entryOf(TypeChainguardIdentity), `{"sub":"a","act":{"act":{"sub":"b"}}}`, refusal.ClaimInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			wantRefusal(t, rulesOf(t, c.entry), mustClaims(t, c.claims), c.reason)
		})
	}
}

func TestChainguardChallenge(t *testing.T) {
	t.Parallel()
	rules := rulesOf(t, entryOf(TypeChainguardIdentity))
	for _, c := range []struct{ claims, challenge, claim string }{
		{`{"sub":"a"}`, "a", "sub"},
		{`{"sub":"a","email":""}`, "a", "sub"},
		{`{"sub":"a","email":null}`, "a", "sub"},
		{`{"sub":"a","email_verified":false}`, "a", "sub"},
		{`{"sub":"a","email":"a@example.com","email_verified":true}`, "a@example.com", "email"},
		{`{"sub":"a","email":"a@example.com","email_verified":"True"}`, "a@example.com", "email"},
	} {
		id := mustIdentify(t, rules, mustClaims(t, c.claims))
		if id.Challenge != c.challenge || id.ChallengeClaim != c.claim {
			t.Errorf("%s: challenge %q of claim %q, want %q of %q", c.claims, id.Challenge, id.ChallengeClaim, c.challenge, c.claim)
		}
		if want := issuerURL + "/a"; id.SAN.Value != want || id.Extensions[certs.TokenSubject] != "a" {
			t.Errorf("%s: SAN %q and subject %q, want %q and a", c.claims, id.SAN.Value, id.Extensions[certs.TokenSubject], want)
		}
	}
}

func TestParseSPIFFEID(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"spiffe://example.com": "example.com", "spiffe://a_b-c.1/x/Y/.z/...": "a_b-c.1", "spiffe://localhost/a": "localhost",
		"": "", "spiffe://": "", "spiffe:///a": "", "spiffe://a/": "", "spiffe://a//b": "", "spiffe://a/b/": "", "spiffe://a/./b": "", "spiffe://a/..": "",
		"spiffe://A/b": "", "spiffe://a:1/b": "", "spiffe://u@a/b": "", "spiffe://a/b?c": "", "spiffe://a/b#c": "", "spiffe://a/%62": "", "spiffe://a/b c": "",
		"spiffe://a/é": "", "spiffe://é/a": "", "https://a/b": "", "spiffe:/a/b": "", " spiffe://a/b": "", "spiffe://a/b\n": "",
	} {
		got, err := parseSPIFFEID(id)
		if (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("parseSPIFFEID(%q) = %q, %v, want %q", id, got, err, want)
		}
	}
}

// FuzzSPIFFEID checks that an ID that parses is a URL with only one reading.
func FuzzSPIFFEID(f *testing.F) {
	for _, s := range []string{"spiffe://example.com/a/b", "spiffe://a", "spiffe://u@a/b", "spiffe://a/../b", "spiffe://a/%2e%2e", "SPIFFE://a", "spiffe://a//b", "spiffe://a..b/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		domain, err := parseSPIFFEID(s)
		if err != nil {
			return
		}
		u, err := url.Parse(s)
		if err != nil || u.String() != s || u.Host != domain || u.User != nil || u.RawQuery != "" || u.Fragment != "" || hasDotSegment(u.Path) {
			t.Fatalf("%q of the trust domain %q is the URL %v, %v", s, domain, u, err)
		}
		entry := spiffeEntry()
		entry.SPIFFETrustDomain = domain
		id, err := rulesOf(t, entry).Identify(tokenOf(oidc.Claims{"sub": s}))
		if err != nil {
			if refusal.From(err).Reason == refusal.ClaimInvalid {
				return // an empty label in the domain, which crypto/x509 does not read
			}
			t.Fatal(err)
		}
		if id.SAN.Value != s {
			t.Fatalf("the SAN of %q is %q", s, id.SAN.Value)
		}
	})
}

func TestSameOwner(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"example.com", "example.com", true},
		{"a.example.com", "b.c.EXAMPLE.com", true},
		{"example.com", "example.org", false},
		{"a.co.uk", "b.co.uk", false}, // the last two labels are equal, and a public suffix
		{"a.b.co.uk", "b.co.uk", true},
		{"a.github.io", "b.github.io", false},
		{"com", "com", true},
		{"localhost", "localhost", true},
		{"localhost", "otherhost", false},
		{"localhost", "a.localhost", false},
		{"10.0.0.1", "10.0.0.1", true},
		{"10.0.0.1", "20.0.0.1", false},
		{"1.10.0.1", "2.10.0.1", false},
		{"9.10.1", "8.10.1", false},
		{"::1", "::1", true},
		{"::1", "::2", false},
		{"a.internal", "b.a.internal", true},
		{"example.com.", "a.example.com.", false},
		{"", "", false},
		{"", "example.com", false},
	} {
		if got := sameOwner(c.a, c.b); got != c.want {
			t.Errorf("sameOwner(%q, %q) = %t, want %t", c.a, c.b, got, c.want)
		}
	}
}
