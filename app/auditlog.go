// SPDX-License-Identifier: Apache-2.0

package app

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/mayfly-ca/mayfly/audit"
	"github.com/mayfly-ca/mayfly/ctlog"
	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

// compared is how many entries of a log are compared at a time, which bounds the memory.
const compared = 1 << 17

// CompareLog looks for the intent of each precertificate of a log, and the outcome of each certificate, in the audit
// logs in dirs. It calls unrecorded with each entry that has none: another process has signed it, or the record was
// removed. The audit logs must be at least as new as the head of source.
func CompareLog(ctx context.Context, source *reader.Source, dirs []string, unrecorded func(*reader.Entry) error) error {
	for first := uint64(0); first < source.Head.Size; first += compared {
		wanted, q, err := readEntries(ctx, source, first, min(first+compared, source.Head.Size))
		for _, dir := range dirs {
			if err == nil {
				err = audit.Search(ctx, dir, q, func(r *audit.Record, _ []byte) error {
					delete(wanted, r.TBS)
					delete(wanted, r.Certificate)
					return nil
				})
			}
		}
		for _, index := range slices.Sorted(maps.Values(wanted)) {
			var entries []*reader.Entry
			batch := index / reader.Batch * reader.Batch
			if err == nil {
				entries, err = source.Read(ctx, batch, min(batch+reader.Batch, source.Head.Size))
			}
			if err == nil {
				err = unrecorded(entries[index-batch])
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readEntries returns the indexes of entries by what their records have: the intent the hash of a precertificate's
// TBS, and the outcome that of a certificate. The query finds these records.
func readEntries(ctx context.Context, source *reader.Source, first, end uint64) (wanted map[string]uint64, q audit.Query, err error) {
	const around = 15 * time.Minute // between an intent and its entry, where a clock is wrong
	wanted = make(map[string]uint64, end-first)
	for entries, err := range source.Batches(ctx, func(yield func(uint64) bool) {
		for at := first; at < end && yield(at); at += reader.Batch {
		}
	}) {
		if err != nil {
			return nil, q, err
		}
		for _, entry := range entries {
			wanted[cmp.Or(recordKey(entry), fmt.Sprint("entry ", entry.Index))] = entry.Index
			at := ctlog.Time(entry.Timestamp)
			if since := at.Add(-around); q.Since.IsZero() || since.Before(q.Since) {
				q.Since = since
			}
			if until := at.Add(around); until.After(q.Until) {
				q.Until = until
			}
		}
	}
	return wanted, q, nil
}

// recordKey returns what identifies the record of an entry; "" of one that is no certificate. A serial number does
// not: a thief of the CA's key can choose one that has an intent.
func recordKey(entry *reader.Entry) string {
	der := cryptobyte.String(entry.Certificate)
	var certificate, tbs cryptobyte.String
	if !der.ReadASN1(&certificate, asn1.SEQUENCE) || !certificate.ReadASN1Element(&tbs, asn1.SEQUENCE) {
		return ""
	}
	if !entry.Precert {
		tbs = cryptobyte.String(entry.Certificate)
	}
	sum := sha256.Sum256(tbs)
	return hex.EncodeToString(sum[:])
}
