// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mayfly-ca/mayfly/ca/ceremony"
)

const exampleSet = `# Kept.
generation: 7
authorities:
  - id: 2026-a
    chain: 2026-a/chain.pem # this too
    signer: {file: {key: 2026-a/key.pem, password_file: 2026-a/pass}}
    publish_at: 2026-11-01T00:00:00Z
    activate_at: "2026-11-08T01:00:00+01:00"
    retire_at: 2027-11-01T00:00:00Z
  - {id: b, chain: /abs/chain.pem, publish_at: 2027-10-01T00:00:00Z, compromised_at: 2027-11-01T00:00:00Z}
`

func TestParseCASet(t *testing.T) {
	t.Parallel()
	got, warnings, err := ParseCASet("dir/ca.yaml", []byte(exampleSet))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	date := func(year int, month time.Month, day int) time.Time {
		return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	}
	want := &CASet{Generation: 7, Authorities: []CASetAuthority{
		{
			ID: "2026-a", Chain: "dir/2026-a/chain.pem",
			Signer:    Signer{File: &SignerFile{Key: "dir/2026-a/key.pem", PasswordFile: "dir/2026-a/pass"}},
			PublishAt: date(2026, 11, 1), ActivateAt: date(2026, 11, 8), RetireAt: date(2027, 11, 1),
		},
		{ID: "b", Chain: "/abs/chain.pem", PublishAt: date(2027, 10, 1), CompromisedAt: date(2027, 11, 1)},
	}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(CASet{}, "File", "content")); diff != "" {
		t.Errorf("the set (-want +got):\n%s", diff)
	}
}

func TestEditCASet(t *testing.T) {
	t.Parallel()
	set, _, err := ParseCASet("dir/ca.yaml", []byte(exampleSet))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2027, 10, 9, 8, 7, 6, 0, time.UTC)
	entry := set.Authorities[0]
	entry.ActivateAt, entry.RetireAt = at, time.Time{}
	content, err := set.Edit(entry)
	if err != nil {
		t.Fatal(err)
	}
	if set, _, err = ParseCASet("dir/ca.yaml", content); err != nil {
		t.Fatal(err)
	}
	content, err = set.Edit(CASetAuthority{ID: "c", Chain: "dir/c/chain.pem", Signer: Signer{File: &SignerFile{Key: "/c/key.pem"}}, PublishAt: at, RetireAt: at})
	if err != nil {
		t.Fatal(err)
	}
	want := `# Kept.
generation: 9
authorities:
  - id: 2026-a
    chain: 2026-a/chain.pem # this too
    signer: {file: {key: 2026-a/key.pem, password_file: 2026-a/pass}}
    publish_at: 2026-11-01T00:00:00Z
    activate_at: 2027-10-09T08:07:06Z
  - {id: b, chain: /abs/chain.pem, publish_at: '2027-10-01T00:00:00Z', compromised_at: '2027-11-01T00:00:00Z'}
  - id: c
    chain: c/chain.pem
    signer: {file: {key: /c/key.pem}}
    publish_at: 2027-10-09T08:07:06Z
    retire_at: 2027-10-09T08:07:06Z
`
	if diff := cmp.Diff(want, string(content)); diff != "" {
		t.Errorf("the edited set (-want +got):\n%s", diff)
	}
	merged, _, err := ParseCASet("s", []byte("<<: {generation: 1}\nauthorities: []\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := merged.Edit(CASetAuthority{ID: "a"}); err == nil || !strings.Contains(err.Error(), "edit it by hand") {
		t.Errorf("a set with merge keys: %v", err)
	}
}

// Every set that parses can be edited or the edit is refused, and the result of an edit parses to
// the intended set.
func FuzzCASet(f *testing.F) {
	f.Add([]byte(exampleSet))
	f.Add([]byte("generation: 1\nauthorities: [{id: a, chain: c, publish_at: 2026-11-01T00:00:00Z}]\n"))
	f.Add([]byte("generation: &g 1\nauthorities: &a [{id: a, chain: c, publish_at: !!str 2026-11-01T00:00:00Z}]\n"))
	f.Add([]byte("generation: 1\nauthorities: [{id: a, chain: c, publish_at: 2026-11-01T00:00:00Z, compromised_at}]\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		set, _, err := ParseCASet("/d/s", content)
		if err != nil || len(set.Authorities) == 0 {
			return
		}
		at := time.Date(2027, 10, 9, 8, 7, 6, 0, time.UTC)
		entry := set.Authorities[0]
		entry.RetireAt = at
		edited, err := set.Edit(entry)
		if err != nil {
			return
		}
		again, _, err := ParseCASet("/d/s", edited)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, edited)
		}
		set.Generation++
		set.Authorities[0].RetireAt = at
		if diff := cmp.Diff(set, again, cmpopts.IgnoreFields(CASet{}, "File", "content")); diff != "" {
			t.Errorf("the set (-want +got):\n%s\n%s", diff, edited)
		}
	})
}

func TestLoadCeremony(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "plan.yaml")
	load := func(content string) (*Ceremony, error) {
		if err := os.WriteFile(name, bytes.TrimSpace([]byte(content)), 0o600); err != nil {
			t.Fatal(err)
		}
		plan, _, err := LoadCeremony(name)
		return plan, err
	}
	plan, err := load("root: {folder: root, password_file: pass}\nintermediates:\n  - {id: a, request: a.csr, common_name: A, not_after: 2055-01-01T00:00:00Z}\n")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(name)
	want := &Ceremony{
		Root: CeremonyRoot{Folder: filepath.Join(dir, "root"), CeremonyKey: CeremonyKey{PasswordFile: filepath.Join(dir, "pass")}},
		Intermediates: []CeremonyIntermediate{{
			Request: filepath.Join(dir, "a.csr"),
			Planned: ceremony.PlannedIntermediate{ID: "a", PlannedCertificate: ceremony.PlannedCertificate{
				Subject: ceremony.Subject{CommonName: "A"}, NotAfter: time.Date(2055, 1, 1, 0, 0, 0, 0, time.UTC)}},
		}},
	}
	if diff := cmp.Diff(want, plan, cmpopts.IgnoreFields(Ceremony{}, "File")); diff != "" {
		t.Errorf("the plan (-want +got):\n%s", diff)
	}
}
