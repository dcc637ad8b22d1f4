// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/ca/signer"
	"github.com/mayfly-ca/mayfly/ca/signer/socket"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/trustroot"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

// setWorld is a CA set of files, and a server's view of it.
type setWorld struct {
	t           *testing.T
	made        *ceremony.Result
	now         time.Time
	log         bytes.Buffer
	registry    *prometheus.Registry
	authorities *caSet
}

func newSetWorld(t *testing.T) *setWorld {
	t.Helper()
	w := &setWorld{t: t, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	var err error
	w.made, err = ceremony.Init(ceremony.InitConfig{Dir: filepath.Join(t.TempDir(), "ca"), Algorithm: "ecdsa-p256", Now: func() time.Time { return w.now }})
	w.must(err)
	return w
}

func (w *setWorld) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// start loads the set as a server that starts.
func (w *setWorld) start() (err error) {
	w.registry = prometheus.NewRegistry()
	logger := slog.New(slog.NewTextHandler(&w.log, nil))
	w.authorities, err = newCASet(w.t.Context(), &config.Server{CA: config.CA{Set: w.made.SetFile}}, Options{Now: func() time.Time { return w.now }}, logger, logger, w.registry)
	return err
}

func (w *setWorld) editor() set.Editor {
	return set.Editor{Path: w.made.SetFile, Now: w.now, Lead: 1, Ring: keyring.New(keyring.Config{})}
}

// add adds an authority that begins to sign after the given time, and returns its key's file.
func (w *setWorld) add(id string, after time.Duration) (keyFile string) {
	w.t.Helper()
	made, err := testworld.NewAuthority(filepath.Dir(w.made.SetFile), id, w.now)
	w.must(err)
	entry := config.CASetAuthority{ID: id, Chain: made.ChainFile, Signer: config.Signer{File: &config.SignerFile{Key: made.KeyFile, PasswordFile: made.PasswordFile}}, ActivateAt: w.now.Add(after)}
	_, err = w.editor().Add(w.t.Context(), entry, nil)
	w.must(err)
	return made.KeyFile
}

// reloaded reloads the set as the watcher does, and requires an error with the text want; "" for none.
func (w *setWorld) reloaded(what, want string) {
	w.t.Helper()
	failed := 0.0
	if want != "" {
		failed = 1
	}
	err := w.authorities.watcher.Reload()
	if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) || w.values("mayfly_ca_set_reload_failed")[0] != failed {
		w.t.Errorf("%s: got error %v, want %q; mayfly_ca_set_reload_failed is %v", what, err, want, w.values("mayfly_ca_set_reload_failed"))
	}
}

// signs requires the authority that signs, and the generation in force.
func (w *setWorld) signs(id string, generation uint64) {
	w.t.Helper()
	current := w.authorities.current.Load()
	authority, err := current.Active(w.now)
	if err == nil {
		err = authority.Prove(w.t.Context())
	}
	if w.must(err); authority.ID() != id || current.Generation() != generation {
		w.t.Errorf("%s signs in generation %d, want %s in %d", authority.ID(), current.Generation(), id, generation)
	}
}

// values are a metric's values, one for each combination of labels.
func (w *setWorld) values(name string) (list []float64) {
	w.t.Helper()
	families, err := w.registry.Gather()
	w.must(err)
	for _, family := range families {
		if family.GetName() == name {
			for _, metric := range family.GetMetric() {
				list = append(list, metric.GetGauge().GetValue())
			}
		}
	}
	return list
}

