// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file that mayfly dev has written is none that a person has edited, also after a crash in between or a
// restore of an earlier copy: each file itself states whether it was edited.
func TestFilesOfEarlierStartsAreNoEdits(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "world")
	var earlier [2][]byte
	names := [2]string{settingsFile, issuersFile}
	for n := range 3 {
		w, stop := run(t, Config{Dir: dir, Note: func(note error) { t.Errorf("start %d: %v", n, note) }})
		stop()
		for i, name := range names {
			content, err := os.ReadFile(w.path(name))
			if err != nil || !bytes.Contains(content, []byte(w.URL())) {
				t.Fatalf("start %d: %s, %v", n, content, err)
			}
			if n == 0 {
				earlier[i] = content
			} else if err := os.WriteFile(w.path(name), earlier[i], 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Without its first line, it is not known what a file was.
	file := filepath.Join(dir, issuersFile)
	_, rest, _ := bytes.Cut(earlier[1], []byte("\n"))
	if err := os.WriteFile(file, rest, 0o600); err != nil {
		t.Fatal(err)
	}
	if w, err := New(t.Context(), Config{Dir: dir, Listen: "127.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), "the first line was changed") {
		t.Errorf("%v, %v", w, err)
	}
	if content, err := os.ReadFile(file); err != nil || !bytes.Equal(content, rest) {
		t.Errorf("%s, %v", content, err)
	}
}

// A mistake in a file that is read again is a note for the user, and the last good content stays.
func TestMistakesOfAddedIssuersAreNotes(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "added.yaml")
	var notes []string
	const entry = "  https://%s.example: {issuer-url: https://%[1]s.example, client-id: sigstore, type: email}\n"
	var w *World
	for _, test := range []struct{ text, note, content string }{
		{fmt.Sprintf("oidc-issuers:\n"+entry, "one"), "", "https://one.example"},
		{fmt.Sprintf("oidc-issuers:\n"+entry, "two") + "  typo: {}\n", file + ":3:3: ", "https://one.example"},
		{"", file + ":1:1: the file is empty; the last good content stays in use", "https://one.example"},
		{fmt.Sprintf("oidc-issuers:\n"+entry, "three"), file + " has changed, and its new content is in use", "https://three.example"},
		{"meta-issuers:\n" + fmt.Sprintf(entry, "*.four"), file + " has changed, and its new content is in use", "https://*.four.example"},
	} {
		err := os.WriteFile(file, []byte(test.text), 0o600)
		if w == nil && err == nil {
			w, err = New(t.Context(), Config{
				Listen: "127.0.0.1:0", Issuers: file, Note: func(note error) { notes = append(notes, note.Error()) },
			})
		} else if changed := strings.HasSuffix(test.note, "in use") && !strings.Contains(test.note, "last good"); err == nil &&
			(w.watcher.Reload() == nil) != changed || !changed && w.watcher.Reload() == nil { // a retry repeats no note
			t.Errorf("the file is read with the notes %q: %s", notes, test.text)
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(w.path(issuersFile))
		if err != nil || !bytes.Contains(content, []byte(test.content)) || !bytes.Contains(content, []byte(w.IssuerURL())) {
			t.Errorf("%s, %v", content, err)
		}
		if got := strings.Join(notes, "\n"); !strings.Contains(got, test.note) || (test.note == "") != (got == "") || len(notes) > 1 {
			t.Errorf("the notes are %q, want %q", got, test.note)
		}
		notes = nil
	}
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
