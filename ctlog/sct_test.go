// SPDX-License-Identifier: Apache-2.0

package ctlog_test

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mayfly-ca/mayfly/ctlog"
)

func sampleSCT() ctlog.SCT {
	sct := ctlog.SCT{Timestamp: 1793836800123, Signature: bytes.Repeat([]byte{0x30}, 70)}
	for i := range sct.LogID {
		sct.LogID[i] = byte(i)
	}
	return sct
}

// leafIndex is the extension leaf_index of static-ct-api.
func leafIndex(index byte) []byte { return []byte{0, 0, 5, 0, 0, 0, 0, index} }

// marshal returns a list of one SCT.
func marshal(t testing.TB, sct ctlog.SCT) []byte {
	t.Helper()
	b, err := ctlog.MarshalSCTList(sct)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSCTEncodingIsThatOfCertificateTransparencyGo(t *testing.T) {
	t.Parallel()
	for _, extensions := range [][]byte{nil, leafIndex(7)} {
		sct := sampleSCT()
		sct.Extensions = extensions
		one, err := cttls.Marshal(ct.SignedCertificateTimestamp{
			SCTVersion: ct.V1, LogID: ct.LogID{KeyID: sct.LogID}, Timestamp: sct.Timestamp, Extensions: extensions,
			Signature: ct.DigitallySigned{
				Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: cttls.ECDSA},
				Signature: sct.Signature,
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		want, err := cttls.Marshal(ctx509.SignedCertificateTimestampList{SCTList: []ctx509.SerializedSCT{{Val: one}, {Val: one}}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := ctlog.MarshalSCTList(sct, sct)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("MarshalSCTList: %v\n got %x\nwant %x", err, got, want)
		}
		back, err := ctlog.ParseSCTList(want)
		if diff := cmp.Diff([]ctlog.SCT{sct, sct}, back, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Errorf("ParseSCTList (-want +got): %v\n%s", err, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	good := marshal(t, sampleSCT())
	const sctAt, extensionsAt, hashAt, algorithmAt, signatureLengthAt = 4, 45, 47, 48, 49
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	// listed returns a list of one SCT.
	listed := func(sct []byte) []byte {
		return append([]byte{0, byte(len(sct) + 2), 0, byte(len(sct))}, sct...)
	}
	for name, in := range map[string][]byte{
		"nothing": nil, "empty list": {0, 0}, "empty SCT": {0, 2, 0, 0}, "trailing byte": append(bytes.Clone(good), 0), "cut": good[:len(good)-1],
		"SCT longer than list": change(3, good[3]+1), "byte within the list": {0, 1, 0}, "something not an SCT": {0, 3, 0, 1, 0},
		"one good, one cut off": append([]byte{0, good[1] + 3}, append(bytes.Clone(good[2:]), 0, 1, 0)...),
		"version 2":             change(sctAt, 1), "hash SHA-1": change(hashAt, 2), "signature RSA": change(algorithmAt, 1),
		"signature too long": change(signatureLengthAt, 1), "extensions too long": change(extensionsAt, 0xff),
		"byte after the SCT": listed(append(bytes.Clone(good[sctAt:]), 0)), "cut in the log ID": listed(good[sctAt:20]), "cut in the timestamp": listed(good[sctAt:40]),
		"cut in the algorithm": listed(good[sctAt : hashAt+1]), "cut in the signature": listed(good[sctAt : len(good)-1]),
	} {
		if scts, err := ctlog.ParseSCTList(in); err == nil {
			t.Errorf("%s: got %+v", name, scts)
		}
	}
}

func TestMarshalRefuses(t *testing.T) {
	t.Parallel()
	if _, err := ctlog.MarshalSCTList(); err == nil {
		t.Error("an empty list was marshalled")
	}
	sct := sampleSCT()
	most := 1<<16 - 1 - (len(marshal(t, sct)) - 2)
	for _, n := range []int{most, most + 1, 1<<16 - 1, 1 << 16, 1 << 17} {
		sct.Extensions = make([]byte, n)
		if b, err := ctlog.MarshalSCTList(sct); (err == nil) != (n == most) || len(b) > 2+1<<16-1 {
			t.Errorf("a list with extensions of %d bytes: %d bytes, %v", n, len(b), err)
		}
	}
	half := sampleSCT()
	half.Extensions = make([]byte, 1<<15)
	if _, err := ctlog.MarshalSCTList(half, half); err == nil {
		t.Error("a list of two halves was marshalled")
	}
}

func FuzzParseSCTList(f *testing.F) {
	f.Add(marshal(f, sampleSCT()))
	withIndex := sampleSCT()
	withIndex.Extensions = leafIndex(1)
	f.Add(marshal(f, withIndex))
	f.Fuzz(func(t *testing.T, b []byte) {
		scts, err := ctlog.ParseSCTList(b)
		if err != nil {
			return
		}
		got, err := ctlog.MarshalSCTList(scts...)
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%x was read, and written as %x, %v", b, got, err)
		}
	})
}

func TestLeafIndex(t *testing.T) {
	t.Parallel()
	for extensions, want := range map[string]struct {
		index uint64
		ok    bool
	}{
		"\x00\x00\x05\x00\x00\x00\x00\x00":     {0, true},
		"\x00\x00\x05\x01\x02\x03\x04\x05":     {0x0102030405, true},
		"\x00\x00\x05\xff\xff\xff\xff\xff":     {1<<40 - 1, true},
		"":                                     {},
		"\x01\x00\x05\x01\x02\x03\x04\x05":     {},
		"\x00\x00\x04\x01\x02\x03\x04":         {},
		"\x00\x00\x05\x01\x02\x03\x04\x05\x00": {},
		"\x00\x00\x05\x01\x02\x03\x04":         {},
	} {
		if index, ok := (ctlog.SCT{Extensions: []byte(extensions)}).LeafIndex(); index != want.index || ok != want.ok {
			t.Errorf("%x: %d, %t", extensions, index, ok)
		}
	}
}

// A log may state any timestamp: none makes JSON of it fail.
func TestTimeHasJSON(t *testing.T) {
	t.Parallel()
	for milliseconds, want := range map[uint64]string{
		0: `"1970-01-01T00:00:00Z"`, 1_767_225_600_001: `"2026-01-01T00:00:00.001Z"`,
		1 << 62: `"9999-12-31T23:59:59.999Z"`, math.MaxUint64: `"9999-12-31T23:59:59.999Z"`,
	} {
		if got, err := json.Marshal(ctlog.Time(milliseconds)); err != nil || string(got) != want {
			t.Errorf("%d: %s, %v; want %s", milliseconds, got, err, want)
		}
	}
}