// Whatever replaces a set's file, the last good set stays in force until a complete and later one
// exists. The error states its place.
func TestReloadKeepsTheLastGoodSet(t *testing.T) {
	t.Parallel()
	w := newSetWorld(t)
	write := func(name, content string) { w.must(os.WriteFile(name, []byte(content), 0o600)) }
	files := map[string]string{}
	for _, name := range []string{w.made.SetFile, w.made.ChainFile, w.made.KeyFile, w.made.PasswordFile} {
		content, err := os.ReadFile(name)
		w.must(err)
		files[name] = string(content)
	}
	set := strings.Replace(files[w.made.SetFile], "generation: 1", "generation: 5", 1)
	later := strings.Replace(set, "generation: 5", "generation: 6", 1)
	files[w.made.SetFile] = set
	write(w.made.SetFile, set)
	w.must(w.start())
	for name, test := range map[string]struct{ file, content, want string }{
		"an older generation":           {w.made.SetFile, strings.Replace(set, "generation: 5", "generation: 4", 1), "ca.yaml:3:13: generation 4 is older than generation 5"},
		"the same with other content":   {w.made.SetFile, set + "    retire_at: 2027-01-01T00:00:00Z\n", "ca.yaml:3:13: the content differs from that of generation 5"},
		"one without what is published": {w.made.SetFile, strings.Replace(later, "publish_at: 2026-11-23T12:00:00Z\n    activate_at: 2026-11-23T12:00:00Z", "publish_at: 2026-11-24T12:00:00Z", 1), "no authority is active"},
		"half a set":                    {w.made.SetFile, set[:len(set)-60], "ca.yaml:"},
		"an empty file":                 {w.made.SetFile, "", "the file is empty"},
		"half a chain":                  {w.made.ChainFile, files[w.made.ChainFile][:500], "chain.pem"},
		"half a key":                    {w.made.KeyFile, files[w.made.KeyFile][:100], "key.pem"},
		"a wrong password":              {w.made.PasswordFile, "something-else\n", "does not open the key"},
	} {
		write(test.file, test.content)
		w.reloaded(name, test.want)
		w.signs(w.made.AuthorityID, 5)
		write(test.file, files[test.file])
	}
	w.reloaded("the set as it was", "")
	write(w.made.SetFile, later+"    retire_at: 2027-01-01T00:00:00Z\n")
	w.reloaded("a later set", "")
	w.signs(w.made.AuthorityID, 6)
	if !strings.Contains(w.log.String(), "nothing signs from 2027-01-01") {
		t.Errorf("the new set's warnings are not in the log: %s", w.log.String())
	}
	got, want := w.values("mayfly_ca_certificate_seconds_to_expiry"), w.made.Intermediate.NotAfter.Sub(w.now).Seconds()
	if len(got) != 2 || !slices.Contains(got, want) {
		t.Errorf("the expiry gauges are %v, want two of which one is %g", got, want)
	}
}

// The files to watch are the set's, also after a set that could not be loaded.
func TestWatchesWhatTheSetNames(t *testing.T) {
	t.Parallel()
	w := newSetWorld(t)
	w.must(w.start())
	keyFile := w.add("next", time.Hour)
	w.must(os.Remove(keyFile))
	w.reloaded("a new authority without a key", "next/key.pem: no such file")
	for _, file := range []string{w.made.SetFile, w.made.ChainFile, w.made.PasswordFile, keyFile} {
		if !slices.Contains(w.authorities.files, file) {
			t.Errorf("%s is not among the watched files %q", file, w.authorities.files)
		}
	}
	w.must(os.WriteFile(w.made.SetFile, nil, 0o600))
	if w.reloaded("an empty set", "the file is empty"); len(w.authorities.files) != 7 {
		t.Errorf("the watched files are %q", w.authorities.files)
	}
}

// A server starts beside a failing key that need not sign yet, and reports it. It does not start
// without the key that must sign.
func TestStartBesideABrokenKey(t *testing.T) {
	t.Parallel()
	w := newSetWorld(t)
	w.must(os.Remove(w.add("later", 48*time.Hour)))
	w.must(w.start())
	if w.signs(w.made.AuthorityID, 2); !strings.Contains(w.log.String(), `authority \"later\" cannot sign now`) {
		t.Errorf("the log is %s", w.log.String())
	}
	w.now = w.now.Add(49 * time.Hour)
	if err := w.start(); err == nil || !strings.Contains(err.Error(), "later/key.pem: no such file") {
		t.Errorf("it starts without the key of the active authority: %v", err)
	}
}

