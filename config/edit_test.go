// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

// TestEdit changes times of an authority, and adds one: everything else stays as it is written.
func TestEdit(t *testing.T) {
	t.Parallel()
	a, err := txtar.ParseFile("testdata/edit.txtar")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2027, 10, 9, 8, 7, 6, 0, time.UTC)
	content := a.Files[0].Data
	for _, edit := range []func(*CASet) CASetAuthority{
		func(set *CASet) CASetAuthority {
			entry := set.Authorities[0]
			entry.ActivateAt, entry.RetireAt = at, time.Time{}
			return entry
		},
		func(*CASet) CASetAuthority {
			return CASetAuthority{ID: "c", Chain: "dir/c/chain.pem", Signer: Signer{File: &SignerFile{Key: "/c/key.pem"}}, PublishAt: at, RetireAt: at}
		},
	} {
		set, _, err := ParseCASet("dir/ca.yaml", content)
		if err != nil {
			t.Fatal(err)
		}
		if content, err = set.Edit(edit(set)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(a.Files[1].Data), string(content)); diff != "" {
		t.Errorf("the edited set (-want +got):\n%s", diff)
	}
	for _, content := range []string{"<<: {generation: 1}\nauthorities: []\n", "generation: 1\nauthorities: ~\n"} {
		set, _, err := ParseCASet("s", []byte(content))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := set.Edit(CASetAuthority{ID: "a"}); err == nil || !strings.Contains(err.Error(), "edit it by hand") {
			t.Errorf("%s: %v", content, err)
		}
	}
}

// TestFlow tests that every kind of signer is written as it is read.
func TestFlow(t *testing.T) {
	t.Parallel()
	a, err := txtar.ParseFile("testdata/read/signer.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(a.Files); i += 2 {
		want, err := ParseSigner("s", a.Files[i].Data, "dir")
		if err != nil {
			t.Fatal(err)
		}
		flow, err := want.Flow("dir")
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseSigner("s", []byte(flow), "dir")
		if err != nil || strings.Contains(flow, "dir/") || strings.Contains(flow, "\n") {
			t.Errorf("%s is written as %s: %v", a.Files[i].Data, flow, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", flow, diff)
		}
	}
}
