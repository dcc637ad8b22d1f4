// SPDX-License-Identifier: Apache-2.0

package ctlog_test

import (
	"bytes"
	"testing"

	ct "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/go-cmp/cmp"

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

func marshal(t testing.TB, sct ctlog.SCT) []byte {
	t.Helper()
	b, err := sct.Marshal()
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
		want, err := cttls.Marshal(ct.SignedCertificateTimestamp{
			SCTVersion: ct.V1, LogID: ct.LogID{KeyID: sct.LogID}, Timestamp: sct.Timestamp, Extensions: extensions,
			Signature: ct.DigitallySigned{
				Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: cttls.ECDSA},
				Signature: sct.Signature,
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		got := marshal(t, sct)
		if !bytes.Equal(got, want) {
			t.Errorf("Marshal:\n got %x\nwant %x", got, want)
		}
		back, err := ctlog.ParseSCT(got)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(sct, back); diff != "" {
			t.Errorf("ParseSCT (-want +got):\n%s", diff)
		}

		wantList, err := cttls.Marshal(ctx509.SignedCertificateTimestampList{
			SCTList: []ctx509.SerializedSCT{{Val: want}, {Val: want}},
		})
		if err != nil {
			t.Fatal(err)
		}
		gotList, err := ctlog.MarshalSCTList(sct, sct)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(gotList, wantList) {
			t.Errorf("MarshalSCTList:\n got %x\nwant %x", gotList, wantList)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	good := marshal(t, sampleSCT())
	const extensionsAt, hashAt, algorithmAt, signatureLengthAt = 41, 43, 44, 45
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	for name, in := range map[string][]byte{
		"nothing": nil, "version 2": change(0, 1), "hash SHA-1": change(hashAt, 2), "signature RSA": change(algorithmAt, 1),
		"trailing byte": append(bytes.Clone(good), 0), "signature too long": change(signatureLengthAt, 1), "extensions too long": change(extensionsAt, 0xff),
		"cut in the log ID": good[:20], "cut in the timestamp": good[:36], "cut in the algorithm": good[:hashAt+1], "cut in the signature": good[:len(good)-1],
	} {
		if sct, err := ctlog.ParseSCT(in); err == nil {
			t.Errorf("%s: got %+v", name, sct)
		}
	}
	list, err := ctlog.MarshalSCTList(sampleSCT())
	if err != nil {
		t.Fatal(err)
	}
	inner := bytes.Clone(list)
	inner[3]++
	for name, in := range map[string][]byte{
		"nothing": nil, "empty list": {0, 0}, "empty SCT": {0, 2, 0, 0}, "trailing byte": append(bytes.Clone(list), 0), "cut": list[:len(list)-1],
		"SCT longer than list": inner, "byte within the list": {0, 1, 0}, "something not an SCT": {0, 3, 0, 1, 0}, "SCT of version 2": {0, 3, 0, 1, 1},
		"one good, one cut off": append([]byte{0, list[1] + 3}, append(bytes.Clone(list[2:]), 0, 1, 0)...),
	} {
		if scts, err := ctlog.ParseSCTList(in); err == nil {
			t.Errorf("list, %s: got %+v", name, scts)
		}
	}
}

func TestMarshalRefuses(t *testing.T) {
	t.Parallel()
	if _, err := ctlog.MarshalSCTList(); err == nil {
		t.Error("an empty list was marshalled")
	}
	sct := sampleSCT()
	sct.Extensions = make([]byte, 1<<16)
	if _, err := sct.Marshal(); err == nil {
		t.Error("extensions of 65536 bytes were marshalled")
	}
	sct.Extensions = make([]byte, 1<<16-1) // fits by itself, not in a list
	if _, err := sct.Marshal(); err != nil {
		t.Errorf("extensions of 65535 bytes: %v", err)
	}
	if _, err := ctlog.MarshalSCTList(sct); err == nil {
		t.Error("a list of more than 65535 bytes was marshalled")
	}
}

func FuzzParseSCT(f *testing.F) {
	f.Add(marshal(f, sampleSCT()))
	withIndex := sampleSCT()
	withIndex.Extensions = leafIndex(1)
	f.Add(marshal(f, withIndex))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		sct, err := ctlog.ParseSCT(b)
		if err != nil {
			return
		}
		if got := marshal(t, sct); !bytes.Equal(got, b) {
			t.Errorf("%x was read, and written as %x", b, got)
		}
	})
}

func FuzzParseSCTList(f *testing.F) {
	list, err := ctlog.MarshalSCTList(sampleSCT(), sampleSCT())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(list)
	f.Add([]byte{0, 0})
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
