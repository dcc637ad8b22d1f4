// SPDX-License-Identifier: Apache-2.0

package app_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/app"
	"github.com/mayfly-ca/mayfly/app/keyring"
	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/ca/set"
	"github.com/mayfly-ca/mayfly/config"
	"github.com/mayfly-ca/mayfly/internal/client"
	"github.com/mayfly-ca/mayfly/test/testworld"
)

func auditRecords(t *testing.T, dir string, q audit.Query) (all []audit.Record) {
	t.Helper()
	must(0, audit.Search(t.Context(), dir, q, func(r *audit.Record, _ []byte) error {
		all = append(all, *r)
		return nil
	}))(t)
	return all
}

// wholeAudit verifies an audit log, which must have no finding.
func wholeAudit(t *testing.T, dir string, heads ...string) *audit.Report {
	t.Helper()
	r := must(audit.Verify(t.Context(), dir, heads))(t)
	if r.Broken > 0 || len(r.Found) != len(heads) {
		t.Errorf("%+v", r)
	}
	return r
}

// serveOnce runs a server until its stop is called.
func serveOnce(t *testing.T, options app.Options) (r *running, stop func()) {
	t.Helper()
	r = &running{log: &buffer{}}
	options.LogOutput = r.log
	built := must(app.Build(t.Context(), options.Quick()))(t)
	listeners := must(built.Listen())(t)
	r.rest, r.ops = "http://"+listeners.HTTP.Addr().String(), "http://"+listeners.Ops.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- built.Run(ctx, listeners) }()
	return r, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	}
}

// The audit log has what the operator does: the start with the files, reloads, the rotation by the clock
// and the shutdown. The ordinary log has its head at the end.
func TestAuditedOperation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withSet, withAudit, edited("mayfly.yaml", "level: error", "level: info"))
	var offset atomic.Int64
	r, stop := serveOnce(t, app.Options{ConfigFile: w.ConfigFile, Version: "v1", Now: func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }})
	r.World = w
	r.certify(t)
	rewritten("issuers.yaml", func(text string) string { return text + "# a comment\n" })(t, w)
	r.awaitGeneration(t, 2)
	made := must(testworld.NewAuthority(filepath.Join(w.Dir, "ca"), "next", time.Now()))(t)
	editor := set.Editor{Path: path(w, "ca/ca.yaml"), Now: time.Now(), Lead: set.PublicationLead, Ring: keyring.New(keyring.Config{})}
	must(editor.Add(t.Context(), config.CASetAuthority{
		ID: "next", Chain: made.ChainFile, Signer: config.Signer{File: &config.SignerFile{Key: made.KeyFile, PasswordFile: made.PasswordFile}},
	}, nil))(t)
	activated := must(editor.Activate(t.Context(), "next", time.Time{}))(t)
	await(t, "the set", func() bool { return r.metric(t, "mayfly_ca_set_generation") == float64(activated.Set.Generation()) })
	offset.Store(int64(time.Until(activated.Member.ActivateAt) + time.Minute))
	await(t, "the rotation", func() bool { return strings.Contains(r.log.String(), "authority=next") })
	stop()
	dir := filepath.Join(w.Dir, "audit")
	text := r.log.String()
	_, head, _ := strings.Cut(text[strings.LastIndex(text, `audit head`):], "audit_hash=")
	report := wholeAudit(t, dir, strings.TrimSpace(strings.SplitN(head, "\n", 2)[0]))
	want := map[string]uint64{audit.KindStart: 1, audit.KindIntent: 1, audit.KindOutcome: 1, audit.KindReload: 2, audit.KindRotation: 1, audit.KindShutdown: 1}
	if report.Kinds[audit.KindReload] == 3 { // the watcher has seen the set between two edits
		want[audit.KindReload]++
	}
	if diff := cmp.Diff(want, report.Kinds); diff != "" {
		t.Errorf("the records (-want +got):\n%s", diff)
	}
	start := auditRecords(t, dir, audit.Query{Kind: audit.KindStart})[0]
	if start.Version != "v1" || start.PID != os.Getpid() || start.Host == "" || start.Authority == "" || start.ConfigGeneration != 1 || start.CAGeneration == 0 || len(start.Files) != 3 {
		t.Errorf("%+v", start)
	}
	if got := auditRecords(t, dir, audit.Query{Kind: audit.KindRotation})[0]; got.Authority != "next" || got.CAGeneration != activated.Set.Generation() {
		t.Errorf("%+v", got)
	}
	if got := auditRecords(t, dir, audit.Query{Kind: audit.KindReload})[0]; got.ConfigGeneration != 2 || got.Files["issuers"] == "" || got.Files["issuers"] == start.Files["issuers"] {
		t.Errorf("%+v", got)
	}
}

