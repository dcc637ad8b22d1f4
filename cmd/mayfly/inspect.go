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
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/internal/printable"
)

func inspectCommand() *cobra.Command {
	var out output
	c := &cobra.Command{
		Use:   "inspect [FILE…]",
		Short: "Show whom certificates and signatures name, what was signed, and where it was logged",
		RunE: func(c *cobra.Command, names []string) error {
			if len(names) == 0 {
				names = []string{"-"}
			}
			found, several, err := inspectFiles(c.InOrStdin(), names)
			switch {
			case err != nil && (!several || len(found) == 1 && !out.json()):
				return err
			case !out.json():
				return errors.Join(printFindings(c.OutOrStdout(), found), err)
			case several:
				return errors.Join(printJSON(c.OutOrStdout(), found), err)
			}
			found[0].File = ""
			return printJSON(c.OutOrStdout(), found[0])
		},
	}
	addOutput(c, &out)
	return c
}

// finding is a signing certificate with the CA certificates behind it, or a signature. Its JSON keys, and
// those of what it holds, are stable.
type finding struct {
	File      string            `json:"file,omitempty"`
	*report                     // of the signing certificate, if there is one
	Chain     []certificateOfCA `json:"chain,omitempty"`
	Signature *signature        `json:"signature,omitempty"`
	Verified  bool              `json:"verified"` // never: a program may ask
	Error     string            `json:"error,omitempty"`
}

// report is a certificate.
type report struct {
	SubjectAlternativeName reportSAN         `json:"subjectAlternativeName"`
	Extensions             map[string]string `json:"extensions"`
	IssuedBy               string            `json:"issuedBy"`
	SerialNumber           string            `json:"serialNumber"`
	certificateFacts
	Precertificate bool        `json:"precertificate"`
	SCTs           []reportSCT `json:"signedCertificateTimestamps"`
}

type reportSAN struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

type reportSCT struct {
	LogID     string    `json:"logID"`
	Timestamp time.Time `json:"timestamp"`
}

// certificateOfCA is another certificate, in short.
type certificateOfCA struct {
	Subject string `json:"subject"`
	certificateFacts
}

// certificateFacts are what is shown of every certificate.
type certificateFacts struct {
	NotBefore         time.Time `json:"notBefore"`
	NotAfter          time.Time `json:"notAfter"`
	PublicKey         string    `json:"publicKey"`
	SHA256Fingerprint string    `json:"sha256Fingerprint"`
}

// signature is what was signed, and who else has seen that.
type signature struct {
	Format        string      `json:"format"`
	Subjects      []string    `json:"subjects,omitempty"` // the digests of what was signed: algorithm:hexadecimal
	PayloadType   string      `json:"payloadType,omitempty"`
	PredicateType string      `json:"predicateType,omitempty"`
	PublicKeyHint string      `json:"publicKeyHint,omitempty"`
	Timestamps    []time.Time `json:"timestamps,omitempty"`
	LogEntries    []logEntry  `json:"logEntries,omitempty"`
}

type logEntry struct {
	LogID          string    `json:"logID"`
	Index          int64     `json:"index"`
	IntegratedTime time.Time `json:"integratedTime,omitzero"` // Rekor v2 has none
}

// inspectFiles returns what is in files and directories, also beside an error, and whether that is a list.
func inspectFiles(stdin io.Reader, names []string) (all []finding, list bool, err error) {
	var errs []error
	list = len(names) > 1
	for _, name := range names {
		var found []finding
		if info, errInfo := os.Stat(name); errInfo == nil && info.IsDir() {
			list = true
			found, err = inspectLayout(name)
		} else if data, errRead := readUpTo(maxBundle, stdin, name); errRead != nil {
			err = errRead
		} else if found, err = inspectData(data); err != nil {
			err = fmt.Errorf("%s: %w", shown(name), err)
		}
		if list = list || len(found) > 1; err != nil {
			errs = append(errs, err)
			found = append(found, finding{Error: err.Error()})
		}
		for _, f := range found {
			f.File = name
			all = append(all, f)
		}
	}
	return all, list, errors.Join(errs...)
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
	r := &report{
		SubjectAlternativeName: newReportSAN(san),
		Extensions:             make(map[string]string),
		IssuedBy:               leaf.Issuer.String(),
		SerialNumber:           hex.EncodeToString(leaf.SerialNumber.Bytes()),
		certificateFacts:       factsOf(leaf),
		SCTs:                   []reportSCT{},
	}
	for extension, value := range extensions.All() {
		r.Extensions[extension.Name] = value
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
		found = append(found, reportSCT{hex.EncodeToString(sct.LogID[:]), ctlog.Time(sct.Timestamp)})
	}
	return found, err
}

// newReportSAN names a kind of SAN as sigstore's clients do.
func newReportSAN(san certs.SAN) reportSAN {
	kinds := map[certs.SANKind]string{certs.SANEmail: "email", certs.SANURI: "uri", certs.SANUserName: "username"}
	return reportSAN{kinds[san.Kind], san.Value}
}

func factsOf(c *x509.Certificate) certificateFacts {
	return certificateFacts{c.NotBefore.UTC(), c.NotAfter.UTC(), describeKey(c), fmt.Sprintf("%x", sha256.Sum256(c.Raw))}
}

func describeKey(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case nil:
		return "of an unknown algorithm"
	default:
		return c.PublicKeyAlgorithm.String()
	}
}

// printFindings writes what was found for a person, each below the name of its file where there are
// several.
func printFindings(out io.Writer, found []finding) error {
	for _, f := range found {
		if len(found) > 1 {
			printable.Fprintf(out, "%s:\n", f.File)
		}
		w := newTable(out)
		f.report.rows(w)
		for _, c := range f.Chain {
			w.row("CA certificate", fmt.Sprintf("%s, %s, until %s, SHA-256 %s", c.Subject, c.PublicKey, c.NotAfter.Format(time.RFC3339), c.SHA256Fingerprint))
		}
		f.Signature.rows(w)
		w.given("Problem", f.Error)
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	_, err := fmt.Fprintln(out, "Nothing of this was verified. A signing client such as cosign verifies.")
	return err
}

func (r *report) rows(w table) {
	if r == nil {
		return
	}
	w.row("Identity", fmt.Sprintf("%s (%s)", r.SubjectAlternativeName.Value, r.SubjectAlternativeName.Type))
	for _, extension := range certs.Table() {
		w.given(extension.Name, r.Extensions[extension.Name])
	}
	now, end := time.Now(), "ends"
	if r.NotAfter.Before(now) {
		end = "ended"
	}
	w.row("Valid", fmt.Sprintf("%s to %s (%s, %s %s)", r.NotBefore.Format(time.RFC3339), r.NotAfter.Format(time.RFC3339),
		r.NotAfter.Sub(r.NotBefore), end, printable.Relative(r.NotAfter, now)))
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
}

func (s *signature) rows(w table) {
	if s == nil {
		return
	}
	w.row("Signature", s.Format)
	w.given("Payload", strings.TrimSpace(s.PayloadType+" "+s.PredicateType))
	for _, digest := range s.Subjects {
		w.row("Signed", digest)
	}
	w.given("Public key", s.PublicKeyHint)
	for _, stamp := range s.Timestamps {
		w.row("Timestamp", stamp.Format(time.RFC3339))
	}
	for _, entry := range s.LogEntries {
		text := fmt.Sprintf("entry %d of log %s", entry.Index, entry.LogID)
		if !entry.IntegratedTime.IsZero() {
			text += " at " + entry.IntegratedTime.Format(time.RFC3339)
		}
		w.row("Log entry", text)
	}
}
