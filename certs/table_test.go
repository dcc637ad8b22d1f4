// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/oids.md anew")

func TestTable(t *testing.T) {
	t.Parallel()
	camelCase := regexp.MustCompile(`^[A-Z][A-Za-z0-9]+$`)
	yamlKey := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	var arcs []Arc
	seen := map[string]bool{}
	for _, e := range Table() {
		arcs = append(arcs, e.Arc)
		if !camelCase.MatchString(e.Name) || seen[e.Name] {
			t.Errorf(".%d has the name %q", e.Arc, e.Name)
		}
		seen[e.Name] = true
		keyless := e.Arc == IssuerV1 || e.Arc == IssuerV2 || e.Arc == TokenSubject
		if keyless != (e.Key == "") || !keyless && !yamlKey.MatchString(e.Key) {
			t.Errorf(".%d has the key %q", e.Arc, e.Key)
		}
		// The JSON name is the YAML key without hyphens, in another case.
		if got := strings.ReplaceAll(e.Key, "-", ""); !keyless && !strings.EqualFold(got, e.Name) {
			t.Errorf(".%d has the key %q and the name %q", e.Arc, e.Key, e.Name)
		}
		if e.Raw != (e.Arc <= GithubWorkflowRef) || e.Raw != e.Arc.raw() || !e.Arc.inTable() {
			t.Errorf(".%d: Raw is %v", e.Arc, e.Raw)
		}
		if !strings.HasSuffix(e.Doc, ".") || len(e.Doc) < 40 || strings.ContainsAny(e.Doc, "|\n`*") {
			t.Errorf(".%d is documented with %q", e.Arc, e.Doc)
		}
	}
	want := []Arc{1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24}
	if diff := cmp.Diff(want, arcs); diff != "" {
		t.Errorf("arcs (-want +got):\n%s", diff)
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	for _, e := range Table() {
		if got, ok := ExtensionByName(e.Name); !ok || got != e {
			t.Errorf("ExtensionByName(%q) = %v, %v", e.Name, got, ok)
		}
		if got, ok := ExtensionByArc(e.Arc); !ok || got != e {
			t.Errorf("ExtensionByArc(%d) = %v, %v", e.Arc, got, ok)
		}
		if e.Key == "" {
			continue
		}
		if got, ok := ExtensionByKey(e.Key); !ok || got != e {
			t.Errorf("ExtensionByKey(%q) = %v, %v", e.Key, got, ok)
		}
	}
	for _, arc := range []Arc{0, 7, 25, 255} {
		if got, ok := ExtensionByArc(arc); ok {
			t.Errorf("ExtensionByArc(%d) = %v", arc, got)
		}
	}
}

// TestOIDsDocument compares docs/oids.md with the table; -update writes it again.
func TestOIDsDocument(t *testing.T) {
	t.Parallel()
	const path = "../docs/oids.md"
	want := oidsDocument()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is not what the table says; run go test ./certs -update (-want +got):\n%s", path, diff)
	}
}

func oidsDocument() string {
	b := new(strings.Builder)
	b.WriteString(`# Object identifiers in a certificate

<!-- Generated from the table in package certs: go test ./certs -update -->

A certificate of mayfly says who asked for it in one subject alternative name (critical, as the
subject is empty) and in the extensions below, all under sigstore's arc ` + "`" + OIDSigstore.String() + "`" + `.
None of the extensions is critical, each appears at most once, they stand in ascending order, and
one without a value is left out. The values of .1 to .6 are the bytes of the text itself; from .8 on
a value is a DER UTF8String that holds the text. Texts are UTF-8 without control characters.

What an extension holds comes from claims of the ID token: the YAML key is its name under
` + "`extension-templates`" + ` of an issuer file, the name the same in a JSON issuer file and in what
mayfly prints. Which claims of which provider end up where, the issuer file says.

| | OID | name | YAML key | encoding | meaning |
|---|---|---|---|---|---|
`)
	for _, e := range Table() {
		if e.Arc == IssuerV2 {
			fmt.Fprintf(b, "| .%d | `%s` | | | | Not an extension: the type of the otherName that holds a user name (below). |\n", userNameArc, OIDUserName)
		}
		key, encoding := "–", "UTF8String"
		if e.Key != "" {
			key = "`" + e.Key + "`"
		}
		if e.Raw {
			encoding = "raw"
		}
		fmt.Fprintf(b, "| .%d | `%s.%d` | `%s` | %s | %s | %s |\n", e.Arc, OIDSigstore, e.Arc, e.Name, key, encoding, e.Doc)
	}
	b.WriteString(`
No template sets .1, .8 and .24: the first two are always the issuer, the last is always the
token's ` + "`sub`" + `.

## The subject alternative name

Exactly one name, in one of three forms:

| kind | GeneralName | value |
|---|---|---|
| email address | rfc822Name, ` + "`[1] IA5String`" + ` | the address |
| URI | uniformResourceIdentifier, ` + "`[6] IA5String`" + ` | a workflow, service account, SPIFFE ID or other URI |
| user name | otherName, ` + "`[0]`" + `, type ` + "`" + OIDUserName.String() + "`" + ` | a UTF8String ` + "`user!domain`" + ` |

## Certificate Transparency

The last extension of a certificate is the list of its signed certificate timestamps, which holds
exactly one; in the precertificate the poison stands in its place (RFC 6962, sections 3.1 and 3.3).

| OID | name | critical |
|---|---|---|
| ` + "`" + OIDSCTList.String() + "`" + ` | embedded SCT list | no |
| ` + "`" + OIDPoison.String() + "`" + ` | precertificate poison | yes |
`)
	return b.String()
}