// Without its directory the server issues nothing, is not ready and says why; it continues by itself.
func TestNoCertificateWithoutAudit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withAudit)
	r := start(t, w)
	r.certify(t)
	dir := filepath.Join(w.Dir, "audit")
	must(0, os.Rename(dir, dir+".aside"))(t)
	wantReason(t, r, nil, "AUDIT_UNAVAILABLE")
	await(t, "the check", func() bool { return strings.Contains(fetch(t, r.ops+"/readyz?verbose"), "not writable since") })
	if response := must(http.Get(r.rest + "/readyz"))(t); response.StatusCode != http.StatusServiceUnavailable || r.metric(t, "mayfly_audit_writable") != 0 || r.metric(t, "mayfly_audit_failures_total") == 0 {
		t.Errorf("ready with %s", response.Status)
	}
	must(0, os.Rename(dir+".aside", dir))(t)
	await(t, "the audit log", func() bool { return r.metric(t, "mayfly_audit_writable") == 1 })
	r.certify(t)
	await(t, "readiness", func() bool { return strings.Contains(fetch(t, r.ops+"/readyz"), `"SERVING"`) })
	report := wholeAudit(t, dir)
	if report.Kinds[audit.KindIntent] != 2 || report.Kinds[audit.KindOutcome] != 2 || report.Kinds[audit.KindRecovery] != 1 {
		t.Errorf("%+v", report)
	}
	if got := r.metric(t, "mayfly_audit_sequence"); got != float64(report.Head.Sequence) {
		t.Errorf("mayfly_audit_sequence is %v, want %d", got, report.Head.Sequence)
	}
}

// A second server with the same directory does not start, and neither does one with a mistake in `audit`. A
// check finds the same mistakes and creates nothing.
func TestAuditSettings(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, key, want string }{
		"hmac without a key":       {"audit: {dir: audit, identity: hmac}", "", "hmac_key_file"},
		"hmac, and another one":    {"audit: {dir: audit, identity: hmac, max_age: 1s}", "", "hmac_key_file"},
		"a key that is missing":    {"audit: {dir: audit, identity: hmac, hmac_key_file: k}", "", "reading the key"},
		"a short key":              {"audit: {dir: audit, identity: hmac, hmac_key_file: k}", "short", "5 bytes"},
		"a key for plain":          {"audit: {dir: audit, hmac_key_file: k}", strings.Repeat("k", 32), "for identity: hmac only"},
		"no directory":             {"audit: {identity: plain}", "", "dir is missing"},
		"an unknown identity":      {"audit: {dir: audit, identity: hash}", "", "plain, hmac"},
		"a size without a unit":    {"audit: {dir: audit, max_size: 100}", "", "size with its unit"},
		"a size that is too small": {"audit: {dir: audit, max_size: 1KiB}", "", "1MiB to 1GiB"},
		"an age":                   {"audit: {dir: audit, max_age: 1s}", "", "1m"},
		"an unknown key":           {"audit: {dir: audit, size: 1MiB}", "", "unknown key"},
	} {
		w := newWorld(t, setting(test.text))
		if test.key != "" {
			written("k", test.key)(t, w)
		}
		_, err := app.Build(t.Context(), app.Options{ConfigFile: w.ConfigFile})
		report := must(app.Check(t.Context(), app.CheckOptions{File: w.ConfigFile}))(t)
		checked := errors.Join(report.Mistakes...)
		for _, got := range []error{err, checked} {
			if got == nil || !strings.Contains(got.Error(), test.want) || !strings.Contains(got.Error(), "mayfly.yaml:") {
				t.Errorf("%s: %v, want %q with its place", name, got, test.want)
			}
		}
		if _, err := os.Stat(filepath.Join(w.Dir, "audit")); err == nil {
			t.Errorf("%s: the directory was created", name)
		}
	}
	w := newWorld(t, withAudit)
	if report := must(app.Check(t.Context(), app.CheckOptions{File: w.ConfigFile}))(t); len(report.Mistakes) > 0 {
		t.Error(report.Mistakes)
	}
	if _, err := os.Stat(filepath.Join(w.Dir, "audit")); err == nil {
		t.Error("a check has created the directory")
	}
	start(t, w)
	if _, err := app.Build(t.Context(), app.Options{ConfigFile: w.ConfigFile}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second server starts: %v", err)
	}
}

