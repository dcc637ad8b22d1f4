// SPDX-License-Identifier: Apache-2.0

package server

import (
	"strings"
	"testing"
)

func FuzzBearer(f *testing.F) {
	f.Add("Bearer a.b.c")
	f.Add("bearer\ta.b.c ")
	f.Add("Basic eDp5")
	f.Add("Bearer")
	f.Add("bearera")
	f.Fuzz(func(t *testing.T, header string) {
		token, ok := bearer(header)
		if !ok {
			if token != "" {
				t.Fatalf("a token without the scheme: %q", token)
			}
			return
		}
		if token != strings.TrimSpace(token) || !strings.Contains(header, token) {
			t.Fatalf("%q became %q", header, token)
		}
		if again, ok := bearer("BEARER " + token); !ok || again != token {
			t.Fatalf("%q does not survive: %q", token, again)
		}
	})
}
