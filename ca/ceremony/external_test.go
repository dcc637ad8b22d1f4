// SPDX-License-Identifier: Apache-2.0

package ceremony

import (
	"crypto"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// token holds keys that do not exist yet. It counts those that it generates.
type token struct {
	t    *testing.T
	made int
}

func (k *token) absent(name string) *ExternalKey {
	return &ExternalKey{
		Where: "in the token as " + name,
		Block: func(string) (string, error) { return "{token: " + name + "}", nil },
		Make: func(algorithm string) (crypto.Signer, bool, error) {
			k.made++
			return testKey(k.t, algorithm), true, nil
		},
	}
}

func (k *token) present(name, algorithm string) *ExternalKey {
	key := k.absent(name)
	key.Signer = testKey(k.t, algorithm)
	return key
}

func planned(name string, key *ExternalKey) PlannedCertificate {
	return PlannedCertificate{Subject: subject(name), Signer: key}
}

func newParent(t *testing.T) Parent {
	t.Helper()
	root, key := newTestRoot(t, PlannedCertificate{Subject: subject("root"), NotBefore: now()}, "ecdsa-p256")
	return Parent{Chain: []*x509.Certificate{root}, Signer: key}
}

// Check and the function that generates a key find every mistake before a key is generated,
// since the ceremony cannot delete that key.
func TestNoKeyIsMadeForAMistake(t *testing.T) {
	t.Parallel()
	long, late, parent := strings.Repeat("x", 65), now().AddDate(11, 0, 0), newParent(t)
	init := func(change func(*InitConfig)) func(string, *token) (func() error, func() error) {
		return func(dir string, k *token) (func() error, func() error) {
			cfg := InitConfig{Dir: dir, Now: now, RootSigner: k.absent("root"), Signer: k.absent("a")}
			change(&cfg)
			return cfg.Check, func() error { _, err := Init(cfg); return err }
		}
	}
	add := func(change func(*AuthorityConfig)) func(string, *token) (func() error, func() error) {
		return func(dir string, k *token) (func() error, func() error) {
			cfg := AuthorityConfig{Dir: dir, PlannedCertificate: PlannedCertificate{Subject: subject("b"), NotBefore: now(), Signer: k.absent("b")}, Parent: parent}
			change(&cfg)
			return cfg.Check, func() error { _, err := NewAuthority(cfg); return err }
		}
	}
	run := func(change func(*Plan, *token)) func(string, *token) (func() error, func() error) {
		return func(dir string, k *token) (func() error, func() error) {
			plan := Plan{Dir: dir, Now: now(), Root: planned("root", k.absent("root")), Intermediates: []PlannedIntermediate{
				{ID: "a", PlannedCertificate: planned("a", k.absent("a"))}, {ID: "b", PlannedCertificate: planned("b", k.absent("b"))},
			}}
			change(&plan, k)
			return plan.Check, func() error { _, err := Run(plan); return err }
		}
	}
	for want, prepare := range map[string]func(string, *token) (check, do func() error){
		"the common name has 70":             init(func(c *InitConfig) { c.CommonName = long }),
		"the password is for a key":          init(func(c *InitConfig) { c.Password = []byte("a long password") }),
		"the root password is for a key":     init(func(c *InitConfig) { c.RootPassword = []byte("a long password") }),
		`"md5" is not known`:                 init(func(c *InitConfig) { c.Algorithm = "md5" }),
		"in the token as a, is named twice":  init(func(c *InitConfig) { c.RootSigner = c.Signer }),
		"the CA has no organization":         add(func(c *AuthorityConfig) { c.Subject.Organization = "" }),
		"different names":                    add(func(c *AuthorityConfig) { c.Subject = subject("root") }),
		"which is not within":                add(func(c *AuthorityConfig) { c.NotAfter = late }),
		"is for a key in a file":             add(func(c *AuthorityConfig) { c.Password = []byte("a long password") }),
		"root: the common name has 65":       run(func(p *Plan, _ *token) { p.Root.Subject.CommonName = long }),
		"root: creating root: it would end":  run(func(p *Plan, _ *token) { p.Root.NotAfter = now() }),
		"intermediates: 1: the common name":  run(func(p *Plan, _ *token) { p.Intermediates[1].Subject.CommonName = long }),
		"intermediates: 1: creating":         run(func(p *Plan, _ *token) { p.Intermediates[1].NotAfter = late }),
		"intermediates: 1: reading the":      run(func(p *Plan, _ *token) { p.Intermediates[1].Request = []byte("x") }),
		"in the token as root, is named":     run(func(p *Plan, k *token) { p.Intermediates[1].Signer = k.absent("root") }),
		"intermediates: 0: the algorithm is": run(func(p *Plan, k *token) { p.Intermediates[0].PlannedCertificate = contradiction(k) }),
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			k, dir := &token{t: t}, filepath.Join(t.TempDir(), "ca")
			check, do := prepare(dir, k)
			for _, err := range []error{check(), do()} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got error %v, want one that says %q", err, want)
				}
			}
			if _, err := os.Stat(dir); k.made > 0 || !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%d keys were made; the folder: %v", k.made, err)
			}
		})
	}
}