// Without `audit`, a server warns once at its start.
func TestNoAuditIsAWarning(t *testing.T) {
	t.Parallel()
	w := newWorld(t, edited("mayfly.yaml", "level: error", "level: warn"))
	r := start(t, w)
	if n := strings.Count(r.log.String(), "there is no audit log"); n != 1 {
		t.Errorf("%d warnings", n)
	}
}

// No output of a server has a token or a part of one, a proof, a private key, or the key of keyed hashes, and
// the audit log with identity: hmac has no name.
func TestAuditHasNoSecrets(t *testing.T) {
	t.Parallel()
	key := strings.Repeat("0123456789abcdef", 4)
	w := newWorld(t, setting("audit: {dir: audit, identity: hmac, hmac_key_file: k, claims: [team]}"), written("k", key+"\n"), edited("mayfly.yaml", "level: error", "level: debug"))
	r, stop := serveOnce(t, app.Options{ConfigFile: w.ConfigFile})
	secrets := []string{key}
	c := must(client.New(client.Config{URL: r.rest}))(t)
	for _, claims := range []map[string]any{{}, {"email_verified": false}, {"aud": "other"}, {"exp": 1}} {
		all := map[string]any{"aud": "sigstore", "sub": "person-1", "email": "person@example.com", "email_verified": true, "team": "blue", "jti": "token-1"}
		for name, value := range claims {
			all[name] = value
		}
		token := must(w.Provider.Mint(all))(t)
		signer := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
		_, err := c.SigningCertificate(t.Context(), client.Request{IDToken: token, Signer: signer})
		forged := token[:len(token)-8] + "AAAAAAAA"
		_, errForged := c.SigningCertificate(t.Context(), client.Request{IDToken: forged, Signer: signer})
		if (err == nil) != (len(claims) == 0) || errForged == nil {
			t.Errorf("%v: %v, %v", claims, err, errForged)
		}
		parts := strings.Split(token, ".")
		raw := must(base64.RawURLEncoding.DecodeString(parts[2]))(t)
		secrets = append(secrets, token, forged, parts[0], parts[1], parts[2], base64.StdEncoding.EncodeToString(raw), string(must(signer.Bytes())(t)))
	}
	pages := fetch(t, r.ops+"/metrics") + fetch(t, r.ops+"/readyz?verbose")
	stop()
	dir := filepath.Join(w.Dir, "audit")
	var files []byte
	for _, name := range must(filepath.Glob(dir + "/*"))(t) {
		files = append(files, must(os.ReadFile(name))(t)...)
	}
	for _, secret := range secrets {
		if bytes.Contains(files, []byte(secret)) || strings.Contains(r.log.String()+pages, secret) {
			t.Errorf("an output has %.40q", secret)
		}
	}
	for _, name := range []string{"person@example.com", "person-1"} {
		if bytes.Contains(files, []byte(name)) {
			t.Errorf("the audit log has %s", name)
		}
	}
	if !bytes.Contains(files, []byte("blue")) || !strings.Contains(r.log.String(), "person@example.com") {
		t.Error("the search would find nothing")
	}
	if got := auditRecords(t, dir, audit.Query{Identity: "person@example.com", Key: []byte(key)}); len(got) != 2 {
		t.Errorf("the key finds %+v", got)
	}
	refusals := auditRecords(t, dir, audit.Query{Kind: audit.KindRefusals})
	if len(refusals) != 1 || refusals[0].Refused["TOKEN_EXPIRED"] != 2 || refusals[0].Refused["AUDIENCE_MISMATCH"] != 2 || refusals[0].Refused["EMAIL_UNVERIFIED"] != 0 {
		t.Errorf("%+v", refusals)
	}
}