// A set that replaces a lost key is put in force; one that activates a lost key is not.
func TestReloadLeadsAwayFromALostKey(t *testing.T) {
	t.Parallel()
	w := newSetWorld(t)
	w.must(w.start())
	w.must(os.Remove(w.made.KeyFile))
	w.reloaded("the key's file is gone", "cannot sign now")
	w.signs(w.made.AuthorityID, 1)
	w.add("away", time.Hour)
	w.reloaded("a set that leads away", "cannot sign now")
	w.signs(w.made.AuthorityID, 2) // with the key that it has in memory
	w.now = w.now.Add(2 * time.Hour)
	w.signs("away", 2)
	w.reloaded("the lost key has retired", "")
	w.must(os.Remove(w.add("next", time.Hour)))
	w.reloaded("a new authority without a key", "next/key.pem: no such file")
	w.signs("away", 2)
}

// A running server stops at the reload, and the window in trusted_root.json stops at that second.
func TestServerTakesACompromise(t *testing.T) {
	t.Parallel()
	w := newSetWorld(t)
	w.now = w.now.Add(24 * time.Hour)
	w.must(w.start())
	stolen := w.now.Add(-time.Hour)
	_, err := w.editor().Compromise(t.Context(), w.made.AuthorityID, stolen)
	w.must(err)
	w.reloaded("the compromise", "")
	set := w.authorities.current.Load()
	if _, err := set.Active(w.now); err == nil || len(set.TrustBundle(w.now)) != 0 || len(w.authorities.signers()) != 0 {
		t.Errorf("it signs on, or is in the trust bundle, or its key is open (%v)", err)
	}
	text, err := completeInstance(trustroot.Instance{PublicURL: "https://ca.example"}, set.Windows(w.now), nil).TrustedRoot()
	w.must(err)
	var root struct {
		CertificateAuthorities []struct{ ValidFor struct{ End time.Time } }
	}
	if err := json.Unmarshal(text, &root); err != nil || len(root.CertificateAuthorities) != 1 || !root.CertificateAuthorities[0].ValidFor.End.Equal(stolen) {
		t.Errorf("trusted_root.json is (%v)\n%s", err, text)
	}
}

// The signing process tolerates the skew of a server's clock at a retirement, and not at a compromise. It
// signs certificates of the profile and a self-test only, with a key of the set.
func TestSignerAllowsNoSkewAtACompromise(t *testing.T) {
	t.Parallel()
	w := newSetWorld(t)
	w.must(w.start())
	policy, err := ca.NewLeafPolicy(false)
	w.must(err)
	s := &signing{authorities: w.authorities, policy: policy}
	first := w.authorities.current.Load().Members()[0]
	key, err := socket.KeyID(first.Chain.Certificates[0].PublicKey)
	w.must(err)
	w.now = w.now.Add(time.Hour)
	for name, test := range map[string]struct {
		retired, compromised time.Duration // before now; 0 for not at all
		refused              string
	}{
		"active":                 {0, 0, "not a certificate"},
		"retired just now":       {time.Second, 0, "not a certificate"},
		"retired":                {2 * skew, 0, "only the active one signs"},
		"compromised just now":   {0, time.Second, "only the active one signs"},
		"compromised in between": {2 * time.Second, time.Second, "only the active one signs"},
	} {
		m := first
		if test.retired > 0 {
			m.RetireAt = w.now.Add(-test.retired)
		}
		if test.compromised > 0 {
			m.CompromisedAt = w.now.Add(-test.compromised)
		}
		set, err := set.New(2, []set.Member{m})
		w.must(err)
		w.authorities.current.Store(set)
		if _, err := s.sign(t.Context(), key, []byte("not a certificate")); !errors.Is(err, signer.ErrNotPermitted) || strings.Contains(err.Error(), "only the active one") != strings.HasPrefix(test.refused, "only") {
			t.Errorf("%s: got error %v, want %q", name, err, test.refused)
		}
		if _, err := s.sign(t.Context(), key, []byte(signer.SelfTestMessage)); err != nil {
			t.Errorf("%s: the self-test: %v", name, err)
		}
	}
	if _, err := s.sign(t.Context(), [32]byte{}, []byte(signer.SelfTestMessage)); !errors.Is(err, socket.ErrUnknownKey) {
		t.Errorf("an unknown key: %v", err)
	}
}
