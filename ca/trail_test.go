// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/test/testca"
)

// audited returns an audit log, and what reads all its records.
func audited(t *testing.T) (log *audit.Log, records func() []audit.Record) {
	t.Helper()
	dir := t.TempDir()
	log, err := audit.Open(audit.Config{Dir: dir, Claims: []string{"team"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return log, func() (all []audit.Record) {
		if err := audit.Search(t.Context(), dir, audit.Query{}, func(r *audit.Record, _ []byte) error {
			all = append(all, *r)
			return nil
		}); err != nil {
			t.Error(err)
		}
		return all
	}
}

func same(t *testing.T, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func sum(b []byte) string {
	digest := sha256.Sum256(b)
	return hex.EncodeToString(digest[:])
}

// The records of a certificate have what its token, its log entry and itself have.
func TestAuditedIssuance(t *testing.T) {
	t.Parallel()
	log, records := audited(t)
	w := testca.New(t, testca.Builder{Audit: log})
	req := w.Request(t, w.Token(t, map[string]any{"team": 7, "jti": "token-1", "other": "unlisted"}), person)
	issued, err := w.Issue(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(issued.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := w.Log.Entries()
	if err != nil {
		t.Fatal(err)
	}
	pre, err := x509.ParseCertificate(entries[0].Cert.Data)
	if err != nil {
		t.Fatal(err)
	}
	all := records()
	if len(all) != 2 {
		t.Fatalf("the records are %+v", all)
	}
	intent, outcome := all[0], all[1]
	want := audit.Record{
		Sequence: 1, Time: intent.Time, Previous: intent.Previous, Kind: audit.KindIntent, RequestID: "test", IssuerURL: w.Provider.IssuerURL(), Identity: person,
		Subject: "subject-1", Token: sum([]byte(req.IDToken)), TokenID: "token-1", Key: sum(leaf.RawSubjectPublicKeyInfo),
		Claims: map[string]string{"team": "7"}, Serial: hex.EncodeToString(leaf.SerialNumber.Bytes()), TBS: sum(pre.RawTBSCertificate), Authority: "test",
	}
	same(t, want, intent)
	want = audit.Record{
		Sequence: 2, Time: outcome.Time, Previous: outcome.Previous, Kind: audit.KindOutcome, Intent: 1, Reason: audit.ReasonOK, RequestID: "test",
		IssuerURL: w.Provider.IssuerURL(), Identity: person, Serial: intent.Serial, Certificate: sum(issued.Certificate),
		LogID: outcome.LogID, SCTTime: outcome.SCTTime, LeafIndex: outcome.LeafIndex,
	}
	if at := ctlog.Time(entries[0].Leaf.TimestampedEntry.Timestamp); len(outcome.LogID) != 64 || !outcome.SCTTime.Equal(at) {
		t.Errorf("the SCT is of log %q at %s, want %s", outcome.LogID, outcome.SCTTime, at)
	}
	same(t, want, outcome)
}

// When the CA's key signs for the first time, the intent is durable already.
func TestIntentComesFirst(t *testing.T) {
	t.Parallel()
	log, records := audited(t)
	var seen []int
	w := testca.New(t, testca.Builder{Audit: log, Wrap: hooked(func(digest []byte) ([]byte, error) {
		seen = append(seen, len(records()))
		return digest, nil
	})})
	if _, err := w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person)); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(seen, []int{1, 1}) || len(records()) != 2 {
		t.Errorf("at the signatures there were %v records", seen)
	}
}

// A refusal has a record only after its token was verified: a denial before the intent, and then an outcome.
func TestAuditedRefusals(t *testing.T) {
	t.Parallel()
	log, records := audited(t)
	w := testca.New(t, testca.Builder{Audit: log})
	_, err := w.Issue(t.Context(), w.Request(t, w.Token(t, map[string]any{"exp": 1}), person))
	refused(t, err, refusal.TokenExpired)
	_, err = w.Issue(t.Context(), w.Request(t, w.Token(t, map[string]any{"email_verified": false}), person))
	refused(t, err, refusal.EmailUnverified)
	_, err = w.Issue(t.Context(), w.Request(t, w.Token(t, nil), "another challenge"))
	refused(t, err, refusal.ProofInvalid)
	w.Log.Fail(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.WriteHeader(http.StatusInternalServerError)
		return true
	})
	_, err = w.Issue(t.Context(), w.Request(t, w.Token(t, nil), person))
	refused(t, err, refusal.CTUnavailable)
	ctx, cancel := context.WithCancel(t.Context())
	w.Log.Fail(func(http.ResponseWriter, *http.Request) bool { cancel(); return true })
	if _, err = w.Issue(ctx, w.Request(t, w.Token(t, nil), person)); err == nil {
		t.Error("a certificate without an SCT")
	}
	var got [][2]string
	deadline := time.Now().Add(10 * time.Second)
	for len(got) < 6 && time.Now().Before(deadline) { // the last one is not waited for
		got = nil
		for _, r := range records() {
			got = append(got, [2]string{r.Kind, r.Reason})
		}
	}
	same(t, [][2]string{
		{audit.KindDenial, "EMAIL_UNVERIFIED"}, {audit.KindDenial, "PROOF_INVALID"},
		{audit.KindIntent, ""}, {audit.KindOutcome, "CT_UNAVAILABLE"}, {audit.KindIntent, ""}, {audit.KindOutcome, "CANCELED"},
	}, got)
}
