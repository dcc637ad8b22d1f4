// SPDX-License-Identifier: Apache-2.0

package keypath

import (
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrefixAndAll(t *testing.T) {
	t.Parallel()
	err := Prefix(errors.Join(
		Errorf([]string{"type"}, "is %w", io.EOF),
		errors.Join(Errorf([]string{"client-id"}, "is empty")),
		io.ErrUnexpectedEOF,
	), "oidc-issuers", "https://a.example")
	var paths [][]string
	for _, e := range All(err) {
		paths = append(paths, e.Path)
	}
	want := [][]string{
		{"oidc-issuers", "https://a.example", "type"},
		{"oidc-issuers", "https://a.example", "client-id"},
		{"oidc-issuers", "https://a.example"},
	}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	if !errors.Is(err, io.EOF) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("the errors inside are lost")
	}
	if Prefix(nil, "a") != nil || All(nil) != nil {
		t.Error("no error became one")
	}
}
