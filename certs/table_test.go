// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestTable checks the table, and that docs/oids.md has its rows, with a meaning for each.
func TestTable(t *testing.T) {
	t.Parallel()
	document := string(must(os.ReadFile("../docs/oids.md"))(t))
	arc := Arc(0)
	for _, e := range Table() {
		if arc++; arc == userNameArc {
			arc++
		}
		keyless := e.Arc == IssuerV1 || e.Arc == IssuerV2 || e.Arc == TokenSubject
		// The JSON name is the YAML key without hyphens, in another case.
		if e.Arc != arc || keyless != (e.Key == "") || !keyless && !strings.EqualFold(strings.ReplaceAll(e.Key, "-", ""), e.Name) {
			t.Errorf("%+v has another key, or is in the place of .%d", e, arc)
		}
		if got, ok := ExtensionByName(e.Name); !ok || got != e {
			t.Errorf("ExtensionByName(%q) = %v, %v", e.Name, got, ok)
		}
		if got, ok := ExtensionByKey(e.Key); ok == keyless || ok && got != e {
			t.Errorf("ExtensionByKey(%q) = %v, %v", e.Key, got, ok)
		}
		key, encoding := "–", "UTF8String"
		if e.Key != "" {
			key = "`" + e.Key + "`"
		}
		if e.Arc.Raw() {
			encoding = "raw"
		}
		row := fmt.Sprintf("\n| .%d | `%s.%d` | `%s` | %s | %s | ", e.Arc, OIDSigstore, e.Arc, e.Name, key, encoding)
		if _, meaning, ok := strings.Cut(document, row); !ok || len(strings.Split(meaning, " |\n")[0]) < 40 {
			t.Errorf("docs/oids.md lacks the row%s… |, or its meaning", row)
		}
	}
	if arc != maxArc {
		t.Errorf("the table ends at .%d", arc)
	}
	for _, oid := range []fmt.Stringer{OIDUserName, OIDSCTList, OIDPoison} {
		if !strings.Contains(document, "| `"+oid.String()+"` |") {
			t.Errorf("docs/oids.md has no row for %s", oid)
		}
	}
}
