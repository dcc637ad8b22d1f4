// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/ca/signer/file"
	"github.com/mayfly-ca/mayfly/config"
)

// keyWorld is a CA set of files, and a server's view of it.
type keyWorld struct {
	t           *testing.T
	made        *ceremony.Result
	now         time.Time
	log         bytes.Buffer
	registry    *prometheus.Registry
	authorities *caSet
}

func newKeyWorld(t *testing.T) *keyWorld {
	t.Helper()
	w := &keyWorld{t: t, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	var err error
	w.made, err = ceremony.Init(ceremony.InitConfig{Dir: filepath.Join(t.TempDir(), "ca"), Algorithm: "ecdsa-p256", Now: func() time.Time { return w.now }})
	w.must(err)
	return w
}

func (w *keyWorld) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// start loads the set as a server that starts.
func (w *keyWorld) start() (err error) {
	w.registry = prometheus.NewRegistry()
	w.authorities, err = newCASet(w.t.Context(), &config.Server{CA: config.CA{Set: w.made.SetFile}}, Options{Now: func() time.Time { return w.now }},
		slog.New(slog.NewTextHandler(&w.log, nil)), w.registry)
	return err
}

func (w *keyWorld) editor() set.Editor {
	return set.Editor{Path: w.made.SetFile, Now: w.now, Lead: 1, Ring: keyring.New(keyring.Config{})}
}

// add adds an authority that begins to sign after the given time, and returns its key's file.
func (w *keyWorld) add(id string, after time.Duration) (keyFile string) {
	w.t.Helper()
	root, _, err := file.Open(filepath.Join(w.made.RootDir, "key.pem"), filepath.Join(w.made.RootDir, "pass"))
	w.must(err)
	made, err := ceremony.NewAuthority(ceremony.AuthorityConfig{
		Dir:                filepath.Join(filepath.Dir(w.made.SetFile), id),
		PlannedCertificate: ceremony.PlannedCertificate{Subject: ceremony.Subject{CommonName: id, Organization: "o"}, Algorithm: "ecdsa-p256", NotBefore: w.now},
		Parent:             ceremony.Parent{Chain: []*x509.Certificate{w.made.Root}, Signer: root},
	})
	w.must(err)
	entry := config.CASetAuthority{ID: id, Chain: made.ChainFile, Signer: config.Signer{File: &config.SignerFile{Key: made.KeyFile, PasswordFile: made.PasswordFile}}, ActivateAt: w.now.Add(after)}
	_, err = w.editor().Add(w.t.Context(), entry)
	w.must(err)
	return made.KeyFile
}

func (w *keyWorld) reload() error {
	return w.authorities.watcher.Reload()
}

func (w *keyWorld) signs() string {
	w.t.Helper()
	authority, err := w.authorities.current.Load().Active(w.now)
	if err == nil {
		err = authority.Prove(w.t.Context())
	}
	w.must(err)
	return authority.ID()
}

// A server starts beside a failing key that need not sign yet, and reports it. It does not start
// without the key that must sign.
func TestStartBesideABrokenKey(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	w.must(os.Remove(w.add("later", 48*time.Hour)))
	w.must(w.start())
	if got := w.signs(); got != w.made.AuthorityID || !strings.Contains(w.log.String(), `authority \"later\" cannot sign now`) {
		t.Errorf("%s signs, and the log is %s", got, w.log.String())
	}
	w.now = w.now.Add(49 * time.Hour)
	if err := w.start(); err == nil || !strings.Contains(err.Error(), "later/key.pem: no such file") {
		t.Errorf("it starts without the key of the active authority: %v", err)
	}
}

// A set that replaces a lost key is put in force; one that activates a lost key is not.
func TestReloadLeadsAwayFromALostKey(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	w.must(w.start())
	w.must(os.Remove(w.made.KeyFile))
	if err := w.reload(); err == nil || !strings.Contains(err.Error(), "cannot sign now") {
		t.Errorf("the key's file is gone: %v", err)
	}
	if got := w.signs(); got != w.made.AuthorityID {
		t.Errorf("%s signs", got)
	}
	w.add("away", time.Hour)
	if err := w.reload(); err == nil || w.authorities.current.Load().Generation() != 2 {
		t.Errorf("generation %d is in force, and %v is told", w.authorities.current.Load().Generation(), err)
	}
	if got := values(t, w.registry, "mayfly_ca_set_reload_failed"); got[0] != 1 {
		t.Error("it is not told that a key fails")
	}
	if got := w.signs(); got != w.made.AuthorityID {
		t.Errorf("%s signs", got) // with the key that it has in memory
	}
	w.now = w.now.Add(2 * time.Hour)
	if got := w.signs(); got != "away" {
		t.Errorf("%s signs", got)
	}
	if err := w.reload(); err != nil {
		t.Errorf("the key of a retired authority is still missed: %v", err)
	}

	w.must(os.Remove(w.add("next", time.Hour)))
	if err := w.reload(); err == nil || !strings.Contains(err.Error(), "next/key.pem: no such file") || w.authorities.current.Load().Generation() != 2 {
		t.Errorf("a new authority without a key: generation %d, error %v", w.authorities.current.Load().Generation(), err)
	}
	if got := w.signs(); got != "away" {
		t.Errorf("%s signs", got)
	}
}
