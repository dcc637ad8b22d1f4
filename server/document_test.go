// SPDX-License-Identifier: Apache-2.0

package server

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

var update = flag.Bool("update", false, "write docs/errors.md again")

// TestErrorsDocument compares docs/errors.md with the table of reasons and the table of statuses;
// -update writes it again.
func TestErrorsDocument(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`# When a request is refused

<!-- Made from internal/refusal and server/status.go by "make generate". -->

Every refusal has a reason, which is stable and meant for programs, a message for people, and a
request ID, which is in the server's log too. Only what cannot be read as HTTP gets a bare status. REST
answers, v1 and v2 alike, hold

` + "```json" + `
{"code": 3, "message": "…",
 "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "KEY_WEAK", "domain": "` + errorDomain + `"},
             {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": "…"}]}
` + "```" + `

and gRPC has the same details in its status. The request ID is the caller's ` + "`X-Request-Id`" + `, if it is 1 to 128
characters of ` + "`[A-Za-z0-9._-]`" + `, and a new one otherwise. Answers with 429 and 503 have ` + "`Retry-After`" + ` (and
` + "`google.rpc.RetryInfo`" + `): the same request may succeed after that time. After every other refusal the request or
the configuration must change first, or, for TOKEN_NOT_YET_VALID, time must pass.

| reason | HTTP | gRPC | what it means, and what to do |
|---|---|---|---|
`)
	for _, entry := range refusal.Table() {
		answer := answers[entry.Kind]
		fmt.Fprintf(&b, "| `%s` | %d | %s | %s |\n", entry.Reason, answer.http, answer.code, entry.Doc)
	}
	const path = "../docs/errors.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(got)); diff != "" {
		t.Errorf("docs/errors.md is not what `make generate` writes (-want +got):\n%s", diff)
	}
}
