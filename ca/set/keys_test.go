// SPDX-License-Identifier: Apache-2.0

package set

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// broken adds an authority to the folder's set and removes its key.
func (f *folder) broken(id string) {
	f.t.Helper()
	f.must(f.editor(time.Hour).Add(f.t.Context(), f.entry(id)))
	if err := os.Remove(filepath.Join(f.dir, id, "key.pem")); err != nil {
		f.t.Fatal(err)
	}
}

// The caller decides which keys must sign: a failure of one refuses the set, or is a warning.
func TestKeysThatMustSign(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.broken("2026-b")
	now := begin.Add(2 * time.Hour)
	_, err := Load(t.Context(), Source{Path: f.set}, now, testKeys())
	if err == nil || !strings.Contains(err.Error(), "2026-b/key.pem: no such file") || !strings.Contains(err.Error(), f.set+":") {
		t.Errorf("all must sign: %v", err)
	}

	keys := testKeys()
	var asked []string
	keys.Must = func(m Member, err error) bool {
		asked = append(asked, m.ID)
		return err == nil
	}
	loaded, err := Load(t.Context(), Source{Path: f.set}, now, keys)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(asked, []string{"2026-b"}) {
		t.Errorf("asked about %q", asked)
	}
	for _, list := range [][]error{loaded.Failed, loaded.Warnings} {
		if text := errors.Join(list...); text == nil || !strings.Contains(text.Error(), `authority "2026-b" cannot sign now, and is tried again: `) || !strings.Contains(text.Error(), f.set+":") {
			t.Errorf("it is told as %v", text)
		}
	}
	if active, err := loaded.Set.Active(now); err != nil || active.ID() != "2026-a" {
		t.Errorf("the active authority is %v, error %v", active, err)
	}

	// An authority that has signed in the set in force continues, even if its file has changed.
	whole := newFolder(t)
	current, err := Load(t.Context(), Source{Path: whole.set}, now, testKeys())
	if err != nil {
		t.Fatal(err)
	}
	whole.remove("key.pem")
	keys.Current = current.Set
	loaded, err = Load(t.Context(), Source{Path: whole.set}, now, keys)
	if err != nil || len(loaded.Failed) != 1 {
		t.Fatalf("%v, %+v", err, loaded)
	}
	before, err1 := current.Set.Active(now)
	after, err2 := loaded.Set.Active(now)
	if err := errors.Join(err1, err2); err != nil || before != after {
		t.Errorf("another authority signs: %v", err)
	}
}

// An edit requires the key of the authority that will sign, and no other: the edit may replace a
// lost key.
func TestEditsBesideABrokenKey(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.broken("2026-b")
	entry := f.entry("2026-c")
	f.remove("key.pem")
	f.must(f.editor(2*time.Hour).Add(t.Context(), entry))
	f.must(f.editor(2*time.Hour).Activate(t.Context(), "2026-c", time.Time{}))
	f.must(f.editor(2*time.Hour).Retire(t.Context(), "2026-a", time.Time{}))
	_, err := f.editor(3*time.Hour).Activate(t.Context(), "2026-b", begin.Add(72*time.Hour))
	f.refused(nil, err, "2026-b/key.pem: no such file")
	forced := f.editor(3 * time.Hour)
	forced.Force = true
	result, err := forced.Activate(t.Context(), "2026-b", begin.Add(72*time.Hour))
	if err != nil || len(result.Failed) != 1 {
		t.Errorf("forced: %v, %+v", err, result)
	}
}
