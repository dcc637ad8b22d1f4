// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"testing"
)

func TestMistakesAreErrors(t *testing.T) {
	t.Parallel()
	if err := (Mistakes)(nil).asError(); err != nil {
		t.Errorf("no mistakes are the error %v", err)
	}
	first := Mistake{File: "f", Line: 3, Column: 7, Text: "wrong"}
	err := Mistakes{first, {File: "MAYFLY_X", Text: "too"}}.asError()
	if got := err.Error(); got != "f:3:7: wrong\nMAYFLY_X: too" {
		t.Errorf("text %q", got)
	}
	if !errors.Is(err, first) {
		t.Error("a mistake is not found by errors.Is")
	}
	var m Mistake
	if !errors.As(err, &m) || m != first {
		t.Errorf("errors.As found %+v", m)
	}
}
