// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"bytes"
	"encoding/json"
	"testing"

	ct "github.com/google/certificate-transparency-go"
)

// Every SCT that a log's JSON gives can be encoded, unless a field is too long.
func FuzzParseAddChainResponse(f *testing.F) {
	good, err := json.Marshal(ct.AddChainResponse{
		ID: make([]byte, 32), Timestamp: 1793836800123, Extensions: "AAAFAAAAAAE=", Signature: []byte{4, 3, 0, 2, 0x30, 0},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"sct_version":1}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`<html>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		sct, err := parseAddChainResponse(body)
		if err != nil || len(sct.Extensions) > 1<<16-1 {
			return
		}
		b, err := sct.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseSCT(b)
		if err != nil {
			t.Fatal(err)
		}
		if back.LogID != sct.LogID || back.Timestamp != sct.Timestamp || !bytes.Equal(back.Extensions, sct.Extensions) || !bytes.Equal(back.Signature, sct.Signature) {
			t.Errorf("%+v became %+v", sct, back)
		}
	})
}
