// SPDX-License-Identifier: Apache-2.0

package testca

import (
	"bytes"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"

	"github.com/mayfly-ca/mayfly/ca"
	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/certs/correspond"
	"github.com/mayfly-ca/mayfly/test/testlog"
)

// prove proves every invariant again for every issued certificate.
func (w *World) prove(tb testing.TB) {
	w.mu.Lock()
	defer w.mu.Unlock()
	serials := make(map[string]bool)
	logged := make(map[*testlog.Log]map[string][]byte)
	for _, log := range w.Logs {
		logged[log] = precertificates(tb, log)
	}
	for _, issued := range w.issued {
		leaf, err := x509.ParseCertificate(issued.Certificate)
		if err != nil {
			tb.Errorf("parsing an issued certificate: %v", err)
			continue
		}
		serial := leaf.SerialNumber.String()
		if serials[serial] || len(leaf.SerialNumber.Bytes()) != 20 {
			tb.Errorf("serial number %s is there twice, or is not 20 bytes", serial)
		}
		serials[serial] = true
		w.proveChain(tb, leaf, issued)
		if !issued.SCTEmbedded {
			continue
		}
		i := slices.IndexFunc(w.Logs, func(log *testlog.Log) bool {
			err = testlog.VerifySCT(log.PublicKeyPEM(), append([][]byte{issued.Certificate}, issued.Chain.DER...))
			return err == nil
		})
		if i < 0 {
			tb.Errorf("certificate %s has no SCT by a log of this world: %v", serial, err)
			continue
		}
		pre, err := x509.ParseCertificate(logged[w.Logs[i]][serial])
		if err == nil {
			err = correspond.Check(pre.RawTBSCertificate, leaf.RawTBSCertificate)
		}
		if err != nil {
			tb.Errorf("certificate %s, and its precertificate in the log whose SCT it has: %v", serial, err)
		}
	}
}

// proveChain verifies as a client does: to the root, for code signing, within the validity.
func (w *World) proveChain(tb testing.TB, leaf *x509.Certificate, issued *ca.Issued) {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(w.root)
	for _, c := range issued.Chain.Certificates {
		intermediates.AddCert(c)
	}
	if san, err := certs.SANOf(leaf); err != nil || san != issued.SAN {
		tb.Errorf("certificate %x names %v (%v), want %v", leaf.SerialNumber, san, err, issued.SAN)
	}
	for _, at := range []time.Time{leaf.NotBefore, leaf.NotAfter} {
		if _, err := leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		}); err != nil {
			tb.Errorf("certificate %x at %s: %v", leaf.SerialNumber, at, err)
		}
	}
}

// precertificates returns the log's precertificates, by serial number.
func precertificates(tb testing.TB, log *testlog.Log) map[string][]byte {
	entries, err := log.Entries()
	if err != nil {
		tb.Errorf("reading the log: %v", err)
	}
	found := make(map[string][]byte)
	for _, raw := range entries {
		if raw.Leaf.TimestampedEntry.EntryType != ct.PrecertLogEntryType {
			continue
		}
		c, err := x509.ParseCertificate(raw.Cert.Data)
		if err != nil {
			tb.Errorf("parsing a logged precertificate: %v", err)
			continue
		}
		serial := c.SerialNumber.String()
		if found[serial] != nil && !bytes.Equal(found[serial], c.Raw) {
			tb.Errorf("two precertificates have the serial number %s", serial)
		}
		found[serial] = c.Raw
	}
	return found
}
