// SPDX-License-Identifier: Apache-2.0

package set

import (
	"strings"
	"testing"
	"time"
)

// An authority with a stolen key stops without --force, and its key is not read again.
func TestCompromise(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.must(f.editor(time.Hour).Add(t.Context(), f.entry("2026-b")))
	now := f.editor(30 * time.Hour)
	stolen := begin.Add(28 * time.Hour)
	_, err := now.Compromise(t.Context(), "2026-x", time.Time{})
	f.refused(nil, err, `has no authority "2026-x"`)
	_, err = now.Compromise(t.Context(), "2026-a", now.Now.Add(time.Minute))
	f.refused(nil, err, "is in the future")

	result, err := now.Compromise(t.Context(), "2026-a", stolen.Add(900*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Forced) > 0 || len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0].Error(), "every request is refused") {
		t.Errorf("forced %v, warnings %v", result.Forced, result.Warnings)
	}
	if content := f.read(f.set); !strings.Contains(content, "compromised_at: 2026-11-24T16:00:00Z\n") || !strings.Contains(content, "generation: 3\n") {
		t.Errorf("the set is\n%s", content)
	}
	f.remove("key.pem") // nothing reads it
	loaded, err := Load(t.Context(), Source{Path: f.set}, now.Now, testKeys())
	if err != nil || len(loaded.Failed) > 0 {
		t.Fatalf("a server does not load the stop, and signs on: %v, %+v", err, loaded)
	}
	if _, err := loaded.Set.Active(now.Now); err == nil {
		t.Error("something signs")
	}
	windows := loaded.Set.Windows(now.Now)
	if len(windows) != 2 || windows[1].ID != "2026-a" || !windows[1].End.Equal(stolen) || len(loaded.Set.TrustBundle(now.Now)) != 1 {
		t.Errorf("the windows are %+v", windows)
	}
	status := loaded.StatusAt(now.Now)
	if a := status.Authorities[0]; a.State != "compromised" || !a.CompromisedAt.Equal(stolen) {
		t.Errorf("the status is %+v", a)
	}
	var text strings.Builder
	if err := status.Write(&text); err != nil || !strings.Contains(text.String(), "no more, untrusted since 2026-11-24T16:00:00Z") {
		t.Errorf("the status is (%v)\n%s", err, text.String())
	}

	// The time moves to an earlier one only, and nothing reactivates the authority.
	_, err = now.Compromise(t.Context(), "2026-a", stolen)
	f.refused(nil, err, "is compromised since 2026-11-24T16:00:00Z already")
	_, err = now.Retire(t.Context(), "2026-a", time.Time{})
	f.refused(nil, err, "is compromised since")
	_, err = now.Activate(t.Context(), "2026-a", time.Time{})
	f.refused(nil, err, "does not come back")
	f.must(now.Compromise(t.Context(), "2026-a", stolen.Add(-time.Hour)))

	// The published successor was published long enough: it signs at once, without --force.
	f.must(now.Activate(t.Context(), "2026-b", now.Now))
	loaded, err = Load(t.Context(), Source{Path: f.set}, now.Now, testKeys())
	if err != nil {
		t.Fatal(err)
	}
	if active, err := loaded.Set.Active(now.Now); err != nil || active.ID() != "2026-b" {
		t.Errorf("%v signs, error %v", active, err)
	}
}

// An authority with a key that was stolen before it signed never signs. The active one continues.
func TestCompromiseBeforeTheFirstSignature(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.must(f.editor(time.Hour).Add(t.Context(), f.entry("2026-b")))
	f.must(f.editor(2*time.Hour).Activate(t.Context(), "2026-b", time.Time{}))
	now := f.editor(3 * time.Hour)
	result, err := now.Compromise(t.Context(), "2026-b", time.Time{})
	if err != nil || len(result.Forced) > 0 {
		t.Fatalf("%v, %+v", err, result)
	}
	later := begin.Add(48 * time.Hour)
	loaded, err := Load(t.Context(), Source{Path: f.set}, later, testKeys())
	if err != nil {
		t.Fatal(err)
	}
	if active, err := loaded.Set.Active(later); err != nil || active.ID() != "2026-a" {
		t.Errorf("%v signs, error %v", active, err)
	}
	if windows := loaded.Set.Windows(later); len(windows) != 1 || windows[0].ID != "2026-a" {
		t.Errorf("the windows are %+v", windows)
	}
}
