// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"encoding/hex"
	"path/filepath"

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

// useAudit makes the server write an audit log.
func (w *world) useAudit(dir string) {
	w.t.Helper()
	w.rewrite("mayfly.yaml", "log: {", "audit: {dir: "+dir+"}\nlog: {")
}

// judgeAudit checks that the audit log is whole, that each certificate that a client has received has its intent
// and its outcome, and that each entry of the world's logs has its intent. The server must have stopped.
func (w *world) judgeAudit(dir string) {
	w.t.Helper()
	report := must(audit.Verify(w.t.Context(), dir, nil))(w.t)
	if report.Broken > 0 {
		w.t.Errorf("the audit log is broken: %s", report.Findings)
	}
	serials := map[string]map[string]bool{audit.KindIntent: {}, audit.KindOutcome: {}}
	if err := audit.Search(w.t.Context(), dir, audit.Query{}, func(r *audit.Record, _ []byte) error {
		if serials[r.Kind] != nil && (r.Kind == audit.KindIntent || r.Reason == audit.ReasonOK) {
			serials[r.Kind][r.Serial] = true
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	certificates, missing := 0, 0
	check := func(kind, text string) {
		c, err := pem.Certificates([]byte(text))
		if err != nil {
			w.t.Fatal(err)
		}
		certificates++
		if serial := hex.EncodeToString(c[0].SerialNumber.FillBytes(make([]byte, 20))); !serials[kind][serial] {
			if missing++; missing <= 3 {
				w.t.Errorf("the certificate %s has no %s in the audit log", serial, kind)
			}
		}
	}
	for _, o := range w.outcomes {
		if certified(o) {
			check(audit.KindIntent, o.chain[0])
			check(audit.KindOutcome, o.chain[0])
		}
	}
	for _, l := range w.logs {
		for _, entry := range must(l.Entries())(w.t) {
			check(audit.KindIntent, string(pem.Encode("CERTIFICATE", entry.Cert.Data)))
		}
	}
	if missing > 0 || certificates == 0 {
		w.t.Errorf("%s: %d of %d certificates have no record", filepath.Base(dir), missing, certificates)
	}
}
