// SPDX-License-Identifier: Apache-2.0

package ctlog

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	"github.com/google/go-cmp/cmp"

	"github.com/mayfly-ca/mayfly/internal/breaker"
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
	f.Fuzz(func(t *testing.T, body []byte) {
		sct, err := parseAddChainResponse(body)
		if err != nil {
			return
		}
		b, err := MarshalSCTList(sct)
		if err != nil {
			if len(body) > maxVector { // base64 is longer than what it encodes
				return
			}
			t.Fatal(err)
		}
		list, err := ParseSCTList(b)
		if err != nil || len(list) != 1 {
			t.Fatalf("%+v became %+v: %v", sct, list, err)
		}
		back := list[0]
		if back.LogID != sct.LogID || back.Timestamp != sct.Timestamp || !bytes.Equal(back.Extensions, sct.Extensions) || !bytes.Equal(back.Signature, sct.Signature) {
			t.Errorf("%+v became %+v", sct, back)
		}
	})
}

// A submission has the body that encoding/json writes, whichever authority signed the last one.
func TestEncodeChain(t *testing.T) {
	t.Parallel()
	r := &Remote{}
	a, b, long := []byte("issuer a"), []byte("issuer bb"), bytes.Repeat([]byte{0xfb}, 5000)
	for _, chain := range [][][]byte{
		{{1}, a, b}, {long, a, b}, {{2}, b}, {{3}, bytes.Clone(b)}, {{4}, a}, {{5}}, {{6}, b, long}, {{}, a, b},
	} {
		want, err := json.Marshal(ct.AddChainRequest{Chain: chain})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.encode(chain); !bytes.Equal(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// The digest is that of the data which certificate-transparency-go serializes.
func TestSignedDigest(t *testing.T) {
	t.Parallel()
	for n := range 40 {
		sub := Submission{TBS: make([]byte, 1+n*97)}
		sct := SCT{Timestamp: mathrand.Uint64(), Extensions: make([]byte, n%9)}
		for _, b := range [][]byte{sub.TBS, sub.IssuerKeyHash[:], sct.Extensions} {
			_, _ = rand.Read(b)
		}
		signed, err := ct.SerializeSCTSignatureInput(
			ct.SignedCertificateTimestamp{SCTVersion: ct.V1, Timestamp: sct.Timestamp, Extensions: sct.Extensions},
			ct.LogEntry{Leaf: ct.MerkleTreeLeaf{LeafType: ct.TimestampedEntryLeafType, TimestampedEntry: &ct.TimestampedEntry{
				Timestamp: sct.Timestamp, EntryType: ct.PrecertLogEntryType, Extensions: sct.Extensions,
				PrecertEntry: &ct.PreCert{IssuerKeyHash: sub.IssuerKeyHash, TBSCertificate: sub.TBS},
			}}})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := signedDigest(sct, sub); err != nil || got != sha256.Sum256(signed) {
			t.Fatalf("a TBS of %d bytes: another digest, %v", len(sub.TBS), err)
		}
	}
}

// An attempt ends with its own timeout where its context has a later deadline or none.
func TestAttemptTimeout(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	r, _, err := NewRemote(RemoteConfig{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.CloseIdleConnections)
	r.client.Load().Timeout = 10 * time.Millisecond
	later, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, ctx := range []context.Context{t.Context(), later} {
		_, err := r.Submit(ctx, Submission{Chain: [][]byte{{1}}})
		if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, new(*RetryableError)) || ctx.Err() != nil {
			t.Errorf("error %v, want one of the attempt's own deadline that is not to be repeated", err)
		}
	}
}

// A log's signature makes no other extension acceptable.
func TestVerifyExtensions(t *testing.T) {
	t.Parallel()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, extensions := range map[string]string{
		"good, none": "", "good, a leaf index": "\x00\x00\x05\x00\x00\x00\x00\x01", "unknown": "\x01\x00\x00", "another type": "\x01\x00\x05\x00\x00\x00\x00\x01",
		"4 bytes": "\x00\x00\x04\x00\x00\x00\x00", "and another": "\x00\x00\x05\x00\x00\x00\x00\x01\x01\x00\x00", "cut": "\x00\x00\x05\x00", "half": "\x00",
	} {
		now, sub := time.UnixMilli(1793836800123), Submission{TBS: []byte("tbs")}
		sct := SCT{LogID: key.LogID(), Timestamp: 1793836800123, Extensions: []byte(extensions)}
		digest, err := signedDigest(sct, sub)
		if err != nil {
			t.Fatal(err)
		}
		if sct.Signature, err = ecdsa.SignASN1(rand.Reader, private, digest[:]); err != nil {
			t.Fatal(err)
		}
		if err := key.Verify(sct, sub, now); (err == nil) != strings.HasPrefix(name, "good") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// named is a Log that has only a name.
type named struct {
	Log
	name string
}

func (n named) Name() string { return n.name }

func TestOrder(t *testing.T) {
	t.Parallel()
	// o is open, h half-open, r half-open and resting, f has failed four times.
	for states, want := range map[string]string{
		"c c c": "c0 c1 c2",
		"o c c": "c1 c2 o0",
		"f c c": "f0 c1 c2",
		"c c h": "h2 c0 c1",
		"h h c": "h0 c2 h1", // one probe at a time
		"o o o": "o0 o1 o2",
		"o h o": "h1 o0 o2",
		"r c h": "h2 c1 r0",
		"r o":   "r0 o1",
		"h":     "h0",
		"o":     "o0",
	} {
		t.Run(states, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			l := &Logs{now: time.Now}
			for i, state := range strings.Fields(states) {
				m := &member{Log: named{name: fmt.Sprint(state, i)}, breaker: &breaker.Breaker{Threshold: breakerThreshold, Interval: probeInterval, MaxRest: maxRest}}
				failures, at, rest := breakerThreshold, now, time.Duration(0)
				switch state {
				case "c":
					failures = 0
				case "f":
					failures--
				case "h":
					at = now.Add(-probeInterval)
				case "r":
					at, rest = now.Add(-probeInterval), 10*time.Second
				}
				for range failures {
					m.breaker.Failed(at, errors.New("no"), rest)
				}
				l.logs = append(l.logs, m)
			}
			var got []string
			for _, turn := range l.order(now) {
				got = append(got, turn.Name())
			}
			if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
				t.Errorf("order (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPauseAfter(t *testing.T) {
	t.Parallel()
	again := func(after time.Duration) error {
		return fmt.Errorf("once: %w", &RetryableError{After: after, Err: errors.New("busy")})
	}
	for range 100 {
		for attempts, most := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 300 * time.Millisecond, 3: 900 * time.Millisecond} {
			if got := pauseAfter(again(0), attempts); got < most/2 || got > most {
				t.Errorf("after attempt %d the pause is %s, want %s to %s", attempts, got, most/2, most)
			}
		}
	}
	if got := pauseAfter(again(3*time.Second), 1); got != 3*time.Second {
		t.Errorf("Retry-After 3 s became %s", got)
	}
	if got := pauseAfter(again(24*time.Hour), 1); got != maxRest {
		t.Errorf("Retry-After of a day became %s", got)
	}
	if got := pauseAfter(errors.New("no"), 1); got >= 0 {
		t.Errorf("a final failure is to be repeated after %s", got)
	}
}
