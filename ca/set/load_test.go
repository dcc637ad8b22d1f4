// SPDX-License-Identifier: Apache-2.0

package set

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/files"
)

var begin = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// folder is a CA as mayfly ca init creates it.
type folder struct {
	t           *testing.T
	dir, set    string
	root        *x509.Certificate
	firstFolder string
}

func newFolder(t *testing.T) *folder {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	result, err := ceremony.Init(ceremony.InitConfig{Dir: dir, Algorithm: "ecdsa-p256", Now: func() time.Time { return begin }})
	if err != nil {
		t.Fatal(err)
	}
	return &folder{t, dir, result.SetFile, result.Root, filepath.Join(dir, "2026-a")}
}

func testKeys() Keys { return Keys{Ring: keyring.New(keyring.Config{})} }

func (f *folder) editor(after time.Duration) Editor {
	return Editor{Path: f.set, Now: begin.Add(after), Ring: keyring.New(keyring.Config{})}
}

// entry creates an authority below the folder's root.
func (f *folder) entry(id string) config.CASetAuthority { return f.entryFrom(id, begin) }

func (f *folder) entryFrom(id string, from time.Time) config.CASetAuthority {
	f.t.Helper()
	signer, _, err := file.Open(filepath.Join(f.dir, "root", "key.pem"), filepath.Join(f.dir, "root", "pass"))
	if err != nil {
		f.t.Fatal(err)
	}
	made, err := ceremony.NewAuthority(ceremony.AuthorityConfig{
		Dir:                filepath.Join(f.dir, id),
		PlannedCertificate: ceremony.PlannedCertificate{Subject: ceremony.Subject{CommonName: id, Organization: "tests"}, Algorithm: "ecdsa-p256", NotBefore: from},
		Parent:             ceremony.Parent{Chain: []*x509.Certificate{f.root}, Signer: signer},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return config.CASetAuthority{ID: id, Chain: made.ChainFile, Signer: config.Signer{File: &config.SignerFile{Key: made.KeyFile, PasswordFile: made.PasswordFile}}}
}

func (f *folder) must(_ *Result, err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) read(name string) string {
	f.t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(content)
}

func (f *folder) write(name, content string) {
	f.t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) refused(_ *Result, err error, want string) {
	f.t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		f.t.Errorf("got error %v, want one that says %q", err, want)
	}
}

// The life of a set, from one authority to the next.
func TestRotate(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.write(f.set, "# A comment of the operator's.\n"+f.read(f.set))
	entry := f.entry("2026-b")
	f.must(f.editor(time.Hour).Add(t.Context(), entry))
	f.must(f.editor(2*time.Hour).Activate(t.Context(), "2026-b", time.Time{}))
	f.must(f.editor(26*time.Hour).Retire(t.Context(), "2026-a", time.Time{}))
	content := f.read(f.set)
	for _, want := range []string{
		"# A comment of the operator's.\n", "generation: 4\n", "# intermediate first, root last",
		"chain: 2026-b/chain.pem\n", "signer: {file: {key: 2026-b/key.pem, password_file: 2026-b/pass}}\n",
		"publish_at: 2026-11-23T13:00:00Z\n    activate_at: 2026-11-24T13:00:00Z\n", "retire_at: 2026-11-24T13:00:00Z\n",
	} {
		if !strings.Contains(content, want) {
			t.Errorf("the set lacks %q:\n%s", want, content)
		}
	}
	// A key that is destroyed within an hour after its retirement only causes a warning.
	f.remove("key.pem")
	loaded, err := Load(t.Context(), Source{Path: f.set}, begin.Add(25*time.Hour+30*time.Minute), testKeys())
	if err != nil || len(loaded.Failed) != 0 || !strings.Contains(errors.Join(loaded.Warnings...).Error(), `authority "2026-a" cannot sign now`) {
		t.Errorf("an authority that has just retired, and whose key is gone: %v, %+v", err, loaded)
	}
	loaded, err = Load(t.Context(), Source{Path: f.set}, begin.Add(27*time.Hour), testKeys())
	if err != nil {
		t.Fatal(err)
	}
	if len(loaded.Failed) != 0 || len(loaded.Set.TrustBundle(begin.Add(27*time.Hour))) != 2 {
		t.Error("the retired authority has left the trust bundle")
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil || len(entries) != 4 { // ca.yaml, root, and two authorities
		t.Errorf("the folder holds %v (%v)", entries, err)
	}
}

// An edit that would break verifiers or stop issuance is refused. The error states the correction.
func TestEditsThatAreRefused(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	entry := f.entry("2026-b")
	soon := entry
	soon.ActivateAt = begin.Add(3 * time.Hour)
	backdated := entry
	backdated.PublishAt, backdated.ActivateAt = begin, begin.Add(24*time.Hour)
	add := func(e config.CASetAuthority) (*Result, error) { return f.editor(time.Hour).Add(t.Context(), e) }
	must := f.read(f.set)
	refused := func(r *Result, err error) func(string) {
		return func(want string) { t.Helper(); f.refused(r, err, want) }
	}
	refused(add(soon))("the earliest time is 2026-11-24T13:00:00Z")
	refused(add(backdated))("it would sign 23h0m0s after it is published")
	refused(f.editor(time.Hour).Activate(t.Context(), "2026-x", time.Time{}))(`has no authority "2026-x"`)
	refused(f.editor(time.Hour).Activate(t.Context(), "2026-a", time.Time{}))("signs already")
	refused(f.editor(time.Hour).Retire(t.Context(), "2026-a", time.Time{}))("nothing would sign from 2026-11-23T13:00:00Z on")
	wrongKey := entry
	wrongKey.ID, wrongKey.Signer.File = "2026-c", &config.SignerFile{Key: filepath.Join(f.firstFolder, "key.pem"), PasswordFile: filepath.Join(f.firstFolder, "pass")}
	refused(add(wrongKey))("is not the key of the chain's first certificate")
	if f.read(f.set) != must {
		t.Error("a refused edit has changed the set")
	}

	f.must(add(entry))
	refused(add(entry))("has an authority \"2026-b\" already")
	refused(f.editor(2*time.Hour).Activate(t.Context(), "2026-b", begin.Add(3*time.Hour)))("the least is 24h0m0s")
	refused(f.editor(48*time.Hour).Activate(t.Context(), "2026-b", begin.Add(47*time.Hour)))("is in the past")
	f.must(f.editor(2*time.Hour).Activate(t.Context(), "2026-b", time.Time{}))
	refused(f.editor(2*time.Hour).Retire(t.Context(), "2026-a", begin.Add(3*time.Hour)))("nothing would sign from 2026-11-23T15:00:00Z on")
	f.must(f.editor(3*time.Hour).Retire(t.Context(), "2026-a", time.Time{}))
	refused(f.editor(3*time.Hour).Retire(t.Context(), "2026-b", time.Time{}))("nothing would sign from 2026-11-24T13:00:00Z on")
	refused(f.editor(3*time.Hour).Retire(t.Context(), "2026-b", time.Time{}))("has never signed")
	refused(f.editor(30*time.Hour).Retire(t.Context(), "2026-a", time.Time{}))("is retired since 2026-11-24T13:00:00Z already")
	refused(f.editor(30*time.Hour).Activate(t.Context(), "2026-a", time.Time{}))("does not come back")

	forced := f.editor(30 * time.Hour)
	forced.Force = true
	result, err := forced.Retire(t.Context(), "2026-b", forced.Now)
	if err != nil || len(result.Forced) != 1 || len(result.Warnings) == 0 {
		t.Fatalf("forced: %v, %+v", err, result)
	}
	loaded, err := Load(t.Context(), Source{Path: f.set}, forced.Now, testKeys())
	if err != nil {
		t.Fatalf("a server would not load the stop, and sign on: %v", err)
	}
	if _, err := loaded.Set.Active(forced.Now); err == nil {
		t.Error("something signs after everything was retired")
	}
}

// An operator can show and correct a set that no server would load now: one that is not active yet,
// and one whose authority expired before its successor existed.
func TestUnfitSetCanBeMended(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	entry := f.entry("2026-b")
	early := f.editor(-time.Hour)
	loaded, err := Read(Source{Path: f.set}, early.Now)
	if err != nil || len(loaded.StatusAt(early.Now).Warnings) != 1 {
		t.Fatalf("before its beginning: %v, %+v", err, loaded)
	}
	f.must(early.Add(t.Context(), entry))

	f = newFolder(t)
	late := f.editor(3*365*24*time.Hour + 48*time.Hour)
	late.Force = true
	if _, err := Load(t.Context(), Source{Path: f.set}, late.Now, testKeys()); err == nil {
		t.Fatal("a server loads a set whose only authority has ended")
	}
	f.must(late.Add(t.Context(), f.entryFrom("2029-a", late.Now)))
	f.must(late.Activate(t.Context(), "2029-a", late.Now.Add(time.Second)))
	if _, err := Load(t.Context(), Source{Path: f.set}, late.Now.Add(2*time.Second), testKeys()); err != nil {
		t.Error(err)
	}
}

func TestEditsDoNotOverwriteEachOther(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	entry := f.entry("2026-b")
	lock, err := files.Lock(f.set, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.editor(time.Hour).Add(t.Context(), entry)
	f.refused(nil, err, "another edit")
	if err := files.Unlock(lock); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(f.set, []byte("what was read before"), []byte("new")); err == nil || !strings.Contains(err.Error(), "changed meanwhile") {
		t.Errorf("got error %v", err)
	}
	f.must(f.editor(time.Hour).Add(t.Context(), entry))
}

// Invalid inputs: each error names the file, the place and the correction.
func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(f *folder)
		after  time.Duration
		want   string
	}{
		"wrong password":      {func(f *folder) { f.write(filepath.Join(f.firstFolder, "pass"), "wrong-password\n") }, 0, "ca.yaml:7:57: the password in"},
		"key of another":      {func(f *folder) { f.swapKeys() }, 0, "ca.yaml:7:26: "},
		"chain is missing":    {func(f *folder) { f.remove("chain.pem") }, 0, "ca.yaml:6:12: reading the chain: open"},
		"key is missing":      {func(f *folder) { f.remove("key.pem") }, 0, "ca.yaml:7:26: open"},
		"expired chain":       {func(*folder) {}, 4 * 365 * 24 * time.Hour, "ca.yaml:6:12: authority \"2026-a\" must sign: the CA certificate"},
		"not yet valid chain": {func(f *folder) { f.replace("_at: 2026-11-23", "_at: 2026-11-22") }, -24 * time.Hour, "are valid from 2026-11-23"},
		"no signer":           {func(f *folder) { f.replace("    signer:", "    # signer:") }, 0, "has no signer"},
		"nothing is active":   {func(f *folder) { f.replace("    activate_at: 2026-11-23T12:00:00Z\n", "") }, time.Hour, "no authority is active"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFolder(t)
			test.change(f)
			_, err := Load(t.Context(), Source{Path: f.set}, begin.Add(test.after), testKeys())
			f.refused(nil, err, test.want)
		})
	}
}

