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

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

var begin = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// folder is a CA as mayfly ca init creates it, with the authority 2026-a.
type folder struct {
	t        *testing.T
	dir, set string
}

func newFolder(t *testing.T) *folder {
	t.Helper()
	f := &folder{t: t, dir: filepath.Join(t.TempDir(), "ca")}
	result, err := ceremony.Init(ceremony.InitConfig{Dir: f.dir, Algorithm: "ecdsa-p256", Now: func() time.Time { return begin }})
	f.must(nil, err)
	f.set = result.SetFile
	return f
}

func testKeys() Keys { return Keys{Ring: keyring.New(keyring.Config{})} }

func (f *folder) editor(after time.Duration) Editor {
	return Editor{Path: f.set, Now: begin.Add(after), Lead: PublicationLead, Ring: keyring.New(keyring.Config{})}
}

func (f *folder) forced(after time.Duration) Editor {
	e := f.editor(after)
	e.Force = true
	return e
}

// entry creates an authority below the folder's root, which begins some time after the first.
func (f *folder) entry(id string, after time.Duration) config.CASetAuthority {
	f.t.Helper()
	made, err := testworld.NewAuthority(f.dir, id, begin.Add(after))
	f.must(nil, err)
	return config.CASetAuthority{ID: id, Chain: made.ChainFile, Signer: config.Signer{File: &config.SignerFile{Key: made.KeyFile, PasswordFile: made.PasswordFile}}}
}

// add creates an authority and adds it.
func (f *folder) add(after time.Duration, id string) {
	f.t.Helper()
	f.must(f.editor(after).Add(f.t.Context(), f.entry(id, 0), nil))
}

func (f *folder) at(after time.Duration) (cfg *config.Server, now time.Time) {
	return &config.Server{CA: config.CA{Set: f.set}}, begin.Add(after)
}

// load loads the set as a server with keys does, some time after its beginning.
func (f *folder) load(after time.Duration, keys Keys) (*Loaded, error) {
	cfg, now := f.at(after)
	return Load(f.t.Context(), cfg, now, keys)
}

// signs requires that the authority id signs; "" for none.
func (f *folder) signs(after time.Duration, id string) *Loaded {
	f.t.Helper()
	loaded, err := f.load(after, testKeys())
	f.must(nil, err)
	if signs, _ := at(f.t, loaded.Set, begin.Add(after)); signs != id || len(loaded.Failed) > 0 {
		f.t.Errorf("after %s %q signs, want %q; failed keys: %v", after, signs, id, loaded.Failed)
	}
	return loaded
}

func (f *folder) must(_ *Result, err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) read(name string) string {
	f.t.Helper()
	content, err := os.ReadFile(filepath.Join(f.dir, name))
	f.must(nil, err)
	return string(content)
}

func (f *folder) write(name, content string) {
	f.t.Helper()
	f.must(nil, os.WriteFile(filepath.Join(f.dir, name), []byte(content), 0o600))
}

func (f *folder) remove(name string) {
	f.t.Helper()
	f.must(nil, os.Remove(filepath.Join(f.dir, name)))
}

func (f *folder) replace(old, replacement string) {
	f.t.Helper()
	content := f.read("ca.yaml")
	if !strings.Contains(content, old) {
		f.t.Fatalf("the set lacks %q:\n%s", old, content)
	}
	f.write("ca.yaml", strings.ReplaceAll(content, old, replacement))
}

