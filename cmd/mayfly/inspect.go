// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/files"
	"github.com/mayfly-ca/mayfly/internal/pem"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

// maxInput bounds how much a command reads from a file or standard input.
const maxInput = 1 << 20

func inspectCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "inspect [FILE]",
		Short: "Show whom a certificate names, its extensions and its log entry",
		Long: `Show a certificate of a keyless CA: whom it names, what the ID token said, and the
signed certificate timestamp (SCT) that a log gave for it.

FILE holds one or more PEM certificates, the leaf first; - or no FILE reads standard
input. Nothing is verified: use a signing client to verify.`,
		Example: "  mayfly inspect chain.pem\n  mayfly inspect --json chain.pem | jq .extensions",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			name := "-"
			if len(args) == 1 {
				name = args[0]
			}
			data, err := readInput(c.InOrStdin(), name)
			if err != nil {
				return err
			}
			leaf, err := firstCertificate(data)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			r, err := inspect(leaf)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), r)
			}
			return r.print(c.OutOrStdout())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON for a program")
	return c
}

// printJSON writes one value for a program, in a form that a person can read too.
func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// readInput reads the file name, or standard input for "-", up to maxInput bytes,
// without a byte order mark.
func readInput(stdin io.Reader, name string) (data []byte, err error) {
	if name == "-" {
		data, err = files.ReadAll(stdin, maxInput)
	} else {
		data, err = files.Read(name, maxInput)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if data, err = files.Text(data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
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
			// RFC 6962, section 3.3: the list is in an OCTET STRING of its own.
			var list []byte
			if rest, err := asn1.Unmarshal(e.Value, &list); err != nil || len(rest) > 0 {
				return nil, errors.New("the SCT list extension holds no OCTET STRING")
			}
			scts, err := ctlog.ParseSCTList(list)
			if err != nil {
				return nil, err
			}
			for _, sct := range scts {
				r.SCTs = append(r.SCTs, reportSCT{
					LogID:     hex.EncodeToString(sct.LogID[:]),
					Timestamp: time.UnixMilli(int64(sct.Timestamp)).UTC(),
				})
			}
		}
	}
	return r, nil
}

// describeKind names a kind of SAN as sigstore's clients do.
func describeKind(kind certs.SANKind) string {
	switch kind {
	case certs.SANEmail:
		return "email"
	case certs.SANURI:
		return "uri"
	default:
		return "username"
	}
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
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	printable.Fprintf(w, "Identity\t%s (%s)\n", r.SubjectAlternativeName.Value, r.SubjectAlternativeName.Type)
	for _, extension := range certs.Table() {
		if value := r.Extensions[extension.Name]; value != "" {
			printable.Fprintf(w, "%s\t%s\n", extension.Name, value)
		}
	}
	printable.Fprintf(w, "Valid\t%s to %s (%s)\n", r.NotBefore.Format(time.RFC3339), r.NotAfter.Format(time.RFC3339), r.NotAfter.Sub(r.NotBefore))
	printable.Fprintf(w, "Key\t%s\n", r.PublicKey)
	printable.Fprintf(w, "Issued by\t%s\n", r.IssuedBy)
	printable.Fprintf(w, "Serial number\t%s\n", r.SerialNumber)
	printable.Fprintf(w, "SHA-256\t%s\n", r.SHA256Fingerprint)
	if r.Precertificate {
		printable.Fprintf(w, "Precertificate\tthis is no certificate: it has the poison extension\n")
	}
	for _, sct := range r.SCTs {
		printable.Fprintf(w, "Logged\t%s in log %s\n", sct.Timestamp.Format(time.RFC3339Nano), sct.LogID)
	}
	if len(r.SCTs) == 0 && !r.Precertificate {
		printable.Fprintf(w, "Logged\tno signed certificate timestamp is embedded\n")
	}
	return w.Flush()
}
