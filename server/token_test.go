// SPDX-License-Identifier: Apache-2.0

package server

import (
	"strings"
	"testing"

	"github.com/mayfly-ca/mayfly/internal/refusal"
)

func TestIDToken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, message  string
		authorization  []string
		metadata       []string
		want           string
		refused        refusal.Reason
		messageHasWord string
	}{
		{name: "from the message", message: "a.b.c", want: "a.b.c"},
		{name: "from the message, trimmed", message: " a.b.c\r\n", want: "a.b.c"},
		{name: "from the header", authorization: []string{"Bearer a.b.c"}, want: "a.b.c"},
		{name: "the scheme in any case", authorization: []string{"bEARER a.b.c"}, want: "a.b.c"},
		{name: "white space in the header", authorization: []string{"  Bearer \t a.b.c "}, want: "a.b.c"},
		{name: "from metadata", metadata: []string{" a.b.c "}, want: "a.b.c"},
		{name: "the same everywhere", message: "a.b.c", authorization: []string{"Bearer a.b.c", "bearer a.b.c"}, metadata: []string{"a.b.c"}, want: "a.b.c"},
		{name: "another scheme beside a token", message: "a.b.c", authorization: []string{"Basic eDp5"}, want: "a.b.c"},
		{name: "an empty Bearer beside a token", message: "a.b.c", authorization: []string{"Bearer"}, want: "a.b.c"},
		{name: "message and header differ", message: "a.b.c", authorization: []string{"Bearer a.b.d"}, refused: refusal.RequestMalformed, messageHasWord: "different"},
		{name: "two headers differ", authorization: []string{"Bearer a.b.c", "Bearer a.b.d"}, refused: refusal.RequestMalformed},
		{name: "header and metadata differ", authorization: []string{"Bearer a.b.c"}, metadata: []string{"a.b.d"}, refused: refusal.RequestMalformed},
		{name: "message and metadata differ", message: "a.b.c", metadata: []string{"a.b.d"}, refused: refusal.RequestMalformed},
		{name: "none", refused: refusal.TokenMissing, messageHasWord: "Authorization"},
		{name: "white space only", message: " ", refused: refusal.TokenMissing},
		{name: "another scheme only", authorization: []string{"Basic eDp5"}, refused: refusal.TokenMissing, messageHasWord: "form"},
		{name: "no scheme", authorization: []string{"a.b.c"}, refused: refusal.TokenMissing},
		{name: "a scheme that begins alike", authorization: []string{"BearerX a.b.c"}, refused: refusal.TokenMissing},
		{name: "nothing after the scheme", authorization: []string{"Bearer "}, refused: refusal.TokenMissing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := idToken(tt.message, tt.authorization, tt.metadata)
			if tt.refused != "" {
				refused := refusal.From(err)
				if err == nil || refused.Reason != tt.refused {
					t.Fatalf("got %q, %v, want %s", got, err, tt.refused)
				}
				if strings.Contains(refused.Message, "a.b") || !strings.Contains(refused.Message, tt.messageHasWord) {
					t.Errorf("message is %q", refused.Message)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

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
