// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"net/mail"
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/certs"
)

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
