// SPDX-License-Identifier: Apache-2.0

package refusal

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
)

func TestTableIsWhole(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^[A-Z][A-Z_]*[A-Z]$`)
	seen := make(map[Reason]bool)
	for _, entry := range Table() {
		if seen[entry.Reason] {
			t.Errorf("%s is there twice", entry.Reason)
		}
		seen[entry.Reason] = true
		if !form.MatchString(string(entry.Reason)) {
			t.Errorf("%q is not UPPER_SNAKE_CASE", entry.Reason)
		}
		if got := entry.Reason.Kind(); got != entry.Kind {
			t.Errorf("the kind of %s is %d, want %d", entry.Reason, got, entry.Kind)
		}
		if !strings.HasSuffix(entry.Doc, ".") {
			t.Errorf("%s has no sentence: %q", entry.Reason, entry.Doc)
		}
	}
	if got := Reason("SOMETHING_ELSE").Kind(); got != Internal {
		t.Errorf("an unknown reason has kind %d; the default must hide", got)
	}
}

func TestFrom(t *testing.T) {
	t.Parallel()
	shared := New(TokenExpired, "the token has ended %s ago", "4m")
	refused := shared.Because(io.ErrUnexpectedEOF)
	if shared.Cause != nil {
		t.Error("a shared refusal got the cause of one request")
	}
	got := From(fmt.Errorf("issuing: %w", refused))
	if got.Reason != TokenExpired || got.Message != "the token has ended 4m ago" || !errors.Is(got, io.ErrUnexpectedEOF) {
		t.Errorf("a wrapped refusal became %#v", got)
	}
	inner := errors.New("secret-key-name is gone")
	hidden := From(inner)
	if hidden.Reason != InternalError || strings.Contains(hidden.Message, "secret") {
		t.Errorf("an inner error reaches the client: %#v", hidden)
	}
	if !errors.Is(hidden, inner) {
		t.Error("the operator loses the cause")
	}
}
