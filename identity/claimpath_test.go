// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
