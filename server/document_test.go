// SPDX-License-Identifier: Apache-2.0

package server

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

var update = flag.Bool("update", false, "write docs/errors.md again")

// TestErrorsDocument compares docs/errors.md with testdata/errors.md and the tables of reasons and
// statuses; -update writes it again.
func TestErrorsDocument(t *testing.T) {
	t.Parallel()
	const path = "../docs/errors.md"
	want, err := os.ReadFile("testdata/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range refusal.Table() {
		answer := answers[entry.Kind]
		want = fmt.Appendf(want, "| `%s` | %d | %s | %s |\n", entry.Reason, answer.http, answer.code, entry.Doc)
	}
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("docs/errors.md is not what `make generate` writes (-want +got):\n%s", diff)
	}
}