func contradiction(k *token) PlannedCertificate {
	return PlannedCertificate{Subject: subject("a"), Algorithm: "rsa-4096", Signer: k.present("a", "ecdsa-p256")}
}

// An existing key determines its algorithm, and a different requested one is an error.
func TestAlgorithmOfAKeyThatIsThere(t *testing.T) {
	t.Parallel()
	k := &token{t: t}
	for _, algorithm := range Algorithms() {
		key := k.present("a", algorithm)
		for _, asked := range append(Algorithms(), "") {
			err := RequestConfig{filepath.Join(t.TempDir(), "r"), PlannedCertificate{Subject: subject("a"), Algorithm: asked, Signer: key}}.Check()
			if (err == nil) != (asked == "" || asked == algorithm) {
				t.Errorf("%q of a key of %s: %v", asked, algorithm, err)
			}
			if err != nil && !strings.Contains(err.Error(), "is to be "+asked+", and the key that is there already (in the token as a) is an ") {
				t.Errorf("%q of a key of %s: %v", asked, algorithm, err)
			}
		}
	}
}

// An error after a key was generated states where the key stays, and leaves no file.
func TestKeysThatStay(t *testing.T) {
	t.Parallel()
	k := &token{t: t}
	broken := k.absent("broken")
	broken.Make = func(string) (crypto.Signer, bool, error) { return nil, false, errors.New("the token is full") }
	unwritable := k.absent("unwritable")
	unwritable.Block = func(string) (string, error) { return "", errors.New("no block") }
	other := k.absent("another kind")
	other.Make = func(string) (crypto.Signer, bool, error) { return testKey(t, "ecdsa-p256"), true, nil }
	for name, test := range map[string]struct {
		do    func(dir string) error
		wants []string
	}{
		"init": {func(dir string) error {
			_, err := Init(InitConfig{Dir: dir, RootSigner: k.absent("root"), Signer: broken})
			return err
		}, []string{"the token is full", "a key was made before that, and stays in the token as root"}},
		"add": {func(dir string) error {
			_, err := NewAuthority(AuthorityConfig{Dir: dir, PlannedCertificate: PlannedCertificate{Subject: subject("a"), NotBefore: now(), Signer: unwritable}, Parent: newParent(t)})
			return err
		}, []string{"no block", "stays in the token as unwritable"}},
		"request": {func(dir string) error {
			_, err := NewRequest(RequestConfig{dir, PlannedCertificate{Subject: subject("a"), Algorithm: "ecdsa-p384", Signer: other}})
			return err
		}, []string{"is to be ecdsa-p384", "stays in the token as another kind"}},
		"ceremony": {func(dir string) error {
			_, err := Run(Plan{Dir: dir, Now: now(), Root: planned("root", k.absent("root")), Intermediates: []PlannedIntermediate{
				{ID: "a", PlannedCertificate: planned("a", k.absent("a"))},
				{ID: "b", PlannedCertificate: planned("b", broken)},
			}})
			return err
		}, []string{"intermediates: 1: the token is full", "stays in the token as root", "stays in the token as a;"}},
	} {
		dir := filepath.Join(t.TempDir(), "ca")
		err := test.do(dir)
		for _, want := range test.wants {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got error %v, want one that says %q", name, err, want)
			}
		}
		if err != nil && strings.Contains(err.Error(), "stays in the token as broken") {
			t.Errorf("%s: it tells of a key that was not made: %v", name, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: something is left: %v", name, err)
		}
	}
}

// A key is generated once, of the requested algorithm, and the record states where it is.
func TestKeysAreMadeWhereTheyStay(t *testing.T) {
	t.Parallel()
	k := &token{t: t}
	dir := filepath.Join(t.TempDir(), "ca")
	result, err := Init(InitConfig{Dir: dir, Now: now, Algorithm: "ecdsa-p256", RootSigner: k.absent("root"), Signer: k.present("a", "ecdsa-p256")})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"The key of root: an ECDSA key on P-256, made now, where it stays: in the token as root.",
		"The key of 2026-a: an ECDSA key on P-256, it was there before: in the token as a.",
	}
	if got := strings.Join(result.Keys, "\n"); k.made != 1 || got != strings.Join(want, "\n") {
		t.Errorf("%d keys were made: %s", k.made, got)
	}
}
