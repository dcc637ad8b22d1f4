// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Query states which certificates to find. An empty field matches all; every other field must
// match.
type Query struct {
	Identity string    // the name in the SAN, exactly: an email address, a URI, or user!domain
	Issuer   string    // the issuer URL of the token, exactly (extension .8)
	Serial   []byte    // the serial number, big-endian, without leading zeros
	Since    time.Time // the earliest timestamp of the SCT
}

// Found is a matching entry.
type Found struct {
	Index       uint64    // the entry's number, from 0; the leaf_index of its SCT
	Timestamp   time.Time // of the SCT, to the millisecond
	DER         []byte    // the submitted certificate or precertificate; it must not be changed
	Certificate *x509.Certificate
	SAN         certs.SAN
	Extensions  certs.Extensions
}

// maxDisorder is how much earlier than Since an entry must be to end a search: the log
// assigns timestamps before indexes, and clocks may be adjusted.
const maxDisorder = time.Hour

// Search yields the entries of the log in cfg.Dir that match q, the newest first, also while another
// process writes the log. It sees every entry in the tree, published or not, and skips entries that
// are not this CA's certificates. It stops when ctx ends, and after an error.
func Search(ctx context.Context, cfg Config, q Query) iter.Seq2[*Found, error] {
	return func(yield func(*Found, error) bool) {
		d := directory{cfg.Dir}
		if _, err := os.Stat(filepath.Join(cfg.Dir, stateDir)); errors.Is(err, fs.ErrNotExist) {
			yield(nil, keypath.Errorf([]string{"dir"}, "%s holds no log", cfg.Dir))
			return
		}
		head, err := d.head()
		for end := head.size; end > 0 && err == nil; end = (end - 1) / tileWidth * tileWidth {
			var leaves []*tileLeaf
			for leaf, errLeaf := range d.entries((end-1)/tileWidth*tileWidth, end, head.size) {
				leaves, err = append(leaves, leaf), errLeaf
			}
			if err = errors.Join(err, ctx.Err()); err != nil {
				break
			}
			for _, leaf := range slices.Backward(leaves) {
				found := &Found{Index: leaf.index, Timestamp: time.UnixMilli(int64(leaf.timestamp)).UTC(), DER: leaf.certificate}
				if found.Timestamp.Before(q.Since.Add(-maxDisorder)) || q.matches(found) && !yield(found, nil) {
					return
				}
			}
		}
		if err != nil {
			yield(nil, fmt.Errorf("searching the log in %s: %w", cfg.Dir, err))
		}
	}
}

// matches parses the certificate of an entry that may match.
func (q *Query) matches(e *Found) bool {
	// DER holds the text of a name, an issuer URL and a serial number unchanged. To search for the
	// bytes costs a hundredth of parsing.
	if e.Timestamp.Before(q.Since) || !bytes.Contains(e.DER, []byte(q.Identity)) || !bytes.Contains(e.DER, []byte(q.Issuer)) || !bytes.Contains(e.DER, q.Serial) {
		return false
	}
	var err error
	if e.Certificate, err = x509.ParseCertificate(e.DER); err == nil {
		e.SAN, err = certs.SANOf(e.Certificate)
	}
	if err == nil {
		e.Extensions, err = certs.ParseExtensions(e.Certificate.Extensions)
	}
	return err == nil && (q.Identity == "" || e.SAN.Value == q.Identity) &&
		(q.Issuer == "" || e.Extensions[certs.IssuerV2] == q.Issuer) &&
		(len(q.Serial) == 0 || bytes.Equal(e.Certificate.SerialNumber.Bytes(), q.Serial))
}
