// SPDX-License-Identifier: Apache-2.0

package app

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/ca/ceremony"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/trustroot"
)

// A running server stops at the reload, and the window in trusted_root.json stops at that second.
func TestServerTakesACompromise(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	made, err := ceremony.Init(ceremony.InitConfig{Dir: filepath.Join(t.TempDir(), "ca"), Algorithm: "ecdsa-p256", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(24 * time.Hour)
	registry := prometheus.NewRegistry()
	r, err := newCASet(t.Context(), &config.Server{CA: config.CA{Set: made.SetFile}}, Options{Now: func() time.Time { return now }}, slog.New(slog.DiscardHandler), registry)
	if err != nil {
		t.Fatal(err)
	}
	stolen := now.Add(-time.Hour)
	if _, err := (set.Editor{Path: made.SetFile, Now: now, Ring: keyring.New(keyring.Config{})}).Compromise(t.Context(), made.AuthorityID, stolen); err != nil {
		t.Fatal(err)
	}
	if err := r.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	set := r.current.Load()
	if _, err := set.Active(now); err == nil || len(set.TrustBundle(now)) != 0 {
		t.Errorf("it signs on, or is in the trust bundle (%v)", err)
	}
	for _, m := range set.Members() {
		if m.Authority != nil {
			t.Errorf("the key of %q is open", m.ID)
		}
	}
	text, err := completeInstance(trustroot.Instance{PublicURL: "https://ca.example"}, set.Windows(now), nil).TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	var root struct {
		CertificateAuthorities []struct{ ValidFor struct{ End time.Time } }
	}
	if err := json.Unmarshal(text, &root); err != nil || len(root.CertificateAuthorities) != 1 || !root.CertificateAuthorities[0].ValidFor.End.Equal(stolen) {
		t.Errorf("trusted_root.json is (%v)\n%s", err, text)
	}
}

// A server starts with a set if its only authority was compromised before it signed. trusted_root.json
// then has no authority, and the next edit of the set takes effect without a restart.
func TestServerStartsWithoutATrustedAuthority(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	made, err := ceremony.Init(ceremony.InitConfig{Dir: filepath.Join(dir, "ca"), Algorithm: "ecdsa-p256", Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(time.Minute)
	if _, err := (set.Editor{Path: made.SetFile, Now: now, Ring: keyring.New(keyring.Config{})}).Compromise(t.Context(), made.AuthorityID, now.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"issuers.yaml": "oidc-issuers:\n  https://a.example: {issuer-url: https://a.example, client-id: sigstore, type: email}\n",
		"mayfly.yaml":  "public_url: https://ca.example\nissuers: issuers.yaml\nca: {set: ca/ca.yaml}\nct: {disabled: true}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	built, err := Build(t.Context(), Options{ConfigFile: filepath.Join(dir, "mayfly.yaml"), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	if err := built.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// The signing process tolerates the skew of a server's clock at a retirement, and not at a
// compromise.
func TestSignerAllowsNoSkewAtACompromise(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	made, err := ceremony.Init(ceremony.InitConfig{Dir: filepath.Join(t.TempDir(), "ca"), Algorithm: "ecdsa-p256", Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := set.Read(set.Source{Path: made.SetFile}, now)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	for compromised, want := range map[bool]bool{false: true, true: false} {
		m := loaded.Set.Members()[0]
		if m.RetireAt = now.Add(-time.Second); compromised {
			m.CompromisedAt = m.RetireAt
		}
		set, err := set.New(2, []set.Member{m})
		if err != nil {
			t.Fatal(err)
		}
		if got := (&signing{}).activeAbout(set.Members()[0], now); got != want {
			t.Errorf("compromised %t: signs %t, want %t", compromised, got, want)
		}
	}
}
