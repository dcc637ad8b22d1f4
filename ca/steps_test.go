// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"crypto/x509"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/internal/refusal"
	"github.com/mayfly-ca/mayfly/test/testca"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// Issue notes each step that it begins: the last one is the one that failed, or the last signature.
// The steps follow each other without a gap.
func TestSteps(t *testing.T) {
	t.Parallel()
	const all = "token identity proof draft precertificate log certificate"
	short := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(9 * time.Minute).Truncate(time.Second) }
	log, _ := audited(t)
	down := testlog.Down(http.StatusInternalServerError)
	for name, test := range map[string]struct {
		builder testca.Builder
		claims  map[string]any
		proof   string
		reason  refusal.Reason
		want    string
	}{
		"a certificate": {proof: person, want: all},
		"audited":       {builder: testca.Builder{Audit: log}, proof: person, want: "token identity proof draft intent precertificate log certificate outcome"},
		"without a log": {builder: testca.Builder{CTDisabled: true}, proof: person, want: "token identity proof draft certificate"},
		"a wrong token": {claims: map[string]any{"aud": "other"}, proof: person, reason: refusal.AudienceMismatch, want: "token"},
		"no name":       {claims: map[string]any{"email_verified": false}, proof: person, reason: refusal.EmailUnverified, want: "token identity"},
		"a wrong proof": {proof: "other", reason: refusal.ProofInvalid, want: "token identity proof"},
		"a log is down": {builder: testca.Builder{Budget: 300 * time.Millisecond}, proof: person, reason: refusal.CTUnavailable, want: "token identity proof draft precertificate log"},
		"a short chain": {builder: testca.Builder{Issuing: short}, proof: person, reason: refusal.CAExpiring, want: "token identity proof draft"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := testca.New(t, test.builder)
			if test.reason == refusal.CTUnavailable {
				w.Log.Fail(down)
			}
			var steps ca.Steps
			req := w.Request(t, w.Token(t, test.claims), test.proof)
			req.Steps = &steps
			_, err := w.Issue(t.Context(), req)
			steps.End()
			if test.reason != "" {
				refused(t, err, test.reason)
			} else if err != nil {
				t.Fatal(err)
			}
			var got []string
			var next time.Time
			steps.Each(func(step ca.Step, begin, end time.Time) {
				if end.Before(begin) || !next.IsZero() && !end.Equal(next) {
					t.Errorf("step %s is from %s to %s, and the next one begins at %s", step, begin, end, next)
				}
				next = begin
				got = append([]string{step.String()}, got...)
			})
			if strings.Join(got, " ") != test.want {
				t.Errorf("the steps are %q, want %q", got, test.want)
			}
			authority, log := steps.Signed()
			if signed := slices.Contains(got, "precertificate") || slices.Contains(got, "certificate"); signed != (authority != "") {
				t.Errorf("the authority is %q after the steps %q", authority, got)
			}
			if logged := slices.Contains(got, "certificate") && !test.builder.CTDisabled; logged != (log != "") {
				t.Errorf("the log is %q after the steps %q", log, got)
			}
		})
	}
}
