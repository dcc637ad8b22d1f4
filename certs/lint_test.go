// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/rand"
	"testing"

	zcrypto "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

// TestZlint runs zlint over certificates of each kind. The map lists false alarms: these
// certificates name no server.
func TestZlint(t *testing.T) {
	t.Parallel()
	falseAlarms := map[string]bool{
		// Chrome's policy for server certificates requires several SCTs; sigstore's clients require
		// exactly one.
		"w_ct_sct_policy_count_unsatisfied": true,
	}
	ca := newAuthority(t)
	for name, san := range map[string]SAN{
		"email":     {SANEmail, "alice@example.com"},
		"URI":       {SANURI, "https://github.com/owner/repo/.github/workflows/release.yml@refs/tags/v1.0.0"},
		"user name": {SANUserName, "alice!example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			template := ca.template(t)
			template.SAN = san
			tbs := newTBS(t, template).Certificate(oneSCT())
			c := must(zcrypto.ParseCertificate(Assemble(tbs, ca.alg, must(ca.alg.Sign(rand.Reader, ca.key, tbs))(t))))(t)
			results := zlint.LintCertificate(c)
			ran := 0
			for lintName, result := range results.Results {
				if result.Status >= lint.Pass {
					ran++
				}
				if result.Status >= lint.Notice && !falseAlarms[lintName] {
					t.Errorf("%s: %s %s", lintName, result.Status, result.Details)
				}
			}
			if ran < 20 {
				t.Errorf("only %d lints apply", ran)
			}
		})
	}
}

// oneSCT is a list of one well-formed SCT, of no known log.
func oneSCT() []byte {
	sct := make([]byte, 1+32+8) // version, log ID, timestamp
	sct = append(sct, 0, 0, 4, 3, 0, 8)
	sct = append(sct, "\x30\x06\x02\x01\x01\x02\x01\x01"...)
	list := append([]byte{0, byte(len(sct))}, sct...)
	return append([]byte{0, byte(len(list))}, list...)
}
