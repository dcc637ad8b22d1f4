// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// Scripts read the keys of JSON, and the first line of the text.
func TestVersionKeepsItsForm(t *testing.T) {
	t.Parallel()
	b := build{Version: "v1.2.3", Commit: "0123abcd", Time: "2026-11-30T12:00:00Z", Modified: true, Go: "go1.26.8", Platform: "linux/amd64", Signers: []string{"file", "pkcs11"}, Features: []string{}}
	lines := strings.Split(b.text(), "\n")
	if lines[0] != "mayfly v1.2.3 go1.26.8 linux/amd64" || !slices.Contains(lines, "signers: file, pkcs11") || !strings.Contains(b.text(), b.Commit) || !strings.Contains(b.text(), b.Time) {
		t.Errorf("the text is:\n%s", b.text())
	}
	content, err := json.Marshal(b)
	keys := map[string]any{}
	if err == nil {
		err = json.Unmarshal(content, &keys)
	}
	for _, key := range []string{"version", "go", "platform", "signers", "commit", "time", "modified", "features"} {
		if _, ok := keys[key]; !ok {
			t.Errorf("the key %s is missing in %s, %v", key, content, err)
		}
	}
	if plain := (build{Version: "devel"}).text(); strings.Contains(plain, "commit") || !strings.Contains(plain, "features: none") {
		t.Errorf("without a commit, the text is:\n%s", plain)
	}
}
