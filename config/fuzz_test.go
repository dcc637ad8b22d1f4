// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"
)

// addSeeds adds the files of an archive in testdata.
func addSeeds(f *testing.F, archives ...string) {
	f.Helper()
	for _, archive := range archives {
		a, err := txtar.ParseFile("testdata/" + archive)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range a.Files {
			f.Add(file.Data)
		}
	}
}

// FuzzParseIssuers checks that parsing returns for every file, with a result or with mistakes at
// places inside of the file, and that compat never refuses more.
func FuzzParseIssuers(f *testing.F) {
	addSeeds(f, "read/issuers.txtar", "mistakes/issuers.txtar", "mistakes/issuers-json.txtar")
	for _, seed := range []string{"", "&a [*a]", "a: &x {<<: *x}", "? [a]\n: b", "{\"a\":\"\\ud800\"}", "a: !!float x\n", "%YAML 1.1\n---\na: b\n...\n", "\ufeff{", "a: |\n  b\n# c"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		count := 2
		for _, end := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
			count += strings.Count(string(content), end)
		}
		issuers, _, err := ParseIssuers("f", content, false, nil)
		if (err == nil) != (issuers != nil) {
			t.Fatalf("issuers %v and error %v", issuers, err)
		}
		if mistakes := (Mistakes)(nil); errors.As(err, &mistakes) {
			for _, m := range mistakes {
				if m.Line < 0 || m.Line > count || m.Line > 0 && m.Column < 1 || m.Text == "" {
					t.Errorf("mistake %+v of a file of %d lines", m, count)
				}
			}
		} else if err != nil {
			t.Fatalf("error %T: %v", err, err)
		}
		if _, _, lenient := ParseIssuers("f", content, true, nil); err == nil && lenient != nil {
			t.Errorf("compat refuses: %v", lenient)
		}
	})
}

func FuzzParseServer(f *testing.F) {
	addSeeds(f, "read/server.txtar", "mistakes/server.txtar")
	f.Add([]byte("ct: {logs: [~, {embedded: ~}, {embedded: {submit: ~}}]}"))
	f.Fuzz(func(t *testing.T, content []byte) {
		server, _, err := ParseServer("m", content, nil)
		if err == nil && server == nil || err != nil && server != nil && !reflect.DeepEqual(server, &Server{Log: server.Log}) {
			t.Fatalf("server %v and error %v", server, err)
		}
		if server != nil && (server.Log.Format != "json" && server.Log.Format != "text" || new(slog.Level).UnmarshalText([]byte(server.Log.Level)) != nil) {
			t.Fatalf("log %+v", server.Log)
		}
		if mistakes := (Mistakes)(nil); err != nil && !errors.As(err, &mistakes) {
			t.Fatalf("error %T: %v", err, err)
		}
	})
}

// FuzzCASet checks that every set that parses can be edited or the edit is refused, and that the
// result of an edit parses to the intended set.
func FuzzCASet(f *testing.F) {
	addSeeds(f, "read/caset.txtar")
	f.Add([]byte("generation: &g 1\nauthorities: &a [{id: a, chain: c, publish_at: !!str 2026-11-01T00:00:00Z}]\n"))
	f.Add([]byte("generation: 1\nauthorities: [{id: a, chain: c, publish_at: 2026-11-01T00:00:00Z, compromised_at}]\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		set, _, err := ParseCASet("/d/s", content)
		if err != nil || len(set.Authorities) == 0 {
			return
		}
		entry := set.Authorities[0]
		entry.RetireAt = time.Date(2027, 10, 9, 8, 7, 6, 0, time.UTC)
		edited, err := set.Edit(entry)
		if err != nil {
			return
		}
		again, _, err := ParseCASet("/d/s", edited)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, edited)
		}
		set.Generation++
		set.Authorities[0] = entry
		if diff := cmp.Diff(set, again, cmpopts.IgnoreFields(CASet{}, "File", "content")); diff != "" {
			t.Errorf("the set (-want +got):\n%s\n%s", diff, edited)
		}
	})
}
