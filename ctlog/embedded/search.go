// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"crypto/x509"
	"iter"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
)

// Query states which certificates to find. An empty field matches all; every other field must
// match.
type Query struct {
	// Identity is the name in the SAN, exactly: an email address, a URI, or user!domain.
	Identity string
	// Issuer is the issuer URL of the token, exactly (extension .8).
	Issuer string
	// Serial is the serial number, big-endian, without leading zeros.
	Serial []byte
	// Since and Until bound the SCT's timestamp; Since is included, Until is not.
	Since, Until time.Time
}

// Found is a matching entry.
type Found struct {
	*Entry
	Certificate *x509.Certificate
	SAN         certs.SAN
	Extensions  certs.Extensions
}

// Search yields the entries that match q, the newest first. It skips entries that are not
// this CA's certificates. It stops when ctx ends, and after an error.
func (r *Reader) Search(ctx context.Context, q Query) iter.Seq2[*Found, error] {
	return func(yield func(*Found, error) bool) {
		for e, err := range r.Entries(ctx) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !q.Since.IsZero() && e.Timestamp.Before(q.Since.Add(-maxDisorder)) {
				return
			}
			if !q.mayMatch(e) {
				continue
			}
			c, san, extensions, err := e.Parse()
			if err != nil || !q.matches(c, san, extensions) {
				continue
			}
			if !yield(&Found{Entry: e, Certificate: c, SAN: san, Extensions: extensions}, nil) {
				return
			}
		}
	}
}

// maxDisorder is how much earlier than Since an entry must be to end a search: the log
// assigns timestamps before indexes, and clocks may be adjusted.
const maxDisorder = time.Hour

// mayMatch searches for the bytes alone, and so costs a hundredth of parsing. DER holds the
// text of a name, an issuer URL and a serial number unchanged.
func (q *Query) mayMatch(e *Entry) bool {
	return bytes.Contains(e.DER, []byte(q.Identity)) && bytes.Contains(e.DER, []byte(q.Issuer)) && bytes.Contains(e.DER, q.Serial) &&
		(q.Since.IsZero() || !e.Timestamp.Before(q.Since)) && (q.Until.IsZero() || e.Timestamp.Before(q.Until))
}

func (q *Query) matches(c *x509.Certificate, san certs.SAN, extensions certs.Extensions) bool {
	return (q.Identity == "" || san.Value == q.Identity) &&
		(q.Issuer == "" || extensions[certs.IssuerV2] == q.Issuer) &&
		(len(q.Serial) == 0 || bytes.Equal(c.SerialNumber.Bytes(), q.Serial))
}
