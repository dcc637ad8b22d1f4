// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/pem"
)

func inspectCommand() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:   "inspect [FILE]",
		Short: "Show whom a certificate names, its extensions and its log entry",
		Long: `Show a certificate of a keyless CA: whom it names, what the ID token said, and the
signed certificate timestamp (SCT) that a log gave for it.

FILE holds one or more PEM certificates, the leaf first; - or no FILE reads standard
input. Nothing is verified: use a signing client to verify.`,
		Example: "  mayfly inspect chain.pem\n  mayfly inspect -o json chain.pem | jq .extensions",
		RunE: func(c *cobra.Command, args []string) error {
			name := append(args, "-")[0]
			data, err := readInput(c.InOrStdin(), name)
			if err != nil {
				return err
			}
			leaf, err := firstCertificate(data)
			var r *report
			if err == nil {
				r, err = inspect(leaf)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if out.json() {
				return printJSON(c.OutOrStdout(), r)
			}
			return r.print(c.OutOrStdout())
		},
	}
	addOutput(c, &out)
	return c
}

func firstCertificate(data []byte) (*x509.Certificate, error) {
	blocks, _, err := pem.Blocks(data)
	if err != nil {
		return nil, err
	}
	for _, block := range blocks {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, errors.New("no PEM certificate found; give the file that holds the chain, leaf first")
}

// report is a certificate, for people and for programs. Its JSON keys are stable.
type report struct {
	SubjectAlternativeName reportSAN         `json:"subjectAlternativeName"`
	Extensions             map[string]string `json:"extensions"`
	IssuedBy               string            `json:"issuedBy"`
	SerialNumber           string            `json:"serialNumber"`
	NotBefore              time.Time         `json:"notBefore"`
	NotAfter               time.Time         `json:"notAfter"`
	PublicKey              string            `json:"publicKey"`
	SHA256Fingerprint      string            `json:"sha256Fingerprint"`
	Precertificate         bool              `json:"precertificate"`
	SCTs                   []reportSCT       `json:"signedCertificateTimestamps"`
}

type reportSAN struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

type reportSCT struct {
	LogID     string    `json:"logID"`
	Timestamp time.Time `json:"timestamp"`
}

// inspect reads a leaf certificate; a certificate without exactly one SAN is an error.
func inspect(leaf *x509.Certificate) (*report, error) {
	san, err := certs.SANOf(leaf)
	if err != nil {
		return nil, fmt.Errorf("this is no certificate of a signing client: %w", err)
	}
	extensions, err := certs.ParseExtensions(leaf.Extensions)
	if err != nil {
		return nil, err
	}
	fingerprint := sha256.Sum256(leaf.Raw)
	r := &report{
		SubjectAlternativeName: reportSAN{Type: describeKind(san.Kind), Value: san.Value},
		Extensions:             make(map[string]string),
		IssuedBy:               leaf.Issuer.String(),
		SerialNumber:           hex.EncodeToString(leaf.SerialNumber.Bytes()),
		NotBefore:              leaf.NotBefore.UTC(),
		NotAfter:               leaf.NotAfter.UTC(),
		PublicKey:              describeKey(leaf.PublicKey),
		SHA256Fingerprint:      hex.EncodeToString(fingerprint[:]),
		SCTs:                   []reportSCT{},
	}
	for _, extension := range certs.Table() {
		if value := extensions[extension.Arc]; value != "" {
			r.Extensions[extension.Name] = value
		}
	}
	for _, e := range leaf.Extensions {
		switch {
		case e.Id.Equal(certs.OIDPoison):
			r.Precertificate = true
		case e.Id.Equal(certs.OIDSCTList):
			if r.SCTs, err = parseSCTs(e.Value); err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

// parseSCTs reads the extension of RFC 6962, section 3.3: the list is in an OCTET STRING of its own.
func parseSCTs(extension []byte) (found []reportSCT, err error) {
	var list []byte
	if rest, err := asn1.Unmarshal(extension, &list); err != nil || len(rest) > 0 {
		return nil, errors.New("the SCT list extension holds no OCTET STRING")
	}
	scts, err := ctlog.ParseSCTList(list)
	for _, sct := range scts {
		found = append(found, reportSCT{hex.EncodeToString(sct.LogID[:]), time.UnixMilli(int64(sct.Timestamp)).UTC()})
	}
	return found, err
}

// describeKind names a kind of SAN as sigstore's clients do.
func describeKind(kind certs.SANKind) string {
	return map[certs.SANKind]string{certs.SANEmail: "email", certs.SANURI: "uri", certs.SANUserName: "username"}[kind]
}

func describeKey(key any) string {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	default:
		return "Ed25519"
	}
}

// print writes the report for a person.
func (r *report) print(out io.Writer) error {
	w := newTable(out)
	w.row("Identity", fmt.Sprintf("%s (%s)", r.SubjectAlternativeName.Value, r.SubjectAlternativeName.Type))
	for _, extension := range certs.Table() {
		if value := r.Extensions[extension.Name]; value != "" {
			w.row(extension.Name, value)
		}
	}
	w.row("Valid", fmt.Sprintf("%s to %s (%s)", r.NotBefore.Format(time.RFC3339), r.NotAfter.Format(time.RFC3339), r.NotAfter.Sub(r.NotBefore)))
	w.row("Key", r.PublicKey)
	w.row("Issued by", r.IssuedBy)
	w.row("Serial number", r.SerialNumber)
	w.row("SHA-256", r.SHA256Fingerprint)
	for _, sct := range r.SCTs {
		w.row("Logged", sct.Timestamp.Format(time.RFC3339Nano)+" in log "+sct.LogID)
	}
	switch {
	case r.Precertificate:
		w.row("Precertificate", "this is no certificate: it has the poison extension")
	case len(r.SCTs) == 0:
		w.row("Logged", "no signed certificate timestamp is embedded")
	}
	return w.Flush()
}
