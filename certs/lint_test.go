// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
			c, err := zcrypto.ParseCertificate(ca.sign(t, newTBS(t, template).Certificate(oneSCT())))
			if err != nil {
				t.Fatal(err)
			}
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

// TestOpenSSL: where openssl is installed, it parses the certificate as DER.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	ca := newAuthority(t)
	template := ca.template(t)
	template.SAN = SAN{SANUserName, "alice!example.com"}
	file := filepath.Join(t.TempDir(), "leaf.der")
	if err := os.WriteFile(file, ca.sign(t, newTBS(t, template).Certificate(oneSCT())), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), openssl, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("asn1parse", "-inform", "DER", "-in", file)
	text := run("x509", "-inform", "DER", "-in", file, "-noout", "-text")
	for _, want := range []string{
		"Not Before: Mar  1 12:00:00 2026 GMT", "Not After : Mar  1 12:10:00 2026 GMT",
		"Digital Signature", "Code Signing", "value of Issuer",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("openssl does not say %q:\n%s", want, text)
		}
	}
}
