// SPDX-License-Identifier: Apache-2.0

package testca

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/ctutil"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"

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
		if serial := string(leaf.SerialNumber.Bytes()); serials[serial] || len(serial) != 20 {
			tb.Errorf("serial number %x is there twice, or is not 20 bytes", serial)
		} else {
			serials[serial] = true
		}
		w.proveChain(tb, leaf, issued)
		if !issued.SCTEmbedded {
			continue
		}
		log := w.proveSCT(tb, leaf, issued)
		precertificate, ok := logged[log][leaf.SerialNumber.String()]
		if !ok {
			tb.Errorf("certificate %x is not in the log whose SCT it has", leaf.SerialNumber)
			continue
		}
		pre, err := x509.ParseCertificate(precertificate)
		if err == nil {
			err = correspond.Check(pre.RawTBSCertificate, leaf.RawTBSCertificate)
		}
		if err != nil {
			tb.Errorf("certificate %x and the precertificate in the log: %v", leaf.SerialNumber, err)
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
	} else if san.Kind == certs.SANUserName {
		// crypto/x509 does not support otherName; this package has just read the extension.
		leaf.UnhandledCriticalExtensions = nil
	}
	for _, at := range []time.Time{leaf.NotBefore, leaf.NotAfter} {
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: intermediates, CurrentTime: at,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		})
		if err != nil {
			tb.Errorf("certificate %x at %s: %v", leaf.SerialNumber, at, err)
		}
	}
}

// proveSCT verifies the one embedded SCT with certificate-transparency-go, and returns the log
// that signed it.
func (w *World) proveSCT(tb testing.TB, leaf *x509.Certificate, issued *ca.Issued) *testlog.Log {
	var chain []*ctx509.Certificate
	for _, der := range append([][]byte{issued.Certificate}, issued.Chain.DER...) {
		c, err := ctx509.ParseCertificate(der)
		if ctx509.IsFatal(err) {
			tb.Errorf("certificate-transparency-go does not parse %x: %v", leaf.SerialNumber, err)
			return nil
		}
		chain = append(chain, c)
	}
	scts, err := x509util.ParseSCTsFromSCTList(&chain[0].SCTList)
	if err != nil || len(scts) != 1 {
		tb.Errorf("certificate %x has %d SCTs (%v), want 1", leaf.SerialNumber, len(scts), err)
		return nil
	}
	for _, log := range w.Logs {
		block, _ := pem.Decode(log.PublicKeyPEM())
		if sha256.Sum256(block.Bytes) != scts[0].LogID.KeyID {
			continue
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			tb.Error(err)
		} else if err := ctutil.VerifySCT(key, chain, scts[0], true); err != nil {
			tb.Errorf("certificate-transparency-go refuses the SCT of %x: %v", leaf.SerialNumber, err)
		}
		return log
	}
	tb.Errorf("the SCT of certificate %x is of an unknown log %x", leaf.SerialNumber, scts[0].LogID.KeyID)
	return nil
}

// precertificates returns the log's entries, by serial number. Every entry must chain up to
// the root: a log only holds entries of this CA.
func precertificates(tb testing.TB, log *testlog.Log) map[string][]byte {
	entries, err := log.Entries()
	if err != nil {
		tb.Errorf("reading the log: %v", err)
		return nil
	}
	found := make(map[string][]byte)
	for _, raw := range entries {
		if raw.Leaf.TimestampedEntry.EntryType != ct.PrecertLogEntryType {
			continue
		}
		der := raw.Cert.Data
		c, err := x509.ParseCertificate(der)
		if err != nil {
			tb.Errorf("parsing a logged precertificate: %v", err)
			continue
		}
		if found[c.SerialNumber.String()] != nil && !bytes.Equal(found[c.SerialNumber.String()], der) {
			tb.Errorf("two precertificates have the serial number %x", c.SerialNumber)
		}
		found[c.SerialNumber.String()] = der
	}
	return found
}
