// SPDX-License-Identifier: Apache-2.0

package reader

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
)

// Query states which certificates to find. An empty field matches all; every other field must
// match.
type Query struct {
	Identity string    // the name in the SAN: an email address, a URI, or user!domain; a * at its end matches any rest
	Issuer   string    // the issuer URL of the token; a * at its end matches any rest
	Serial   []byte    // the serial number, big-endian, without leading zeros
	Since    time.Time // the earliest timestamp of the SCT
	Until    time.Time // the latest one

	// Progress receives how many of the log's entries have been read; nil for none. A search that
	// finds all it needs reads fewer.
	Progress func(done, total uint64)
}

// Found is a matching entry.
type Found struct {
	Index       uint64    // the entry's number, from 0; the leaf_index of its SCT
	Timestamp   time.Time // of the SCT, to the millisecond
	DER         []byte    // the submitted certificate or precertificate; it must not be changed
	Certificate *x509.Certificate
	SAN         certs.SAN
	Issuer      string // the issuer URL of the token
}

// Search yields the entries of the log that match q, the newest first. It skips entries that are not
// certificates of a keyless CA. It stops when ctx ends, and after an error.
func (s *Source) Search(ctx context.Context, q Query) iter.Seq2[*Found, error] {
	return func(yield func(*Found, error) bool) {
		for entries, err := range s.Batches(ctx, Backward(s.Head.Size)) {
			if err != nil {
				yield(nil, err)
				return
			}
			var newest time.Time
			for _, entry := range slices.Backward(entries) {
				found := &Found{Index: entry.Index, Timestamp: time.UnixMilli(int64(entry.Timestamp)).UTC(), DER: entry.Certificate}
				if q.matches(found) && !yield(found, nil) {
					return
				}
				if found.Timestamp.After(newest) {
					newest = found.Timestamp
				}
			}
			if newest.Before(q.Since.Add(-s.Disorder)) {
				return
			}
			if q.Progress != nil && len(entries) > 0 {
				q.Progress(s.Head.Size-entries[0].Index, s.Head.Size)
			}
		}
	}
}

// matches parses the certificate of an entry that may match.
func (q *Query) matches(e *Found) bool {
	// DER holds the text of a name, an issuer URL and a serial number unchanged. To search for the
	// bytes costs a hundredth of parsing.
	for _, part := range []string{strings.TrimSuffix(q.Identity, "*"), strings.TrimSuffix(q.Issuer, "*"), string(q.Serial)} {
		if !bytes.Contains(e.DER, []byte(part)) {
			return false
		}
	}
	if e.Timestamp.Before(q.Since) || !q.Until.IsZero() && e.Timestamp.After(q.Until) {
		return false
	}
	var extensions certs.Extensions
	var err error
	if e.Certificate, err = x509.ParseCertificate(e.DER); err == nil {
		e.SAN, err = certs.SANOf(e.Certificate)
	}
	if err == nil {
		extensions, err = certs.ParseExtensions(e.Certificate.Extensions)
	}
	e.Issuer = cmp.Or(extensions[certs.IssuerV2], extensions[certs.IssuerV1]) // early certificates have only the latter
	return err == nil && matches(q.Identity, e.SAN.Value) && matches(q.Issuer, e.Issuer) &&
		(len(q.Serial) == 0 || bytes.Equal(e.Certificate.SerialNumber.Bytes(), q.Serial))
}

// matches reports whether text is what is asked for, or begins with what is before its final *.
func matches(asked, text string) bool {
	prefix, open := strings.CutSuffix(asked, "*")
	return asked == "" || text == asked || open && strings.HasPrefix(text, prefix)
}