// The life of a set, from one authority to the next. Edits keep the operator's comments and the mode.
func TestRotate(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.write("ca.yaml", "# A comment of the operator's.\n"+f.read("ca.yaml"))
	f.must(nil, os.Chmod(f.set, 0o666)) // the umask does not decide
	f.add(time.Hour, "2026-b")
	f.must(f.editor(2*time.Hour).Activate(t.Context(), "2026-b", time.Time{}))
	f.must(f.editor(26*time.Hour).Retire(t.Context(), "2026-a", time.Time{}))
	content := f.read("ca.yaml")
	for _, want := range []string{
		"# A comment of the operator's.\n", "generation: 4\n", "# intermediate first, root last",
		"chain: 2026-b/chain.pem\n", "signer: {file: {key: 2026-b/key.pem, password_file: 2026-b/pass}}\n",
		"publish_at: 2026-11-23T13:00:00Z\n    activate_at: 2026-11-24T13:00:00Z\n", "retire_at: 2026-11-24T13:00:00Z\n",
	} {
		if !strings.Contains(content, want) {
			t.Errorf("the set lacks %q:\n%s", want, content)
		}
	}
	if info, err := os.Stat(f.set); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("the edited set has mode %v (%v)", info.Mode(), err)
	}
	// A key that is destroyed within an hour after its retirement only causes a warning.
	f.remove("2026-a/key.pem")
	if loaded := f.signs(25*time.Hour+30*time.Minute, "2026-b"); !strings.Contains(errors.Join(loaded.Warnings...).Error(), `authority "2026-a" cannot sign now`) {
		t.Errorf("an authority that has just retired, and whose key is gone: %v", loaded.Warnings)
	}
	if loaded := f.signs(27*time.Hour, "2026-b"); len(loaded.Set.TrustBundle(begin.Add(27*time.Hour))) != 2 {
		t.Error("the retired authority has left the trust bundle")
	}
	if entries, err := os.ReadDir(f.dir); err != nil || len(entries) != 4 { // ca.yaml, root, and two authorities
		t.Errorf("the folder holds %v (%v)", entries, err)
	}
}

// An edit that would break verifiers or stop issuance is refused, and changes nothing. The error states
// the correction.
func TestEditsThatAreRefused(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	entry := f.entry("2026-b", 0)
	refused := func(want string) func(*Result, error) {
		before := f.read("ca.yaml")
		return func(_ *Result, err error) {
			t.Helper()
			if expect(t, "an edit", err, want); f.read("ca.yaml") != before {
				t.Errorf("%s: the refused edit has changed the set", want)
			}
		}
	}
	add := func(change func(*config.CASetAuthority)) (*Result, error) {
		e := entry
		change(&e)
		return f.editor(time.Hour).Add(t.Context(), e, nil)
	}
	refused("the earliest time is 2026-11-24T13:00:00Z")(f.editor(time.Hour).Add(t.Context(), config.CASetAuthority{ID: "2026-c", ActivateAt: begin.Add(3 * time.Hour)}, func(*config.CASetAuthority) error {
		t.Error("files are created for an authority that is refused")
		return nil
	}))
	refused("it would sign 23h0m0s after it is published")(add(func(e *config.CASetAuthority) { e.PublishAt, e.ActivateAt = begin, begin.Add(24*time.Hour) }))
	refused("is not the key of the chain's first certificate")(add(func(e *config.CASetAuthority) {
		e.Signer.File = &config.SignerFile{Key: filepath.Join(f.dir, "2026-a/key.pem"), PasswordFile: filepath.Join(f.dir, "2026-a/pass")}
	}))
	refused(`has no authority "2026-x"`)(f.editor(time.Hour).Activate(t.Context(), "2026-x", time.Time{}))
	refused("signs already")(f.editor(time.Hour).Activate(t.Context(), "2026-a", time.Time{}))
	refused("nothing would sign from 2026-11-23T13:00:00Z on")(f.editor(time.Hour).Retire(t.Context(), "2026-a", time.Time{}))

	f.must(f.editor(time.Hour).Add(t.Context(), entry, nil))
	refused("has an authority \"2026-b\" already")(add(func(*config.CASetAuthority) {}))
	refused("the least is 24h0m0s")(f.editor(2*time.Hour).Activate(t.Context(), "2026-b", begin.Add(3*time.Hour)))
	refused("is in the past")(f.editor(48*time.Hour).Activate(t.Context(), "2026-b", begin.Add(47*time.Hour)))
	f.must(f.editor(2*time.Hour).Activate(t.Context(), "2026-b", time.Time{}))
	refused("nothing would sign from 2026-11-23T15:00:00Z on")(f.editor(2*time.Hour).Retire(t.Context(), "2026-a", begin.Add(3*time.Hour)))
	f.must(f.editor(3*time.Hour).Retire(t.Context(), "2026-a", time.Time{}))
	refused("nothing would sign from 2026-11-24T13:00:00Z on")(f.editor(3*time.Hour).Retire(t.Context(), "2026-b", time.Time{}))
	refused("has never signed")(f.editor(3*time.Hour).Retire(t.Context(), "2026-b", time.Time{}))
	refused("is retired since 2026-11-24T13:00:00Z already")(f.editor(30*time.Hour).Retire(t.Context(), "2026-a", time.Time{}))
	refused("does not come back")(f.editor(30*time.Hour).Activate(t.Context(), "2026-a", time.Time{}))

	result, err := f.forced(30*time.Hour).Retire(t.Context(), "2026-b", begin.Add(30*time.Hour))
	if err != nil || len(result.Forced) != 1 || len(result.Warnings) == 0 {
		t.Fatalf("forced: %v, %+v", err, result)
	}
	f.signs(30*time.Hour, "")
}

