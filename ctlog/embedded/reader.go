// SPDX-License-Identifier: Apache-2.0

package embedded

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-ca/mayfly/certs"
	"github.com/mayfly-ca/mayfly/internal/keypath"
)

// Reader reads a log's directory, also while another process writes it. It sees every entry
// in the tree, published or not.
type Reader struct {
	directory directory
	issuers   *issuers
	head      treeHead
}

// Entry is one entry of a log.
type Entry struct {
	// Index is the entry's number, from 0; the leaf_index of its SCT.
	Index uint64
	// Timestamp is the SCT's timestamp, to the millisecond.
	Timestamp time.Time
	// Precertificate reports whether DER is a precertificate or a certificate.
	Precertificate bool
	// DER is the submitted certificate. It must not be changed.
	DER []byte
	// Issuers are the SHA-256 of the certificates above it, the issuing CA first.
	Issuers [][32]byte
}

// Parse returns the entry's certificate with the parts specific to this CA: its one subject
// name, and the extensions. A certificate of another CA is an error.
func (e *Entry) Parse() (*x509.Certificate, certs.SAN, certs.Extensions, error) {
	c, err := x509.ParseCertificate(e.DER)
	if err != nil {
		return nil, certs.SAN{}, certs.Extensions{}, fmt.Errorf("parsing entry %d: %w", e.Index, err)
	}
	san, err := certs.SANOf(c)
	if err != nil {
		return c, certs.SAN{}, certs.Extensions{}, fmt.Errorf("parsing entry %d: %w", e.Index, err)
	}
	extensions, err := certs.ParseExtensions(c.Extensions)
	if err != nil {
		return c, san, certs.Extensions{}, fmt.Errorf("parsing entry %d: %w", e.Index, err)
	}
	return c, san, extensions, nil
}

// OpenReader reads the tree head of the log in cfg.Dir; it does not use the rest of cfg. The
// Reader does not see later entries.
func OpenReader(cfg Config) (*Reader, error) {
	if cfg.Dir == "" {
		return nil, keypath.Errorf([]string{"dir"}, "the log's directory is missing")
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, stateDir)); errors.Is(err, fs.ErrNotExist) {
		return nil, keypath.Errorf([]string{"dir"}, "%s holds no log", cfg.Dir)
	}
	r := &Reader{directory: directory{cfg.Dir}, issuers: newIssuers(cfg.Dir)}
	var err error
	if r.head, err = r.directory.head(); err != nil {
		return nil, fmt.Errorf("opening the log in %s: %w", cfg.Dir, err)
	}
	return r, nil
}

// Size returns the number of entries.
func (r *Reader) Size() uint64 { return r.head.size }

// Issuer returns a CA certificate, DER, by its SHA-256.
func (r *Reader) Issuer(fingerprint [32]byte) ([]byte, error) {
	der, err := r.issuers.get(fingerprint)
	if err != nil {
		return nil, fmt.Errorf("reading issuer %x: %w", fingerprint, err)
	}
	return der, nil
}

// Entries yields all entries, the newest first. It stops when ctx ends, and after an error.
func (r *Reader) Entries(ctx context.Context) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		for tiles := (r.head.size + tileWidth - 1) / tileWidth; tiles > 0; tiles-- {
			var leaves []*tileLeaf
			err := ctx.Err()
			for leaf, errLeaf := range r.directory.entries(tiles-1, r.head.size) {
				leaves, err = append(leaves, leaf), errors.Join(err, errLeaf)
			}
			if err != nil {
				yield(nil, fmt.Errorf("reading entries: %w", err))
				return
			}
			for i := len(leaves) - 1; i >= 0; i-- {
				leaf := leaves[i]
				if !yield(&Entry{
					Index: leaf.index, Timestamp: time.UnixMilli(int64(leaf.timestamp)).UTC(),
					Precertificate: leaf.precert, DER: leaf.certificate, Issuers: leaf.fingerprints(),
				}, nil) {
					return
				}
			}
		}
	}
}