// Each file that cannot be read has its own line.
func TestLoadNamesEveryUnreadableFile(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	f.must(f.editor(time.Hour).Add(t.Context(), f.entry("2026-b")))
	f.remove("chain.pem")
	if err := os.Remove(filepath.Join(f.dir, "2026-b", "chain.pem")); err != nil {
		t.Fatal(err)
	}
	_, err := Load(t.Context(), Source{Path: f.set}, begin.Add(2*time.Hour), testKeys())
	if err == nil || strings.Count(err.Error(), "no such file") != 2 || strings.Count(err.Error(), "\n"+f.set+":") != 1 {
		t.Errorf("got error %v", err)
	}
}

func (f *folder) replace(old, new string) {
	content := f.read(f.set)
	if !strings.Contains(content, old) {
		f.t.Fatalf("the set lacks %q:\n%s", old, content)
	}
	f.write(f.set, strings.ReplaceAll(content, old, new))
}

func (f *folder) remove(name string) {
	if err := os.Remove(filepath.Join(f.firstFolder, name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) swapKeys() {
	entry := f.entry("2026-b")
	f.write(filepath.Join(f.firstFolder, "key.pem"), f.read(entry.Signer.File.Key))
	f.write(filepath.Join(f.firstFolder, "pass"), f.read(entry.Signer.File.PasswordFile))
}

func TestStatusWarnsInTime(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	for _, test := range []struct {
		daysBeforeTheEnd int
		want             []string
	}{
		{400, nil},
		{170, []string{"nothing succeeds authority 2026-a"}},
		{30, []string{"intermediate 2026-a,O=mayfly ends in 30 days", "nothing succeeds authority 2026-a"}},
	} {
		now := begin.AddDate(3, 0, -test.daysBeforeTheEnd)
		loaded, err := Read(Source{Path: f.set}, now)
		if err != nil {
			t.Fatal(err)
		}
		got := loaded.StatusAt(now).Warnings
		if len(got) != len(test.want) {
			t.Errorf("%d days before: %q, want %q", test.daysBeforeTheEnd, got, test.want)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], test.want[i]) {
				t.Errorf("%d days before: %q, want %q", test.daysBeforeTheEnd, got, test.want)
			}
		}
	}
}