// A successor may end before its predecessor would have ended: that is no decision to stop.
func TestSuccessorThatEndsEarlier(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	later, earlier := f.entry("2026-b", time.Hour), f.entry("2026-c", 0)
	later.ActivateAt = begin.Add(48 * time.Hour)
	f.must(f.editor(2*time.Hour).Add(t.Context(), later, nil))
	earlier.ActivateAt = begin.Add(72 * time.Hour)
	f.must(f.editor(2*time.Hour).Add(t.Context(), earlier, nil))
}

// An operator can show and correct a set that no server would load now: one that is not active yet,
// and one whose authority expired before its successor existed.
func TestInactiveSetCanBeMended(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	loaded, err := Read(f.at(-time.Hour))
	if err != nil || len(loaded.StatusAt(begin.Add(-time.Hour)).Warnings) != 1 {
		t.Fatalf("before its beginning: %v, %+v", err, loaded)
	}
	f.add(-time.Hour, "2026-b")

	f = newFolder(t)
	const late = 3*365*24*time.Hour + 48*time.Hour
	if _, err := f.load(late, testKeys()); err == nil {
		t.Fatal("a server loads a set whose only authority has ended")
	}
	f.must(f.forced(late).Add(t.Context(), f.entry("2029-a", late), nil))
	f.must(f.forced(late).Activate(t.Context(), "2029-a", begin.Add(late+time.Second)))
	f.signs(late+2*time.Second, "2029-a")
}

func TestEditsDoNotOverwriteEachOther(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	entry := f.entry("2026-b", 0)
	lock, err := files.Lock(f.set, 0o600)
	f.must(nil, err)
	_, err = f.editor(time.Hour).Add(t.Context(), entry, nil)
	expect(t, "beside another edit", err, "another edit")
	f.must(nil, files.Unlock(lock))
	_, err = f.editor(time.Hour).Add(t.Context(), entry, func(*config.CASetAuthority) error {
		f.replace("generation: 1", "generation: 2")
		return nil
	})
	expect(t, "after another edit", err, "changed meanwhile")
	f.must(f.editor(time.Hour).Add(t.Context(), entry, nil))
}

// Each error names the file, the place and the correction; all mistakes are reported at once.
func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(f *folder)
		after  time.Duration
		want   string
	}{
		"wrong password": {func(f *folder) { f.write("2026-a/pass", "wrong-password\n") }, 0, "ca.yaml:7:57: the password in"},
		"key of another": {func(f *folder) {
			f.entry("2026-b", 0)
			f.write("2026-a/key.pem", f.read("2026-b/key.pem"))
			f.write("2026-a/pass", f.read("2026-b/pass"))
		}, 0, "ca.yaml:7:26: "},
		"chain is missing":    {func(f *folder) { f.remove("2026-a/chain.pem") }, 0, "ca.yaml:6:12: reading the chain: open"},
		"key is missing":      {func(f *folder) { f.remove("2026-a/key.pem") }, 0, "ca.yaml:7:26: open"},
		"expired chain":       {func(*folder) {}, 4 * 365 * 24 * time.Hour, "ca.yaml:6:12: authority \"2026-a\" must sign: the CA certificate"},
		"not yet valid chain": {func(f *folder) { f.replace("_at: 2026-11-23", "_at: 2026-11-22") }, -24 * time.Hour, "are valid from 2026-11-23"},
		"no signer":           {func(f *folder) { f.replace("    signer:", "    # signer:") }, 0, "has no signer"},
		"nothing is active":   {func(f *folder) { f.replace("    activate_at: 2026-11-23T12:00:00Z\n", "") }, time.Hour, "no authority is active"},
		"two chains are missing": {func(f *folder) {
			f.add(0, "2026-b")
			f.remove("2026-a/chain.pem")
			f.remove("2026-b/chain.pem")
		}, 0, "2026-a/chain.pem: no such file or directory\n" + "ca.yaml:11:12: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFolder(t)
			test.change(f)
			_, err := f.load(test.after, testKeys())
			if err != nil {
				err = errors.New(strings.ReplaceAll(err.Error(), f.dir+"/", ""))
			}
			expect(t, name, err, test.want)
		})
	}
}

