// SPDX-License-Identifier: Apache-2.0

// Package certs is the X.509 vocabulary of mayfly, without policy. It holds the one table of
// sigstore's certificate extensions, the three kinds of subject alternative name, and the assembly
// of the TBSCertificate. The precertificate and the certificate are spliced from that
// TBSCertificate.
//
// Packages identity and ca decide what a certificate contains. Package certs only encodes it, and
// refuses everything that does not read back the same. Packages identity, ctlog, ca, server and
// app may import certs. It imports no other package of mayfly.
package certs

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"
)

// Object identifiers that other packages compare extensions with. No package may write to them.
var (
	// OIDSubjectAltName is id-ce-subjectAltName (RFC 5280, section 4.2.1.6).
	OIDSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	// OIDSigstore is the arc of sigstore's extensions, .1 to .24.
	OIDSigstore = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1}
	// OIDUserName is the type of the otherName that holds "user!domain".
	OIDUserName = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 7}
	// OIDPoison marks a precertificate (RFC 6962, section 3.1).
	OIDPoison = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	// OIDSCTList is the extension that holds embedded SCTs (RFC 6962, section 3.3).
	OIDSCTList = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
)

// checkText returns why a certificate cannot hold s; nil if it can. s must be non-empty UTF-8, or
// ASCII for an IA5String, without control characters, C0 and C1 alike: verifiers show the text on
// terminals and compare it.
func checkText(s string, ascii bool) error {
	if s == "" {
		return errors.New("is empty")
	}
	if !utf8.ValidString(s) {
		return errors.New("is not UTF-8")
	}
	for i, r := range s {
		if unicode.IsControl(r) {
			return fmt.Errorf("holds the control character %U at byte %d", r, i)
		}
		if ascii && r >= utf8.RuneSelf {
			return fmt.Errorf("holds a character beyond ASCII at byte %d", i)
		}
	}
	return nil
}

// CodeSigning returns the options by which a client verifies a certificate for code signing at a time,
// below a chain whose last certificate it trusts.
func CodeSigning(chain []*x509.Certificate, at time.Time) x509.VerifyOptions {
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	options.Roots.AddCert(chain[len(chain)-1])
	for _, c := range chain[:len(chain)-1] {
		options.Intermediates.AddCert(c)
	}
	return options
}
