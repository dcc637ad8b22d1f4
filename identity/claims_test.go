// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/mail"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/oidc"
)

func TestParseClaimPath(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]claimPath{
		"$.federated_claims.connector_id": {"federated_claims", "connector_id"},
		"$['a']":                          {"a"},
		`$["a b"].c[0]['d.e']`:            {"a b", "c", 0, "d.e"},
		"$.a[12][3].b-c":                  {"a", 12, 3, "b-c"},
		"$.é":                             {"é"},
		`$['a"b']`:                        {`a"b`},
		"$['https://claims.example/x']":   {"https://claims.example/x"},
		"$['a]']":                         {"a]"},
	} {
		got, err := parseClaimPath(source)
		if err != nil {
			t.Errorf("%s: %v", source, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", source, diff)
		}
	}
	for _, source := range []string{
		"", "$", "a", ".a", "$a", "$.", "$..a", "$.*", "$[*]", "$.a[*]", "$[0:2]", "$[-1]", "$[]", "$['']", "$['a'", "$['a'b]", `$['a\'b']`, `$["a\\"]`,
		"$[?(@.a)]", "$.a b", "$.a.", "$.a[", "$[1", "$[1234567890]", "$['a','b']", "$.a()", "$[+1]", "$[ 0 ]", "@.a", "$.a|b", "$.a..b",
	} {
		if got, err := parseClaimPath(source); err == nil {
			t.Errorf("%s parsed as %v, want an error", source, got)
		}
	}
}

func TestClaimPathText(t *testing.T) {
	t.Parallel()
	claims := mustClaims(t, `{"a":{"b":["x",{"c":"deep"}]},"d.e":"dotted"}`)
	for source, want := range map[string]string{"$.a.b[1].c": "deep", "$.a['b'][0]": "x", `$["d.e"]`: "dotted"} {
		path, err := parseClaimPath(source)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := path.text(claims); err != nil || got != want {
			t.Errorf("%s is %q, %v, want %q", source, got, err, want)
		}
	}
	for _, source := range []string{"$.a.b[2]", "$.a[0]", "$.d.e", "$.a.b.c", "$['d.e'].x", "$.a.b", "$.a"} {
		path, err := parseClaimPath(source)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := path.text(claims); err == nil {
			t.Errorf("%s is %q, want a refusal", source, got)
		}
	}
}

// FuzzClaimPath checks that a path that parses has the same meaning in its bracketed form, and that
// reading by it never panics.
func FuzzClaimPath(f *testing.F) {
	for _, s := range []string{"$.a.b[1].c", `$["a b"]['c'][0]`, "$..*", "$[?(@.x)]", "$[", "$['a'"} {
		f.Add(s)
	}
	claims := mustClaims(f, `{"a":{"b":["x",{"c":"deep"}]}}`)
	f.Fuzz(func(t *testing.T, s string) {
		path, err := parseClaimPath(s)
		if err != nil {
			return
		}
		_, _ = path.text(claims)
		if bracketed := path.String(); !strings.Contains(s, "'") {
			again, err := parseClaimPath(bracketed)
			if err != nil || !cmp.Equal(path, again) {
				t.Fatalf("%s is %v, but %s is %v, %v", s, path, bracketed, again, err)
			}
		}
	})
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
		entry := entryOf(TypeSPIFFE)
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

func TestSPIFFETrustDomainSetting(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{
		"example.com": "example.com", "spiffe://example.com": "example.com", "spiffe://example.com/any/path": "example.com",
		"Example.com": "", "https://example.com": "", "spiffe://example.com/": "", "example.com/a": "", "example.com:80": "", "": "",
	} {
		if got, err := parseTrustDomain(setting); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", setting, got, err, want)
		}
	}
}