// Status warns while there is time to act: of certificates that end, and if nothing signs afterwards.
// An authority without a date, or one that will never sign, does not change that.
func TestStatusWarnsInTime(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.entry("2029-a", 0)
	for _, test := range []struct {
		days int // before the end
		more string
		want []string
	}{
		{400, "", nil},
		{170, "", []string{"nothing signs from 2029-11-2"}},
		{30, "", []string{"nothing signs from 2029-11-2", "intermediate 2026-a,O=mayfly ends in 30 days"}},
		{170, ", publish_at: 2026-11-24T12:00:00Z}", []string{"nothing signs from 2029-11-2"}},
		{170, ", publish_at: 2026-11-24T12:00:00Z, retire_at: 2029-12-01T00:00:00Z}", []string{"nothing signs from 2029-11-2"}},
	} {
		before := f.read("ca.yaml")
		if test.more != "" {
			f.write("ca.yaml", before+"  - {id: 2029-a, chain: 2029-a/chain.pem"+test.more+"\n")
		}
		now := begin.AddDate(3, 0, -test.days)
		loaded, err := Read(f.at(now.Sub(begin)))
		f.must(nil, err)
		got := loaded.StatusAt(now).Warnings
		if !slices.EqualFunc(got, test.want, strings.Contains) {
			t.Errorf("%d days before: %q, want %q", test.days, got, test.want)
		}
		f.write("ca.yaml", before)
	}
}

// An authority with a stolen key stops without --force, and its key is not read again. The time of the
// compromise moves to an earlier one only, and nothing reactivates the authority.
func TestCompromise(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.add(time.Hour, "2026-b")
	now, stolen := f.editor(30*time.Hour), begin.Add(28*time.Hour)
	compromise := func(id string, since time.Time, want string) *Result {
		t.Helper()
		result, err := now.Compromise(t.Context(), id, since)
		expect(t, id, err, want)
		return result
	}
	compromise("2026-x", time.Time{}, `has no authority "2026-x"`)
	compromise("2026-a", now.Now.Add(time.Minute), "is in the future")
	result := compromise("2026-a", stolen.Add(900*time.Millisecond), "")
	if len(result.Forced) > 0 || len(result.Warnings) != 1 || !strings.Contains(result.Warnings[0].Error(), "every request is refused") {
		t.Errorf("forced %v, warnings %v", result.Forced, result.Warnings)
	}
	f.remove("2026-a/key.pem") // nothing reads it
	loaded := f.signs(30*time.Hour, "")
	if windows := loaded.Set.Windows(now.Now); len(windows) != 2 || windows[1].ID != "2026-a" || !windows[1].End.Equal(stolen) {
		t.Errorf("the windows are %+v", windows)
	}
	compromise("2026-a", stolen, "is compromised since 2026-11-24T16:00:00Z already")
	_, err := now.Retire(t.Context(), "2026-a", time.Time{})
	expect(t, "retiring it", err, "is compromised since")
	_, err = now.Activate(t.Context(), "2026-a", time.Time{})
	expect(t, "activating it", err, "does not come back")
	compromise("2026-a", stolen.Add(-time.Hour), "")
	// The published successor was published long enough: it signs at once, without --force.
	f.must(now.Activate(t.Context(), "2026-b", now.Now))
	f.signs(30*time.Hour, "2026-b")

	// An authority with a key that was stolen before it signed never signs. The active one continues.
	f = newFolder(t)
	f.add(time.Hour, "2026-b")
	f.must(f.editor(2*time.Hour).Activate(t.Context(), "2026-b", time.Time{}))
	result, err = f.editor(3*time.Hour).Compromise(t.Context(), "2026-b", time.Time{})
	if err != nil || len(result.Forced) > 0 {
		t.Fatalf("%v, %+v", err, result)
	}
	if loaded := f.signs(48*time.Hour, "2026-a"); len(loaded.Set.Windows(begin.Add(48*time.Hour))) != 1 {
		t.Error("an authority that never signed has a window")
	}
}
