// SPDX-License-Identifier: Apache-2.0

package set

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app/keyring"
)

// The caller decides which keys must sign: a failure of one refuses the set, or is a warning.
func TestKeysThatMustSign(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.add(time.Hour, "2026-b")
	f.remove("2026-b/key.pem")
	_, err := f.load(2*time.Hour, testKeys())
	expect(t, "all must sign", err, "2026-b/key.pem: no such file")

	keys := testKeys()
	var asked []string
	keys.Required = func(m Member, err error) bool {
		asked = append(asked, m.ID)
		return err == nil
	}
	loaded, err := f.load(2*time.Hour, keys)
	f.must(nil, err)
	if !slices.Equal(asked, []string{"2026-b"}) || len(loaded.Failed) != 1 || !slices.Contains(loaded.Warnings, loaded.Failed[0]) {
		t.Errorf("asked about %q; failed: %v, warnings: %v", asked, loaded.Failed, loaded.Warnings)
	}
	if text := loaded.Failed[0].Error(); !strings.Contains(text, `authority "2026-b" cannot sign now, and is tried again: `) || !strings.Contains(text, f.set+":") {
		t.Errorf("it is told as %s", text)
	}

	// A key outside of this process makes a real signature, unless the caller is offline.
	elsewhere := Keys{Ring: keyring.New(keyring.Config{Socket: filepath.Join(f.dir, "none")})}
	_, err = f.load(0, elsewhere)
	expect(t, "no process has the keys", err, "ca.yaml:7:")
	elsewhere.Offline = true
	_, err = f.load(0, elsewhere)
	f.must(nil, err)

	// An authority that has signed in the set in force continues, even if its file has changed.
	whole := newFolder(t)
	current := whole.signs(0, "2026-a")
	whole.remove("2026-a/key.pem")
	keys.Current = current.Set
	loaded, err = whole.load(0, keys)
	if err != nil || len(loaded.Failed) != 1 || loaded.Set.members[0].Authority != current.Set.members[0].Authority {
		t.Errorf("another authority signs: %v, %+v", err, loaded)
	}
}

// An edit requires the key of the authority that will sign, and no other: the edit may replace a
// lost key.
func TestEditsBesideABrokenKey(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.add(time.Hour, "2026-b")
	f.remove("2026-a/key.pem")
	f.remove("2026-b/key.pem")
	f.add(2*time.Hour, "2026-c")
	f.must(f.editor(2*time.Hour).Activate(t.Context(), "2026-c", time.Time{}))
	f.must(f.editor(2*time.Hour).Retire(t.Context(), "2026-a", time.Time{}))
	_, err := f.editor(3*time.Hour).Activate(t.Context(), "2026-b", begin.Add(72*time.Hour))
	expect(t, "activating an authority without a key", err, "2026-b/key.pem: no such file")
	if result, err := f.forced(3*time.Hour).Activate(t.Context(), "2026-b", begin.Add(72*time.Hour)); err != nil || len(result.Failed) != 1 {
		t.Errorf("forced: %v, %+v", err, result)
	}
}
