// SPDX-License-Identifier: Apache-2.0

package app

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/mayfly-ca/mayfly/ctlog/reader"
)

// A certificate has a record only with the same bytes, so that a second one with its serial number has none.
func TestRecordKey(t *testing.T) {
	t.Parallel()
	certificate := "\x30\x05\x30\x03\x02\x01\x07" // as far as it is read: a TBS with a serial number
	for _, test := range []struct {
		entry  reader.Entry
		hashed string
	}{
		{reader.Entry{Certificate: []byte(certificate), Precert: true}, certificate[2:]},
		{reader.Entry{Certificate: []byte(certificate)}, certificate},
		{reader.Entry{Certificate: []byte(certificate + "\x00")}, certificate + "\x00"},
		{reader.Entry{Certificate: []byte("no certificate")}, ""},
	} {
		want := ""
		if test.hashed != "" {
			sum := sha256.Sum256([]byte(test.hashed))
			want = hex.EncodeToString(sum[:])
		}
		if got := recordKey(&test.entry); got != want {
			t.Errorf("%x: %q, want %q", test.entry.Certificate, got, want)
		}
	}
}
